"""The runs that a question's options choose, for every command that asks."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.errors import RequestError
from sweeps.commands.options import From, MaybeNames, refuse_idle

if TYPE_CHECKING:
    from sweeps.answers.designs import Designs
    from sweeps.answers.runs.stored import Stored


ELSEWHERE = ("tracking_uri", "storage", "all")  # options of where runs are, and of runs that a bundle lacks


@dataclass(frozen=True)
class Asked:
    """The runs that a question is about, see results.fetch; how sure their numbers are; what must be said of them."""

    runs: Any
    designs: "Designs"
    said: list[str]

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

        return self._above(results.warning(self.runs), results.of_processors(self.runs))

    @property
    def caution(self) -> str | None:
        """What must stand above any table of them."""
        from sweeps.answers.runs import results

        return self._above(results.warning(self.runs))

    def _above(self, *said: str | None) -> str | None:
        listed = [*self.said, *(one for one in said if one is not None)]
        return "\n".join(listed) if listed else None


def sweeps_of(name: MaybeNames = None, bundle: From = None) -> list[str]:
    """Return the sweeps that are asked about; RequestError if none is, or a bundle beside them."""
    if (not name) == (bundle is None):
        raise RequestError("say which sweep: its name, or a bundle that `cellskew export` wrote (--from bundle.zip)")
    found = name if name else [str(bundle)]
    if all(one.endswith(".zip") for one in found):
        refuse_idle("a bundle has all that it is asked for: leave out --tracking-uri, --storage and --all", *ELSEWHERE)
    return found


def title_of(name: str) -> str:
    """Return what a sweep is called, of a bundle (*.zip) the one that is in it."""
    from sweeps.answers import bundle

    return bundle.told(Path(name))[0] if name.endswith(".zip") else name


def file_of(names: str | list[str], storage: Path) -> str | None:
    """Return the sweeps' files as they last ran, None where none is at hand."""
    found = (_file_of(name, storage) for name in ([names] if isinstance(names, str) else names))
    texts = [text for text in found if text is not None]
    return "\n---\n".join(texts) if texts else None


def _file_of(name: str, storage: Path) -> str | None:
    from sweeps.answers import bundle

    if name.endswith(".zip"):
        return bundle.told(Path(name))[1]
    kept = storage / "sweeps" / f"{name}.yaml"
    return kept.read_text(encoding="utf-8") if kept.is_file() else None


def _found(name: str, storage: Path, uri: str | None, every: bool, all_settings: bool) -> tuple[Any, "Stored"]:
    """Return a sweep's runs and what they left: from MLflow, or from a bundle (*.zip)."""
    from sweeps.answers import bundle

    runs, stored, left_out = bundle.open_sweep(name, storage, uri, every, all_settings)
    if left_out is not None:
        print(f"cellskew: {left_out}", file=sys.stderr)
    return runs, stored


def _together(
    names: list[str], storage: Path, uri: str | None, every: bool, all_settings: bool
) -> tuple[Any, "Stored", list[str]]:
    """Return the runs of one or several sweeps, what they left, and what must be said of their being together."""
    from sweeps.answers.runs import several

    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RequestError(f"named twice: {', '.join(twice)}")
    if len(names) == 1:
        return *_found(names[0], storage, uri, every, all_settings), []
    return several.join([several.Part(name, *_found(name, storage, uri, every, all_settings)) for name in names])


def ask(
    names: str | list[str],
    storage: Path,
    uri: str | None,
    where: str | None,
    every: bool,
    kinds: list[str] | None = None,
    all_settings: bool = False,
) -> Asked:
    """Return what the options of a question choose; those that the sweep no longer wants are counted in a line.

    names: of a sweep, or of several, whose runs are then one table, see several.join.
    """
    from sweeps.answers import celltypes
    from sweeps.answers.designs import Designs
    from sweeps.answers.runs import choices, selection

    runs, stored, said = _together([names] if isinstance(names, str) else names, storage, uri, every, all_settings)
    for kind in kinds or ():
        runs = celltypes.with_type(runs, kind, stored)
    if where is not None:
        runs = selection.where(choices.unfolded(runs) if "posthoc" in where else runs, where)
    return Asked(runs, Designs(runs, stored), said)
