"""Ray itself: a cluster to join, or one of our own that ends with this process. Nothing of Tune."""

import contextlib
import ctypes
import functools
import importlib
import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray

from data_pipeline import outside, sameness
from data_pipeline.errors import RequestError
from data_pipeline.shared.store import NODE, Shared
from data_pipeline.shared.turns import mark
from sweeps.cluster import alone, head, joining
from sweeps.cluster.kinds import node_types
from sweeps.cluster.resources import own_cpus

HANDED_ON = ("MLFLOW_", "AWS_", "AZURE_", "GOOGLE_", "CELLSKEW_")  # begins of names of the driver's variables


@contextmanager
def running_ray(address: str | None, num_cpus: int | None = None) -> Iterator[None]:
    """Join the cluster at `address`, use the one already joined, or start one that ends with this process."""
    if ray.is_initialized():
        yield
        return
    here = {"worker_process_setup_hook": beginning()}
    shared = {"log_to_driver": False, "logging_level": logging.ERROR, "runtime_env": here}
    with _shielded():
        if address is None:
            alone.token()
            _start(shared | {"num_cpus": num_cpus if num_cpus is not None else own_cpus()})
        else:
            joining.join(address, shared)
    try:
        with unsaid():
            yield
    finally:
        ray.shutdown()


@contextmanager
def watched_ray(address: str | None, num_cpus: int | None, on_loss: Callable[[], None]) -> Iterator[None]:
    """Have Ray, see running_ray; on_loss is called, by another thread, once it doesn't answer any more."""
    with running_ray(address, num_cpus):
        node = head.watched(_own_node(), on_loss, every=1.0)  # Ray gives it a quarter minute
        with head.watched(ray.get_runtime_context().gcs_address, on_loss), node:
            yield


@contextmanager
def unsaid() -> Iterator[None]:
    """Keep pages of a lost node's state, which Ray prints, off the screen: we say what became of trials."""
    from ray._private import worker

    before, worker._worker_logs_enabled = worker._worker_logs_enabled, False  # log_to_driver doesn't reach it
    try:
        yield
    finally:
        worker._worker_logs_enabled = before


def _start(settings: dict[str, Any]) -> None:
    """Start a Ray of our own; once more where it wasn't there within Ray's own 30 seconds, as on a busy machine."""
    for is_last in (False, True):
        try:
            ray.init("local", include_dashboard=False, _temp_dir=alone.folder(), **settings)
            return
        except Exception as error:  # Ray raises no class of its own here
            if "timed out during startup" not in str(error):
                raise
            if is_last:
                raise OSError("Ray doesn't come up on this machine: twice it took over 30 s. Is it busy?") from error
            ray.shutdown()


def beginning() -> Callable[[], None]:
    """Return what each worker does first: it finds the driver's code, and has its credentials and settings.

    It travels as code, and so stands neither in the environment of a job, which `ray job list` shows, nor in a log.
    """
    handed = [name for name in os.environ if name.startswith(HANDED_ON) and not name.startswith(NODE)]
    pin, settings = sameness.pinning(), {name: os.environ[name] for name in handed} | outside.variable()

    def begin() -> None:
        pin()
        os.environ.update(settings)
        with contextlib.suppress(ImportError):  # a node without cellskew, which `check_nodes` names
            importlib.import_module("sweeps.cluster.environment")  # the settings that are ours

    return begin


@contextmanager
def _shielded() -> Iterator[None]:
    """Leave SIGTERM to us while Ray starts, which takes it for itself; processes that it starts don't heed it.

    Whoever ends a job or a group of processes at once asks Ray's too, and without them no trial could save its epoch.
    Ray shields them from Ctrl-C itself. A signal that comes meanwhile is heard afterwards.
    """
    heeds, answered = signal.getsignal(signal.SIGTERM), False
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    except SystemExit:  # Ray's answer to SIGTERM
        answered = True
        raise
    finally:
        with contextlib.suppress(ValueError, TypeError):  # not in the main thread, where Ray takes none
            signal.signal(signal.SIGTERM, heeds)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if answered:
            signal.raise_signal(signal.SIGTERM)


