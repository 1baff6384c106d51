"""What the numbers in a file are: counts are verified, declared log values undone and verified, anything else named."""

import math

import numpy as np
from scipy import sparse

from data_pipeline.reading.file import layers
from data_pipeline.reading.file.inspection import Table
from data_pipeline.reading.file.matrix import EXACT
from data_pipeline.reading.file.recognition import (
    FITS,
    NO_MULTIPLES,
    SUM_TOLERANCE,
    Guess,
    doubt,
    fit,
    is_constant,
    recognise,
)
from data_pipeline.reading.source import Values

SAMPLE = 200  # cells per file looked at closely when log values are recognised or verified
TOO_LARGE = f"Counts of {EXACT:,} or more per gene and cell would be rounded; no cell has so many. Check the file."
HALF = 2**11  # whole numbers from here on are rounded by float16
NEARLY = 1e-3  # from a whole number: rounding errors of a count


def undo(block: sparse.csr_matrix, values: Values) -> sparse.csr_matrix:
    """Return counts: the block itself, or base ** x - 1 (counts per `target_sum`) for declared log values."""
    if values.kind == "counts":
        return block
    with np.errstate(over="ignore"):  # a wrong base overflows; the scan says so
        data = np.expm1(block.data.astype(np.float64) * values.log_base).astype(np.float32)
    return sparse.csr_matrix((data, block.indices, block.indptr), shape=block.shape)


