"""`cellskew needs`: so many cells are enough as is true of made-up curves; what can't be told isn't."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_runs import numbered, run

from data_pipeline.errors import RequestError
from sweeps.answers import bundle, celltypes
from sweeps.answers.deciding import needs, needs_said, unseen
from sweeps.answers.designs import Designs
from sweeps.answers.runs.stored import Stored
from sweeps.commands import deciding

LR, KIND, TEST = "logistic_regression", "DC", 40
HALF = {"none": 1.5, "oversample": 1.5 * 0.5**0.8}  # oversample needs half the cells: (scale / 0.3) ** (1 / 0.8)


def sweep(folder: Path, sizes=(5, 10, 20, 40), splits: int = 5, floor: float = 0.0, others: int = 0, **scales: float):
    """Return finished runs of skews that leave so many cells of DC, of recall 1 - floor - scale * cells ** -0.8.

    others: cells of the other type that every skew but the mildest takes away.
    """
    rng, rows = np.random.default_rng(0), []
    for split in range(splits):
        luck = rng.normal(0, 0.03)
        for size in sizes:
            for strategy, scale in (scales or HALF).items():
                chance = np.clip(1 - floor - scale * max(size, 1e-9) ** -0.8 + luck, 0, 1) if size else 0.0
                row = run(LR, strategy, split, 0.5, skew=f"rarefy-DC-{size}" if size != max(sizes) else "natural")
                other = 500 - others * (size != max(sizes))
                rows.append(row | {"size": size, "hits": round(TEST * chance), "other": other})
    made = numbered(pd.DataFrame(rows))
    places = []
    for one in made.itertuples():
        place = folder / one.run_id
        place.mkdir()
        cells = {"natural": [500, max(sizes)], "train": [one.other, one.size], "test": [200, TEST]}
        table = pd.DataFrame({"class": ["T", KIND]} | cells | {"predicted": [200, one.hits]})
        recall = [0.9, one.hits / TEST]
        table.assign(recall=recall, precision=recall, f1=recall).to_csv(place / "per_class.csv", index=False)
        places.append(str(place))
    made = made.assign(artifact_uri=places).drop(columns=["size", "hits", "other"])
    return celltypes.with_type(made, KIND, Stored(None))


def plain(runs: pd.DataFrame) -> pd.DataFrame:
    return runs.drop(columns=[name for name in runs if name.endswith(f":{KIND}")])


def asked(runs: pd.DataFrame, recall: float = 0.7) -> needs.Needs:
    (found,) = needs.needs(runs, KIND, recall, Designs(runs))
    return found


def said(found: needs.Needs) -> dict[str, str]:
    return {one.partition(":")[0]: one.partition(": ")[2] for one in needs_said.sentences(found)}


def test_what_is_needed_is_found_again_with_its_interval_and_what_does_instead(tmp_path):
    found = asked(sweep(tmp_path), 0.8)
    remedy, usual = found.found
    assert (remedy.choice["strategy"], usual.choice["strategy"]) == ("oversample", "none")
    for one, truth in ((usual, 12.4), (remedy, 6.2)):
        low, high = one.ends
        assert low < truth < high and one.cells == pytest.approx(truth, rel=0.35)
    about, low, high = found.times(remedy, usual)
    assert low < 0.5 < high < 1 and found.within == (5, 120)
    words = said(found)
    assert "20 trials" not in words["question"] and "40 trials; 5 splits; 40 test cells" in words["question"]
    assert words["answer"].startswith(f"{LR} · oversample needs the fewest: about 7 [")
    assert "which the 40 that there are cover" in words[LR] and "instead, oversample: about 7 [" in words[LR]


def donors(runs: pd.DataFrame, natural: list[int], test: list[int]) -> pd.DataFrame:
    """Give each split so many cells of DC before any skew, all of which the mildest skew leaves, and test cells."""
    for one in runs.itertuples():
        have = natural[int(one.split)]
        table = pd.read_csv(f"{one.artifact_uri}/per_class.csv").assign(natural=[500, have])
        table.loc[1, "train"] = have if one.skew == "natural" else table.loc[1, "train"]
        table.loc[1, ["test", "predicted"]] = test[int(one.split)]
        table.to_csv(f"{one.artifact_uri}/per_class.csv", index=False)
    return celltypes.with_type(plain(runs), KIND, Stored(None))


def test_splits_of_other_sizes_say_the_fewest_and_the_most(tmp_path):
    """A mean of 40 cells covers nothing in a split that has 9 of them."""
    found = asked(donors(sweep(tmp_path, splits=3, none=1.5), [9, 41, 70], [20, 40, 60]))
    words, (usual,) = said(found), found.found
    assert 9 < usual.ends[1] < 40 and found.sizes.tolist() == [5, 10, 20, 40]
    assert "20 to 60 test cells of it in a split, and 9 to 70 training cells before any skew" in words["question"]
    assert "whether the 9 to 70 that there are do can't be told" in words[LR] and "cover" not in str(words)
    assert words["splits differ in their cells of it"] == "curves go by the means, 5, 10, 20, 40 cells"
    assert list(needs_said.as_text(found))[1:5] == ["5 cells", "10 cells", "20 cells", "9 to 70 cells"]
    programs = needs_said._for_programs(found, [])
    assert programs["training_cells"] == 40 and programs["training_cells_range"] == [9, 70]


def test_sizes_are_those_of_the_splits_that_count(tmp_path):
    runs = donors(sweep(tmp_path, splits=3, none=1.5), [40, 40, 400], [40, 40, 40])
    runs.loc[(runs["split"] == "2") & (runs["skew"] == "natural"), "status"] = "FAILED"
    found = asked(runs)
    assert (found.splits, found.sizes.tolist(), found.within) == (2, [5, 10, 20, 40], (5, 120))
    assert set(found.have) == {40} and "splits differ in their cells of it" not in said(found)


def test_the_order_of_runs_changes_nothing(tmp_path):
    """Splits are paired over sizes and choices: a resumed sweep may list them in another order at each."""
    runs = sweep(tmp_path)
    one, other = asked(runs, 0.8), asked(runs.sample(frac=1, random_state=1).reset_index(drop=True), 0.8)
    for need in one.found:
        (same,) = (found for found in other.found if found.label == need.label)
        assert same.cells == pytest.approx(need.cells) and same.ends == pytest.approx(need.ends)
    assert other.times(*other.found) == pytest.approx(one.times(*one.found))


def test_under_three_splits_there_is_a_number_and_no_interval(tmp_path):
    found = asked(sweep(tmp_path, splits=2))
    assert np.isnan(found.found[0].ends).all() and found.found[1].cells > 4
    assert "no interval under 3 splits" in said(found)[LR] and "can't be told" in said(found)[LR]
    assert "[" not in needs_said.as_text(found).to_string()


def test_splits_that_all_agree_allow_for_looks_too(tmp_path):
    runs, metric = sweep(tmp_path, none=1.5), f"test_recall:{KIND}"
    runs[metric] = runs.groupby("skew")[metric].transform("first")
    once, often = (asked(runs.assign(looks=looks)).found[0].ends for looks in (1, 5))
    assert often[0] < once[0] < once[1] < often[1]


def test_two_sizes_are_refused_with_what_to_add(tmp_path):
    with pytest.raises(RequestError, match="3 different numbers of .* DC, the finished trials have 5, 40; .*rarefy"):
        asked(sweep(tmp_path, sizes=(5, 40)))


def test_a_dataset_with_too_few_sizes_is_named_and_the_others_answered(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    few = sweep(tmp_path / "two", sizes=(5, 40), splits=3).assign(dataset="e")
    runs = pd.concat([sweep(tmp_path / "one", splits=3), few.assign(run_id="e" + few["run_id"])], ignore_index=True)
    designs = Designs(runs)
    (found,) = needs.needs(runs, KIND, 0.7, designs)
    assert found.dataset == "d" and any(note.startswith("e: a curve needs 3 different") for note in designs.notes)


def test_nothing_is_said_beyond_three_times_the_cells_that_were_tried(tmp_path):
    found = asked(sweep(tmp_path, none=1.5), 0.98)  # needs 221 cells, 40 were tried
    assert found.found[0].ends[1] > 120
    words = said(found)
    assert words["answer"].startswith("can't tell") and "more than 120" in words[LR] and "221" not in str(words)


def test_a_floor_is_said_to_be_one(tmp_path):
    found = asked(sweep(tmp_path, floor=0.4, none=1.5), 0.8)
    assert found.found[0].cells == np.inf
    assert "as the curve levels off at 0.6" in said(found)[LR] and said(found)["answer"].startswith("can't tell")


def test_a_type_that_is_hardly_found_has_no_curve(tmp_path):
    found = asked(sweep(tmp_path, floor=0.96, none=0.01))
    assert "next to nothing is found up to" in found.found[0].why and np.isnan(found.found[0].cells)
    assert said(found)["answer"].startswith("can't tell")


def test_what_no_power_law_fits_is_not_told(tmp_path):
    runs = sweep(tmp_path, none=1.5)
    for place, recall in zip(runs["artifact_uri"], np.tile([0.9, 0.2, 0.2, 0.9], 5), strict=True):
        table = pd.read_csv(f"{place}/per_class.csv")
        table.assign(recall=recall, predicted=200).to_csv(f"{place}/per_class.csv", index=False)
    found = asked(celltypes.with_type(plain(runs), KIND, Stored(None)))
    assert found.found[0].why == "no power law fits: at 5 cells it is 0.35 off"


def test_skews_that_thin_other_types_too_are_said_to(tmp_path):
    found = asked(sweep(tmp_path, others=100))
    assert (
        not found.alone
        and "what their cells change is in the numbers" in said(found)["these skews thin other types too"]
    )


def test_splits_that_lack_a_size_count_for_no_choice(tmp_path):
    runs = sweep(tmp_path)
    runs.loc[(runs["split"] == "2") & (runs["skew"] == "rarefy-DC-10") & (runs["strategy"] == "none"), "status"] = (
        "FAILED"
    )
    assert asked(runs).splits == 4
    few = runs.assign(status=runs["status"].where((runs["strategy"] == "none") | (runs["split"] == "0"), "FAILED"))
    found = asked(few)
    assert [one.choice["strategy"] for one in found.found] == ["none"] and found.left_out == [f"{LR} · oversample"]


def test_recall_is_a_share(tmp_path):
    with pytest.raises(RequestError, match="--recall 80 is not between 0 and 1"):
        asked(sweep(tmp_path, splits=1), 80)


# a type that was never seen


def with_scores(runs: pd.DataFrame) -> pd.DataFrame:
    """Give runs without a training cell predictions: DC's cells are as sure as half of the others."""
    for place in runs.loc[runs["skew"] == "rarefy-DC-0", "artifact_uri"]:
        sure = np.concatenate([np.linspace(0.5, 1.0, 200), np.linspace(0.5, 0.75, TEST)])
        table = pd.DataFrame({"cell_id": [f"c{n}" for n in range(200 + TEST)], "truth": ["T"] * 200 + [KIND] * TEST})
        table.assign(prediction="T", p_T=sure, p_DC=1 - sure).to_parquet(f"{place}/predictions.parquet")
    return runs


