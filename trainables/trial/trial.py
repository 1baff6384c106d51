"""A whole trial: shards -> rows -> training -> metrics and files. Knows no Ray and no MLflow."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.atomic import publish
from data_pipeline.seeds import generator
from data_pipeline.shards.shards import iterate
from trainables import cost, protocol
from trainables import spec as registry
from trainables.config import TrialConfig, check_code, read
from trainables.fitting.features import Scaled
from trainables.losses import loss_of
from trainables.material import Material, open_material
from trainables.spec import ModelSpec
from trainables.trial import outcome

Report = Callable[[dict[str, Any], Path | None], None]
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # read by libraries when they are loaded


def run_trial(config: dict[str, Any], report: Report, checkpoint: Path | None) -> dict[str, Any]:
    """Run one trial to its end and return its final metrics.

    config: the fields of trainables.config.TrialConfig; what is left out has its default there.
    report(metrics, checkpoint folder | None) is called after each round, whose number is "epoch", and, with "final": 1,
    at the end; rounds that a resumed or finished trial has behind it are reported again first, with "replayed": 1, so
    that gaps can be filled.
    checkpoint: where to go on from, see trainables.training.checkpoint.newest. A trial that is finished only reports.
    """
    told = read(config)
    if (result := outcome.finished(told.directory)) is not None:
        for numbers in result["history"]:
            report(numbers | {"replayed": 1}, None)
        report(result["final"] | {"replayed": 1}, None)
        return result["final"]
    check_code(told)
    return _run(told, report, checkpoint)


def assist(config: dict[str, Any], checkpoint: Path | None) -> None:
    """Train beside the worker that runs a trial, in one team (training.team): the same steps, nothing written.

    config, checkpoint: as that worker's run_trial has them.
    """
    from trainables.training.training import train_network

    told = read(config)
    with _on_threads(told.threads):
        train_network(registry.get(told.model), told, open_material(told), _hear, checkpoint, cost.Cost(False))


def _hear(metrics: dict[str, Any], checkpoint: Path | None) -> None:
    """Pass nothing on: the worker that runs the trial does."""


@dataclass(frozen=True)
class _Learnt:
    """What a model has learnt: logits float [n, C] of validation and test cells, the class mix that they stand for."""

    prior: np.ndarray
    history: list[dict[str, Any]]
    numbers: dict[str, float]
    validation_logits: np.ndarray
    test_logits: np.ndarray
    tags: dict[str, str]


def _run(config: TrialConfig, report: Report, checkpoint: Path | None) -> dict[str, Any]:
    import torch

    from trainables.training.checkpoint import discard
    from trainables.training.device import choose_device

    spec = registry.get(config.model)
    on_gpu = spec.kind == "network" and choose_device(config.device).type == "cuda"
    cost.begin(on_gpu, config.gpu_share)
    bill = cost.Cost(on_gpu)
    with _on_threads(config.threads):
        material = open_material(config)
        if config.on is not None and spec.scaled:
            material = replace(material, shards=Scaled(material.shards, material.kept))
        train = _train_network if spec.kind == "network" else _fit_baseline
        learnt = train(spec, config, material, report, checkpoint, bill)
        numbers = learnt.numbers | _evaluated(config, material, learnt)
    numbers |= bill.so_far() | {"epoch": len(learnt.history), "final": 1}
    computed = {"threads": str(config.threads), "instructions": torch.backends.cpu.get_cpu_capability()}
    numbers["tags"] = learnt.tags | computed
    publish(config.directory / "result.json", json.dumps({"history": learnt.history, "final": numbers}).encode())
    discard(config.directory)
    report(numbers, None)
    return numbers


@contextmanager
def _on_threads(number: int) -> Iterator[None]:
    """Have torch, BLAS and OpenMP compute on so many threads while it lasts: another number rounds otherwise.

    What is loaded meanwhile (scikit-learn's OpenMP, an outside model's) heeds the environment alone.
    """
    import torch
    from threadpoolctl import threadpool_limits

    before, said = torch.get_num_threads(), {name: os.environ.get(name) for name in THREADS}
    torch.set_num_threads(number)
    os.environ |= dict.fromkeys(THREADS, str(number))
    try:
        with threadpool_limits(number):
            yield
    finally:
        torch.set_num_threads(before)
        for name, value in said.items():
            del os.environ[name]
            os.environ |= {} if value is None else {name: value}


def _evaluated(config: TrialConfig, material: Material, learnt: _Learnt) -> dict[str, float]:
    logits = (learnt.validation_logits, learnt.test_logits)
    numbers = outcome.conclude(config, material, learnt.prior, *logits)
    return numbers | {"train_cells": len(material.kept), "train_rows": len(material.training_rows(0))}


def _train_network(
    spec: ModelSpec, config: TrialConfig, material: Material, report: Report, checkpoint: Path | None, bill: cost.Cost
) -> _Learnt:
    from trainables.networks import attention
    from trainables.training.training import train_network
    from trainables.trial.package import publish_network

    attention.forget_used()
    trained = train_network(spec, config, material, report, checkpoint, bill)
    if config.control is None:  # nobody is to use what has learnt nothing
        publish_network(spec, config, material, trained)
    logits = (trained.validation_logits, trained.test_logits)
    return _Learnt(
        trained.loss.prior, trained.history, trained.numbers, *logits, trained.tags | {"attention": attention.used()}
    )


def _fit_baseline(
    spec: ModelSpec, config: TrialConfig, material: Material, report: Report, checkpoint: Path | None, bill: cost.Cost
) -> _Learnt:
    """Fit a model that has no epochs; its time is that of the fit alone, as a network's is that of its steps."""
    from trainables.trial.package import publish_baseline

    options, _ = protocol.apply(config.defects, config.options, {})
    options = spec.options(**options).model_dump()
    shards, labels = material.shards, material.labels
    rows, validation = material.training_rows(0), material.validation
    held = (shards.take(validation, np.int32), labels[validation]) if len(validation) else None
    encoded = shards.take(rows, np.int32)  # as scipy keeps columns, so that nothing is copied
    loss = loss_of(config.loss, material.counts(rows))
    rng = generator(config.seed, "fit", config.split["seed"])
    options |= shards.network_options
    begin = time.perf_counter()
    model = spec.fit(
        encoded, labels[rows], len(material.classes), rng, validation=held, class_weight=loss.weights, **options
    )
    seconds = time.perf_counter() - begin
    logits = [_baseline_logits(model, material, part) for part in (validation, material.test)]
    prior = getattr(model, "prior", loss.prior)
    if config.control is None:
        publish_baseline(spec, config, material, model, prior, logits[0])
    numbers = {"seconds_per_epoch": seconds, "cells_per_second": len(rows) / max(seconds, 1e-9), "epochs_run": 1}
    return _Learnt(prior, [], numbers | model.numbers, *logits, {"device": "cpu"})


def _baseline_logits(model: Any, material: Material, rows: np.ndarray) -> np.ndarray:
    """Return logits, float64 [n, C], some thousand cells at a time."""
    parts = [outcome.logits_of(model.predict_proba(cells)) for cells in iterate(material.shards, rows)]
    return np.concatenate(parts) if parts else np.zeros((0, len(material.classes)))
