"""`cellskew report`: one page with everything in it, nothing loaded from elsewhere, names made harmless."""

import importlib
import json
import re
import shutil
import struct
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from data_pipeline.errors import RequestError
from sweeps.answers import comparison, frames
from sweeps.answers.designs import Designs
from sweeps.answers.page import copies, figures, report
from sweeps.answers.page.svg import breaking, decades
from sweeps.answers.runs import choices
from sweeps.commands import asking
from sweeps.tracking.about import Place
from trainables.metrics import intervals

METRIC = "test_macro_f1"


@pytest.fixture
def runs() -> pd.DataFrame:
    return grid()


def grid() -> pd.DataFrame:
    rows = []
    for model, base in (("scgpt", 0.6), ("logistic_regression", 0.7)):
        for skew in ("natural", "step-10"):
            for strategy, gain in (("none", 0.0), ("oversample", 0.05)):
                for split in range(3):
                    row = {"run_id": str(len(rows)), "key": f"{len(rows):016x}", "name": f"d·{model}", "reason": ""}
                    row |= {"status": "FINISHED", "started": 0, "ended": 1_700_000_000_000, "dataset": "a<b>c"}
                    row |= {"split": str(split), "skew": skew, "strategy": strategy, "loss": "cross_entropy"}
                    row |= {"model": model, "seed": "0", "defects": "", "test_per_train": 0.3, "trial_seconds": 12.5}
                    rows.append(row | {METRIC: base + gain * (1 + 0.1 * split) + 0.02 * split})
    return pd.DataFrame(rows)


def page(runs: pd.DataFrame, metric: str = METRIC) -> str:
    return report.report(runs, "my <sweep>", metric, Designs(runs))


def titles(html: str) -> list[str]:
    return re.findall(r"<h2[^>]*>(.*?)</h2>", html)


def test_the_answer_comes_first_then_choices_figures_tests_and_costs(runs):
    html = page(runs)
    assert titles(html) == [
        "Choices",
        "How macro_f1 changes with the skew",
        "What a remedy changes on the same cells",
        "One dataset and skew at a time",
        "Cost",
        "What failed or is missing",
        "How it was done, and how to redo it",
    ]
    assert html.index("<dt>answer</dt>") < html.index("<h2") and "24 of 24 trials finished" in html
    assert "2023-11-14" in html and "0.620 ± 0.020" in html and "+0.055 [" in html and ">12<" in html
    assert html.count('class="baseline best"') == 2 and "every trial that this page is of is finished" in unescape(html)


def test_nothing_is_loaded_from_elsewhere_and_names_are_text(runs):
    html = page(runs)
    assert "my &lt;sweep&gt;" in html and "a&lt;b&gt;c" in html and "<sweep>" not in html and "<b>" not in html
    assert not re.search(r"<(img|iframe)|src=|@import|url\((?!#)|https?://", html)
    assert re.findall(r"<link[^>]*>", html) == ['<link rel="icon" href="data:,">']
    assert html == page(runs), "the same runs give the same page"


def with_types(runs: pd.DataFrame, folder) -> pd.DataFrame:
    """Give every run a table per type; at step-10 the rare type has 5 training cells, at natural 50."""
    for run in runs.itertuples():
        (folder / run.run_id).mkdir()
        rare, hits = (5, 1) if run.skew == "step-10" else (50, 3)
        table = pd.DataFrame({"class": ["rare", "common"], "natural": [50, 500], "train": [rare, 500], "test": [4, 90]})
        table = table.assign(predicted=[4, 90], recall=[hits / 4, 0.9], precision=[hits / 4, 0.9], f1=[hits / 4, 0.9])
        table.to_csv(folder / run.run_id / "per_class.csv", index=False)
    return runs.assign(artifact_uri=[str(folder / run_id) for run_id in runs["run_id"]])


def test_types_stand_per_skew_with_their_cells_the_rarest_last(runs, tmp_path):
    html = page(with_types(runs, tmp_path))
    assert "One dataset and skew at a time" in titles(html) and html.index("common (500, 90)") < html.index(
        "rare (5, 4)"
    )
    assert "rare (50, 4)" in html and ">0.25\n" in html and ">0.75\n" in html, "no mean over skews"
    assert html.count('class="condition"') == 2 and 'data-name="a&lt;b&gt;c, step-10"' in html
    low, high = intervals([1], [4], [4])["f1_low"][0], intervals([1], [4], [4])["f1_high"][0]
    assert f"<small>{low:.2f}–{high:.2f}</small>" in html and high - low > 0.5, "one of four: next to nothing is known"