def test_a_type_without_training_cells_is_noticed_as_often_as_its_probabilities_are_lower(tmp_path):
    runs = with_scores(sweep(tmp_path, sizes=(0, 5, 10, 40), none=1.5))
    (found,) = unseen.unseen(runs, KIND, Designs(runs))
    assert found.auroc.mean == pytest.approx(0.75, abs=0.01) and found.taken == {"T": 1.0}
    assert found.passed.mean == pytest.approx(0.9, abs=0.03), "above 0.525, the lowest twentieth of the known"
    chance = runs.assign(model="base", architecture="majority")
    assert not list(unseen.unseen(chance, KIND, Designs(runs))), "chance by whatever label is no choice"
    assert asked(runs).sizes.tolist() == [5, 10, 40], "no cell is no size of a curve"
    adjusted = runs.assign(posthoc="logit_adjust")
    assert len(list(unseen.unseen(pd.concat([runs.assign(posthoc="none"), adjusted]), KIND, Designs(runs)))) == 1
    assert not list(unseen.unseen(adjusted, KIND, Designs(runs))), "plain probabilities are none of an adjustment's"
    assert not list(unseen.unseen(runs[runs["skew"] != "rarefy-DC-0"], KIND, Designs(runs)))


def test_ties_of_the_highest_probability_count_half():
    assert unseen.auroc(np.array([0.9, 0.5]), np.array([0.5, 0.1])) == pytest.approx((1 + 1 + 0.5 + 1) / 4)


