"""`gpu: auto`: what a trial takes of a GPU is measured once per kind, so many share one. The GPUs are only Ray's."""

import dataclasses
import json
import time
from pathlib import Path
from types import SimpleNamespace

import fake_trials
import numpy as np
import pytest
import ray
import torch
from conftest import trial_config

from sweeps.cluster import resources
from sweeps.drive import converge
from sweeps.drive.launching import launch
from sweeps.drive.preparing import packing
from sweeps.drive.workshop import Workshop
from trainables import cost
from trainables.config import read
from trainables.material import open_material
from trainables.spec import get, names
from trainables.training import training
from trainables.trial import profile
from trainables.trial.trial import run_trial

NETWORKS = [name for name in names() if get(name).kind == "network"]
GPU_NODE = {"CPU": 4.0, "GPU": 4.0}


def meter(notes: Path, peak: float, fails: bool = False):
    """Return a measure that notes each call in a file of its own."""

    def measure(config: dict) -> dict:
        import uuid

        (notes / uuid.uuid4().hex).write_text(config["model"])
        if fails:
            raise MemoryError("out of memory even with micro-batches of 1 cell")
        return {"peak": peak, "total": 80e9, "gpu": "Fake A100"}

    return measure


@pytest.fixture
def notes(tmp_path) -> Path:
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


def config_of(folder: Path, model: str = "scgpt", **recipe) -> dict:
    config = trial_config(folder, model) | {"weights": None}
    return config | {"recipe": {"batch_size": 8, "precision": "auto", "optimizer": "adam", "epochs": 3} | recipe}


def shares(configs: dict, storage: Path, measure, nodes=(GPU_NODE,)) -> tuple[dict, list[str]]:
    said: list[str] = []
    work = Workshop(lambda: 4.0, None if ray.is_initialized() else lambda kind: {})
    return packing.Gauge(storage, list(nodes), measure, said.append, work).shares(configs), said


@pytest.mark.parametrize(
    ("peak", "expected"),
    [(1, 0.05), (3.4e9, 0.05), (3.6e9, 0.0526), (34e9, 0.5), (35e9, 1.0), (75e9, 1.0), (200e9, 1.0)],
)
def test_a_share_has_headroom_and_divides_the_gpu(peak, expected):
    assert resources.share(peak, 80e9) == expected


def test_trials_of_a_kind_are_measured_once_and_remembered(ray_with_gpus, tmp_path, notes):
    same, longer = config_of(tmp_path), config_of(tmp_path, epochs=9, learning_rate=0.1)
    larger = config_of(tmp_path, batch_size=64)
    configs = {"a": same, "b": longer, "c": larger, "d": same | {"seed": 5}}
    found, said = shares(configs, tmp_path, meter(notes, 12e9))
    assert found == dict.fromkeys("abcd", 0.2) and len(list(notes.iterdir())) == 2, "two sizes of batch"
    assert "11.2 of 75 GB (Fake A100): 0.20 of a GPU, 5 trials on each" in said[1]
    again, said = shares(configs, tmp_path, meter(notes, 70e9))
    assert again == found and not said and len(list(notes.iterdir())) == 2


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """The shards whose trials were measured, one after the other, without Ray."""
    shards: list[str] = []

    class Task:
        def remote(self, config):
            shards.append(config["shards"])
            return {"peak": 12e9, "total": 80e9, "gpu": "Fake"}

    monkeypatch.setattr(packing, "_task", lambda measure, gpu, node: Task())
    monkeypatch.setattr(packing, "_answer", lambda answer, *where: answer)
    return shards


def test_cells_of_about_the_same_length_are_one_kind_measured_by_the_longest(tmp_path, asked, monkeypatch):
    facts = {"short": 1000, "longer": 1010, "long": 1400}
    monkeypatch.setattr(packing, "_facts", lambda folder: (np.full(8, facts[folder]), 4, [300, 0]))
    base = config_of(tmp_path)
    shares({name: base | {"shards": name} for name in ("longer", "short", "long")}, tmp_path, None)
    assert asked == ["long", "longer"]