def test_tables_of_types_come_in_parts_that_fit_on_paper():
    """A table of 37 choices printed 3 of them; choices came in the order of their runs, and words broke anywhere."""
    remedies = ["oversample", "none", "weighted", "undersample"]
    rows = [
        {"dataset": "d", "skew": "s", "class": kind, "train": cells, "test": 5, "model": model, "f1": 0.5}
        | {"strategy": remedy, "loss": "cross_entropy", "posthoc": "none", "f1_low": float("nan"), "f1_high": 0.7}
        for remedy in remedies
        for model in ("one", "two", "three")
        for kind, cells in (("rare", 3), ("common", 90))
    ]
    colours = {name: figures.colour(at) for at, name in enumerate(sorted(remedies, key=lambda name: name != "none"))}
    (parts,) = figures.heat(pd.DataFrame(rows), colours).values()
    assert [part.models for part in parts] == [[("one", 4), ("two", 4)], [("three", 4)]]
    assert parts[0].remedies == [*colours, *colours] and [kind for kind, _ in parts[1].rows][0] == "common (90, 5)"
    assert all(len(row) == len(part.remedies) for part in parts for _, row in part.rows)
    assert breaking("logistic_regression-5 a<b") == "logistic_<wbr>regression-<wbr>5 a&lt;b"


def test_recall_stands_against_training_cells(runs, tmp_path):
    html = page(with_types(runs, tmp_path))
    figure = html[html.index("Recall of each type") : html.index("How macro_f1 changes")]
    assert "rare, a&lt;b&gt;c, step-10, none: recall 0.25 with 5 training and 4 test cells" in figure
    assert figure.count("<svg") == 2 and figure.count("<circle") == 2 * 2 * 2 * 2


def test_no_remedy_hides_the_others(runs, tmp_path):
    """With the same recall everywhere, the last in the legend was drawn above all others."""
    html = page(with_types(runs, tmp_path))
    figure = html[html.index("Recall of each type") : html.index("How macro_f1 changes")]
    for panel in figure.split("<svg")[1:]:
        found = re.findall(r'<circle class="(c\d)" cx="([\d.]+)" cy="([\d.]+)"', panel)
        above = {place: css for css, *place in found for place in [tuple(place)]}
        assert set(above.values()) == {"c0", "c1"}


def test_skews_in_a_figure_are_named_by_what_tells_them_apart():
    named = figures._told_apart(["exponential-5-total=700", "exponential-100-total=700"])
    assert list(named.values()) == ["exponential-5", "exponential-100"]
    assert figures._told_apart(["natural", "step-10"]) == {"natural": "natural", "step-10": "step-10"}


def test_axes_have_round_numbers_and_say_what_they_are(whole):
    assert [label for _, label in decades(0.44, 7.3)] == ["0.5", "1", "2", "5"]
    assert [label for _, label in decades(2, 2_000_000)][-1] == "1,000,000" and len(decades(2.1, 2.2)) > 1
    assert decades(12.0, 12.0) == [(12.0, "12")], "every type has as many cells"
    panels = [panel for panel in re.findall("<svg .*?</svg>", whole) if "difference to" not in panel]
    assert len(panels) > 8 and all('transform="rotate(-90' in panel for panel in panels)


def test_differences_are_drawn_by_remedy_model_and_skew_on_one_range(runs):
    """They came in the order of their runs; a difference beyond the range was drawn at its end."""
    more = runs[runs["strategy"] == "oversample"].assign(
        strategy="undersample", run_id=lambda rows: "u" + rows["run_id"]
    )
    more.loc[more["model"] == "scgpt", METRIC] -= 0.4
    mixed = pd.concat([runs, more]).sort_values("split", kind="stable").sample(frac=1, random_state=0)
    found = comparison.compare(mixed, "strategy", ["model", "skew"], METRIC, tie=0, designs=Designs(mixed))
    assert len(figures.forest(replace(found, table=pd.concat([found.table] * 8)), {})) == 4, "no taller than paper"
    panels = figures.forest(found, {"none": "c0", "oversample": "c1", "undersample": "c2"})
    models, skews = (list(dict.fromkeys(found.table[name])) for name in ("model", "skew"))
    for panel in panels:
        names = re.findall(r'class="tick" x="8"[^>]*>([^<]*)', panel)
        assert names == [f"{model} · {skew}" for model in models for skew in skews]
    assert len({tuple(re.findall(r'class="tick mid"[^>]*><tspan[^>]*>([^<]*)', panel)) for panel in panels}) == 1
    places = [float(x) for panel in panels for x in re.findall(r'<circle [^>]*cx="([\d.]+)"', panel)]
    assert min(places) > 8 and max(places) < 380 - 12
    assert "c1" in panels[0] and "c2" not in panels[0] and '"c0' not in "".join(panels), "a remedy's own colour"


