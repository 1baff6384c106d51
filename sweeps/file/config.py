"""A sweep file -> a frozen SweepSpec -> its trials. Every mistake in the file is reported at once, with its line."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from data_pipeline.errors import RequestError
from sweeps.file import exclusions, reading, yaml_lines
from sweeps.file.plugins import Entry, Problem
from sweeps.file.questions import Question, Until, looks, unanswerable
from sweeps.file.trials import Contents, Resources, Trial
from trainables.config import code_of_functions
from trainables.spec import get

__all__ = ["Model", "Resources", "SweepSpec", "Trial", "load", "parse"]


class Model(BaseModel):
    """One model of a sweep: options and recipe resolved, defaults included, before any defect.

    label: what the sweep calls it; model: what it is, a name of the registry. tuned: its values of what is tuned, one
    of `num_settings` combinations under the same label.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    label: str
    model: str
    kind: Literal["network", "baseline"]
    weights: str | None
    options: dict[str, Any]
    recipe: dict[str, Any] | None
    on: dict[str, Any] | None = None  # what stands for cells in place of their genes, see reading_models
    code: str | None = None  # what stands for the code of a model from outside, as it was when the sweep file was read
    tuned: dict[str, Any] = Field(default_factory=dict)
    num_settings: int = 1


class SweepSpec(BaseModel):
    """A sweep file, resolved: paths absolute, lists expanded, defaults filled in.

    datasets: as data_pipeline.reading.known.catalog.resolve takes them, one per name of `dataset_names`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
    name: str
    datasets: list[str | dict[str, Any]]
    dataset_names: list[str]
    identities: dict[str, dict[str, Any]]  # dataset name -> what it is to a trial's key
    trees: dict[str, dict[str, str | list[str]]] = Field(default_factory=dict)  # dataset name -> see tree.Tree
    genes: dict[str, Any]
    splits: list[dict[str, Any]]  # with `until` those that it may come to
    until: Until | None = None  # in no trial's key
    skews: list[Entry]
    strategies: list[Entry]
    losses: list[Entry]
    models: list[Model]
    seeds: list[int]
    protocol: Literal["corrected", "paper"] = "corrected"
    defects: list[str] = Field(default_factory=list)
    posthoc: list[str] = Field(default_factory=list)
    controls: list[str] = Field(default_factory=list)
    checkpoints: Literal["upload", "link", "none"] = "upload"
    resources: dict[str, Resources] = Field(default_factory=dict)
    exclude: list[dict[str, list[Any]]] = Field(default_factory=list)
    questions: list[Question] = Field(default_factory=list)  # in no trial's key
    max_failures: int = 3
    checkpoint_every: int | Literal["auto"] = "auto"  # in no trial's key: results don't depend on it
    places: dict[str, str] = Field(default_factory=dict)  # a skew's label -> file:line, for messages
    contents: Contents = Field(default_factory=Contents)  # known once the files have been opened
    given: dict[str, Any] = Field(default_factory=dict)  # the file as it stands, paths absolute: what `resume` reads

    def trials(self) -> list[Trial]:
        """Return the cross product minus `exclude`, in the file's order, dataset first, seed last; then controls."""
        cells = [cell for cell in self._possible() if not self._left_out(cell)]
        return [self._trial(cell) for cell in cells] + [self._control(cell, one) for cell, one in self._to_check(cells)]

    @property
    def looks(self) -> list[int]:
        """After how many splits it is looked whether more are wanted; [all] where the file lists them."""
        return [len(self.splits)] if self.until is None else looks(len(self.splits))

    def first(self, splits: int) -> "SweepSpec":
        """Return the sweep with its first splits alone."""
        return self.model_copy(update={"splits": self.splits[:splits]})

    def _to_check(self, cells: list[tuple]) -> Iterator[tuple[tuple, str]]:
        """Yield the first cell of each dataset, split and model with every control."""
        first: dict[tuple, tuple] = {}
        for cell in cells:
            first.setdefault((cell[0], cell[1]["seed"], cell[5].label), cell)
        yield from ((cell, control) for control in dict.fromkeys(self.controls) for cell in first.values())

    def _control(self, cell: tuple, control: str) -> Trial:
        """Return the trial that shows chance: nothing is done about an imbalance, as strategies may look at labels."""
        dataset, split, skew, _, _, model, seed = cell
        trial = self._trial((dataset, split, skew, Entry.plain("none"), Entry.plain("cross_entropy"), model, seed))
        return dataclasses.replace(trial, described=trial.described | {"control": control})

    def impossible(self) -> list[str]:
        """Return the combinations that no trial can have: losses of networks alone, made cells that have no vectors."""
        from data_pipeline.rows.resample import STRATEGIES

        lost = {one.label: [loss.label for loss in self.losses if not _has(one, loss)] for one in self.models}
        said = [f"{model} has no loss {', '.join(losses)}; left out" for model, losses in lost.items() if losses]
        making = [one.label for one in self.strategies if one.kind not in STRATEGIES]
        vectors = dict.fromkeys(model.label for model in self.models if model.on is not None)
        return said + [
            f"{model} has no vectors of cells that {', '.join(making)} makes; left out" for model in vectors if making
        ]

    def lacking(self) -> list[Problem]:
        """Return what models and strategies need that isn't installed here, and the way out."""
        from data_pipeline.rows.synthesize import SYNTHESIZERS

        models = [(("models", one.label), get(one.model).lacking) for one in self.models]
        making = [SYNTHESIZERS.get(one.kind) for one in self.strategies]
        asked = dict.fromkeys([*models, *((("strategies",), getattr(one, "lacking", None)) for one in making)])
        said = [(where, ask()) for where, ask in asked if ask is not None]
        return [(where, what) for where, what in said if what is not None]

    def excluded(self) -> list[str]:
        """Return what each rule of `exclude` left out, in words."""
        return exclusions.told(self.exclude, [_by_axis(cell) for cell in self._possible()])

    def _possible(self) -> Iterator[tuple]:
        from data_pipeline.rows.resample import STRATEGIES

        for cell in self._cells():
            *_, loss, model, _ = cell
            if _has(model, loss) and (model.on is None or cell[3].kind in STRATEGIES):
                yield cell

    def _cells(self) -> Iterator[tuple]:
        axes = (self.dataset_names, self.splits, self.skews, self.strategies, self.losses, self.models, self.seeds)
        return itertools.product(*axes)

    def _left_out(self, cell: tuple) -> bool:
        found = _by_axis(cell)
        return any(exclusions.leaves_out(rule, found) for rule in self.exclude)

    def _trial(self, cell: tuple) -> Trial:
        from trainables import protocol

        dataset, split, skew, strategy, loss, model, seed = cell
        defects = protocol.defects_of(model.model, strategy.kind, self.protocol, self.defects)
        options, recipe = protocol.apply(defects, model.options, {} if model.recipe is None else model.recipe)
        described = {
            "dataset": self.identities[dataset],
            "genes": self.genes,
            "split": split,
            "skew": skew.config(),
            "strategy": strategy.config(),
            "loss": loss.config(),
            "model": model.model,
            "options": options,
            "recipe": None if model.recipe is None else recipe,
            "weights": model.weights,
            "seed": seed,
            "defects": defects,
            "posthoc": self.posthoc,
        }
        described |= {} if model.on is None else {"on": model.on}
        described |= {"tree": self.trees[dataset]} if dataset in self.trees else {}
        described |= {} if model.code is None else {"code": model.code}
        functions = code_of_functions(strategy.kind, loss.kind, self.posthoc)
        described |= {"functions": functions} if functions else {}
        labels = {"dataset": dataset, "split": str(split["seed"]), "model": model.label, "seed": str(seed)}
        labels |= {"skew": skew.label, "strategy": strategy.label, "loss": loss.label}
        held = self.contents
        known = held.datasets.get(dataset, ""), held.weights.get(model.label, "")
        asked, tuning = self.resources.get(model.label, Resources()), (model.tuned, model.num_settings)
        vectors = held.vectors.get(model.label, {}).get(dataset, "")
        return Trial(described, labels, self.protocol, asked, *known, *tuning, vectors_hash=vectors)


