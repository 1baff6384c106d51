"""The fields of a sweep file -> what SweepSpec holds, and every mistake as (place, sentence)."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from sweeps.file import exclusions
from sweeps.file.plugins import Entry, Problem, read_entries, registries, unknown
from sweeps.file.questions import Until, problems_of_until, read_questions
from sweeps.file.reading_data import read_datasets
from sweeps.file.reading_models import read_models
from sweeps.file.strict import NAME, Strict, shaped
from sweeps.file.trials import Resources
from trainables import protocol

Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
PARTS = ("test", "validation")
Fraction = Annotated[float, Field(gt=0, lt=1)]


class Genes(Strict):
    """Which genes models see, and the cells that variable genes and gene medians are fitted on.

    fit: kept: the training cells that the skew has left, so that a trial with five cells of a type knows no more of it;
    natural: all training cells of the split, as if the genes had been chosen in another study of the same tissue.
    """

    select: Literal["all", "hvg"] = "all"
    n: int = Field(3000, ge=2)
    fit: Literal["kept", "natural"] = "kept"


class Splits(Strict):
    seeds: list[Seed] = Field([0], min_length=1)
    test: Fraction = 0.2
    validation: Fraction = 0.1
    until: Until | None = None
    at_most: Annotated[int, Field(ge=3, le=1000)] = 30

    @property
    def listed(self) -> list[int]:
        return self.seeds if self.until is None else list(range(self.at_most))


class Tracking(Strict):
    checkpoints: Literal["upload", "link", "none"] = "upload"


class Share(Strict):
    cpu: float | None = Field(None, gt=0)
    gpu: Annotated[float, Field(ge=0)] | Literal["auto"] | None = None


class File(Strict):
    """The shape of a sweep file; what is inside the lists of names is looked at afterwards."""

    name: str
    datasets: list[str | dict[str, Any]] = Field(min_length=1)
    genes: str | dict[str, Any] = "all"
    splits: Splits = Splits()
    skews: list[str | dict[str, Any]] = Field(["natural"], min_length=1)
    strategies: list[str | dict[str, Any]] = Field(["none"], min_length=1)
    losses: list[str | dict[str, Any]] = Field(["cross_entropy"], min_length=1)
    models: dict[str, dict[str, Any] | None] | list[str] = Field(min_length=1)
    seeds: list[Seed] = Field([0], min_length=1)
    protocol: Literal["corrected", "paper"] = "corrected"
    defects: list[str] = []
    posthoc: list[str] = []
    controls: list[str] = []
    tracking: Tracking = Tracking()
    resources: dict[str, Share] = {}
    exclude: list[dict[str, Any]] = []
    questions: list[dict[str, Any]] = []
    max_failures: int = Field(3, ge=0)
    checkpoint_every: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"


def read_sweep(value: Any, folder: Path, check_files: bool) -> tuple[dict[str, Any], list[Problem]]:
    """Return (fields of a SweepSpec, problems); the fields are complete only without problems."""
    if not isinstance(value, dict):
        return {}, [((), "a sweep file is a mapping: name:, datasets:, models:, ...; this one is not")]
    _, problems = shaped(File, value)
    file = _sound(value, problems)
    found: dict[str, Any] = {}
    datasets = read_datasets(value.get("datasets"), folder, check_files)
    for fields_of, wrong in (_axes(value), datasets, _rest(value, file)):
        found |= fields_of
        problems += wrong
    defects = protocol.DEFECTS if file.protocol == "paper" else file.defects
    models, wrong = read_models(value.get("models"), folder, check_files, defects)
    found["models"] = models
    problems += wrong + exclusions.read_rules(value.get("exclude"), found)
    problems += [] if wrong else [*_unfitted(value.get("genes"), found), *_untouched(file, found)]
    found["questions"], wrong = read_questions(value.get("questions"))
    problems += wrong
    problems += _resources(value.get("resources"), file.resources, {model["label"]: model for model in models})
    return found, _once(problems)


def _sound(value: dict, problems: list[Problem]) -> File:
    """Return the file without its malformed fields, so that the others can be looked at as well."""
    wrong = {where[0] for where, _ in problems if where}
    stand_in = {"name": "x", "datasets": ["x"], "models": ["x"]}
    return File.model_validate_json(json.dumps(stand_in | {key: value[key] for key in value if key not in wrong}))


def _once(problems: list[Problem]) -> list[Problem]:
    return list(dict.fromkeys(problems))


# axes


def _axes(value: dict) -> tuple[dict[str, Any], list[Problem]]:
    """Read skews, strategies and losses against their registries."""
    found, problems = {}, []
    for key, registry, noun, default in registries():
        given = value.get(key, default)
        found[key] = []
        for index, item in enumerate(given if isinstance(given, list) else []):
            entries, wrong = read_entries(item, registry, noun, always=key == "skews")
            problems += [((key, index, *where), said) for where, said in wrong]
            found[key] += entries
            if key == "skews":
                found["numbers"] = found.get("numbers", {}) | {entry.label: index for entry in entries}
            problems += [((key, index), f"{entry.label} is given twice") for entry in _repeated(found[key], entries)]
    return found, problems


def _repeated(known: list[Entry], new: list[Entry]) -> list[Entry]:
    return [entry for entry in new if known.count(entry) > 1]


# the rest


def _rest(value: dict, file: File) -> tuple[dict[str, Any], list[Problem]]:
    """Read what needs no registry of plug-ins; defaults where the file's shape is wrong, to go on looking."""
    found: dict[str, Any] = {"given": value}
    found["genes"], problems = _genes(value.get("genes", "all"))
    problems += _name(value.get("name"))
    for key, noun, known in _word_lists():
        words = given if isinstance(given := value.get(key, []), list) else []
        said = {i: f"{noun} {word} is given twice" for i, word in enumerate(words) if word in words[:i]}
        said |= {i: unknown(noun, word, known) for i, word in enumerate(words) if word not in known}
        problems += [((key, i), what) for i, what in said.items()]
    problems += [((key,), f"seed {seed} is given twice") for key, seed in _repeated_seeds(file)]
    problems += _fractions(value.get("splits")) + list(_until(value.get("splits"), file.splits.until))
    parts = {"test": file.splits.test, "validation": file.splits.validation}
    found["splits"], found["until"] = [{"seed": seed, **parts} for seed in file.splits.listed], file.splits.until
    for key in ("name", "seeds", "protocol", "defects", "posthoc", "controls", "max_failures", "checkpoint_every"):
        found[key] = getattr(file, key)
    found["checkpoints"] = file.tracking.checkpoints
    found["resources"] = {name: Resources(share.cpu, share.gpu) for name, share in file.resources.items()}
    return found, problems