def test_skews_are_ordered_by_how_unequal_they_are_and_say_so(runs, tmp_path):
    html = page(with_types(runs[::-1].reset_index(drop=True), tmp_path))
    figure = html[html.index("How macro_f1 changes") : html.index("What a remedy changes")]
    assert figure.index("10:1") < figure.index("100:1") and "505 cells" in figure


def test_a_remedy_has_one_colour_in_every_panel_and_panels_one_range(runs):
    """The other model's trials come in another order, and one lacks a strategy."""
    mixed = pd.concat([runs[runs["model"] == "scgpt"], runs[runs["model"] != "scgpt"][::-1]], ignore_index=True)
    third = mixed[(mixed["strategy"] == "oversample") & (mixed["model"] == "scgpt")].assign(
        model="scbert", run_id=lambda rows: "b" + rows["run_id"]
    )
    trials = frames.trials(pd.concat([mixed, third], ignore_index=True))
    colours = figures.remedies(trials)
    assert colours == {"none": "c0", "oversample": "c1"}
    (panels,) = figures.by_skew(trials, METRIC, Designs(trials), colours).values()
    for panel in panels:
        for css, said in re.findall(r'<circle class="(c\d)"[^>]*><title>([^<]*)', panel):
            assert colours[said.split(", ")[1]] == css
    ranges = {tuple(re.findall(r'class="tick end"[^>]*>([^<]*)', panel)) for panel in panels}
    assert len(panels) == 3 and len(ranges) == 1


def test_figures_never_mix_losses(runs, tmp_path):
    """A weighted loss that helps would lift what figures show of doing nothing."""
    weighted = runs.assign(loss="weighted", run_id="w" + runs["run_id"], **{METRIC: runs[METRIC] + 0.2})
    html = page(with_types(pd.concat([runs, weighted], ignore_index=True), tmp_path))
    figure = html[html.index("How macro_f1 changes") : html.index("What a remedy changes")]
    assert "scgpt, none, natural: 0.620" in figure and "scgpt, weighted, natural: 0.820" in figure
    assert '<th scope="col">weighted</th>' in html[html.index("One dataset and skew") :]


def test_under_three_splits_no_bar_is_drawn(runs):
    few = frames.trials(runs[runs["split"] != "2"])
    (panels,) = figures.by_skew(few, METRIC, Designs(few), figures.remedies(few)).values()
    for start, end in re.findall(r'<path class="bar c\d" d="M([\d. ]+)L([\d. ]+)"', "".join(panels)):
        assert start == end


def test_a_label_with_dollars_is_text(runs):
    assert "a$\\bad{$" in page(runs.replace({"skew": {"natural": "a$\\bad{$"}}))


def test_one_skew_and_one_strategy_leave_their_sections_out(runs):
    plain = runs[(runs["skew"] == "natural") & (runs["strategy"] == "none")]
    assert titles(page(plain))[:3] == ["Choices", "One dataset and skew at a time", "Cost"]


def test_failures_and_defects_are_told(runs):
    runs.loc[0, ["status", "reason"]] = ["FAILED", "NonFiniteLoss: the loss is <nan>\nmore"]
    runs.loc[1, "defects"] = "select_on_test"
    html = page(runs)
    assert "1 failed" in html and "the loss is &lt;nan&gt;" in html and "more</td>" not in html
    assert 'class="warning">WARNING: 1 of 24 runs were made with known defects on purpose: select_on_test' in html


def test_runs_are_linked_to_where_mlflow_shows_them(runs):
    runs.loc[0, ["status", "reason"]] = ["FAILED", "NonFiniteLoss: the loss is nan"]
    server = Place("https://mlflow.example/#/experiments/7/runs?view", None)
    html = report.report(runs, "x", METRIC, Designs(runs), place=server)
    assert '<a href="https://mlflow.example/#/experiments/7/runs?view">' in html
    assert html.count('<a href="https://mlflow.example/#/experiments/7/runs/0">d·scgpt</a>') == 2, (
        "failed, and in the list"
    )
    assert html.count("<li>") == 24 and "</a>, failed</li>" in html and "mlflow ui" not in html
    local = Place("http://127.0.0.1:5000/#/experiments/7/runs", "mlflow ui --backend-store-uri sqlite:////a.db")
    assert "<pre>mlflow ui --backend-store-uri sqlite:////a.db</pre>" in report.report(
        runs, "x", METRIC, Designs(runs), place=local
    )


