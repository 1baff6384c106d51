"""Where a part runs: device, size, time left; checks whose failure is a record and not the end of the part."""

import gc
import json
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

Record = dict[str, Any]
T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
GIB = 1 << 30
TAIL = 1800  # characters of a traceback that are kept


class Skip(Exception):
    """This can't be done here; the message says why. `found` is recorded all the same."""

    def __init__(self, why: str, found: Record | None = None) -> None:
        super().__init__(why)
        self.found = found or {}


class Wrong(Exception):
    """What was measured isn't what it must be; `found` is recorded all the same."""

    def __init__(self, why: str, found: Record) -> None:
        super().__init__(why)
        self.found = found


@dataclass(frozen=True)
class Scene:
    """rehearse: everything small and on the CPU. folder: private to this run. deadline: on time.monotonic's clock."""

    rehearse: bool
    folder: Path
    deadline: float
    scgpt_source: Path | None = None
    done: dict[str, bool | None] = field(default_factory=dict)  # what an earlier process has behind it: its `ok`
    now: Path | None = None  # the name of the check that runs is written there
    numbers: dict[str, float] = field(default_factory=dict)
    ended: dict[str, bool | None] = field(default_factory=dict)  # likewise, of this process

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.rehearse else "cuda")

    def left(self) -> float:
        """Return the seconds until this part is stopped."""
        return self.deadline - time.monotonic()

    def pick(self, full: T, small: T) -> T:
        """Return `small` in a rehearsal."""
        return small if self.rehearse else full

    def check(
        self,
        name: str,
        work: Callable[[], Record | None],
        seconds: float = 0.0,
        after: str | None = None,
        again: bool = False,
    ) -> Iterator[Record]:
        """Yield the record of `work`: ok with what it returns, failed with its traceback, or skipped.

        Yields nothing for a check that an earlier process of this part has behind it; with `again` the work is done all
        the same, as others need what it makes. seconds: what it needs at least. after: a check that must have passed.
        """
        if name in self.done and not again:
            return
        if self.now is not None:
            self.now.write_text(name)
        why = self._hindrance(seconds, after)
        record = {"check": name} | (self._tried(work) if why is None else {"ok": None, "skipped": why})
        self.ended[name] = record["ok"]
        if name not in self.done:
            yield record

    def passed(self, name: str) -> bool:
        """Tell whether the check is over, and was ok."""
        return (self.done | self.ended).get(name) is True

    def _hindrance(self, seconds: float, after: str | None) -> str | None:
        if after is not None and not self.passed(after):
            return f"it goes by what `{after}` leaves, which didn't pass"
        return f"{self.left():.0f} s are left, it needs {seconds:.0f}" if self.left() < seconds else None

    def _tried(self, work: Callable[[], Record | None]) -> Record:
        begin, record = time.monotonic(), Record()
        try:
            record |= {"ok": True} | (work() or {})
        except Skip as reason:
            record |= reason.found | {"ok": None, "skipped": str(reason)}
        except Exception as error:  # a check may die of anything; the others still count
            record |= getattr(error, "found", {}) | {"ok": False, "error": first_words(error)}
            record |= {} if isinstance(error, Wrong) else {"traceback": traceback.format_exc()[-TAIL:]}
        if time.monotonic() - begin > 0.5 or not record["ok"]:  # looking through all objects takes 0.1 s itself
            forget()
        return record | {"seconds": round(time.monotonic() - begin, 2)}


def first_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:400]


def forget() -> None:
    """Give back what dropped tensors held."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        try:
            torch.cuda.empty_cache()
        except RuntimeError:  # the context is lost; `is_lost` tells
            return


def is_lost() -> bool:
    """Tell whether this process's CUDA context died, so that nothing more can be learnt here."""
    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):
        return False
    try:
        torch.cuda.synchronize()
        return bool(torch.zeros(1, device="cuda").item())
    except torch.OutOfMemoryError:
        return False
    except RuntimeError:
        return True


def wait(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], Any], device: torch.device, repeats: int = 5, warm_up: int = 2) -> float:
    """Return the median time of `work`, the device waited for before and after."""
    for _ in range(warm_up):
        work()
    times = []
    for _ in range(repeats):
        wait(device)
        begin = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - begin)
    return sorted(times)[len(times) // 2]


def peak_flops(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Return floating point operations per second of a size^3 product of random matrices."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / seconds_of(lambda: a @ b, device, repeats=7, warm_up=3)


def begin_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory(device: torch.device) -> Record:
    """Return the peaks since `begin_memory`, in GiB."""
    if device.type != "cuda":
        return {}
    held = {"allocated_gib": torch.cuda.max_memory_allocated(), "reserved_gib": torch.cuda.max_memory_reserved()}
    return {name: round(number / GIB, 3) for name, number in held.items()}


def rounded(record: Record, digits: int = 4) -> Record:
    """Return the record with numbers of so many significant digits."""
    return {k: float(f"{v:.{digits}g}") if isinstance(v, float) else v for k, v in record.items()}


def remember(scene: Scene, name: str, value: Any) -> None:
    (scene.folder / f"{name}.json").write_text(json.dumps(value))
