"""The runs that a question's options choose, for every command that asks."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.errors import RequestError

if TYPE_CHECKING:
    from sweeps.answers.designs import Designs
    from sweeps.answers.runs.stored import Stored


@dataclass(frozen=True)
class Asked:
    """The runs that a question is about, see results.fetch, and how sure their numbers are."""

    runs: Any
    designs: "Designs"

    def metrics(self, typed: str | None, kinds: list[str] | None) -> list[str]:
        """Return what a metric is called among the runs, of each type if there are any; None: macro F1, or F1."""
        from sweeps.answers.runs import results

        plain = typed or ("f1" if kinds else "macro_f1")
        return [results.full_name(plain, self.runs, kind) for kind in kinds or [None]]

    @property
    def by_choice(self) -> Any:
        """The runs, once as they are and once per adjustment after training."""
        from sweeps.answers.runs import choices

        return choices.unfolded(self.runs)

    @property
    def warning(self) -> str | None:
        """What must stand above a comparison of them."""
        from sweeps.answers.runs import results

        said = [one for one in (results.warning(self.runs), results.of_processors(self.runs)) if one is not None]
        return "\n".join(said) if said else None


def named(name: str | None, bundle: Path | None) -> str:
    if (name is None) == (bundle is None):
        raise RequestError("say which sweep: its name, or a bundle that `cellskew export` wrote (--from bundle.zip)")
    return str(bundle) if name is None else name


def file_of(name: str, storage: Path) -> str | None:
    """Return the sweep's file as it last ran, None where it isn't at hand."""
    path = storage / "sweeps" / f"{name}.yaml"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _found(name: str, storage: Path, uri: str | None, every: bool) -> tuple[Any, "Stored"]:
    """Return a sweep's runs and what they left: from MLflow, or from a bundle (*.zip)."""
    from sweeps.answers import bundle
    from sweeps.answers.runs import results
    from sweeps.answers.runs.stored import Stored
    from sweeps.tracking.uris import of_sweep

    if name.endswith(".zip"):
        return bundle.read(Path(name))
    place = of_sweep(storage, uri, name)
    runs, left_out = results.choose(place, results.fetch(place, name), every)
    if left_out is not None:
        print(f"cellskew: {left_out}", file=sys.stderr)
    return runs, Stored(place)


def ask(
    name: str, storage: Path, uri: str | None, where: str | None, every: bool, kinds: list[str] | None = None
) -> Asked:
    """Return what the options of a question choose; those that the sweep no longer wants are counted in a line."""
    from sweeps.answers import celltypes
    from sweeps.answers.designs import Designs
    from sweeps.answers.runs import choices, selection

    runs, stored = _found(name, storage, uri, every)
    for kind in kinds or ():
        runs = celltypes.with_type(runs, kind, stored)
    if where is not None:
        runs = selection.where(choices.unfolded(runs) if "posthoc" in where else runs, where)
    return Asked(runs, Designs(runs, stored))