def _has(model: Model, loss: Entry) -> bool:
    """Tell whether a model can be trained with a loss: one without gradients takes weights of types alone, or none."""
    from trainables.losses import LOSSES

    kind = LOSSES[loss.kind]
    return model.kind == "network" or kind.weighs_none or (kind.only_weights and get(model.model).weighs)


def _by_axis(cell: tuple) -> dict[str, Any]:
    dataset, split, skew, strategy, loss, model, seed = cell
    found = {"dataset": dataset, "split": split["seed"], "skew": skew, "strategy": strategy, "loss": loss}
    return found | {"model": model.label, "seed": seed}


def load(path: str | Path, check_files: bool = True) -> SweepSpec:
    """Return the sweep that a YAML file describes; RequestError lists every problem as `file:line: key: what`.

    check_files: also read tables of labels, and refuse weights folders and packages that aren't on this machine; those
    of a cluster are of no use here, and `cellskew plan` does without.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RequestError(f"{path}: there is no such file; give the path of a sweep file (YAML)") from None
    except UnicodeDecodeError as error:
        hint = "`cellskew init FILE.h5ad` drafts one for a data file"
        raise RequestError(f"{path}: can't be read as a sweep file, which is YAML in UTF-8; {hint}") from error
    except OSError as error:
        raise RequestError(f"{path}: can't be read as a sweep file: {error.strerror}") from error
    return parse(text, path, check_files)


def parse(text: str, path: Path, check_files: bool = True) -> SweepSpec:
    """Return the sweep that a YAML text describes. `path`: for messages, and what relative paths are relative to."""
    document = yaml_lines.read(text)
    problems = list(document.problems)
    fields: dict[str, Any] = {}
    if not problems:
        fields, found = reading.read_sweep(document.value, path.absolute().parent, check_files)
        problems += [(document.line(where), _sentence(where, said)) for where, said in found]
    if problems:
        raise RequestError(*(f"{path}:{line}: {said}" for line, said in sorted(problems, key=lambda one: one[0])))
    places = {label: f"{path}:{document.line(('skews', number))}" for label, number in fields.pop("numbers").items()}
    found = SweepSpec(**fields | {"given": _with_absolute_paths(fields), "places": places})
    if found.until is not None and (said := unanswerable(found.until.question, found.first(1).trials())):
        raise RequestError(f"{path}:{document.line(('splits', 'until'))}: splits.until: {said}")
    if check_files and (lacking := found.lacking()):
        raise RequestError(*(f"{path}:{document.line(where)}: {_sentence(where, said)}" for where, said in lacking))
    return found


def _with_absolute_paths(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the file as it stands, but readable from anywhere."""
    given, weights = fields["given"], {model["label"]: model["weights"] for model in fields["models"]}
    vectors = {model["label"]: model["on"] for model in fields["models"]}
    models = given["models"] if isinstance(given["models"], dict) else dict.fromkeys(given["models"])
    said = {label: {} if settings is None else dict(settings) for label, settings in models.items()}
    for label in said:
        if weights[label] is not None:
            said[label]["weights"] = weights[label]
        if vectors[label] is not None:
            places = {key: vectors[label][key] for key in ("embeddings", "weights") if key in vectors[label]}
            said[label]["on"] = said[label]["on"] | places
    return given | {"datasets": fields["datasets"], "models": said}


def _sentence(where: tuple, said: str) -> str:
    place = ""
    for step in where:
        place += f"[{step}]" if isinstance(step, int) else f".{step}" if place else step
    return f"{place}: {said}" if place else said
