"""A running Ray cluster: where it is, and in seconds and words why it can't be joined. Before anything is read."""

import contextlib
import functools
import logging
import os
import platform
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from data_pipeline.errors import RequestError

T = TypeVar("T")
PORT = 6379  # of `ray start --head`
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # what starts gRPC: RFC 9113, 3.4
SETTINGS = 4  # type of the frame that answers it
SECONDS = 10.0  # to wait for an answer


def asked(given: str | None) -> str | None:
    """Return the address of the cluster to join: `given`, else RAY_ADDRESS as Ray itself has it; None: none is.

    RequestError for what is no such address, with what was meant.
    """
    address = given or os.environ.get("RAY_ADDRESS") or None
    if address in (None, "local"):
        return None
    said = f"--address {address}" if given else f"RAY_ADDRESS={address}"
    if address.startswith("ray://"):
        raise RequestError(
            f"{said}: Ray's client can't drive a sweep. On a node of the cluster say `--address auto`; from elsewhere "
            "have it driven there: `cellskew submit SWEEP.yaml --address http://HEAD:8265 --storage FOLDER`"
        )
    if address.startswith(("http://", "https://")):
        raise RequestError(
            f"{said} is the address of Ray's dashboard, for `cellskew submit`; to join a cluster from one of its nodes "
            "say `--address auto`, and for a Ray of one's own `--address local`"
        )
    return address if ":" in address or address == "auto" else f"{address}:{PORT}"


def check(address: str) -> str:
    """Return HOST:PORT of the cluster at an address; RequestError if this process can't join it, with the way out."""
    place = _running_here() if address == "auto" else address
    _check_answers(place)
    with _in_words(place):
        gcs = _client_with_token(place)
        _check_versions(place, gcs)
        nodes = _awaited(lambda: gcs.get_all_node_info(timeout=SECONDS))
    hosts = sorted({node.node_manager_address for node in nodes.values()})
    if not hosts:
        raise RequestError(f"the Ray cluster at {place} has no node yet; run the same command again soon")
    if not any(map(_is_here, hosts)):
        raise RequestError(
            f"this machine is no node of the Ray cluster at {place} (its nodes: {', '.join(hosts[:5])}): run on one of "
            "them, or from here `cellskew submit SWEEP.yaml --address http://HEAD:8265 --storage FOLDER`"
        )
    return place


def _awaited(look: Callable[[], T]) -> T:
    """Return what is found, which a head that has just been started lacks for a second or two."""
    deadline = time.monotonic() + SECONDS
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def _client_with_token(place: str) -> Any:
    """Return a client of the cluster's head, the token shown if it is wanted and there is one; Ray does so for `auto`
    alone.

    Not otherwise: a driver that wants a token itself is dead to a cluster that has none, and so are all its trials.
    """
    from ray._private.authentication import authentication_token_setup as tokens
    from ray.exceptions import AuthenticationError

    try:
        return _client(place)
    except AuthenticationError:
        tokens.logger.setLevel(logging.ERROR)
        if not tokens.maybe_enable_token_auth_if_token_available(warn_if_disabled=False):
            raise
        return _client(place)


def _client(place: str) -> Any:
    """Return a client of the cluster's head, without what Ray's C++ writes straight to the screen meanwhile."""
    from ray._raylet import GcsClient

    screen, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        return GcsClient(address=place)
    finally:
        os.dup2(screen, 2)
        os.close(screen)
        os.close(nowhere)


def join(address: str, how: dict[str, Any]) -> None:
    """Connect this process with the cluster at an address, as its driver. how: more for ray.init."""
    import ray

    place = check(address)
    with _in_words(place):
        ray.init(place, **how)


def _running_here() -> str:
    from ray._private.services import canonicalize_bootstrap_address_or_die

    try:
        return canonicalize_bootstrap_address_or_die("auto")
    except ConnectionError:
        raise RequestError(
            "no Ray runs on this machine: `ray start --head` starts one, `--address HOST:6379` names another's, and "
            "without --address a Ray of our own is started"
        ) from None


def _check_answers(place: str) -> None:
    """RequestError within seconds if nothing that may be Ray answers; Ray itself would try for minutes."""
    host, _, port = place.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS) as line:
            line.sendall(HELLO)
            answer = line.recv(64)
    except (OSError, ValueError) as error:
        raise RequestError(f"no Ray cluster answers at {place}: {error}. {_WAY_OUT}") from None
    if len(answer) < 4 or answer[3] != SETTINGS:
        raise RequestError(f"what answers at {place} isn't a Ray cluster (it said {answer[:20]!r}). {_WAY_OUT}")


_WAY_OUT = "On a node of it say `--address auto`, or the address that `ray start --head` printed, mostly HOST:6379"


@contextmanager
def _in_words(place: str) -> Iterator[None]:
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        raise RequestError(
            f"the Ray cluster at {place} wants its token, and {token_here()}: copy ~/.ray/auth_token from its head "
            "node to this machine, or set RAY_AUTH_TOKEN"
        ) from None
    except (OSError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise RequestError(f"the Ray cluster at {place} can't be joined: {said[:600]}. {_WAY_OUT}") from error


def token_here() -> str:
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return f"RAY_AUTH_MODE is {os.environ['RAY_AUTH_MODE']} here"
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN is another"
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return f"the one in {file} is another" if file.exists() else "there is none here"


def _check_versions(place: str, gcs: Any) -> None:
    """RequestError if Ray or Python there has another version than here: Ray would say so, a few lines at a time."""
    import ray

    there, python = _awaited(lambda: _metadata(gcs)), platform.python_version()
    if there is None:
        raise RequestError(f"the Ray cluster at {place} is starting; run the same command again soon")
    if (there["ray_version"], there["python_version"]) != (ray.__version__, python):
        raise RequestError(
            f"the Ray cluster at {place} runs Ray {there['ray_version']} on Python {there['python_version']}, here is "
            f"Ray {ray.__version__} on Python {python}: both must be the same"
        )


def _metadata(gcs: Any) -> dict[str, str] | None:
    from ray._common.usage.usage_lib import get_cluster_metadata

    with contextlib.suppress(AttributeError):  # Ray decodes None where nothing has been put yet
        return get_cluster_metadata(gcs)
    return None


@functools.cache
def _is_here(host: str) -> bool:
    """Tell whether an address is one of this machine's: then a socket can be bound to it."""
    try:
        kind, _, _, _, place = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)[0]
        with socket.socket(kind, socket.SOCK_DGRAM) as line:
            line.bind(place)
    except OSError:
        return False
    return True
