"""The command line: quick help, exit codes, one clear message for each wrong request, nothing left behind."""

import json
import os
import re
import subprocess
import sys
import time
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from data_pipeline.errors import RequestError
from sweeps import cli
from sweeps.commands import options, running
from sweeps.tracking import uris

SWEEP = """
name: small
datasets: [pbmc68k_reduced]
genes: {select: hvg, n: 50}
models: {logistic_regression: {}, majority: {}}
splits: {seeds: [0, 1]}
skews: [natural, {kind: exponential, ratio: 20}]
strategies: [none, oversample]
"""


def call(*words: str, cwd=None) -> subprocess.CompletedProcess:
    """Run the command as a user does."""
    return subprocess.run([sys.executable, "-m", "sweeps.cli", *words], cwd=cwd, capture_output=True, text=True)


def inside(*words: str) -> str:
    """Run a command in this process; returns what it prints. RequestError comes through."""
    result = CliRunner().invoke(cli.app, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def sweep(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(SWEEP)
    return file


def test_help_lists_the_commands_and_loads_nothing_heavy():
    code = "import sys; import sweeps.cli; heavy = {'torch', 'ray', 'mlflow', 'pandas', 'numpy', 'sklearn'}; "
    code += "print(sorted(heavy & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
    said = inside("--help")
    listed = [line.split()[1] for line in said.splitlines() if re.match("│ [a-z]", line)]
    order = "init check plan run resume submit status trial answer leaderboard needs shares results compare report "
    order += "export predict promote datasets weights"
    assert listed == order.split() == list(cli.COMMANDS), "in the order of use"
    assert "Exit codes" in said and said == inside("-h")


def test_the_version_is_told():
    assert inside("--version") == f"cellskew {version('cellskew')}\n"


def test_plan_waits_for_neither_torch_nor_ray(sweep, tmp_path):
    code = "import contextlib, sys; from sweeps import cli\nwith contextlib.suppress(SystemExit): cli.main()\n"
    code += "print(sorted({'torch', 'ray', 'mlflow'} & set(sys.modules)))"
    asked = [sys.executable, "-c", code, "plan", str(sweep), "--storage", str(tmp_path)]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[-1] == "[]" and "Nothing has been touched" in said[-2]


def test_help_answers_at_once():
    used = []
    for _ in range(2):
        before = os.times()
        call("--help")
        after = os.times()
        used.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(used) < 1.0, "seconds of CPU; 0.3 on an idle machine"


def test_every_command_has_an_example():
    for command in cli.COMMANDS:
        said = inside(command, "-h")
        assert f"Example: cellskew {command}" in said and said == inside(command, "--help")


def test_a_wrong_request_is_a_few_lines_exit_code_2_and_leaves_nothing(tmp_path):
    (tmp_path / "bad.yaml").write_text(SWEEP.replace("majority", "majorty") + "sedes: [1]\n")
    asked = call("run", "bad.yaml", cwd=tmp_path)
    assert asked.returncode == 2 and asked.stdout == ""
    assert asked.stderr.splitlines() == [
        "cellskew: bad.yaml:5: models.majorty: unknown model 'majorty'; did you mean majority? known: celltypist, "
        "geneformer, gradient_boosting, knn, linear_svm, logistic_regression, majority, mlp, scanvi, scbert, scgpt",
        "cellskew: bad.yaml:9: sedes: unknown key 'sedes'; did you mean seeds? known: name, datasets, genes, splits, "
        "skews, strategies, losses, models, seeds, protocol, defects, posthoc, controls, tracking, resources, "
        "exclude, questions, max_failures, checkpoint_every",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_ctrl_c_before_the_training_says_how_to_go_on(sweep, tmp_path, monkeypatch):
    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr("sweeps.drive.preparing.prepare.open_datasets", interrupted)
    result = CliRunner().invoke(cli.app, ["run", str(sweep), "--storage", str(tmp_path / "storage")])
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "cellskew: interrupted; run the same command again to go on"


def test_resume_goes_on_in_the_folders_own_store_wherever_the_folder_is_now(sweep, tmp_path, monkeypatch):
    from sweeps.drive.outcome import Outcome

    asked = []
    monkeypatch.setattr(
        "sweeps.drive.converge.converge", lambda spec, request, screen, look: asked.append(request) or Outcome(0)
    )
    monkeypatch.setattr(running, "_conclude", lambda *given: None)
    (tmp_path / "moved" / "sweeps").mkdir(parents=True)
    (tmp_path / "moved" / "mlflow.db").touch()
    sweep.rename(tmp_path / "moved" / "sweeps" / "small.yaml")
    inside("resume", "small", "--storage", str(tmp_path / "moved"))
    (tmp_path / "moved" / "sweeps" / "small.tracking").write_text("http://mlflow:5000")
    inside("resume", "small", "--storage", str(tmp_path / "moved"))
    assert [request.tracking_uri for request in asked] == [None, None], "the folder is asked, where it is now"
    assert uris.choose(tmp_path / "moved", None, "small", False) == ("http://mlflow:5000", "as before")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "nowhere.yaml"], "nowhere.yaml: there is no such file"),
        (["plan", "nowhere.yaml"], "nowhere.yaml: there is no such file"),
        (["resume", "small"], "no sweep has been run in cellskew-runs; choose another folder with --storage"),
        (["resume", "../x"], "no sweep has been run in"),
        (["status", "small"], "no sweep has been run in"),
        (["results", "small"], "no sweep has been run in"),
        (["check", "nowhere.h5ad", "--label", "x"], "nowhere.h5ad"),
        (["check", "pbmc68k_reduced", "--model", "scgtp"], "unknown model 'scgtp'; did you mean scgpt?"),
        (["check", "pbmc68k_reduced", "--weights", "."], "--weights belong to one model; name it with --model"),
        (["check", "x.h5ad", "--label", "x", "--duplicates", "add"], "'add' is unknown; allowed: sum, first, rename"),
        (["check", "x.h5ad", "--base", "2"], "--base and --target-sum say how log1p was made: say --values log1p"),
        (["report", "x", "--png"], "--png makes figures into PNG files: name their folder, --figures FOLDER"),
        (["results", "x", "--json", "--format", "csv"], "--json and --format csv: a table is printed as one of them"),
        (["results", "x.zip", "--tracking-uri", "http://a:1"], "a bundle has all that it is asked for"),
        (["compare", "x", "--questions", "--metric", "recall"], "--questions asks what the sweep's file says"),
        (["predict", "x.h5ad", "--best", "x", "-o", "t.csv", "--map", "m.csv"], "say where they are, --evaluate LABEL"),
        (["trial", "abc", "--rerun", "--here", "--log", "5"], "--log and --json show a trial"),
        (["weights", "--to", "x"], "--to says where a checkpoint goes"),
        (["weights", "scGPT_human", "--check", "."], "--check looks at a folder"),
        (["check", "x.h5ad", "--values", "log1p", "--base", "b"], "--base 'b' is neither e nor a number above 1"),
    ],
)
def test_wrong_requests_are_named(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError) as caught:
        inside(*words)
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_storage_must_be_a_folder(sweep, tmp_path):
    with pytest.raises(RequestError, match="--storage s3://.*: give a folder, not a URI; a bucket is for --shared"):
        inside("run", str(sweep), "--storage", "s3://bucket/runs")
    with pytest.raises(RequestError, match="is a file; give a folder"):
        inside("run", str(sweep), "--storage", str(sweep))
    with pytest.raises(RequestError, match="storage folder .* can't be written to: Not a directory. Make it writable"):
        inside("run", str(sweep), "--storage", str(sweep / "below"))


