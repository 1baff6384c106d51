"""What a sweep takes on a cluster: trials per GPU, hours, money, MLflow's load. From measured constants, by the very
line that hands out trials."""

import functools
import heapq
import json
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from data_pipeline.errors import RequestError
from sweeps import tables
from sweeps.cluster import resources
from sweeps.cluster.line import Line
from sweeps.cluster.resources import Shape, of_trial
from sweeps.drive.forecast import estimate
from sweeps.drive.forecast.estimate import Work
from sweeps.drive.forecast.precedence import turns
from sweeps.file.trials import Trial

MEASURED = "one H100 (benchmarks/README.md)"
PER_MILLION_TOKENS = {"scgpt": 1.31, "scbert": 2.28, "geneformer": 1.41, "geneformer-V2": 3.21}  # seconds
UNMEASURED = PER_MILLION_TOKENS["scgpt"]  # of a network of one's own
PER_STEP = 0.021  # seconds of a small network, start and evaluations included: 388 trials of 440 steps an hour
GIGABYTES_PER_TOKEN = {"scgpt": 1.52e-4, "scbert": 1.78e-4, "geneformer": 6.4e-5, "geneformer-V2": 3.5e-4}  # of a batch
OWN = {"scgpt": 0.83}  # gigabytes that don't depend on the batch
CONTEXT, SMALL = 0.6, 0.8  # gigabytes: a CUDA context; all that a small network takes
ENOUGH = 3  # finished trials of a model that outweigh the constants
REQUESTS = 5  # to MLflow per trial, beside one per round
CPUS_PER_GPU = 12


@dataclass(frozen=True)
class Fleet:
    """A cluster that a sweep is planned for. memory: gigabytes of a GPU; price: of a GPU-hour, in any currency."""

    nodes: int
    gpus: int
    memory: float
    cpus: int | None = None
    price: float | None = None

    def capacities(self) -> dict[str, Shape]:
        """Return what each node has."""
        cpus = CPUS_PER_GPU * self.gpus if self.cpus is None else self.cpus
        return {f"node{number}": Shape(float(self.gpus), float(max(cpus, 1))) for number in range(self.nodes)}


@dataclass(frozen=True)
class Done:
    """A finished trial: the seconds it took, the GPU it had ("": none)."""

    seconds: float
    gpu: str


@dataclass(frozen=True)
class Planned:
    """A trial as the line sees it."""

    key: str
    resources: dict[str, float]
    cost: float
    turn: int


@dataclass
class Forecast:
    """What is to be expected. models: a row per model: trials, share, hours (of one trial, the median), origin."""

    trials: int
    finished: int
    models: list[dict[str, object]]
    hours: float
    gpu_hours: float
    gpus: int
    disk_gb: float
    reports: int
    price: float | None

    @property
    def paid_hours(self) -> float:
        """GPU-hours from start to end, idle ones too."""
        return self.hours * self.gpus

    @property
    def money(self) -> float | None:
        return None if self.price is None else self.price * self.paid_hours


def forecast(
    trials: list[Trial], works: Mapping[str, Work], done: Mapping[str, Done], fleet: Fleet, disk_gb: float
) -> Forecast:
    """Return what the trials that aren't `done` take on a fleet; RequestError if one fits on no node of it."""
    seconds, origins = _seconds(trials, works, done, fleet)
    todo = [trial for trial in trials if trial.key not in done]
    turn = turns(trials, seconds)
    planned = [
        Planned(one.key, _resources(one, works[one.key], fleet), seconds[one.key], turn[one.key]) for one in todo
    ]
    hours = _makespan(planned, fleet) / 3600
    rounds = sum(works[trial.key].rounds + REQUESTS for trial in todo)
    given = sum(job.cost * job.resources["gpu"] for job in planned) / 3600
    rows = list(_rows(todo, planned, origins))
    fewer = disk_gb * len(todo) / max(len(trials), 1)
    num, gpus = (len(todo), len(trials) - len(todo)), fleet.nodes * fleet.gpus
    return Forecast(*num, rows, hours, given, gpus, fewer, rounds, fleet.price)


def _rows(todo: list[Trial], planned: list[Planned], origins: dict[str, str]) -> Iterator[dict[str, object]]:
    for model in dict.fromkeys(trial.label for trial in todo):
        jobs = [job for trial, job in zip(todo, planned, strict=True) if trial.label == model]
        shape = max(Shape.of(job.resources) for job in jobs)
        yield {
            "model": model,
            "trials": len(jobs),
            "trials per GPU": shape.trials_per_gpu,
            "hours each": round(statistics.median(job.cost for job in jobs) / 3600, 3),
            "GPU-hours": round(sum(job.cost * job.resources["gpu"] for job in jobs) / 3600, 2),
            "seconds from": origins[model],
        }