def test_a_page_comes_without_links_where_mlflow_does_not_answer(runs, monkeypatch):
    def refuses(uri: str, sweep: str) -> None:
        raise RequestError("the database is of another version")

    monkeypatch.setattr("sweeps.tracking.about.place_of", refuses)
    runs.attrs["uri"] = "sqlite:///old.db"
    assert asking._place(runs, ["x"]) is None and asking._place(runs, ["x", "y"]) is None


def test_too_little_to_report_is_refused(runs):
    with pytest.raises(RequestError, match="unknown metric 'test_f1'"):
        page(runs, metric="test_f1")
    runs["status"] = "RUNNING"
    with pytest.raises(RequestError, match="no trial of my <sweep> is finished yet; `cellskew status"):
        page(runs)


def with_scores(runs: pd.DataFrame, folder) -> pd.DataFrame:
    """Give runs tables, predictions of 20 cells (the rare type's are named common, but for one) and a course."""
    runs = with_types(runs, folder)
    for run in runs.itertuples():
        truth = np.array(["rare"] * 4 + ["common"] * 16)
        sure = np.where(np.arange(20) < 4, 0.55, 0.95)
        said = np.where(np.arange(20) == 0, "rare", "common")
        common = np.where(said == "common", sure, 1 - sure)
        table = pd.DataFrame({"cell_id": [f"c{n}" for n in range(20)], "truth": truth, "prediction": said})
        table.assign(p_rare=1 - common, p_common=common).to_parquet(folder / run.run_id / "predictions.parquet")
        history = [{"val_macro_f1": value} for value in (0.2, 0.6, 0.5)]
        (folder / run.run_id / "result.json").write_text(json.dumps({"history": history}))
    return runs.assign(best_round=np.where(runs["model"] == "scgpt", 2.0, np.nan))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> str:
    return page(with_scores(grid(), tmp_path_factory.mktemp("whole")))


def test_each_condition_shows_mistakes_confidence_and_the_course_of_training(whole):
    one = whole[whole.index('data-name="a&lt;b&gt;c, step-10"') :].partition("</section>")[0]
    assert "found 25%; common 75%" in one, "three of the rare type's four cells are named common"
    assert "scgpt, share right by highest probability; none: right 0.85, mean highest probability 0.87" in one
    assert "0.25 right where the highest probability is 0.55, 12 cells" in one
    risk = (16 * 0 + 0.75 / 17 + 1.5 / 18 + 2.25 / 19 + 3 / 20) / 20
    assert f"none: AURC {risk:.3f}" in one and "0.15 mistakes if all are named" in one
    assert "scgpt, macro_f1 against seconds of a trial; none: 0.620 in 12.5 s; oversample: 0.675 in 12.5 s" in one
    assert "none: best round 2 to 2 of 3" in one and one.count("course of training") == 1
    assert one.count('aria-label="scgpt, macro F1 on validation') == 1 and "logistic_regression, macro F1" not in one


def test_adjusted_numbers_are_never_shown_as_plain_ones(runs, tmp_path):
    """As `--where 'posthoc == ...'` makes rows of them: the same trial once more, with other numbers."""
    adjusted = with_scores(runs, tmp_path).assign(**{f"{METRIC}.logit_adjust": 0.99})
    unfolded = choices.unfolded(adjusted)
    both, alone = page(unfolded), page(unfolded[unfolded["posthoc"] == "logit_adjust"])
    assert "0.25 right where the highest probability is 0.55, 12 cells" in both
    assert "seconds of a trial; none: 0.620 in 12.5 s" in both
    assert "highest probability" not in alone and "seconds of a trial" not in alone


def test_every_figure_says_what_it_shows_to_those_who_can_not_see_it(whole):
    assert whole.count("<svg") == len(re.findall(r'<svg [^>]*role="img" aria-label="[^"]{20,}"', whole)) > 10


def test_figures_are_files_of_their_own_with_their_colours_named(whole, tmp_path):
    folder, number = tmp_path / "new" / "figures", whole.count("<svg")
    assert copies.write_pictures(whole, folder) == f"{folder}: {number} figures as SVG"
    files = sorted(folder.iterdir())
    (folder / "900-of-an-earlier-page.svg").touch()
    assert "not of this page, and left there: 900-of-an-earlier-page.svg" in copies.write_pictures(whole, folder)
    assert files[0].name == "001-recall-of-each-type-against-its-training-cells-scgpt.svg"
    for file in files:
        drawn = ElementTree.parse(file).getroot()
        assert drawn.tag == "{http://www.w3.org/2000/svg}svg" and "--c0" in drawn[0].text
        words = ["".join(one.itertext()) for one in drawn.iter("{http://www.w3.org/2000/svg}text")]
        assert ("oversample" in words) == ("what-a-remedy-changes" not in file.name), file.name