def test_plan_counts_trials_and_cells_and_touches_nothing(sweep, tmp_path):
    said = inside("plan", str(sweep), "--storage", str(tmp_path / "runs"))
    assert "small: 16 trials (logistic_regression 8, majority 8)" in said
    assert "the catalog's published counts; the file is not here yet" in said
    assert "Dendritic" in said and "Nothing has been touched" in said
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_plan_tells_that_shares_of_a_gpu_are_to_be_measured(sweep, tmp_path):
    sweep.write_text(sweep.read_text().replace("majority: {}", "majority: {}, scgpt: {size: tiny}"))
    storage = ["--storage", str(tmp_path / "runs")]
    assert "gpu: auto" not in inside("plan", str(sweep), *storage)
    sweep.write_text(sweep.read_text() + "resources: {scgpt: {gpu: auto}, majority: {gpu: auto}}\n")
    assert "gpu: auto of scgpt: the share that a trial needs is measured" in inside("plan", str(sweep), *storage)


def test_plan_explains_every_defect_that_is_turned_on(sweep, tmp_path):
    sweep.write_text(sweep.read_text() + "defects: [resample_before_split]\n")
    said = " ".join(inside("plan", str(sweep), "--storage", str(tmp_path / "runs")).split())
    assert "made with defect resample_before_split: the training file is resampled first" in said
    assert "(preprocessing.ipynb cells 4 and 10" in said and "scgpt_unshuffled" not in said


def test_plan_as_json_holds_the_class_counts_of_every_skew_and_strategy(sweep, tmp_path):
    found = json.loads(inside("plan", str(sweep), "--storage", str(tmp_path / "runs"), "--json"))
    assert len(found["trials"]) == 16 and len(found["class_counts"]) == 2 * 2 * 2
    by_axes = {(one["split"], one["skew"], one["strategy"]): one for one in found["class_counts"]}
    natural, skewed = by_axes[("0", "natural", "none")], by_axes[("0", "exponential-20", "none")]
    assert natural["kept"] == natural["train"] == natural["trained"]
    assert sum(natural["train"].values()) + sum(natural["test"].values()) + sum(natural["validation"].values()) == 700
    assert max(skewed["kept"].values()) / min(skewed["kept"].values()) == pytest.approx(20, rel=0.25)
    over = by_axes[("0", "natural", "oversample")]
    assert set(over["trained"].values()) == {max(natural["train"].values())}
    assert over["test"] == natural["test"]