def _seconds(
    trials: list[Trial], works: Mapping[str, Work], done: Mapping[str, Done], fleet: Fleet
) -> tuple[dict[str, float], dict[str, str]]:
    """Return seconds by key, and by model where they come from: finished trials of its kind, else constants."""
    expected = {trial.key: _constant(trial, works[trial.key], fleet) for trial in trials}
    factors, origins = {}, {}
    for model in dict.fromkeys(trial.label for trial in trials):
        mine = [trial for trial in trials if trial.label == model]
        on_gpu = any(_gpu(trial, works[trial.key], fleet) for trial in mine)
        told = [(trial.key, done[trial.key]) for trial in mine if trial.key in done]
        told = [(key, found) for key, found in told if bool(found.gpu) == on_gpu]
        factors[model], origins[model] = 1.0, MEASURED if on_gpu else "estimate for a CPU core"
        if len(told) >= ENOUGH:
            factors[model] = statistics.median(found.seconds / expected[key] for key, found in told)
            cards = ", ".join(sorted({found.gpu for _, found in told if found.gpu}))
            origins[model] = f"{len(told)} finished trials" + (f" on {cards}" if cards else "")
    return {trial.key: expected[trial.key] * factors[trial.label] for trial in trials}, origins


def _constant(trial: Trial, work: Work, fleet: Fleet) -> float:
    """Return the seconds of a trial by constants.

    Networks of official size fill a GPU (94 % busy), so that n of them on one take n times as long; small ones keep a
    core busy instead, and eight of them did 8.6 times what one does. On several GPUs the work is taken to be divided.
    """
    share = _gpu(trial, work, fleet)
    if not share:
        return work.cpu_seconds
    sizes, size = estimate.seconds_of(trial.model), estimate.size_of(trial)
    of_official = sizes[size] / sizes.get("official", sizes[size])
    alone = work.tokens / 1e6 * PER_MILLION_TOKENS.get(_network(trial), UNMEASURED) * of_official
    return alone / share if size == "official" else max(alone, PER_STEP * work.steps)


def _gpu(trial: Trial, work: Work, fleet: Fleet) -> float:
    """Return the share of a GPU that a trial has, 0 for none."""
    if not fleet.gpus:
        return 0.0
    return of_trial(trial, [{"CPU": 1e9, "GPU": 1.0}], resources.share(memory(trial, work), fleet.memory))["gpu"]


def memory(trial: Trial, work: Work) -> float:
    """Return about how many gigabytes of a GPU a network's trial takes."""
    if estimate.size_of(trial) != "official":
        return SMALL
    network = _network(trial)
    return CONTEXT + OWN.get(network, 0.0) + GIGABYTES_PER_TOKEN.get(network, GIGABYTES_PER_TOKEN["scgpt"]) * work.batch


def _resources(trial: Trial, work: Work, fleet: Fleet) -> dict[str, float]:
    asked = of_trial(trial, [{"CPU": 1e9}])
    return {"cpu": asked["cpu"], "gpu": _gpu(trial, work, fleet)}


def _network(trial: Trial) -> str:
    """Return which network's constants hold: Geneformer's two sizes are told apart by their weights' folder."""
    weights = trial.described["weights"]
    is_large = trial.model == "geneformer" and weights is not None and _is_large(weights)
    return "geneformer-V2" if is_large else trial.model


@functools.cache
def _is_large(weights: str) -> bool:
    """Tell whether a folder, if it is here, holds the larger Geneformer; looked at once for all trials."""
    path = Path(weights) / "config.json"
    return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["hidden_size"] > 256


def _makespan(planned: list[Planned], fleet: Fleet) -> float:
    """Return the seconds from the first trial's start to the last one's end."""
    now, running = 0.0, []
    line = Line(planned, fleet.capacities, _nobody, None, clock=lambda: now, short=0.0)
    while not line.is_over():
        while (handed := line.next()) is not None:
            heapq.heappush(running, (now + handed.job.cost, handed.job.key))
        if not running:
            shape = next(shape for shape, jobs in line.waiting.items() if jobs)
            raise RequestError(f"a trial asks for {shape}, which no node of this plan has: see --gpus, --cpus")
        now, key = heapq.heappop(running)
        line.over(key)
    return now


def _nobody(text: str) -> None:
    """Hear what the line says."""


def show(found: Forecast, as_json: bool, fleet: Fleet) -> None:
    """Print a forecast."""
    if as_json:
        print(json.dumps(asdict(found) | {"paid_hours": found.paid_hours, "money": found.money}, indent=1))
        return
    import pandas as pd

    cpus = int(next(iter(fleet.capacities().values())).cpu)
    print(f"\non {fleet.nodes} nodes of {fleet.gpus} GPUs ({fleet.memory:g} GB each) and {cpus} CPUs", end=": ")
    print(f"{found.trials} trials to do, {found.finished} are finished")
    if not found.trials:
        return
    tables.draw(pd.DataFrame(found.models))
    print(f"about {tables.hours(3600 * found.hours)} from start to end, without the preparation;", end=" ")
    print(f"{found.gpu_hours:.3g} GPU-hours for trials, {found.paid_hours:.3g} to pay for", end="")
    print("" if found.money is None else f": {found.money:,.0f} at {found.price:g} each")
    print(f"about {found.disk_gb:.1f} GB of disk; {found.reports:,} reports to MLflow, ", end="")
    print(f"{found.reports / max(60 * found.hours, 1e-9):,.0f} a minute. Other cards take other times.")