def test_readmes_figure_is_one_of_the_reports(whole, monkeypatch):
    """Its script looked for headings that the page hadn't had for long."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    figure = importlib.import_module("figure")
    drawn = figure.figure(whole, "changes-with-the-skew")
    assert drawn.count(figure.DARK) == 1 and "over skews, a line per remedy" in drawn
    with pytest.raises(RequestError, match="no figure is called 'pie'; the report has: 001-recall"):
        figure.figure(whole, "pie")


def test_a_pdf_needs_a_browser(whole, monkeypatch, tmp_path):
    monkeypatch.setattr(copies.shutil, "which", lambda name: None)
    with pytest.raises(RequestError, match="needs Chromium or Chrome, and none is on the PATH; install one"):
        copies.pdf(whole)
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\necho 'no display' >&2\n")
    broken.chmod(0o755)
    monkeypatch.setattr(copies.shutil, "which", lambda name: str(broken))
    with pytest.raises(RequestError, match="made no PDF: no display; write HTML"):
        copies.pdf(whole)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium here")
@pytest.mark.slow
def test_chromium_prints_a_page_and_its_figures(whole, tmp_path):
    assert copies.pdf(whole).startswith(b"%PDF")
    name, svg = next(iter(copies.pictures(whole).items()))
    width, height = map(int, re.search(r'width="(\d+)" height="(\d+)"', svg).groups())
    one = whole[: whole.index("</svg>") + len("</svg>")]
    assert copies.write_pictures(one, tmp_path, with_png=True).endswith("1 figures as SVG and PNG")
    made = (tmp_path / name).with_suffix(".png").read_bytes()
    assert made.startswith(b"\x89PNG") and made[16:24] == struct.pack(">II", 2 * width, 2 * height)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium here")
@pytest.mark.slow
def test_a_browser_has_nothing_to_complain_about(runs, tmp_path):
    html = page(with_scores(runs, tmp_path))
    said, shown = browsed(html, tmp_path)
    assert "CONSOLE" not in said and shown.count('class="condition"') == 2
    assert shown.count("hidden") >= 1, "the script ran: one condition is shown at a time"
    planted = html.replace("</body>", "<script>nothing.there</script></body>")
    assert "CONSOLE" in browsed(planted, tmp_path)[0], "an error would be seen"


USED = """<script>
const heads = [...document.querySelectorAll("#choices thead button")], said = document.createElement("pre");
const press = (at, name) => { heads[at].click(); said.textContent += name + ":" +
  [...document.querySelectorAll("#choices tbody tr")].map(row => row.cells[at].textContent).join(",") + ";"; };
press(3, "mark"); press(4, "down"); press(4, "up");
words.value = "oversample best"; words.dispatchEvent(new Event("input"));
said.textContent += "left:" + document.querySelectorAll("#choices tbody tr:not([hidden])").length + ";";
[...document.querySelectorAll(".legend button")].find(one => one.textContent === "oversample").click();
said.textContent += "dim:" + [...new Set([...document.querySelectorAll(".dim")].map(css))].join() + ";";
document.body.append(said);
</script>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium here")
@pytest.mark.slow
def test_the_table_of_choices_is_sorted_and_filtered_and_a_remedy_stands_out(runs, tmp_path):
    _, shown = browsed(page(with_scores(runs, tmp_path)).replace("</body>", USED + "</body>"), tmp_path)
    said = dict(part.split(":") for part in shown[shown.rindex("<pre>") + 5 : shown.rindex("</pre>")].split(";")[:-1])
    assert said["mark"].startswith("best,best") and said["left"] == "2" and said["dim"] == "c0"
    values = [[float(one.split()[0]) for one in said[name].split(",") if "±" in one] for name in ("down", "up")]
    assert values[0] == sorted(values[0], reverse=True) and values[1] == values[0][::-1]


def browsed(html: str, folder) -> tuple[str, str]:
    """Return what Chromium says of a page, and the page as its script left it."""
    file = folder / "page.html"
    file.write_text(html, encoding="utf-8")
    words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    found = subprocess.run([*words, file.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return found.stderr, found.stdout
