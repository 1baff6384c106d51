"""What a sweep takes on a cluster: the constants are those of the benchmarks, shares and hours follow from them."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_pipeline.errors import RequestError
from sweeps import cli
from sweeps.drive.forecast import fleet
from sweeps.drive.forecast.estimate import Work
from sweeps.drive.forecast.fleet import Done, Fleet
from sweeps.file import config

SWEEP = """
name: small
datasets: [pbmc68k_reduced]
splits: {seeds: [0, 1, 2, 3]}
models: {scgpt: {weights: /nowhere}, geneformer: {size: small}, majority: {}}
"""
OFFICIAL = Work(steps=1000, rounds=10, tokens=3.6e9 / 1.31, batch=32 * 1024, cpu_seconds=1e6)  # an hour alone
SMALL = Work(steps=440, rounds=10, tokens=1e6, batch=1e4, cpu_seconds=60.0)
BASELINE = Work(steps=0, rounds=1, tokens=0.0, batch=0.0, cpu_seconds=10.0)
WORKS = {"scgpt": OFFICIAL, "geneformer": SMALL, "majority": BASELINE}


def planned(text: str = SWEEP, done: dict | None = None, **given):
    trials = config.parse(text, Path("s.yaml"), check_files=False).trials()
    works = {trial.key: WORKS[trial.model] for trial in trials}
    chosen = {"nodes": 1, "gpus": 1, "memory": 80.0} | given
    finished = {trial.key: Done(*(done or {})[trial.model]) for trial in trials if trial.model in (done or {})}
    return fleet.forecast(trials, works, finished, Fleet(**chosen), disk_gb=1.0)


def row_of(found, model: str = "scgpt") -> dict:
    return next(row for row in found.models if row["model"] == model)


def test_the_constants_are_those_of_the_benchmarks_table():
    table = (Path(__file__).parents[3] / "benchmarks/README.md").read_text()

    def ours(row: str) -> float:
        part = table.split("| training step, cells/s |")[1]
        return float(re.search(rf"^\| {row}[^|]*\|[^|]*\| ([\d.]+) \|", part, re.MULTILINE)[1])

    tokens = {"scGPT 51 M, 1,024 tokens, batch 32": ("scgpt", 1024)}
    tokens |= {"scBERT, 3,000 genes, 60 cells a step": ("scbert", 3001)}
    tokens |= {"Geneformer V1-10M": ("geneformer", 1175), "Geneformer V2-104M": ("geneformer-V2", 2291)}
    for row, (network, number) in tokens.items():
        expected = 1e6 / (ours(re.escape(row)) * number)
        assert fleet.PER_MILLION_TOKENS[network] == pytest.approx(expected, abs=0.006), network
    assert pytest.approx(3600 / 388 / 440, rel=0.01) == fleet.PER_STEP


def test_large_networks_share_a_gpu_without_gain_small_ones_with_it():
    found = {row["model"]: row for row in planned().models}
    assert found["scgpt"]["trials per GPU"] == 10 and found["scgpt"]["hours each"] == pytest.approx(10, rel=0.01)
    assert found["scgpt"]["GPU-hours"] == pytest.approx(4, rel=0.01), "four trials of an hour, however they share"
    assert found["geneformer"]["trials per GPU"] == 20
    assert found["majority"]["trials per GPU"] == 0


@pytest.mark.parametrize(("memory", "places"), [(80, 10), (40, 5), (24, 3), (8, 1)])
def test_a_smaller_gpu_has_fewer_places(memory, places):
    assert row_of(planned(memory=memory))["trials per GPU"] == places


def test_more_gpus_take_less_time_and_as_many_gpu_hours():
    text = SWEEP.replace("models:", "resources: {scgpt: {gpu: 1}}\nmodels:")
    one, four = planned(text), planned(text, nodes=2, gpus=2, price=2.0)
    assert one.hours == pytest.approx(4, rel=0.02) and four.hours == pytest.approx(1, rel=0.02)
    assert one.gpu_hours == pytest.approx(four.gpu_hours)
    assert four.paid_hours == pytest.approx(4, rel=0.02) and four.money == pytest.approx(8, rel=0.02)


def test_a_trial_on_two_gpus_takes_half_as_long_and_a_node_that_has_them():
    two = SWEEP + "resources: {scgpt: {gpu: 2}, geneformer: {gpu: 0}}"
    row = row_of(planned(two, gpus=4))
    assert row["trials per GPU"] == 0.5 and row["hours each"] == pytest.approx(0.5, rel=0.01)
    assert row["GPU-hours"] == pytest.approx(4, rel=0.01) and planned(two, gpus=4).hours == pytest.approx(1, rel=0.01)
    with pytest.raises(RequestError, match="asks for 2 CPU and 2 GPU of one node, which no node of this plan has"):
        planned(two, nodes=2, gpus=1)


def test_what_is_finished_is_not_counted_and_says_how_long_the_others_take():
    found = planned(done={"majority": (20.0, ""), "geneformer": (30.0, "")})
    assert (found.trials, found.finished, found.disk_gb) == (4, 8, pytest.approx(1 / 3))
    assert [row["model"] for row in found.models] == ["scgpt"]
    more = SWEEP.replace("[0, 1, 2, 3]", "[0, 1, 2, 3, 4]")
    trials = config.parse(more, Path("s.yaml"), check_files=False).trials()
    works = {trial.key: WORKS[trial.model] for trial in trials}
    done = {
        trial.key: Done(7200.0, "H100") for trial in trials if trial.model == "scgpt" and trial.labels["split"] != "4"
    }
    told = row_of(fleet.forecast(trials, works, done, Fleet(1, 1, 80.0), 1.0))
    assert (told["trials"], told["hours each"], told["seconds from"]) == (1, 2.0, "4 finished trials on H100")


def test_finished_trials_on_cpus_say_nothing_of_gpus():
    trials = config.parse(SWEEP, Path("s.yaml"), check_files=False).trials()
    works = {trial.key: WORKS[trial.model] for trial in trials}
    done = {trial.key: Done(9e5, "") for trial in trials[:3] if trial.model == "scgpt"}
    told = row_of(fleet.forecast(trials, works, done, Fleet(1, 1, 80.0), 1.0))
    assert told["seconds from"] == fleet.MEASURED


def test_a_trial_that_no_node_has_room_for_is_refused():
    text = SWEEP.replace("models:", "resources: {scgpt: {cpu: 64}}\nmodels:")
    with pytest.raises(RequestError, match="asks for 64 CPU and .* which no node of this plan has"):
        planned(text)


def test_the_command_prints_it_and_touches_nothing(tmp_path):
    words = [
        "plan",
        "sweeps/configs/quickstart.yaml",
        "--storage",
        str(tmp_path / "none"),
        "--gpus",
        "8",
        "--nodes",
        "4",
    ]
    said = CliRunner().invoke(cli.app, [*words, "--price", "3.2"])
    assert (
        said.exit_code == 0 and "on 4 nodes of 8 GPUs (80 GB each) and 96 CPUs: 100 trials to do, 0 are" in said.output
    )
    assert not (tmp_path / "none").exists()
    told = json.loads(CliRunner().invoke(cli.app, [*words, "--json"]).output)
    assert told["trials"] == 100 and told["money"] is None and told["paid_hours"] > told["gpu_hours"] > 0
