"""A dataset as a sweep describes it: which files, which columns, what the numbers are."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from data_pipeline.errors import RequestError
from data_pipeline.names import did_you_mean
from data_pipeline.reading.labels import Renames

KINDS = ("counts", "log1p")
Duplicates = Literal["sum", "first", "rename"]
Drop = Literal["drop"]
Twins = Literal["together", "drop", "ignore"]
CHOICES = {"duplicates": get_args(Duplicates), "twins": get_args(Twins)} | dict.fromkeys(
    ("empty_cells", "unlabelled", "other_features"), get_args(Drop)
)


@dataclass(frozen=True)
class Values:
    """What the numbers in a file are: `counts`, or `log1p`: log_base(1 + counts scaled to `target_sum` per cell).

    base: "e", or a number above 1. target_sum: what a cell's scaled counts add up to over all genes measured.
    """

    kind: Literal["counts", "log1p"] = "counts"
    base: float | str = "e"
    target_sum: float = 1e4

    @property
    def log_base(self) -> float:
        """The natural logarithm of `base`."""
        return 1.0 if self.base == "e" else math.log(float(self.base))

    @staticmethod
    def parse(given: "Values | str | dict[str, Any]") -> "Values":
        """Return the Values that a sweep file's `values:` entry means; RequestError lists what is wrong with it."""
        if isinstance(given, Values):
            return given
        entry = {"kind": given} if isinstance(given, str) else given
        if not isinstance(entry, dict):
            raise RequestError(f"values: {given!r} is neither a name nor a mapping; {_VALUES_WAY_OUT}")
        problems = [
            f"values: unknown key {key!r}; allowed: kind, base, target_sum"
            for key in entry
            if key not in {field.name for field in fields(Values)}
        ]
        problems += _values_problems(entry)
        if problems:
            raise RequestError(*problems)
        base = entry.get("base", "e")
        return Values(
            entry.get("kind", "counts"),
            int(base) if base != "e" and base == int(base) else base,
            float(entry.get("target_sum", 1e4)),
        )

    def __str__(self) -> str:
        if self.kind == "counts":
            return "counts"
        return f"{{kind: log1p, base: {self.base}, target_sum: {self.target_sum:g}}}"


_VALUES_WAY_OUT = "write `values: counts` or `values: {kind: log1p, base: e, target_sum: 10000}`"


def _values_problems(entry: dict[str, Any]) -> list[str]:
    problems = []
    if entry.get("kind", "counts") not in KINDS:
        problems.append(f"values: kind {entry['kind']!r} is unknown; {_VALUES_WAY_OUT}")
    base = entry.get("base", "e")
    if base != "e" and not (_is_number(base) and base > 1):
        problems.append(f"values: base {base!r} is neither e nor a number above 1")
    target = entry.get("target_sum", 1e4)
    if not (_is_number(target) and target > 0):
        problems.append(f"values: target_sum {target!r} is not a number above 0")
    return problems


def _is_number(given: object) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given)


@dataclass(frozen=True)
class Source:
    """One dataset, resolved to files.

    paths: files whose cells come one after the other (same genes); test_paths: files appended as the fixed test set.
    label, donor, totals: columns of obs (label None: cells yet to be annotated; totals: counts per cell over all genes
    measured, where the file holds only some of them; None: the file's own row sums). layer: None = X, "raw" = .raw,
    else a layer. gene_names: column of var, None = var_names. duplicates: what to do with cells or genes of one name.
    empty_cells, unlabelled: "drop" or None = refuse. labels: what labels are renamed to, "" leaves their cells out.
    twins: what to do with cells that have the counts of another: keep them in one part of a split, drop all but the
    first, or nothing. other_features: "drop" antibodies, peaks and spike-ins, or None = take them for genes.
    """

    name: str
    paths: tuple[str, ...]
    label: str | None
    layer: str | None = None
    values: Values = Values()
    gene_names: str | None = None
    donor: str | None = None
    duplicates: Duplicates | None = None
    empty_cells: Drop | None = None
    unlabelled: Drop | None = None
    test_paths: tuple[str, ...] = ()
    totals: str | None = None
    labels: Renames = ()
    twins: Twins = "together"
    other_features: Drop | None = None

    def __post_init__(self) -> None:
        problems = [
            f"dataset {self.name}: {option}: {getattr(self, option)!r} is unknown; allowed: {', '.join(allowed)}"
            for option, allowed in CHOICES.items()
            if getattr(self, option) not in allowed and (getattr(self, option) is not None or option == "twins")
        ]
        if problems:
            raise RequestError(*problems)

    @property
    def all_paths(self) -> tuple[str, ...]:
        """Every file in the order of the cells: `paths`, then `test_paths`."""
        return self.paths + self.test_paths

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, strings and numbers, fit for JSON."""
        listed = {
            "paths": list(self.paths),
            "test_paths": list(self.test_paths),
            "labels": list(map(list, self.labels)),
        }
        return asdict(self) | listed

    @staticmethod
    def from_dict(given: dict[str, Any]) -> "Source":
        """Return the Source that `to_dict` described; RequestError names unknown keys and the nearest known one."""
        known = [field.name for field in fields(Source)]
        unknown = [key for key in given if key not in known]
        if unknown:
            raise RequestError(*(unknown_key("dataset", key, known) for key in unknown))
        return Source(
            **{
                **given,
                "paths": tuple(given["paths"]),
                "test_paths": tuple(given.get("test_paths", ())),
                "labels": tuple((label, name) for label, name in given.get("labels", ())),
                "values": Values.parse(given.get("values", "counts")),
            }
        )


def unknown_key(where: str, key: str, known: list[str]) -> str:
    """Return the sentence for a key nobody knows, with the nearest known one."""
    return f"{where}: unknown key {key!r}; {did_you_mean(key, known)}allowed: {', '.join(known)}."
