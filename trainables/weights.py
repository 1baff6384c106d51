"""Official checkpoints -> state dicts and dictionaries, without ever running code that a file brings along."""

import math
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from data_pipeline.errors import RequestError
from data_pipeline.genes import strip_version

WRAPPERS = ("model_state_dict", "state_dict")  # keys under which training scripts keep the weights
LFS = b"version https://git-lfs"


def load_state(path: Path, parts: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, on the CPU: .safetensors, or what torch.save wrote (.pt, .pth, .bin).

    parts: prefixes of the names that are wanted, `module.` aside; of .safetensors nothing else is read. A dict that
    wraps the weights as `model_state_dict` or `state_dict` is unwrapped. RequestError if the file is cut off, is no
    checkpoint, or would need code to be run.
    """
    if not path.is_file():
        raise RequestError(f"{path}: no such file")
    refuse_pointer(path)
    try:
        is_safe = path.suffix == ".safetensors"
        state = _read(path, parts) if is_safe else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RequestError(f"{path}: refused, {_refusal(str(error))}") from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
        why = str(error).split(". ")[0]
        raise RequestError(f"{path}: damaged or cut off ({why}); download it again") from error
    for wrapper in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise RequestError(f"{path}: not a table of named weights")
    return {name: tensor for name, tensor in state.items() if name.removeprefix("module.").startswith(parts)}


def _read(path: Path, parts: tuple[str, ...]) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys() if name.removeprefix("module.").startswith(parts)}  # noqa: SIM118


def refuse_pointer(path: Path) -> None:
    """RequestError if the file is the note that Git LFS leaves in the place of a file that wasn't fetched."""
    with path.open("rb") as file:
        if file.read(len(LFS)) == LFS:
            raise RequestError(
                f"{path}: only Git LFS's pointer to the file; run `git lfs pull` in the clone, or download the file"
            )


def _refusal(message: str) -> str:
    """Return why torch refused a checkpoint, without its advice to load it unsafely."""
    asked = re.search(r"GLOBAL (\S+)", message)
    if asked is None:
        return "it is no checkpoint that torch wrote; download it again"
    return f"it holds more than weights: it asks for {asked[1]} to be run"


def fill(network: nn.Module, state: dict[str, Tensor], fresh: tuple[str, ...], where: str = "") -> list[str]:
    """Load `state` into the network; return the names that stay freshly initialised, all under a prefix in `fresh`.

    Names in `state` that the network does not know are left out. RequestError names every other parameter or buffer
    that stayed unfilled, every shape that differs and what isn't finite: nothing is left random in silence. `where`
    begins its lines.
    """
    wanted = network.state_dict()
    problems = [
        f"{name} is {list(state[name].shape)} in the checkpoint, {list(value.shape)} in the network"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape and not name.startswith(fresh)
    ]
    missing = [name for name in wanted if name not in state and not name.startswith(fresh)]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        problems.append(f"the checkpoint lacks {len(missing)} of {len(wanted)} weights of this model: {shown}")
    broken = [name for name in wanted if name in state and not is_finite(state[name])]
    if broken:
        problems.append(f"not all numbers in {', '.join(broken[:5])} are finite: damaged; download it again")
    if problems:
        raise RequestError(*(where + problem for problem in problems))
    fitting = {
        name: state[name] for name, value in wanted.items() if name in state and state[name].shape == value.shape
    }
    network.load_state_dict(fitting, strict=False)
    return [name for name in wanted if name not in fitting]


def is_finite(values: Tensor) -> bool:
    """Tell whether all numbers are finite, by the extremes: no copy of a large table is made."""
    return values.numel() == 0 or all(math.isfinite(float(extreme)) for extreme in values.aminmax())


def require(folder: Path, model: str, files: dict[str, str]) -> dict[str, Path]:
    """Return pattern -> path for `files` (pattern -> where people get it) in the weights folder of `model`.

    A pattern may offer alternatives ("model.safetensors|pytorch_model.bin") and wildcards; the first match counts.
    RequestError lists every file that is missing, or says that the folder is absent or is another model's.
    """
    if not folder.is_dir():
        raise RequestError(f"weights {folder}: no such folder (for {model} it holds {', '.join(map(shown, files))})")
    found = {pattern: match for pattern in files if (match := find(folder, pattern)) is not None}
    missing = [pattern for pattern in files if pattern not in found]
    if not missing:
        return found
    other = None if found else owner(folder, besides=model)
    if other is not None:
        raise RequestError(f"weights {folder}: this is a folder of {other}, not of {model}")
    raise RequestError(*(missing_file(folder, shown(pattern), files[pattern]) for pattern in missing))


def missing_file(folder: Path | str, name: str, where: str) -> str:
    """Return the sentence for a file that a weights folder lacks."""
    return f"weights {folder}: {name} is missing; {where}"


def shown(pattern: str) -> str:
    """Return a pattern for people: "a|sub/a|b" is "a or b"."""
    return " or ".join(name for name in pattern.split("|") if "/" not in name)


def find(folder: Path, pattern: str) -> Path | None:
    """Return the first file of the folder that matches one of the "|"-separated patterns."""
    for alternative in pattern.split("|"):
        for path in sorted(folder.glob(alternative)):
            if path.is_file():
                return path
    return None


def owner(folder: Path, besides: str) -> str | None:
    """Return the model (other than `besides`) that a folder's files belong to, None if they are nobody's."""
    from trainables.spec import get, names

    for model in names():
        if model != besides and any(find(folder, pattern) is not None for pattern in get(model).signature):
            return model
    return None


def describe(model: str, folder: Path, genes: list[str]) -> dict[str, Any]:
    """Return what a weights folder is good for: is it complete, does it load, does it know the genes; JSON-able.

    missing: file that these genes need -> where people get it, {} if the folder is another model's; problems: why else
    it can't be used; coverage: the encoder's, None if there is none; fresh: the parameters that would be newly
    initialised, None if the weights don't load.
    """
    from trainables.spec import get

    spec = get(model)
    missing = {shown(pattern): where for pattern, where in spec.files.items() if find(folder, pattern) is None}
    missing = {} if len(missing) == len(spec.files) and owner(folder, besides=model) else missing
    problems, coverage, fresh, network_options = [], None, None, {}
    try:
        encoder = spec.encoder(genes, folder)
        coverage, network_options = encoder.coverage, encoder.network_options
    except RequestError as error:
        problems += error.problems
    try:
        fresh = list(spec.build(2, folder, **network_options).fresh)
    except RequestError as error:
        problems += [problem for problem in error.problems if problem not in problems]
    if not problems and fresh is not None:  # what is missing isn't needed for these genes
        missing = {}
    told = {missing_file(folder, name, where) for name, where in missing.items()}
    problems = [problem for problem in problems if problem not in told]
    complete = not missing and not problems
    found = {"missing": missing, "problems": problems, "coverage": coverage, "fresh": fresh}
    return {"model": model, "weights": str(folder), "complete": complete} | found


def symbols_of(genes: list[str], folder: Path) -> dict[str, list[str]] | None:
    """Return the symbols of each Ensembl id by the folder's gene_name_id dictionary, None if it has none."""
    path = find(folder, "gene_name_id*.pkl")
    if path is None:
        return None
    wanted = {strip_version(gene) for gene in genes}
    symbols: dict[str, list[str]] = {}
    for symbol, identifier in read_dictionary(path).items():
        if identifier in wanted:
            symbols.setdefault(identifier, []).append(symbol)
    return symbols


def read_dictionary(path: Path) -> dict[str, Any]:
    """Return the dict of a Geneformer `.pkl`: keys str, values str, int or float; nothing else is ever built.

    RequestError if the file names any other class or function (it is not called), is cut off, or holds other values.
    """
    if path.is_file():
        refuse_pointer(path)
    try:
        with path.open("rb") as file:
            content = _DictionaryReader(file).load()
    except FileNotFoundError as error:
        raise RequestError(f"{path}: no such file") from error
    except _ForeignCode as error:
        raise RequestError(
            f"{path}: refused, it asks for {error} to be run; a gene dictionary needs no code"
        ) from error
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        OverflowError,
    ) as error:
        raise RequestError(f"{path}: damaged, cut off, or no dictionary ({error}); download it again") from error
    if not isinstance(content, dict):
        raise RequestError(f"{path}: holds a {type(content).__name__}, not a dictionary")
    if not all(type(key) is str and type(value) in (str, int, float) for key, value in content.items()):
        raise RequestError(f"{path}: a gene dictionary maps names to names or numbers; this one holds other things")
    return content