def _genes(given: Any) -> tuple[dict[str, Any], list[Problem]]:
    if not isinstance(given, str | dict):
        return Genes().model_dump(include={"select", "fit"}), []  # its shape has been refused already
    genes, problems = shaped(Genes, {"select": given} if isinstance(given, str) else given, ("genes",))
    if isinstance(given, dict) and "n" in given and genes is not None and genes.select == "all":
        problems.append((("genes", "n"), "goes with `select: hvg`; without it all genes are taken"))
    if genes is None or genes.select == "all":
        return {"select": "all", "fit": "kept" if genes is None else genes.fit}, problems
    return {"select": genes.select, "n": genes.n, "fit": genes.fit}, problems


def _name(given: Any) -> list[Problem]:
    if not isinstance(given, str) or NAME.fullmatch(given):
        return []
    what = "is a path, not a name" if "/" in given or "\\" in given else "is no name for a sweep"
    return [(("name",), f"{given!r} {what}; use up to 100 letters, digits, dots, dashes, underscores")]


def _word_lists() -> Iterable[tuple[str, str, Iterable[str]]]:
    from trainables.config import Control
    from trainables.posthoc import POSTHOC
    from trainables.trial.confidence import ABSTAINING

    yield "defects", "defect", protocol.DEFECTS
    yield "posthoc", "adjustment", [*POSTHOC, *ABSTAINING]
    yield "controls", "control", get_args(Control)