def test_the_command_prints_words_or_json(tmp_path, capsys):
    runs = with_scores(sweep(tmp_path, sizes=(0, 5, 10, 40), none=1.5))
    kept = plain(runs).assign(code="", digest="d0", superseded="", reason="")
    bundle.write(tmp_path / "made.zip", "made", kept, Stored(None), None, None)
    deciding.needs(str(tmp_path / "made.zip"), type=[KIND], recall=0.7)
    printed = " ".join(capsys.readouterr().out.split())
    assert "how many training cells of DC give a recall of 0.7?" in printed
    assert "is it noticed?" in printed, "a bundle has the highest probability of each cell"
    assert "power law" in printed and "Nadeau & Bengio" in printed and "widened" in printed
    deciding.needs(str(tmp_path / "made.zip"), type=[KIND], recall=0.7, as_json=True)
    (one,) = json.loads(capsys.readouterr().out)["needs"]
    assert one["choices"][0]["cells"] == pytest.approx(7.5, rel=0.35)
    assert len(one["unseen"]) == len(list(unseen.unseen(runs, KIND, Designs(runs)))) > 0
    found, designs = asked(runs), Designs(runs)
    needs_said.show([found], list(unseen.unseen(runs, KIND, designs)), designs, "text", None)
    assert "0.75" in capsys.readouterr().out.partition("is it noticed?")[2]
