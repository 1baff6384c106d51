"""`cellskew check`: what a data file holds, what is doubtful about it, and how well each model knows its genes."""

from pathlib import Path
from typing import Any

from data_pipeline.errors import RequestError
from data_pipeline.reading import catalog
from data_pipeline.reading.check import summarise
from data_pipeline.reading.h5ad import open_cells
from sweeps.file.plugins import unknown
from trainables import spec as registry


def check(
    data: str, options: dict[str, Any], models: list[str] | None, weights: Path | None, storage: Path
) -> dict[str, Any]:
    """Return check.summarise's facts, `coverage`: model -> genes known, and, of a weights folder, weights.describe.

    RequestError if the file is refused.
    """
    problems = [unknown("model", name, registry.names()) for name in models or [] if name not in registry.names()]
    if weights is not None and (models is None or len(models) != 1):
        problems.append("--weights belong to one model; name it with --model")
    elif weights is not None and not problems and not _looks_at_genes(models[0]):
        problems.append(f"--weights: {models[0]} has none; it is fitted to your cells")
    if weights is not None and not weights.is_dir():
        problems.append(f"--weights {weights}: there is no such folder")
    if problems:
        raise RequestError(*problems)
    is_listed = data in catalog.entries() and not Path(data).exists()
    entry = {("name" if is_listed else "path"): data, **options}
    cells = open_cells(catalog.resolve(entry, storage))
    found = summarise(cells)
    chosen = models if models is not None else [name for name in registry.names() if _looks_at_genes(name)]
    found["coverage"] = {name: coverage(name, cells.genes, weights) for name in chosen}
    if weights is not None:
        from trainables.weights import describe

        found["weights"] = describe(chosen[0], weights, cells.genes)
    return found


def _looks_at_genes(name: str) -> bool:
    return registry.get(name).kind == "network"


def coverage(name: str, genes: list[str], weights: Path | None) -> dict[str, Any]:
    """Return how many of the genes a model knows: its encoder's coverage; without weights every gene is known.

    A refusal is returned as {"problem": why}.
    """
    spec = registry.get(name)
    if weights is None:
        return {"genes": len(genes), "known": len(genes), "share": 1.0, "unknown": [], "weights": None}
    try:
        return spec.encoder(genes, weights, **spec.options().model_dump()).coverage | {"weights": str(weights)}
    except RequestError as error:
        return {"problem": "; ".join(error.problems), "weights": str(weights)}
