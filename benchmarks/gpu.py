"""Everything about cellskew that only a GPU can show, as one command on a machine with one GPU and no network.

    python benchmarks/gpu.py --minutes 8 --out gpu-results        # all parts
    python benchmarks/gpu.py --rehearse --out rehearsal           # the same parts, tiny, on a CPU
    python benchmarks/gpu.py --parts kernels,training --out gpu-results

Each part is a process of its own with a limit of its own; what one leaves of its time the later ones share. Records
are written as they come to DIR/results.jsonl, a table at the end to DIR/table.md. A part is failed when a check of it
is, or when it ran out of time; the exit code is the number of failed parts. A check is skipped where it can't be done,
where one that it goes by didn't pass, or where less time is left than it took elsewhere: `variants` wants five minutes
and `resume` three, so eight for all parts are too few for them. No setting of the card is touched.
"""

import argparse
import contextlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

PARTS = {  # in this order: share of the minutes
    "environment": 35,
    "faults": 40,
    "logits": 25,
    "kernels": 35,
    "training": 110,
    "memory": 30,
    "features": 25,
    "shortcuts": 35,
    "variants": 150,
    "packing": 130,
    "resume": 110,
}
LEAST = 15.0  # seconds that a part gets at least
ABREAST = 2  # parts of a rehearsal at once
TAIL = 3000  # characters of a failed part's stderr that are kept
RESTARTS = 8  # how often a part that died goes on with the checks behind the one it died of
LOST = 75  # exit code of a part whose CUDA context died
Record = dict[str, Any]


