"""The models that docs/your-own-model.md shows, in a folder of one's own: found, held to the contract, trained."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import counts_like, trial_config
from documents import blocks
from scgpt_folder import write_folder

import trainables.models
from data_pipeline import outside
from data_pipeline.errors import RequestError
from data_pipeline.hashes import Hashes
from data_pipeline.rows.resample import STRATEGIES
from sweeps.drive import contents
from sweeps.file import config
from trainables import spec
from trainables.losses import LOSSES
from trainables.posthoc import POSTHOC
from trainables.trial import run_trial

SHOWN = {"nearest_centroid": "baseline", "two_layers": "network"}
SWEEP = "name: mine\ndatasets: [pbmc68k_reduced]\nmodels: {two_layers: {hidden: 8}, knn: {}}\n"


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """A folder that holds both models, as the page prints them, and is named to cellskew."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    for block in blocks("python"):
        if block.file is not None and block.page.stem == "your-own-model":
            (folder / block.file).parent.mkdir(exist_ok=True)
            (folder / block.file).write_text(block.text)
    monkeypatch.setenv("CELLSKEW_PLUGINS", str(folder))
    monkeypatch.setattr(trainables.models, "__path__", [*trainables.models.__path__])
    for registry in (STRATEGIES, LOSSES, POSTHOC):
        monkeypatch.setattr(registry, "_read", {})
    yield folder
    for name in [name for name in sys.modules if name.startswith(tuple(f"trainables.models.{one}" for one in SHOWN))]:
        sys.modules.pop(name)
    sys.modules.pop("trainables.models.broken", None)


def test_a_page_of_code_is_a_model(plugins, tmp_path):
    assert set(SHOWN) < set(spec.names())
    for name, kind in SHOWN.items():
        assert spec.get(name).kind == kind
        assert len((plugins / f"{name}.py").read_text().splitlines()) <= 60
        recipe = {"epochs": 6} if kind == "network" else {}
        final = run_trial(trial_config(tmp_path, name, recipe=recipe), lambda *said: None, None)
        assert final["test_macro_f1"] > 0.9, "made-up types are told apart by their marker genes"
        assert final["test_brier"] == pytest.approx(0, abs=0.3)


def test_both_keep_the_contract(plugins, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "models"))
    import test_models

    counts, labels = counts_like(90, len(test_models.GENES), 3)
    cells = counts, labels
    for name, kind in SHOWN.items():
        test_models.test_an_encoder_keeps_the_order_of_the_cells_and_survives_empty_ones(name, cells)
        test_models.test_other_genes_are_another_encoding(name, cells)
        test_models.test_unknown_options_are_refused(name)
        if kind == "network":
            test_models.test_a_network_gives_one_logit_per_cell_and_class_whatever_its_neighbours(name, cells)
            test_models.test_training_steps_lower_the_loss_and_the_state_round_trips(name, cells)
        else:
            test_models.test_a_baseline_gives_probabilities_over_the_fixed_class_list(name, cells)


def test_its_code_is_part_of_what_a_trial_is_and_nobody_elses_is(plugins):
    sweep = config.parse(SWEEP, Path("x.yaml"))
    mine, knn = sweep.trials()
    assert "code" in mine.described and "code" not in knn.described
    assert {one.key for one in config.parse(SWEEP, Path("y.yaml")).trials()} == {mine.key, knn.key}
    (plugins / "two_layers.py").write_text((plugins / "two_layers.py").read_text().replace("0.1)", "0.2)", 1))
    changed, same = config.parse(SWEEP, Path("x.yaml")).trials()
    assert changed.key != mine.key and same.key == knn.key
    assert sweep.trials()[0].key == mine.key, "read once for all trials"


REMEDIES = "strategies: [none, {kind: up_to, cells: 40}]\nlosses: [cross_entropy, poly]\nposthoc: [milder]\n"


def test_a_function_is_a_strategy_a_loss_or_an_adjustment_and_its_code_part_of_what_a_trial_is(plugins, monkeypatch):
    sweep = lambda text: config.parse(text, Path("x.yaml"))  # noqa: E731
    plain, knn = sweep(SWEEP).trials()
    trials = {(one.model, one.labels["strategy"], one.labels["loss"]): one for one in sweep(SWEEP + REMEDIES).trials()}
    assert len(trials) == 2 * 2 + 2, "a loss from outside is one of networks"
    used = trials["two_layers", "up_to-40", "poly"].described
    assert used["strategy"] == {"kind": "up_to", "cells": 40} and used["loss"] == {"kind": "poly", "epsilon": 1.0}
    assert set(used["functions"]) == {"strategies/up_to", "losses/poly", "posthoc/milder"}
    bare = {one.key: one for one in sweep(SWEEP + "strategies: [none, {kind: up_to, cells: 40}]\n").trials()}
    assert {plain.key, knn.key} < set(bare) and "functions" not in bare[plain.key].described
    (plugins / "strategies" / "up_to.py").write_text((plugins / "strategies" / "up_to.py").read_text() + "# changed\n")
    monkeypatch.setattr(STRATEGIES, "_read", {})
    changed = {one.key for one in sweep(SWEEP + "strategies: [none, {kind: up_to, cells: 40}]\n").trials()}
    assert changed & set(bare) == {knn.key}


