"""A whole trial: what it leaves behind, the same result for the same seed, and bit for bit the same after a kill."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import trainable_here, trial_config

from trainables.config import read
from trainables.cost import Cost
from trainables.material import open_material
from trainables.spec import get, names
from trainables.training import checkpoint as checkpoints
from trainables.training.training import _Run, build
from trainables.trial.files import FILES
from trainables.trial.trial import run_trial

NETWORKS = [name for name in names() if get(name).kind == "network"]
TIMES = ("seconds", "cells_per_second", "memory", "checkpoint")


class Killed(BaseException):
    """Stands for a SIGKILL: nothing after it runs."""


class Reports(list):
    """Collects what a trial reports; dies after `die_after` epochs of its own."""

    def __init__(self, die_after: int | None = None) -> None:
        super().__init__()
        self.left = die_after
        self.saved: dict[str, str] = {}  # file of the newest checkpoint -> its sha256

    def __call__(self, metrics: dict, path: Path | None) -> None:
        self.append(metrics)
        if path is not None:
            self.saved = {file.name: checkpoints.sha256(file) for file in path.glob("*.safetensors")}
        if "replayed" not in metrics and "final" not in metrics and self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise Killed


def numbers(metrics: dict) -> dict:
    """Return the metrics that must not differ between two runs: all but times, sizes and memory."""
    return {key: value for key, value in metrics.items() if not any(word in key for word in (*TIMES, "replayed"))}


def run(config: dict, die_after: int | None = None) -> tuple[dict | None, Reports]:
    reports = Reports(die_after)
    try:
        return run_trial(config, reports, checkpoints.newest(Path(config["directory"]))), reports
    except Killed:
        return None, reports


@pytest.mark.parametrize("model", trainable_here())
def test_a_trial_leaves_metrics_tables_and_predictions(tmp_path, model):
    config = trial_config(tmp_path, model)
    final, reports = run(config)
    directory = Path(config["directory"])
    assert all((directory / name).stat().st_size > 0 for name in FILES)
    predictions = pd.read_parquet(directory / "predictions.parquet")
    assert final["test_accuracy"] == pytest.approx((predictions.truth == predictions.prediction).mean())
    scores = predictions.filter(like="p_").to_numpy()
    assert scores.shape == (60, 4) and np.allclose(scores.sum(1), 1, atol=1e-5)
    per_class = pd.read_csv(directory / "per_class.csv")
    assert list(per_class["class"]) == [f"type {n}" for n in range(4)] and per_class.test.sum() == 60
    assert (directory / "confusion_matrix.png").read_bytes()[:4] == b"\x89PNG"
    assert reports[-1]["final"] == 1 and {"trial_seconds", "peak_memory_gb", "seconds_per_epoch"} <= set(final)
    assert [m["epoch"] for m in reports[:-1]] == ([1, 2, 3] if get(model).kind == "network" else [])


@pytest.mark.parametrize("model", NETWORKS)
@pytest.mark.parametrize("die_after", [1, 2])
def test_a_killed_and_resumed_trial_ends_bit_identical(tmp_path, model, die_after):
    changes = {"strategy": {"kind": "class_balanced_batches"}, "skew": {"kind": "exponential", "ratio": 5}}
    undisturbed = trial_config(tmp_path / "a", model, **changes)
    killed = trial_config(tmp_path / "b", model, **changes)
    expected, whole = run(undisturbed)
    assert run(killed, die_after)[0] is None
    final, resumed = run(killed)
    assert numbers(final) == numbers(expected)
    assert [m["epoch"] for m in resumed] == [1, 2, 3, 3]
    assert [m.get("replayed") for m in resumed] == [1] * die_after + [None] * (4 - die_after)
    assert [numbers(m) for m in resumed] == [numbers(m) for m in whole]
    assert [m.keys() - {"replayed"} for m in resumed] == [m.keys() for m in whole], "a number is gone for good"
    assert len(whole.saved) == 3 and resumed.saved == whole.saved
    same = [pd.read_parquet(Path(config["directory"]) / "predictions.parquet") for config in (undisturbed, killed)]
    pd.testing.assert_frame_equal(*same, check_exact=True)


@pytest.mark.parametrize(
    "model", ["scgpt", *(pytest.param(m, marks=pytest.mark.slow) for m in NETWORKS if m != "scgpt")]
)
def test_epochs_after_the_last_checkpoint_are_trained_again_to_the_same_bits(tmp_path, model):
    changes = {"strategy": {"kind": "class_balanced_batches"}, "recipe": {"epochs": 5, "crt_epochs": 1}}
    undisturbed = trial_config(tmp_path / "a", model, **changes)
    killed = trial_config(tmp_path / "b", model, checkpoint_every=2, **changes)
    expected, whole = run(undisturbed)
    assert run(killed, die_after=3)[0] is None
    assert checkpoints.newest(Path(killed["directory"])).name == "epoch-0002"
    final, resumed = run(killed)
    assert [(m["epoch"], m.get("replayed")) for m in resumed] == [(1, 1), (2, 1), *((n, None) for n in (3, 4, 5, 6, 6))]
    assert [numbers(m) for m in resumed] == [numbers(m) for m in whole]
    assert len(whole.saved) == 3 and resumed.saved == whole.saved
    assert 0 < final["checkpoint_share"] < expected["checkpoint_share"]


def test_epochs_in_which_the_sweep_was_asked_to_stop_are_saved(tmp_path):
    stop = tmp_path / "stop"
    config = trial_config(tmp_path, "scgpt", checkpoint_every=100, stop_file=str(stop), recipe={"epochs": 5})
    saved = []

    def report(metrics: dict, path: Path | None) -> None:
        saved.append(None if path is None else path.name)
        {2: stop.touch, 3: stop.unlink}.get(len(saved), lambda: None)()

    run_trial(config, report, None)
    assert saved == [None, None, "epoch-0003", None, None, None]


def test_a_short_trial_spends_nothing_on_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "FIXED_COST", 10.0)  # however busy the machine is
    final, reports = run(trial_config(tmp_path, "scgpt", checkpoint_every="auto"))
    assert not reports.saved and final["checkpoint_share"] == 0 and final["epochs_run"] == 3


def test_a_finished_trial_keeps_its_best_weights_alone(tmp_path):
    config = trial_config(tmp_path, "scgpt")
    run(config, die_after=2)
    directory = Path(config["directory"])
    (directory / ".epoch-0009.part").mkdir()  # what a kill left
    best = checkpoints.tensors(checkpoints.newest(directory), "best.safetensors")
    final, _ = run(config)
    assert [str(path.relative_to(directory)) for path in directory.rglob("*.safetensors")] == [
        "checkpoint/model.safetensors"
    ]
    assert not list(directory.glob("*epoch*"))
    described = json.loads((directory / "checkpoint" / "model.json").read_text())
    assert described["sha256"] == checkpoints.sha256(directory / "checkpoint" / "model.safetensors")
    if described["best_round"] <= 2:
        kept = checkpoints.tensors(directory / "checkpoint", "model.safetensors")
        assert all(torch.equal(best[name], kept[name]) for name in best)


@pytest.mark.parametrize("model", ["scgpt", "logistic_regression"])
def test_the_seed_decides_and_nothing_else(tmp_path, model):
    same = [run(trial_config(tmp_path / str(n), model))[0] for n in range(2)]
    assert numbers(same[0]) == numbers(same[1])
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    assert numbers(run(trial_config(tmp_path / "other globals", model))[0]) == numbers(same[0])
    if get(model).kind == "network":
        assert numbers(run(trial_config(tmp_path / "seed", model, seed=1))[0]) != numbers(same[0])


def test_a_finished_trial_only_reports_again(tmp_path, monkeypatch):
    config = trial_config(tmp_path, "scgpt")
    final, reports = run(config)
    shutil.rmtree(config["shards"])  # nothing is opened any more
    again, replayed = run(config)
    assert again == json.loads(json.dumps(final))
    assert [m["epoch"] for m in replayed] == [m["epoch"] for m in reports]
    assert all(m["replayed"] == 1 for m in replayed)


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path):
    config = trial_config(tmp_path, "scgpt")
    expected, _ = run(trial_config(tmp_path / "undisturbed", "scgpt"))
    run(config, die_after=2)
    newest = checkpoints.newest(Path(config["directory"]))
    (newest / "weights.safetensors").write_bytes((newest / "weights.safetensors").read_bytes()[:-7])
    final, reports = run(config)
    assert "replayed" not in reports[0] and numbers(final) == numbers(expected)


def test_early_stopping_and_second_stage_survive_a_kill(tmp_path):
    changes = {"recipe": {"epochs": 2, "crt_epochs": 2}, "skew": {"kind": "exponential", "ratio": 10}}
    expected, whole = run(trial_config(tmp_path / "a", "scgpt", **changes))
    config = trial_config(tmp_path / "b", "scgpt", **changes)
    for _ in range(3):
        assert run(config, die_after=1)[0] is None
    final, reports = run(config)
    assert numbers(final) == numbers(expected)
    assert [numbers(m) for m in reports] == [numbers(m) for m in whole]
    assert [m["epoch"] for m in whole] == [1, 2, 3, 4, 4]


def test_the_second_stage_trains_the_head_alone(tmp_path):
    config = trial_config(tmp_path, "scgpt", recipe={"epochs": 1, "crt_epochs": 1})
    run(config, die_after=1)
    first = checkpoints.tensors(checkpoints.newest(Path(config["directory"])), "best.safetensors")
    run(config)
    second = checkpoints.tensors(Path(config["directory"]) / "checkpoint", "model.safetensors")
    head = get("scgpt").head
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    assert changed and all(name.startswith(head) for name in changed)


def test_patience_ends_a_trial_early(tmp_path):
    config = trial_config(tmp_path, "scgpt", recipe={"epochs": 30, "patience": 1, "learning_rate": 1e-12})
    final, reports = run(config)
    assert final["epochs_run"] == 2 == len(reports) - 1


def test_other_frozen_weights_are_refused(tmp_path, monkeypatch):
    config = trial_config(tmp_path, "scbert", options={"train": "head"})
    run(config, die_after=1)
    monkeypatch.setattr(checkpoints, "frozen_hash", lambda network, trained: "0" * 64)
    with pytest.raises(checkpoints.CheckpointError, match="trained on other frozen weights.*from scratch"):
        run(config)


def test_posthoc_adjustments_stand_beside_the_plain_metrics(tmp_path):
    changes = {"posthoc": ["temperature", "logit_adjust"], "skew": {"kind": "exponential", "ratio": 10}}
    final, _ = run(trial_config(tmp_path, "logistic_regression", **changes))
    plain, _ = run(trial_config(tmp_path / "plain", "logistic_regression", skew=changes["skew"]))
    assert final["test_macro_f1"] == plain["test_macro_f1"]
    assert final["test_accuracy.temperature"] == final["test_accuracy"]  # one temperature can't change the order
    assert final["test_ece.temperature"] != final["test_ece"]
    assert final["test_balanced_accuracy.logit_adjust"] >= final["test_balanced_accuracy"]


def test_what_an_adjustment_predicts_is_stored_beside_the_plain_predictions(tmp_path):
    config = trial_config(
        tmp_path,
        "logistic_regression",
        posthoc=["logit_adjust"],
        skew={"kind": "exponential", "ratio": 20},
        options={"strengths": [1e-4]},
    )
    final, _ = run(config)
    stored = pd.read_parquet(Path(config["directory"]) / "predictions.parquet")
    right = [(stored[name] == stored["truth"]).mean() for name in ("prediction", "prediction.logit_adjust")]
    assert right == pytest.approx([final["test_accuracy"], final["test_accuracy.logit_adjust"]])
    assert (stored["prediction"] != stored["prediction.logit_adjust"]).any(), "the premise: something is adjusted"


@pytest.mark.parametrize("changes", [{"strategy": {"kind": "oversample"}}, {"loss": {"kind": "weighted"}}])
def test_a_prior_that_training_has_already_divided_out_is_not_divided_out_again(tmp_path, changes):
    changes = {"posthoc": ["logit_adjust"], "skew": {"kind": "exponential", "ratio": 10}} | changes
    final, _ = run(trial_config(tmp_path, "logistic_regression", **changes))
    for name in ("balanced_accuracy", "macro_f1", "ece", "brier"):
        assert final[f"test_{name}.logit_adjust"] == pytest.approx(final[f"test_{name}"], abs=1e-9)


def test_a_retrained_head_has_learnt_no_mix(tmp_path):
    changes = {"posthoc": ["logit_adjust"], "skew": {"kind": "exponential", "ratio": 10}}
    final, _ = run(trial_config(tmp_path, "scgpt", recipe={"epochs": 1, "crt_epochs": 1}, **changes))
    assert final["test_brier.logit_adjust"] == pytest.approx(final["test_brier"])
    final, _ = run(trial_config(tmp_path / "plain", "scgpt", recipe={"epochs": 1}, **changes))
    assert final["test_brier.logit_adjust"] != pytest.approx(final["test_brier"], rel=1e-3)


def test_on_balanced_rows_the_second_stage_weighs_classes_alike(tmp_path):
    changes = {"recipe": {"epochs": 1, "crt_epochs": 2}, "skew": {"kind": "exponential", "ratio": 10}}
    losses = []
    for kind in ("cross_entropy", "logit_adjusted"):
        config = trial_config(tmp_path / kind, "scgpt", loss={"kind": kind}, **changes)
        trained = _Run(get("scgpt"), read(config), open_material(read(config)), Cost(on_gpu=False))
        first = trained.trainer.loss
        while trained.goes_on():
            trained.one_round()
        logits, labels = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 4
        losses.append([float(loss(logits, labels, 1.0)) for loss in (first, trained.trainer.loss)])
    assert losses[0][0] == losses[0][1] == pytest.approx(losses[1][1])
    assert losses[1][0] != pytest.approx(losses[0][0], rel=0.01)


def test_when_patience_ends_the_first_stage_the_head_is_still_retrained(tmp_path):
    recipe = {"epochs": 30, "patience": 1, "crt_epochs": 1, "learning_rate": 1e-12}
    expected, whole = run(trial_config(tmp_path / "a", "scgpt", recipe=recipe))
    assert expected["epochs_run"] == 3  # a best epoch, one that is no better, one for the head
    config = trial_config(tmp_path / "b", "scgpt", recipe=recipe)
    for _ in range(2):
        assert run(config, die_after=1)[0] is None
    final, reports = run(config)
    assert numbers(final) == numbers(expected)


def test_the_type_that_was_made_rare_has_numbers_of_its_own(tmp_path):
    skew = {"kind": "rarefy", "class_name": "type 2", "cells": 5}
    config = trial_config(tmp_path, "logistic_regression", skew=skew, posthoc=["logit_adjust"])
    final, _ = run(config)
    row = pd.read_csv(Path(config["directory"]) / "per_class.csv").set_index("class").loc["type 2"]
    assert row["train"] == 5 and row["natural"] > 30 and final["test_cells_rarefied"] == row["test"]
    assert final["test_recall_low_rarefied"] == pytest.approx(row["recall_low"]) and row["recall_low"] < row["recall"]
    for name in ("precision", "recall", "f1"):
        assert final[f"test_{name}_rarefied"] == pytest.approx(row[name])
        assert f"test_{name}_rarefied.logit_adjust" in final
    plain, _ = run(trial_config(tmp_path / "plain", "logistic_regression"))
    assert not any("rarefied" in name for name in plain)


def test_the_commonest_mistakes_are_a_table(tmp_path):
    config = trial_config(tmp_path, "majority")
    run(config)
    table = pd.read_csv(Path(config["directory"]) / "most_confused.csv")
    assert list(table) == ["truth", "predicted", "cells", "share"]
    assert len(table) == 3 and table["predicted"].nunique() == 1 and (table["share"] == 1).all()


SKEWS = [{"kind": "natural"}, {"kind": "exponential", "ratio": 20}, {"kind": "natural", "total": 60}]
STRATEGIES = ["none", "oversample", "undersample", "class_balanced_batches"]


def test_every_skew_and_strategy_takes_the_same_optimiser_steps_on_as_many_cells(tmp_path):
    found, recipe = set(), {"epochs": 1, "crt_epochs": 1, "batch_size": 16, "accumulate": 3}
    for number, (skew, strategy) in enumerate(itertools.product(SKEWS, STRATEGIES)):
        config = trial_config(tmp_path / str(number), "scgpt", skew=skew, strategy={"kind": strategy}, recipe=recipe)
        final, _ = run(config)
        found.add((final["optimizer_steps"], final["cells_seen"], final["epochs_run"]))
    assert len(found) == 1


def test_with_a_budget_of_epochs_the_rows_decide(tmp_path):
    recipe = {"budget": "epochs", "epochs": 2, "batch_size": 8}
    rows = {"none": None, "oversample": None}
    for strategy in rows:
        skew = {"kind": "exponential", "ratio": 20}
        config = trial_config(tmp_path / strategy, "scgpt", strategy={"kind": strategy}, skew=skew, recipe=recipe)
        rows[strategy], _ = run(config)
        assert rows[strategy]["cells_seen"] == 2 * rows[strategy]["train_rows"]
    assert rows["oversample"]["optimizer_steps"] > 1.5 * rows["none"]["optimizer_steps"]


@pytest.mark.parametrize("strategy", ["undersample", "class_balanced_batches"])
def test_a_trial_killed_in_the_middle_of_a_pass_ends_bit_identical(tmp_path, strategy):
    """30 rows of 210 natural ones: seven passes a round, at whose end a pass is always under way."""
    changes = {"skew": {"kind": "natural", "total": 31}, "strategy": {"kind": strategy}}
    changes["recipe"] = {"epochs": 3, "crt_epochs": 2, "batch_size": 8, "steps": 22}
    expected, whole = run(trial_config(tmp_path / "a", "scgpt", **changes))
    config = trial_config(tmp_path / "b", "scgpt", **changes)
    for _ in range(4):
        assert run(config, die_after=1)[0] is None
        place = checkpoints.load(checkpoints.newest(Path(config["directory"])))["at"]["passes"]
        assert place[0] > 0 and place[1] > 0, "within a pass"
    final, reports = run(config)
    assert [numbers(m) for m in reports] == [numbers(m) for m in whole]
    assert numbers(final) == numbers(expected) and final["optimizer_steps"] == 22 + 15
    same = [pd.read_parquet(tmp_path / leg / "trials" / "scgpt" / "predictions.parquet") for leg in "ab"]
    pd.testing.assert_frame_equal(*same, check_exact=True)


def test_every_split_starts_from_weights_of_its_own(tmp_path):
    config = trial_config(tmp_path, "scgpt")
    drawn = []
    for split, skew in ((0, "natural"), (0, "exponential"), (1, "natural")):
        told = read(config | {"split": config["split"] | {"seed": split}, "skew": {"kind": skew}})
        _, network = build(get("scgpt"), told, open_material(told))
        drawn.append(torch.cat([parameter.detach().ravel() for parameter in network.parameters()]))
    assert torch.equal(drawn[0], drawn[1]), "what is compared within a split starts alike"
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("model", trainable_here())
def test_how_a_trial_was_computed_is_told_with_its_result(tmp_path, model):
    final, _ = run(trial_config(tmp_path, model))
    tags = final["tags"]
    assert tags["device"] == "cpu" and tags["threads"] == "1"
    assert tags["instructions"] == torch.backends.cpu.get_cpu_capability()
    if get(model).kind == "network":
        assert tags["precision"] == "float32"
        chooses = model in ("scgpt", "geneformer")
        assert ("CPU: " in tags["attention"]) == chooses, "the others have no kernel to choose"


def test_the_threads_are_those_of_the_recipe_and_change_nothing_outside(tmp_path):
    before = torch.get_num_threads()
    final, _ = run(trial_config(tmp_path, "scgpt", recipe={"epochs": 1, "threads": 2}))
    assert final["tags"]["threads"] == "2" and torch.get_num_threads() == before


def test_what_a_resumed_trial_cost_is_the_sum_of_its_legs(tmp_path, monkeypatch):
    config = trial_config(tmp_path, "scgpt")
    run(config, die_after=2)
    path = checkpoints.newest(Path(config["directory"]))
    state = checkpoints.load(path)
    assert state["legs"]["trial_seconds"] > 0 < state["legs"]["peak_memory_gb"]
    earlier = {"trial_seconds": 1000.0, "peak_memory_gb": 77.0}
    monkeypatch.setattr(checkpoints, "load", lambda folder: state | {"legs": earlier})
    final = run_trial(config, Reports(), path)
    assert final["trial_seconds"] > 1000 and final["peak_memory_gb"] == 77


def test_new_cells_are_predicted_by_the_recipe_that_trained(tmp_path):
    recipe = {"epochs": 1, "batch_size": 5, "precision": "bfloat16"}
    config = trial_config(tmp_path, "scgpt", recipe=recipe)
    run(config)
    described = json.loads((Path(config["directory"]) / "checkpoint" / "model.json").read_text())
    assert {name: described["recipe"][name] for name in recipe} == recipe and described["micro_batch"] == 5