def main() -> int:
    given = arguments()
    if given.part:
        return run_part(given)
    given.out.mkdir(parents=True, exist_ok=True)
    names = given.parts.split(",") if given.parts else list(PARTS)
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        sys.exit(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    book = Book(given.out / "results.jsonl")
    with private_folder() as folder:
        (rehearse if given.rehearse else in_turn)(names, folder, given, book)
    table = importlib.import_module("gpu_parts.props.table").tabled(book.records)
    (given.out / "table.md").write_text(table)
    print(table)
    return sum(record["status"] != "ok" for record in book.records if "status" in record)


def in_turn(names: list[str], folder: Path, given: argparse.Namespace, book: "Book") -> None:
    """Run the parts one after the other, each with its share of the time that is left."""
    deadline = time.monotonic() + given.minutes * 60
    for number, name in enumerate(names):
        rest = sum(PARTS[later] for later in names[number:])
        limit = max(LEAST, (deadline - time.monotonic()) * PARTS[name] / rest)
        attend_part(name, limit, folder, given, book)


def rehearse(names: list[str], folder: Path, given: argparse.Namespace, book: "Book") -> None:
    """Run parts beside each other, the last and longest first: nothing is measured, and Ray mostly waits."""
    with ThreadPoolExecutor(ABREAST) as threads:
        limit = given.minutes * 60
        waiting = [threads.submit(attend_part, name, limit, folder, given, book) for name in reversed(names)]
        for one in waiting:
            one.result()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together; for each, in a rehearsal")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--parts", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--rehearse", action="store_true", help="tiny, on a CPU")
    source = os.environ.get("SCGPT_SOURCE")
    parser.add_argument("--scgpt-source", type=Path, default=Path(source) if source else None, help="scgpt's model.py")
    for hidden in ("--part", "--folder", "--done"):
        parser.add_argument(hidden, default="", help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, default=60.0, help=argparse.SUPPRESS)
    return parser.parse_args()


class Book:
    """The records, on disk as soon as they are known."""

    def __init__(self, path: Path) -> None:
        self.path, self.records, self._lock = path, [], threading.Lock()
        path.write_text("")

    def add(self, record: Record) -> None:
        with self._lock, self.path.open("a") as file:
            self.records.append(record)
            file.write(json.dumps(record, default=str) + "\n")
            print(line(record), flush=True)


def line(record: Record) -> str:
    """Return a record as one line for the screen."""
    said = {k: v for k, v in record.items() if k not in ("part", "check", "ok", "traceback", "stderr")}
    mark = {True: "ok", False: "FAILED", None: "skipped"}[record["ok"]]
    return f"[{record['part']}] {record.get('check', 'the part')}: {mark} {json.dumps(said, default=str)[:700]}"


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="gpu-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def attend_part(name: str, limit: float, folder: Path, given: argparse.Namespace, book: Book) -> None:
    """Run a part to its end, past checks that its process dies of; add its records and how it ended."""
    from gpu_parts.props import mps

    begin, deadline = time.monotonic(), time.monotonic() + limit
    done: dict[str, bool | None] = {}
    for _ in range(RESTARTS):
        records, ended = one_process(name, deadline, folder, given, done, book)
        died, before = ended.get("died", ""), set(done)
        done |= {record["check"]: record["ok"] for record in records}
        if not died or died in before:
            break
        if died not in done:
            book.add({"part": name, "check": died, "ok": False, "error": ended["status"], "stderr": ended["stderr"]})
            done[died] = False
    mps.end(folder)
    own = [record for record in book.records if record["part"] == name]
    failed, skipped = (sum(record["ok"] is ok for record in own) for ok in (False, None))
    status = "failed checks" if ended["status"] == "ok" and failed else ended["status"]
    summary = {"part": name, "status": status, "ok": status == "ok"}
    summary |= {"checks": len(own), "failed": failed, "skipped": skipped}
    summary |= {"limit": round(limit, 1), "seconds": round(time.monotonic() - begin, 1)}
    book.add(summary | ({"stderr": ended["stderr"]} if ended["status"] != "ok" else {}))


def one_process(
    name: str, deadline: float, folder: Path, given: argparse.Namespace, done: dict[str, bool | None], book: Book
) -> tuple[list[Record], Record]:
    """Return a part's records, and {"status", "stderr", "died": the check during which it died}."""
    limit = deadline - time.monotonic()
    words = [sys.executable, str(Path(__file__).resolve()), "--part", name, "--folder", str(folder)]
    words += ["--limit", str(limit - 2), "--done", json.dumps(done)] + (["--rehearse"] if given.rehearse else [])
    words += ["--scgpt-source", str(given.scgpt_source.resolve())] if given.scgpt_source else []
    now, errors = folder / f"now-{name}", folder / f"stderr-{name}"
    now.unlink(missing_ok=True)
    paths = [str(ROOT), str(ROOT / "benchmarks"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
    if given.rehearse:
        environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with errors.open("wb") as file:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=file, env=environment, start_new_session=True)
    records = list(listened(process, deadline, name, book))
    in_time = process.poll() is not None
    end_group(process)
    stderr = errors.read_text(errors="replace")[-TAIL:]
    if not in_time:
        return records, {"status": f"out of time in {_now(now) or 'its imports'}", "stderr": stderr}
    if process.returncode == 0:
        return records, {"status": "ok", "stderr": stderr}
    return records, {"status": f"ended with {process.returncode}", "stderr": stderr, "died": _now(now)}


def _now(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def listened(process: subprocess.Popen[bytes], deadline: float, name: str, book: Book) -> Iterator[Record]:
    """Yield the records that the process prints, until it ends or its time is over."""
    import selectors

    selector, waiting = selectors.DefaultSelector(), b""
    selector.register(process.stdout, selectors.EVENT_READ)
    while time.monotonic() < deadline:
        if not selector.select(timeout=0.2):
            if process.poll() is not None:  # a child that outlived it may hold the pipe open
                break
            continue
        piece = os.read(process.stdout.fileno(), 1 << 16)
        if not piece:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            break
        *lines, waiting = (waiting + piece).split(b"\n")
        for text in lines:
            with contextlib.suppress(ValueError):
                record = {"part": name} | json.loads(text)
                book.add(record)
                yield record


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing of the part's process group behind."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    process.stdout.close()


# --- inside a part's process


def run_part(given: argparse.Namespace) -> int:
    """Print each record of a part as a line of JSON; what else is printed goes to stderr."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    from gpu_parts import scene

    folder = Path(given.folder)
    where = scene.Scene(
        rehearse=given.rehearse,
        folder=folder,
        deadline=time.monotonic() + given.limit,
        scgpt_source=given.scgpt_source,
        done=json.loads(given.done or "{}"),
        now=folder / f"now-{given.part}",
    )
    for record in importlib.import_module(f"gpu_parts.{given.part}").run(where):
        out.write(json.dumps(record, default=str) + "\n")
        if record["ok"] is False and scene.is_lost():
            os._exit(LOST)
    return 0


if __name__ == "__main__":
    sys.exit(main())