class Scan:
    """Collects what one file's numbers are, block by block; `problems` and `warnings` say it in words."""

    def __init__(self, values: Values, table: Table) -> None:
        self.values, self.table = values, table
        self.found = {"negative": 0, "non-finite": 0, "non-integer": 0, "huge": 0}
        self.first: dict[str, str] = {}
        self.off = 0.0  # furthest from a whole number
        self.largest, self.largest_sum, self.smallest_sum = 0.0, 0.0, math.inf
        self.sample: list[sparse.csr_matrix] = []

    def add(self, start: int, block: sparse.csr_matrix, sums: np.ndarray) -> None:
        """Look at rows start.. as they are stored; sums: float64, the counts of those rows."""
        data = block.data
        if not len(data):
            return
        self._keep_sample(block)
        finite = np.isfinite(data)
        bad = {"non-finite": ~finite, "negative": data < 0, "non-integer": finite & (data != np.rint(data))}
        bad["huge"] = finite & (data >= EXACT)
        for kind, where in bad.items():
            self._note(kind, where, start, block)
        if self.found["non-integer"]:
            self.off = max(self.off, float(np.abs(data - np.rint(data)).max(initial=0.0, where=finite)))
        self.largest = max(self.largest, float(data.max(initial=0.0, where=finite)))
        present = sums[sums > 0]
        self.largest_sum = max(self.largest_sum, float(sums.max(initial=0.0)))
        self.smallest_sum = min(self.smallest_sum, float(present.min(initial=math.inf)))

    def _keep_sample(self, block: sparse.csr_matrix) -> None:
        lacking = SAMPLE - sum(part.shape[0] for part in self.sample)
        if lacking > 0:
            full = np.flatnonzero(np.diff(block.indptr))
            self.sample.append(block[full[:: max(1, len(full) // SAMPLE)][:lacking]])

    def _note(self, kind: str, where: np.ndarray, start: int, block: sparse.csr_matrix) -> None:
        count = int(np.count_nonzero(where))
        if count and kind not in self.first:
            at = int(np.argmax(where))
            row = int(np.searchsorted(block.indptr, at, side="right")) - 1
            cell, gene = self.table.cells[start + row], self.table.genes[block.indices[at]]
            self.first[kind] = f"{block.data[at]:g} in cell {cell!r}, gene {gene!r}"
        self.found[kind] += count

    def problems(self, layer: str | None) -> list[str]:
        """Return what is wrong and what to type, empty if the numbers are as declared. layer: where they were read."""
        if self.found["non-finite"]:
            return [f"{self._what('non-finite')}. Replace NaN and infinity, or leave those cells out."]
        if self.found["negative"]:
            return [f"{self._what('negative')}. Scaled or centred data can't be turned back. {self._elsewhere(layer)}"]
        if not self.sample:
            return []
        sample = sparse.vstack(self.sample, format="csr")
        if self.values.kind == "log1p":
            problem = self._log_problem(sample)
            return [f"{self.table.path}: declared `values: {self.values}`, but {problem}"] if problem else []
        if self.found["non-integer"]:
            return [f"{self._what('non-integer')}, so these aren't counts. {self._kind(sample, layer)}"]
        if self.found["huge"]:
            return [f"{self._what('huge')}. {TOO_LARGE}"]
        return []

    def _what(self, kind: str) -> str:
        count = self.found[kind]
        noun = "value" if count == 1 else "values"
        return f"{self.table.path}: {count:,} {kind} {noun}, the first {self.first[kind]}"

    def _elsewhere(self, layer: str | None) -> str:
        """Return where in the same file counts are, or logarithms of counts that can be undone."""
        found = layers.others(self.table.path, layer)
        if not found:
            return "No layer of the file holds counts: get the file with raw counts."
        name, values = found[0]
        first = "leave `layer:` out (X)" if name is None else f"use `layer: {name}`"
        if values.kind == "counts":
            return f"Counts are in the same file: {first}."
        return f"No layer of the file holds counts, but one holds their logarithms: {first} with `values: {values}`."

    def _kind(self, sample: sparse.csr_matrix, layer: str | None) -> str:
        elsewhere = self._elsewhere(layer)
        if self.off <= NEARLY:
            return f"They are within {NEARLY} of whole numbers; round them: {mended('np.rint(X.data)', layer)}"
        guess = recognise(sample)
        if guess is None:
            return elsewhere
        if guess.undo is not None:
            return f"They look like {guess.words}; undo it: {mended(guess.undo, layer)} . {elsewhere}"
        if guess.values is None:
            return f"They look like {guess.words}. {elsewhere}"
        has_counts = elsewhere.startswith("Counts")
        if not guess.sound:
            last = "" if has_counts else f" Only if it is TPM declare `values: {guess.values}`."
            return f"They look like {guess.words}. {elsewhere}{last}"
        better = f" {elsewhere}" if has_counts else ""
        return f"They look like {guess.words}; declare `values: {guess.values}`.{better}"

    def _log_problem(self, sample: sparse.csr_matrix) -> str | None:
        values = self.values
        if not self.found["non-integer"]:
            return "all values are whole numbers; declare `values: counts`."
        guess = recognise(sample)
        advice = _advice(guess, values)
        top = math.log1p(values.target_sum) / values.log_base
        if self.largest > top * (1 + 1e-3):
            return (
                f"the largest value is {self.largest:.4g}, and log1p of {values.target_sum:,.0f} is only {top:.4g} in "
                f"this base.{advice}"
            )
        if self.largest_sum > values.target_sum * (1 + SUM_TOLERANCE):
            return (
                f"undone a cell adds up to {self.largest_sum:,.0f}, more than the {values.target_sum:,.0f} all genes "
                f"together have.{advice}"
            )
        if advice and (guess.constant or fit(sample, values) < FITS):
            return f"the values don't fit that.{advice}"
        return None

    def warnings(self) -> list[str]:
        """Return doubts that are no reason to refuse."""
        if not self.sample or not math.isfinite(self.smallest_sum):
            return []
        sample = sparse.vstack(self.sample, format="csr")
        if self.values.kind == "counts":
            why = doubt(sample, self.table.genes)
            return [] if why is None else [f"{self.table.path}: these whole numbers may be no counts: {why}"]
        if fit(sample, self.values) >= FITS:
            return []
        if is_constant(np.array([self.smallest_sum, self.largest_sum])):
            return [f"{self.table.path}: cells add up to {self.values.target_sum:,.0f} as declared, but {NO_MULTIPLES}"]
        return [
            f"{self.table.path}: `values: {self.values}` can't be verified: cells don't add up to one total, and their "
            "values are no multiples of a smallest one"
        ]


def limits(path: str, kind: np.dtype, largest: float) -> list[str]:
    """Return a doubt where the type that numbers are stored as may have changed some: rounded, cut or begun anew."""
    if kind == np.float16 and largest > HALF:
        return [
            f"{path}: is stored as float16, which rounds whole numbers above {HALF:,}; the largest is {largest:,.0f}"
        ]
    if kind.kind not in "iu" or kind.itemsize > 2 or largest < np.iinfo(kind).max:
        return []
    return [
        f"{path}: the largest number is {largest:,.0f}, the most that {kind} holds: larger counts may have been cut, "
        "or have begun anew from 0. Write the counts as int32 or float32"
    ]


def mended(numbers: str, layer: str | None) -> str:
    """Return a line of Python that replaces the stored numbers, for dense and sparse matrices alike."""
    place = {None: "adata.X", "raw": "adata.X"}.get(layer, f"adata.layers[{layer!r}]")
    first = "adata = adata.raw.to_adata(); " if layer == "raw" else ""
    return f"{first}X = scipy.sparse.csr_matrix({place}); X.data = {numbers}; {place} = X"


def _same(guessed: Values, declared: Values) -> bool:
    apart = abs(guessed.target_sum - declared.target_sum)
    return guessed.base == declared.base and apart <= SUM_TOLERANCE * declared.target_sum


def _advice(guess: Guess | None, declared: Values) -> str:
    if guess is None or (guess.values is not None and _same(guess.values, declared)):
        return ""
    if guess.values is None:
        return f" They look like {guess.words}."
    return f" They look like {guess.words}; declare `values: {guess.values}`."