@pytest.mark.parametrize(("name", "classes", "cells"), [("zheng68k", 11, 68_450), ("ms", 18, 7_844 + 13_468)])
def test_plan_works_from_published_counts_where_the_file_must_be_fetched(name, classes, cells, tmp_path):
    file = tmp_path / "large.yaml"
    file.write_text(f"name: large\ndatasets: [{name}]\nmodels: {{scgpt: {{weights: /w}}}}\nstrategies: [oversample]\n")
    found = json.loads(inside("plan", str(file), "--storage", str(tmp_path / "runs"), "--json"))
    (counts,) = found["class_counts"]
    parts = [counts[part] for part in ("train", "validation", "test")]
    assert len(parts[0]) == classes and sum(sum(part.values()) for part in parts) == cells
    assert "weights of scgpt are not on this machine: /w" in found["notes"]


def test_an_impossible_skew_is_refused_by_plan(sweep, tmp_path):
    sweep.write_text(SWEEP.replace("ratio: 20", "ratio: 20, total: 100000"))
    with pytest.raises(RequestError, match=r"pbmc68k_reduced · split 0 · exponential-20-total=100000: "):
        inside("plan", str(sweep), "--storage", str(tmp_path / "runs"))


def test_datasets_says_what_is_here(tmp_path):
    found = json.loads(inside("datasets", "--json", "--storage", str(tmp_path)))
    here = {one["name"]: one["here"] for one in found}
    assert here["zheng68k"] == "to be fetched by hand" and here["pbmc68k_reduced"] == "made when first used"
    assert "zheng68k" in inside("datasets", "--storage", str(tmp_path))


def test_check_describes_a_dataset_and_each_models_view_of_its_genes(tmp_path):
    found = json.loads(inside("check", "pbmc68k_reduced", "--json", "--storage", str(tmp_path)))
    assert found["cells"] == 700 and found["genes"] == 765 and found["classes"]["Dendritic"] == 240
    assert set(found["coverage"]) == {"geneformer", "scbert", "scgpt"}
    assert "the file can be used" in inside("check", "pbmc68k_reduced", "--storage", str(tmp_path))


@pytest.mark.slow
def test_a_sweep_from_end_to_end(sweep, tmp_path):
    runs = str(tmp_path / "runs")
    first = call("run", str(sweep), "--storage", runs)
    assert first.returncode == 0, first.stderr
    assert "16 of 16 trials finished (16 now" in first.stderr and "recall_tail" in first.stdout
    assert f"mlflow ui --backend-store-uri sqlite:///{runs}/mlflow.db --host 127.0.0.1" in first.stderr
    begin = time.monotonic()
    again = call("resume", "small", "--storage", runs)
    assert again.returncode == 0 and "16 of 16 trials finished (0 now" in again.stderr
    assert again.stdout == first.stdout, "the same table"
    assert time.monotonic() - begin < 120
    table = json.loads(call("results", "small", "--storage", runs, "--by", "model", "--json").stdout)
    counted = [(row["model"], row["n"], row["runs"]) for row in table["rows"]]
    assert counted == [("logistic_regression", 2, 8), ("majority", 2, 8)]
    assert table["rows"][0]["test_macro_f1"] > table["rows"][1]["test_macro_f1"] + 0.2
    state = json.loads(call("status", "small", "--storage", runs, "--json").stdout)
    assert state["counts"] == {"finished": 16} and state["failed"] == []


def test_predict_and_check_advise_their_own_options_not_the_sweep_files():
    known = {"duplicates", "layer", "values", "gene_names"}
    for given, expected in {
        "leave `layer:` out (X)": "leave `--layer` out (X)",
        "with `duplicates: sum`, or `gene_names: symbol`": "with `--duplicates sum`, or `--gene-names symbol`",
        "declare `values: counts`": "declare `--values counts`",
        "`values: {kind: log1p, base: e, target_sum: 10000}`": "`--values log1p --base e --target-sum 10000`",
        "leave them out with `unlabelled: drop`": "leave them out with `unlabelled: drop`",
    }.items():
        assert options.as_options(given, known) == expected


@pytest.mark.parametrize(
    "command", ["check {} --label kind", "predict {} --checkpoint {} -o out.csv", "init {} --label kind -o -"]
)
def test_a_doubled_gene_is_mended_by_what_the_message_says(command, tmp_path, monkeypatch):
    import anndata

    file = tmp_path / "twice.h5ad"
    cells = anndata.AnnData(np.ones((6, 3), np.float32))
    cells.obs["kind"] = ["a", "b"] * 3
    cells.var_names = ["A", "A", "B"]
    cells.write_h5ad(file)
    monkeypatch.setattr("trainables.trial.annotator.open_model", lambda folder: SimpleNamespace(classes=["a", "b"]))
    with pytest.raises(RequestError, match="Add up what shares a name with `--duplicates sum`"):
        inside(*command.format(file, tmp_path).split())