def test_genes_chosen_for_each_split_are_measured_once(tmp_path, asked, monkeypatch):
    """Ten splits whose genes were chosen anew differ by a gene or two; the later ones are covered by what is known."""
    facts = {str(n): (np.full(8, 200 + n), 4, [300 - n // 2, 0]) for n in range(10)}
    monkeypatch.setattr(packing, "_facts", facts.__getitem__)
    configs = {name: config_of(tmp_path) | {"shards": name} for name in facts}
    first = {name: configs[name] for name in "0123456"}
    assert set(shares(first, tmp_path, None)[0].values()) == {0.2}
    assert shares(configs, tmp_path, None)[0] == dict.fromkeys(configs, 0.2)
    assert asked == ["6"]


def test_a_note_that_is_damaged_is_measured_again(ray_with_gpus, tmp_path, notes):
    configs = {"a": config_of(tmp_path)}
    shares(configs, tmp_path, meter(notes, 12e9))
    for path in (tmp_path / "profiles").iterdir():
        path.write_text('{"peak": 0')
    assert shares(configs, tmp_path, meter(notes, 30e9))[0] == {"a": 0.5}


def test_what_cannot_be_measured_gets_a_whole_gpu_and_is_tried_again_next_time(
    ray_with_gpus, tmp_path, notes, monkeypatch
):
    """A measurement that failed is over: Ray aborts the driver if such a task is cancelled as its answer comes."""
    monkeypatch.setattr(packing.ray, "cancel", lambda *given, **how: pytest.fail("it has ended by itself"))
    configs = {"a": config_of(tmp_path)}
    found, said = shares(configs, tmp_path, meter(notes, 0, fails=True))
    assert found == {"a": 1.0} and "whole GPU" in said[1] and "out of memory even with" in said[1]
    assert shares(configs, tmp_path, meter(notes, 12e9))[0] == {"a": 0.2}


def test_the_real_meter_says_what_is_wrong_where_torch_sees_no_gpu(ray_with_gpus, tmp_path):
    found, said = shares({"a": config_of(tmp_path)}, tmp_path, profile.peak_memory)
    assert found == {"a": 1.0} and "Ray gave a GPU, but torch sees none" in said[1]


def test_each_type_of_gpu_is_measured_and_the_largest_share_counts(tmp_path, notes, monkeypatch):
    class Task:
        def __init__(self, gpu):
            self.gpu = gpu

        def remote(self, config):
            return {"peak": 12e9, "total": 80e9 if "A100" in self.gpu else 24e9, "gpu": self.gpu}

    monkeypatch.setattr(packing, "_task", lambda measure, gpu, node: Task(gpu))
    monkeypatch.setattr(packing, "_answer", lambda answer, *where: answer)
    nodes = [GPU_NODE | {f"accelerator_type:{kind}": 1.0} for kind in ("A100", "L4")] + [{"CPU": 8.0}]
    assert shares({"a": config_of(tmp_path)}, tmp_path, None, nodes)[0] == {"a": 1.0}
    assert len(list((tmp_path / "profiles").iterdir())) == 2


def test_what_was_to_be_measured_on_a_node_that_is_lost_is_measured_on_another(tmp_path, monkeypatch):
    there, placed = {"a": 1}, []

    def answer(task, node: str, *where) -> dict:
        placed.append(node)
        if there.pop("a", 0):
            there["b"] = 1
            raise ray.exceptions.TaskUnschedulableError("the node is gone")
        return {"peak": 12e9, "total": 80e9, "gpu": "Fake"}

    monkeypatch.setattr(packing, "LOOK_EVERY", 0.0)
    monkeypatch.setattr(packing, "_task", lambda measure, gpu, node: SimpleNamespace(remote=lambda config: None))
    monkeypatch.setattr(packing, "_answer", answer)
    work = Workshop(lambda: 4.0, lambda kind: dict(there))
    gauge = packing.Gauge(tmp_path, [GPU_NODE], None, print, work)
    assert gauge.shares({"a": config_of(tmp_path)}) == {"a": 0.2}
    assert placed == ["a", "b"] and not gauge.failed and not work.lent


def test_a_node_that_comes_for_a_measurement_is_kept_for_it(monkeypatch):
    """Of an autoscaler: trials would fill it, and the whole GPU never be free."""
    there, seen = {}, []
    work = Workshop(lambda: 1.0, lambda kind: dict(there))

    def wait(tasks: list, timeout: float) -> tuple[list, list]:
        seen.append(dict(work.lent))
        there["n"] = 1
        return (tasks if len(seen) == 3 else []), []

    monkeypatch.setattr(packing, "ray", SimpleNamespace(wait=wait, get=lambda task: task))
    assert packing._answer("task", "", "", work) == "task"
    assert seen == [{}, {"n": 1}, {"n": 1}] and not work.lent


def test_a_sweep_gives_its_trials_what_was_measured_while_others_are_prepared(
    ray_with_gpus, tmp_path, notes, monkeypatch
):
    """A real preparation; four at once on each of Ray's GPUs, which torch doesn't see."""
    given = fake_trials.spec(resources="{scgpt: {gpu: auto, cpu: 0.25}}", genes="{select: hvg, n: 50}")
    real, screen, of_split_0 = converge.real_parts(), fake_trials.Silent(), set()

    def prepare(configs: list, *more) -> list:
        networks = {config["key"]: config["split"]["seed"] for config in configs if config["model"] == "scgpt"}
        of_split_0.update(key for key, seed in networks.items() if seed == 0)
        if 1 in networks.values():
            deadline = time.monotonic() + 60
            while not any(("finished", key) in screen.events for key in of_split_0):
                assert time.monotonic() < deadline, "a network of split 0 has what it needs, but waits"
                time.sleep(0.01)
        return real.prepare(configs, *more)

    trials = {"measure": meter(notes, 16e9), "run_trial": fake_trials.fake_trial, "prepare": prepare}
    parts = dataclasses.replace(real, **trials)
    seen, train = [], launch.train
    monkeypatch.setattr(launch, "train", lambda given, *more: seen.append(given) or train(given, *more))
    fake_trials.parts()  # workers get fake_trials by value
    outcome = converge.converge(given, converge.Request(storage=tmp_path), screen, parts)
    assert outcome.is_complete, outcome.failed
    got = {(job.config["model"], job.resources["gpu"], job.config["gpu_share"]) for job in seen[0].jobs}
    assert got == {("scgpt", 0.25, 0.25), ("majority", 0.0, 0.0)}
    assert {path.read_text() for path in notes.iterdir()} == {"scgpt"}


@pytest.mark.parametrize("model", NETWORKS)
def test_the_rehearsal_takes_two_steps_on_the_longest_cells(tmp_path, model):
    config = config_of(tmp_path, model)
    material, seen = open_material(read(config)), []
    config["recipe"] = {"budget": "epochs", "batch_size": 4, "accumulate": 50, "carry_accumulation": True}
    trainer = training.rehearse(get(model), read(config), material)
    assert trainer.steps == 2, "whatever the recipe accumulates"
    seen = trainer.feed.shards.lengths
    assert np.sort(seen)[-4:].sum() > 0 and not (tmp_path / "trials").exists(), "nothing is left behind"


def test_a_network_keeps_to_its_share_and_what_runs_on_a_cpu_leaves_the_gpu_alone(tmp_path, monkeypatch):
    limits = []
    device = type("Device", (), {"total_memory": 60 * cost.GIB})
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: device)
    for share in (0.25, 1.0, 0.0, 0.005):
        cost.begin(True, share)
    assert limits == [pytest.approx(0.24), 1.0, 1.0, 0.01]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for model, device in (("majority", "auto"), ("scgpt", "cpu")):
        config = trial_config(tmp_path / model, model, gpu_share=0.3) | {"device": device}
        final = run_trial(config, lambda metrics, path: None, None)
        assert final["peak_memory_gb"] > 0.05, "that of the process"
    assert len(limits) == 4


def test_a_note_says_what_was_measured(ray_with_gpus, tmp_path, notes):
    shares({"a": config_of(tmp_path)}, tmp_path, meter(notes, 12e9))
    (note,) = (tmp_path / "profiles").iterdir()
    assert json.loads(note.read_text()) | {"need": None} == {
        "peak": 12e9,
        "total": 80e9,
        "gpu": "Fake A100",
        "need": None,
    }