def test_a_trial_by_functions_of_ones_own(plugins, tmp_path):
    remedies = {"strategy": {"kind": "up_to", "cells": 90}, "loss": {"kind": "poly", "epsilon": 0.5}}
    config = trial_config(tmp_path, "two_layers", recipe={"epochs": 4}) | remedies | {"posthoc": ["milder"]}
    final = run_trial(config, lambda *said: None, None)
    assert final["test_macro_f1"] > 0.9 and final["test_macro_f1.milder"] > 0.9 and final["milder_applied"] == 1
    assert final["train_rows"] > final["train_cells"]
    told = {"functions": {"losses/poly": "as it was"}, "directory": str(tmp_path / "other")}
    with pytest.raises(RequestError, match="the code of losses/poly in the folder of --plugins has changed"):
        run_trial(config | told, lambda *said: None, None)


def test_the_functions_keep_their_contracts(plugins):
    labels, rng, counts = np.repeat([0, 1, 2], [30, 8, 2]), np.random.default_rng(0), np.array([30, 8, 0])
    assert np.bincount(labels[STRATEGIES["up_to"](labels, rng, cells=10)]).tolist() == [30, 10, 4]
    loss, outputs = LOSSES["poly"](counts, epsilon=2.0), torch.zeros(4, 3, requires_grad=True)
    assert loss(outputs, torch.tensor([0, 1, 1, 0]), 0.0).item() == pytest.approx(np.log(3) + 2 * (1 - 1 / 3))
    assert loss.prior.tolist() == [30, 8, 0] and not LOSSES["poly"].only_weights
    logits = np.zeros((5, 3))
    found = POSTHOC["milder"](logits, np.zeros(5, int), loss.prior, logits).probabilities
    assert found[0].tolist() == pytest.approx([np.sqrt(8) / (np.sqrt(8) + np.sqrt(30)), 0.6595, 0], abs=1e-4)


@pytest.mark.parametrize(
    "kind, text, said",
    [
        ("strategies", "def own(labels, rng): return labels == 0", "strategy own: gives bool of shape"),
        ("strategies", "def own(labels, rng): return [0, 99]", "2 rows, not all of them from 0 to 9"),
        ("strategies", "def own(labels, rng): return [0, 1]", "leaves no cell of 1 types"),
        ("losses", "def own(outputs, labels, counts): return outputs.sum()", r"loss own: gives numbers of shape \[\]"),
        ("posthoc", "def own(*given): return given[3]", "adjustment own: gives what are no probabilities"),
        ("posthoc", "own = 3", "own.py: must define own, see docs/your-own-model.md"),
        ("losses", "import nothing_like_it", "own.py: can't be imported: ModuleNotFoundError"),
        (
            "losses",
            "def own(outputs: 'Lacking'): pass",
            "own: its parameters' types can't be read: name 'Lacking'",
        ),
    ],
)
def test_a_function_that_gives_something_else_is_refused(plugins, kind, text, said):
    (plugins / kind / "own.py").write_text(text + "\n")
    labels = np.repeat([0, 1], 5)
    calls = {
        "strategies": lambda: STRATEGIES["own"](labels, np.random.default_rng(0)),
        "losses": lambda: LOSSES["own"]([5, 5])(torch.zeros(10, 2), torch.from_numpy(labels), 0.0),
        "posthoc": lambda: POSTHOC["own"](np.zeros((10, 2)), labels, np.array([5, 5]), np.zeros((10, 2))),
    }
    with pytest.raises(RequestError, match=said):
        calls[kind]()


def test_a_strategy_whose_types_are_for_type_checkers_alone_is_refused(plugins):
    (plugins / "strategies" / "own.py").write_text("def own(labels: 'Lacking', rng): pass\n")
    with pytest.raises(RequestError, match="import them without TYPE_CHECKING"):
        config.parse(SWEEP + "strategies: [own]\n", Path("x.yaml"))


def test_a_loss_is_verified_with_what_cellskew_hands_it(plugins):
    fields = "    _: KW_ONLY\n    below: object\n    passed = ('below',)\n    prior = of_cells = None\n"
    head = "from dataclasses import KW_ONLY, dataclass\nfrom trainables.losses import Loss\n@dataclass(frozen=True)\n"
    (plugins / "losses" / "own.py").write_text(f"{head}class own(Loss):\n{fields}")
    (plugins / "losses" / "taken.py").write_text("def taken(outputs, labels, counts, *, until=0.5): pass\n")
    assert config.parse(SWEEP + "losses: [own]\n", Path("x.yaml")).losses[0].params == {}
    with pytest.raises(RequestError, match="loss taken: a parameter can't be called until; name it otherwise"):
        LOSSES["taken"]


