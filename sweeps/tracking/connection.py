"""The one door to MLflow: reached, or told in a sentence why it can't be."""

import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import DatabaseError, OperationalError

from data_pipeline.atomic import replacing
from data_pipeline.errors import NoRoomError, RequestError
from sweeps.cluster import environment
from sweeps.tracking import ailments
from sweeps.tracking.outbox import Undeliverable
from sweeps.tracking.places import file_uri, sqlite_file, sqlite_uri
from sweeps.tracking.uris import harmless, shown_uri, take_credentials

assert environment.DEFAULTS  # MLflow reads them

for name in ("mlflow", "alembic"):
    logging.getLogger(name).setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # pages per failed write, which we try again

AWAY = (408, 425, 429)  # HTTP codes below 500 that may pass: overloaded
PAUSES = (0.5, 1.5)  # seconds between attempts to reach a store that a person waits for
SYSTEM = re.compile(r"\[Errno -?\d+\] ([A-Z][\w ]+)")  # what a system says, amid pages of what libraries do
SAID = {  # what libraries say, and what it means
    re.compile(r"\[SSL: WRONG_VERSION_NUMBER\]"): "it speaks http there, not https",
    re.compile(r"\[SSL: CERTIFICATE_VERIFY_FAILED\]"): "this machine doesn't trust its certificate (REQUESTS_CA_BUNDLE "
    "names a file with others)",
    re.compile(r"error code (\d+) != 200\. Response body: '\s*<"): "a web page comes instead (HTTP {}), as of another "
    "program or of a proxy whose MLflow is down",
}
UNWANTED = "Invalid Host header"  # how MLflow's server refuses a name that it wasn't told of


def at_once(uri: str) -> int:
    """Return how many threads write to a store: a file one, a server as many as MLflow's client has connections."""
    return 1 if uri.startswith("sqlite:") else 10


class Shut(Undeliverable):
    """MLflow answers, and won't let us in: waiting alone is of no use, save that credentials may be renewed."""


class Full(Shut):
    """The disk of an embedded database is full."""


def client(uri: str) -> MlflowClient:
    """Return a client of a tracking store; the only place that makes one. A database that is away raises OSError.

    MLflow itself would try to reach a database for many minutes; that its port is open, or its file may be, is asked
    first.
    """
    file = sqlite_file(uri)
    if file is not None and not _may_be_opened(file):
        raise Shut(ailments.told(ailments.CLOSED, uri))
    parts = urlsplit(uri)
    if parts.hostname is not None and parts.scheme not in ("http", "https"):
        port = parts.port or {"postgresql": 5432, "mysql": 3306, "mssql": 1433}[parts.scheme.partition("+")[0]]
        socket.create_connection((parts.hostname, port), timeout=10).close()
    return MlflowClient(uri)


def _may_be_opened(file: Path) -> bool:
    """Tell whether a database file is there and may be read, or may be made."""
    if file.exists():
        return file.is_file() and os.access(file, os.R_OK)
    there = next(folder for folder in file.parents if folder.exists())
    return there.is_dir() and os.access(there, os.W_OK)


def connect(uri: str) -> MlflowClient:
    """Return a client of a store that has just answered; RequestError within seconds if it doesn't."""
    uri = take_credentials(uri)
    for pause in (*PAUSES, None):
        try:
            with reaching(uri):
                made = client(uri)
                made.search_experiments(max_results=1)
                return made
        except Undeliverable as error:
            if pause is None or isinstance(error, Shut):
                raise unreachable(uri, error) from None
            time.sleep(pause)
        except MlflowException as error:
            raise RequestError(refused(uri, error)) from None
    raise AssertionError("unreachable")


def unreachable(uri: str, error: Exception) -> RequestError:
    """Return what to raise for a person whose MLflow can't be reached, see `away`."""
    return (NoRoomError if isinstance(error, Full) else RequestError)(away(uri, error))


