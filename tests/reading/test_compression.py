"""Files that some other package has compressed: read where it is, else its name and the way to it."""

from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from h5ad_files import CELLS, COUNTS, GENES, TYPES, source, write

from data_pipeline.errors import RequestError
from data_pipeline.reading.h5ad import open_cells


def written_with(path: Path, number: int, place: str) -> Path:
    """Return a file in which `place` bears the mark of an HDF5 filter, as its writer leaves it."""
    write(path)
    with h5py.File(path, "a") as file:
        values, attributes = file[place][()], dict(file[place].attrs)
        del file[place]
        steps = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        steps.set_chunk(values.shape)
        steps.set_filter(number, h5py.h5z.FLAG_OPTIONAL, ())
        kind = h5py.h5t.py_create(values.dtype, logical=True)
        name = place.encode()
        made = h5py.h5d.create(file.id, name, kind, h5py.h5s.create_simple(values.shape), steps)
        h5py.Dataset(made).id.write_direct_chunk((0,) * values.ndim, b"compressed")
        file[place].attrs.update(attributes)
    return path


@pytest.mark.parametrize(
    ("number", "name", "place"),
    [(32015, "zstd", "X/data"), (32001, "blosc", "X/indices"), (32099, "filter 32099", "X/data")],
)
def test_a_filter_that_is_not_here_is_named_with_the_package_that_reads_it(tmp_path, monkeypatch, number, name, place):
    available = h5py.h5z.filter_avail
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda asked: asked < 1000 and available(asked))
    with pytest.raises(RequestError) as caught:
        open_cells(source(written_with(tmp_path / "a.h5ad", number, place)))
    said = str(caught.value)
    assert f"compressed with {name} (/{place})" in said and "pip install hdf5plugin" in said and "damaged" not in said


def test_a_file_compressed_with_zstd_is_read_where_the_package_is(tmp_path):
    hdf5plugin = pytest.importorskip("hdf5plugin")
    path = tmp_path / "a.h5ad"
    made = anndata.AnnData(COUNTS, obs=pd.DataFrame({"celltype": TYPES}, index=CELLS), var=pd.DataFrame(index=GENES))
    made.write_h5ad(path, compression=hdf5plugin.FILTERS["zstd"])
    assert np.array_equal(open_cells(source(path)).read(0, 90).toarray(), COUNTS.toarray())
