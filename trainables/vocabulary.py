"""How well a model knows the genes of a dataset, and what is doubtful about it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipeline.errors import RequestError
from trainables import spec as registry

LOW = 0.5  # share of known genes below which names are likely of another kind


def coverage(
    name: str, genes: list[str], weights: Path | None, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return how many of the genes a model knows: its encoder's coverage; without weights every gene is known.

    options: the model's; None: its defaults. A refusal is returned as {"problem": why}.
    """
    spec = registry.get(name)
    if weights is None:
        everything = {"genes": len(genes), "known": len(genes), "share": 1.0, "unknown": []}
        return everything | {"added_up": 0, "together": [], "weights": None}
    given = spec.options().model_dump() if options is None else options
    try:
        return spec.encoder(genes, weights, **given).coverage | {"weights": str(weights)}
    except RequestError as error:
        return {"problem": "; ".join(error.problems), "weights": str(weights)}


def doubts(name: str, found: Mapping[str, Any]) -> list[str]:
    """Return what is no reason to refuse a dataset, but should be known of the genes that a model reads."""
    if "problem" in found:
        return [f"{name}: {found['problem']}"]
    said = []
    if found["share"] < LOW:
        said.append(
            f"{name} reads {found['known']:,} of {found['genes']:,} genes ({found['share']:.0%}) and no other, such "
            f"as {', '.join(found['unknown'][:5])}: are these names of another species, or of another kind? "
            "`gene_names:` names the column of var that has others"
        )
    if found["added_up"]:
        groups = "; ".join(" + ".join(names) for names in found["together"][:3])
        said.append(
            f"{name} knows {found['added_up']:,} genes under the name of another, and adds their counts: {groups}"
        )
    return said