def away(uri: str, why: Exception | str) -> str:
    """Return what to tell a person whose MLflow can't be reached, or lets nobody in, with the way out."""
    if isinstance(why, Shut):
        return f"MLflow at {shown_uri(uri)} {why}"
    found = SYSTEM.search(str(why))
    known = [meaning.format(*seen.groups()) for what, meaning in SAID.items() if (seen := what.search(str(why)))]
    said = [*known, found[1].lower() if found else why][0]
    return (
        f"MLflow at {shown_uri(uri)} doesn't answer: {said}. Start it, or choose another with --tracking-uri "
        "(leave that out for the embedded store)."
    )


def refused(uri: str, why: Exception) -> str:
    """Return what to tell a person whose MLflow answers, and refuses."""
    return f"MLflow at {shown_uri(uri)} refuses: {harmless(str(why), uri)}"


def _shut(code: int, said: str, uri: str) -> Shut:
    if UNWANTED in said:
        host = urlsplit(uri).netloc.rpartition("@")[2]
        return Shut(
            f"refuses the host name {host}: start it with `mlflow server --allowed-hosts {host} ...`, or use its IP "
            "address"
        )
    wants = "wants a user and a password" if code == 401 else "doesn't allow that to this user"
    return Shut(
        f"{wants} (HTTP {code}): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, "
        "in the environment"
    )


def _check_ailments(error: Exception, uri: str) -> None:
    said = ailments.told(error, uri)
    if said is not None:
        raise (Full if ailments.is_full(error) else Shut)(said) from None


def _may_pass(error: MlflowException) -> bool:
    """Tell whether an answer below 500 is none of MLflow's own, but of something before it, or of a busy database."""
    return error.message.startswith("API request to ") or error.error_code == "BAD_REQUEST"


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Turn what MLflow raises when it can't be reached into Undeliverable; what it refuses stays as it is."""
    try:
        yield
    except MlflowException as error:
        code = error.get_http_status_code()
        _check_ailments(error, uri)
        if code in (401, 403) or UNWANTED in str(error):
            raise _shut(code, str(error), uri) from None
        if code >= 500 or code in AWAY or _may_pass(error):
            raise Undeliverable(harmless(str(error), uri)) from None
        raise
    except DatabaseError as error:  # damaged, locked, or away, while MLflow opens it
        _check_ailments(error, uri)
        if not isinstance(error, OperationalError):
            raise
        raise Undeliverable(harmless(str(error.orig), uri)) from None
    except OSError as error:
        raise Undeliverable(harmless(str(error), uri)) from None


@contextmanager
def asking(uri: str) -> Iterator[None]:
    """Turn whatever MLflow raises, away or refusing, into RequestError: for a person who waits for the answer."""
    try:
        with reaching(uri):
            yield
    except Undeliverable as error:
        raise unreachable(uri, error) from None
    except MlflowException as error:
        raise RequestError(refused(uri, error)) from None


class Patience:
    """Asks MLflow again and again until it answers; RequestError when it hasn't for `seconds`, or when it refuses."""

    def __init__(self, uri: str, seconds: float) -> None:
        self.uri, self.seconds = uri, seconds

    def __call__(self, ask: Callable[[], Any]) -> Any:
        deadline, pause = time.monotonic() + self.seconds, PAUSES[0]
        while True:
            try:
                with reaching(self.uri):
                    return ask()
            except Undeliverable as error:
                if time.monotonic() + pause > deadline or isinstance(error, Shut):
                    raise unreachable(self.uri, error) from None
                time.sleep(pause)
                pause = min(pause * 2, 5.0)
            except MlflowException as error:
                raise RequestError(refused(self.uri, error)) from None


def create_database(path: Path) -> None:
    """Make an MLflow database and publish it by rename: MLflow can't go on with one whose making was cut short."""
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with replacing(path, alone=True) as part:
        SqlAlchemyStore(sqlite_uri(part), file_uri(path.parent / "artifacts")).engine.dispose()