def _own_node() -> str:
    """Return HOST:PORT of the raylet that this process belongs to."""
    me = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == me)
    return f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"


def nodes() -> list[dict[str, float]]:
    """Return the resources of Ray's nodes, and of a node of each kind that its autoscaler may bring."""
    return _nodes() + node_types()


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def cluster_is_gone() -> bool:
    """Tell whether Ray has no node left to run anything on."""
    return not _nodes()


@functools.cache
def end_with_raylet() -> None:
    """Have the kernel kill this worker together with the raylet that started it (Linux).

    Ray 2.60 leaves workers behind when a raylet is killed; one that trains on would hold its trial's lock. The request
    lasts as long as the thread that makes it, so a thread of its own does.
    """
    raylet = os.environ.get("RAY_RAYLET_PID")
    if sys.platform.startswith("linux") and raylet is not None:
        threading.Thread(target=_share_fate, args=(int(raylet),), name="cellskew-fate", daemon=True).start()


def _share_fate(raylet: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG
    if os.getppid() != raylet:
        os._exit(1)  # it died before we could ask
    threading.Event().wait()


def check_nodes(storage: Path, seconds: float = 120.0, shared: Shared | None = None) -> None:
    """RequestError naming every node of a cluster that lacks this cellskew or torch, or does not see `storage`.

    shared: the store that it has to see in place of the folder.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    storage.mkdir(parents=True, exist_ok=True)
    seen = storage / f".seen-{uuid.uuid4().hex}"
    seen.touch()
    if shared is not None:
        shared.mark(seen)
    problems, asking = [], _asking(str(seen), sameness.comparison(), shared and (shared.uri, str(shared.root)))
    try:
        asked = []
        for node in ray.nodes():
            if node["Alive"] and (node["Resources"].get("CPU") or node["Resources"].get("GPU")):
                where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                answer = asking.options(num_cpus=0, scheduling_strategy=where).remote()
                asked.append((node["NodeManagerAddress"], answer))
        for host, answer in asked:
            problems += [f"node {host}: {problem}" for problem in _answer(answer, storage, seconds)]
    finally:
        mark(seen, shared).unlink(missing_ok=True)
    if problems:
        raise RequestError(*problems)


def _asking(mark: str, compare: Callable[[], str | None], shared: tuple[str, str] | None) -> Any:
    """Return a remote function that says what a node has; pickled by value, for a node may lack this module."""

    @ray.remote
    def ask() -> dict[str, Any]:
        from importlib.metadata import PackageNotFoundError, version
        from pathlib import Path

        found: dict[str, Any] = {"storage": shared is not None or Path(mark).exists(), "code": compare()}
        try:
            from data_pipeline.shared.store import tried

            found["store"] = None if shared is None else tried(*shared, mark)
        except ImportError:
            found["store"] = None
        for package in ("cellskew", "torch"):
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                found[package] = None
        return found

    return ask


def _answer(answer: Any, storage: Path, seconds: float) -> list[str]:
    try:
        found = ray.get(answer, timeout=seconds)
    except ray.exceptions.RayError as error:
        return [f"does not answer: {str(error).strip().splitlines()[0]}"]
    problems = []
    for package in ("cellskew", "torch"):
        here = version(package)
        if found[package] != here:
            has = "no" if found[package] is None else f"{package} {found[package]} instead of"
            problems.append(f"has {has} {package} {here}; install the same version there as here")
    if not problems and found["code"] is not None:
        problems.append(found["code"])
    if not found["storage"]:
        problems.append(
            f"does not see {storage}; --storage must be on a file system that all nodes share, or say with --shared "
            "s3://BUCKET/FOLDER where they find one another's files"
        )
    if found["store"] is not None:
        problems.append(found["store"])
    return problems