def _repeated_seeds(file: File) -> list[tuple[str, int]]:
    listed = [("seeds", file.seeds), ("splits", file.splits.seeds)]
    return [(key, seed) for key, seeds in listed for seed in sorted(set(seeds)) if seeds.count(seed) > 1]


def _fractions(given: Any) -> list[Problem]:
    default = Splits()
    parts = [(given if isinstance(given, dict) else {}).get(name, getattr(default, name)) for name in PARTS]
    if not all(isinstance(part, float) and 0 < part < 1 for part in parts) or sum(parts) < 1:
        return []
    said = f"test {parts[0]} and validation {parts[1]} leave nothing to train on; together stay below 1"
    return [(("splits",), said)]


def _until(given: Any, until: Until | None) -> Iterator[Problem]:
    """Yield what is wrong with `until` and what must, or can't, stand beside it."""
    keys = given if isinstance(given, dict) else {}
    if until is None and "at_most" in keys and "until" not in keys:
        yield ("splits", "at_most"), "goes with `until:`, which says what must become sure; else list `seeds:`"
    if until is not None:
        if "seeds" in keys:
            yield ("splits", "seeds"), "can't be listed beside `until:`, which adds 0, 1, 2, ... itself; see at_most"
        yield from ((("splits", "until", *where), said) for where, said in problems_of_until(until))


def _unfitted(given: Any, found: dict[str, Any]) -> Iterator[Problem]:
    """Yield that `fit` of genes is said where nothing is fitted: neither which genes there are, nor their medians."""
    from trainables.spec import get, names, outside

    fits = any(get(one["model"]).fit_encoder is not None and one["weights"] is None for one in found["models"])
    if isinstance(given, dict) and "fit" in given and found["genes"]["select"] == "all" and not fits:
        fitting = [name for name in names() if name not in outside() and get(name).fit_encoder is not None]
        whose = f"medians of genes, of {', '.join(fitting)} without weights, are fitted with all of them"
        yield ("genes", "fit"), f"no more than {whose}, and it isn't in this sweep; leave fit out"


def _untouched(file: File, found: dict[str, Any]) -> Iterator[Problem]:
    """Yield the defects that are asked for and change no trial: of other models or strategies, or all had already."""
    if file.protocol == "paper" and file.defects:
        yield ("defects",), "`protocol: paper` has all of them; leave one of the two out"
    pairs = [(model["model"], one.kind) for model in found["models"] for one in found["strategies"]]
    for index, name in enumerate([] if file.protocol == "paper" else file.defects):
        if pairs and name in protocol.DEFECTS and not any(protocol.defects_of(*pair, "", [name]) for pair in pairs):
            whose = protocol.DEFECTS[name].models or (f"the strategy {protocol.DEFECTS[name].strategy}",)
            yield ("defects", index), f"{name} is of {', '.join(whose)}, and none is in this sweep; leave it out"


def _resources(given: Any, shares: dict[str, Share], models: dict[str, dict[str, Any]]) -> list[Problem]:
    names, known = given if isinstance(given, dict) else {}, list(models)
    problems: list[Problem] = [
        (("resources", name), unknown("model in this sweep", name, known)) for name in names if name not in models
    ]
    for name, share in shares.items():
        wrong = _wrong_gpus(share.gpu, models[name]) if name in models else None
        problems += [(("resources", name, "gpu"), wrong)] if wrong else []
    return problems


def _wrong_gpus(gpu: float | str | None, model: dict[str, Any]) -> str | None:
    """Return what is wrong with a trial of this model on so much of GPUs, None if nothing is."""
    if not isinstance(gpu, float) or gpu == 0:
        return None
    if gpu <= 1 and model["code"] is not None:  # one's own may well compute there
        return None
    if model["kind"] != "network" or (gpu > 1 and model["on"] is not None):
        return f"a trial on {gpu:g} GPUs is one that trains a network; this one takes a CPU"
    if gpu > 1 and gpu != int(gpu):
        return f"{gpu:g} GPUs can't be shared by trials: give a share of one, as 0.5, or whole ones, as {int(gpu + 1)}"
    return None