class _ForeignCode(Exception):
    """A pickle named something other than numpy's scalars."""


class _DataType:
    """Stands for numpy.dtype while a pickled scalar is read: the kind of number and its byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, align: bool = False, copy: bool = True) -> None:
        if code not in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"):
            raise _ForeignCode(f"the data type {code!r}")
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = {"<": "<", ">": ">", "|": "|"}[state[1]]


class _Scalar:
    """Stands for numpy's function that makes a scalar: gives the plain Python number instead."""

    __slots__ = ()

    def __new__(cls, kind: _DataType, raw: bytes | str) -> int | float:
        data = raw.encode("latin1") if isinstance(raw, str) else raw
        return np.frombuffer(data, kind.order.replace("|", "") + kind.code, 1)[0].item()


class _Bytes:
    """Stands for codecs.encode, by which pickles of protocol 2 hold a scalar's bytes."""

    __slots__ = ()

    def __new__(cls, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise _ForeignCode(f"the encoding {encoding!r}")
        return text.encode("latin1")


class _DictionaryReader(pickle.Unpickler):
    """Reads plain dicts and numpy numbers; every other name in the file is refused before anything is called."""

    ALLOWED = {
        ("_codecs", "encode"): _Bytes,
        ("numpy", "dtype"): _DataType,
        ("numpy.core.multiarray", "scalar"): _Scalar,
        ("numpy._core.multiarray", "scalar"): _Scalar,
    }

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in self.ALLOWED:
            raise _ForeignCode(f"{module}.{name}")
        return self.ALLOWED[module, name]
