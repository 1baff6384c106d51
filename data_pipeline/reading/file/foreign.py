"""Files of other formats, named with the way to h5ad."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import h5py

WRITE = "write_h5ad('cells.h5ad')"
MAGIC = {  # how a file begins -> what it is, and the way out
    b"\x1f\x8b": "is compressed with gzip: unpack it with gunzip first",
    b"PK\x03\x04": "is a zip file: unpack it first",
    b"BZh": "is compressed with bzip2: unpack it with bunzip2 first",
    b"\xfd7zXZ": "is compressed with xz: unpack it with unxz first",
    b"(\xb5/\xfd": "is compressed with zstd: unpack it with unzstd first",
    b"RDX": f"is an R file: have R write it as h5ad (zellkonverter, anndataR), or adata.{WRITE}",
    b"%%Matrix": f"is a Matrix Market file: scanpy.read_10x_mtx(FOLDER).{WRITE}, and add the labels to obs",
    b"version https://git-lfs": "is a pointer of Git LFS, not the file: fetch it with git lfs pull",
    b"<!DOCTYPE": "is a web page, not the file: the download went wrong; fetch it again",
    b"<html": "is a web page, not the file: the download went wrong; fetch it again",
    b"\x80": f"is a Python pickle, which may run anything and so isn't opened: load it at its maker's, adata.{WRITE}",
    b"PAR1": f"is a Parquet table: make an AnnData object of it, and adata.{WRITE}",
}
LONGEST = max(map(len, MAGIC))


def of_bytes(head: bytes) -> str:
    """Return what a file that isn't HDF5 is, by its first LONGEST bytes, and the way out."""
    known = next((said for magic, said in MAGIC.items() if head.lstrip().lower().startswith(magic.lower())), None)
    if known is not None:
        return known
    is_text = "".join(head.decode("utf-8-sig", "ignore").split()).isprintable() and b"\0" not in head
    kind = "text, perhaps a table" if is_text else "of some other format"
    return f"isn't an h5ad file (it is {kind}): make an AnnData object of it, and adata.{WRITE}"


def of_groups(path: str, file: "h5py.Group") -> str | None:
    """Return what an HDF5 file that isn't h5ad is, and the way out; None where it is h5ad, as far as is seen here."""
    read = f"scanpy.read_10x_h5({path!r}).{WRITE}, and add the labels to obs"
    if "mod" in file and "X" not in file:
        return f"is a MuData file: take the genes out of it: mudata.read({path!r}).mod['rna'].{WRITE}"
    missing = [part for part in ("obs", "var") if file.get(part) is None]
    if not missing:
        return None
    if "row_attrs" in file:
        return f"is a loom file, not h5ad. Convert it: scanpy.read_loom({path!r}).{WRITE}"
    if "matrix" in file or any("barcodes" in group for group in file.values() if hasattr(group, "keys")):
        return f"is a 10x Genomics HDF5 file, not h5ad. Convert it: {read}"
    if "assays" in file:
        return "is a Seurat file (h5seurat), not h5ad. Convert it in R: SeuratDisk::Convert(FILE, dest = 'h5ad')"
    there = ", ".join(map(str, file))
    return f"is HDF5 but not h5ad: {' and '.join(missing)} missing (it holds {there or 'nothing'})"


def of_folder(folder: Path) -> str:
    """Return what a folder in the place of a file is, and the way out."""
    names = sorted(file.name for file in folder.iterdir())
    files = [name for name in names if name.endswith(".h5ad")]
    if files:
        return f"name one of the files in it: {', '.join(files[:5])}"
    if {".zgroup", ".zattrs", "zarr.json"} & set(names):
        return f"it is a zarr store: convert it with anndata.io.read_zarr(...).{WRITE}"
    if any(name.startswith("matrix.mtx") for name in names):
        return f"it is 10x Genomics output: convert it with scanpy.read_10x_mtx(...).{WRITE}"
    return "no .h5ad file is in it"
