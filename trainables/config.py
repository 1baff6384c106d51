"""What a trial is told: read once from a plain dictionary, checked and typed. The only place with its defaults."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data_pipeline.errors import RequestError
from data_pipeline.names import did_you_mean
from data_pipeline.seeds import derive

LEAVE = ".leave"  # in a trial's folder while it is to save each round, as its node is about to go
Control = Literal["shuffled_labels"]
Entry = dict[str, Any]  # a plug-in and its parameters: {"kind": name, **parameters}


class TrialConfig(BaseModel):
    """One trial. split: seed, test, validation; skew, strategy, loss: see Entry; seed: the trial's own.

    encoding, generated, distances, rows: files and folders made by the preparation, None where there is nothing to
    make. redrawn: the same cells with other draws of what is random in their encoding, for the final evaluation.
    rests: what stands for the frozen network whose vectors the head is trained on, None: it is trained as a whole.
    features: the folder of these vectors, of each folder of encoded cells.
    gpu_share: of one GPU's memory, which the trial keeps to. checkpoint_every: rounds between checkpoints, see
    training.checkpoint.Spacing. stop_file: while it exists every round is saved. name, dataset, protocol and genes say
    where the trial comes from; nothing in it depends on them.
    control: what is done to the labels of training and validation cells, see material. on: whose vectors of cells the
    shards hold, None: genes. tree: types, each with the one above it. code: stands for that of a model from outside,
    functions: for that of each other function from there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    key: str
    directory: Path
    shards: Path
    model: str
    split: dict[str, Any]
    skew: Entry
    strategy: Entry
    loss: Entry = Field({"kind": "cross_entropy"})
    seed: int = 0
    options: dict[str, Any] = Field({})
    recipe: dict[str, Any] = Field({})
    weights: Path | None = None
    defects: tuple[str, ...] = ()
    posthoc: tuple[str, ...] = ()
    control: Control | None = None
    on: dict[str, Any] | None = None
    code: str | None = None
    functions: dict[str, str] = Field({})
    tree: dict[str, str | list[str]] | None = None
    encoding: Path | None = None
    generated: Path | None = None
    distances: Path | None = None
    rows: Path | None = None
    redrawn: tuple[Path, ...] = ()
    rests: str | None = None
    features: dict[str, Path] = Field({})
    device: Literal["auto", "cpu", "cuda"] = "auto"
    gpu_share: float = Field(1.0, ge=0, le=1)
    checkpoint_every: int | Literal["auto"] = 1
    stop_file: Path | None = None
    name: str = ""
    dataset: str = ""
    protocol: str = "corrected"
    genes: dict[str, Any] = Field({})

    def stage_seed(self, stage: str) -> int:
        """Return the seed of a stage of the training ("init", "whole", "head"): of the split's seed and the trial's.

        Splits are replicates, so each draws its own weights, orders of cells and dropout. Trials of one split that
        differ in skew, strategy or loss share these draws, so that their differences are those of what is compared.
        """
        return derive(self.split["seed"], stage, self.seed)

    @property
    def threads(self) -> int:
        """CPU threads of torch and BLAS: part of what a network's trial is, one for a baseline."""
        return self.recipe.get("threads", 1)

    def public(self) -> dict[str, Any]:
        """Return everything that a reader of the trial's config.yaml may want to know, plain."""
        return self.model_dump(mode="json", exclude={"stop_file"})


def read(given: dict[str, Any]) -> TrialConfig:
    """Return what a trial is told; RequestError lists every key that is unknown, missing or of the wrong kind."""
    unknown = [name for name in given if name not in TrialConfig.model_fields]
    problems = [_unknown(name) for name in unknown]
    try:
        return TrialConfig.model_validate(given)
    except ValidationError as error:
        wrong = [one for one in error.errors() if one["type"] != "extra_forbidden"]
        problems += [f"run_trial: {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in wrong]
    raise RequestError(*problems)


def _unknown(name: str) -> str:
    known = TrialConfig.model_fields
    return f"run_trial: unknown key {name!r}; {did_you_mean(name, known) or 'known are ' + ', '.join(known)}".rstrip()


def code_of_functions(strategy: str, loss: str, posthoc: Iterable[str]) -> dict[str, str]:
    """Return what stands for the code of those that are from outside, by kind/name."""
    from data_pipeline.rows.resample import STRATEGIES
    from trainables.losses import LOSSES
    from trainables.posthoc import POSTHOC

    used = [(STRATEGIES, strategy), (LOSSES, loss), *((POSTHOC, name) for name in posthoc)]
    found = {f"{kind.kind}/{name}": kind.code(name) for kind, name in used if name in kind}
    return {name: code for name, code in found.items() if code is not None}


def check_code(config: TrialConfig) -> None:
    """RequestError if code from outside isn't what it was when the sweep file was read, as far as the trial is told."""
    from trainables.spec import code_of

    now = code_of_functions(config.strategy["kind"], config.loss["kind"], config.posthoc) if config.functions else {}
    same = {name: code == now.get(name) for name, code in config.functions.items()}
    same |= {} if config.code is None else {config.model: config.code == code_of(config.model)}
    if changed := sorted(name for name, is_same in same.items() if not is_same):
        raise RequestError(
            f"the code of {', '.join(changed)} in the folder of --plugins has changed since the sweep file was read: "
            "nothing is trained on another under its name; run again"
        )