def test_a_baseline_of_ones_own_may_have_a_share_of_a_gpu(plugins):
    text = SWEEP.replace("two_layers: {hidden: 8}", "nearest_centroid: {}")
    shares = [config.parse(text + f"resources: {{nearest_centroid: {{gpu: {gpu}}}}}\n", Path("x")) for gpu in (0.5, 1)]
    assert [one.resources["nearest_centroid"].gpu for one in shares] == [0.5, 1]
    with pytest.raises(RequestError, match="resources.knn.gpu: a trial on 0.5 GPUs is one that trains a network"):
        config.parse(text + "resources: {knn: {gpu: 0.5}}\n", Path("x"))


def test_a_function_by_a_name_that_is_taken_is_refused(plugins):
    (plugins / "losses" / "focal.py").write_text("def focal(): pass\n")
    with pytest.raises(RequestError, match="focal.py: there is a focal already; call this one otherwise"):
        list(LOSSES)


def test_vectors_by_a_network_of_ones_own_are_others_once_its_code_is(plugins, tmp_path):
    (tmp_path / "weights").mkdir()
    folder, hashes = write_folder(tmp_path / "weights", ["A", "B"]), Hashes(tmp_path / "weights.json")
    own = "from dataclasses import replace\nfrom trainables.models.scgpt.model import SPEC\n"
    (plugins / "broken.py").write_text(own + "SPEC = replace(SPEC, name='broken')\n")
    held = lambda model: contents.vectors_hash({"model": model, "weights": str(folder)}, None, hashes)  # noqa: E731
    before, ours = held("broken"), held("scgpt")
    (plugins / "broken.py").write_text(own + "SPEC = replace(SPEC, name='broken')  # changed\n")
    assert held("broken") not in ("", before, ours) and held("scgpt") == ours != ""


def test_of_two_folders_the_first_counts_for_what_is_run_and_for_its_code(plugins, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    (other / "two_layers.py").write_text("SPEC = None\n")
    alone = spec.code_of("two_layers")
    monkeypatch.setenv("CELLSKEW_PLUGINS", f"{plugins}{os.pathsep}{other}")
    assert spec.get("two_layers").kind == "network" and spec.code_of("two_layers") == alone


@pytest.mark.parametrize(
    "text, said",
    [
        ("import nothing_like_this\n", "can't be imported as a model: ModuleNotFoundError.*broken.py, line 1"),
        ("SPEC = 3\n", "must give SPEC, a ModelSpec with name='broken'"),
        ("x = 1\n", "can't be imported as a model: AttributeError"),
    ],
)
def test_a_file_that_is_no_model_is_named(plugins, text, said):
    (plugins / "broken.py").write_text(text)
    with pytest.raises(RequestError, match=f"broken.py: {said}"):
        spec.get("broken")


def test_a_name_that_is_taken_is_refused(plugins):
    (plugins / "knn.py").write_text("SPEC = None\n")
    with pytest.raises(RequestError, match="knn.py: there is a model knn already; call this one otherwise"):
        spec.names()


def test_an_installed_package_offers_a_model(tmp_path, monkeypatch, plugins):
    monkeypatch.delenv("CELLSKEW_PLUGINS")
    package, about = tmp_path / "site" / "lab_models", tmp_path / "site" / "lab_models-1.dist-info"
    package.mkdir(parents=True)
    about.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nearest_centroid.py").write_text((plugins / "nearest_centroid.py").read_text())
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-models\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[cellskew.models]\nnearest_centroid = lab_models.nearest_centroid:SPEC\n")
    monkeypatch.syspath_prepend(str(package.parent))
    outside.installed.cache_clear()
    try:
        assert spec.get("nearest_centroid").title == "Nearest centroid"
        before = spec.code_of("nearest_centroid")
        (package / "__init__.py").write_text("# changed\n")
        assert spec.code_of("nearest_centroid") != before and spec.code_of("knn") is None
    finally:
        outside.installed.cache_clear()


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    from typer.testing import CliRunner

    from sweeps.cli import app

    found = CliRunner().invoke(app, ["--plugins", str(tmp_path / "none"), "datasets"])
    assert isinstance(found.exception, RequestError) and "there is no such folder" in str(found.exception)
    assert str(tmp_path / "none") not in os.environ.get("CELLSKEW_PLUGINS", "")


def test_who_has_not_named_the_folder_is_told_so(plugins, monkeypatch):
    monkeypatch.delenv("CELLSKEW_PLUGINS")
    with pytest.raises(RequestError) as caught:
        config.parse(SWEEP + REMEDIES, Path("x.yaml"))
    told = [said for said in caught.value.problems if "one of your own is in the folder that --plugins names" in said]
    assert len(told) == 4, caught.value.problems
