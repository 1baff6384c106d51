"""The door to scvi-tools, an extra: imported only where it is asked for, seeded and quiet."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType

import pandas as pd
from scipy import sparse

from data_pipeline.errors import RequestError

TALKATIVE = ("lightning.pytorch", "lightning.fabric")  # of seeds, devices and their maker's services


def lacking(who: str) -> str | None:
    """Return what to do where scvi-tools isn't installed, for `who`, "strategy scvi" say; None where it is."""
    return None if find_spec("scvi") is not None else _way_out(who, "No module named 'scvi'")


def open_scvi(who: str, seed: int) -> ModuleType:
    """Return scvi-tools, everything that it draws seeded; RequestError if it isn't installed."""
    try:
        import scvi
    except ImportError as error:
        raise RequestError(_way_out(who, str(error))) from error
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    scvi.settings.verbosity = logging.WARNING
    scvi.settings.seed = seed
    return scvi


def as_cells(counts: sparse.csr_matrix, columns: dict[str, pd.Categorical]) -> object:
    """Return counts, CSR [n, G], with columns of obs as scvi-tools takes them: an AnnData."""
    import anndata

    cells = anndata.AnnData(sparse.csr_matrix(counts, dtype="float32"))
    cells.obs = cells.obs.assign(**columns)
    return cells


@contextmanager
def training() -> Iterator[None]:
    """Keep lightning from warning of its own use of torch while a model trains."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="lightning")
        yield


def _way_out(who: str, said: str) -> str:
    return (
        f"{who} needs scvi-tools, which is not installed here: pip install 'scvi-tools==1.4.2' (the extra "
        f"cellskew[scvi]); or leave it out ({said})"
    )
