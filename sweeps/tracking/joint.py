"""Many writes to MLflow's database file in one transaction; alone, each waits for the disk several times.

The only place that reaches behind MlflowClient: to the store in it, whose every method opens a session of its own.
"""

import contextlib
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import RunStatus
from mlflow.exceptions import MlflowException

MOST = 50  # runs written in one transaction: the database is locked for others while it lasts


class Spoilt(Exception):
    """A write had to be taken back; those before it in the transaction go with it."""


class _Sessions:
    """Stands in for a store's maker of sessions: a thread that is in a joint transaction gets that one's."""

    def __init__(self, alone: Any) -> None:
        self.alone, self.shared = alone, threading.local()

    def __call__(self, *how: Any, **named: Any) -> Any:
        session = getattr(self.shared, "session", None)
        return self.alone(*how, **named) if session is None else contextlib.nullcontext(session)


@contextmanager
def one_transaction(client: MlflowClient) -> Iterator[None]:
    """Have all that this thread writes through a client of a database come true together, or none of it.

    Raises MlflowException, as its store does, if the transaction fails; nothing of it was written then.
    """
    store = client._tracking_client.store
    if not isinstance(store.ManagedSessionMaker, _Sessions):
        store.ManagedSessionMaker = _Sessions(store.ManagedSessionMaker)
    sessions = store.ManagedSessionMaker
    with sessions.alone(read_only=False) as session:
        session.commit, session.rollback = session.flush, _spoil
        sessions.shared.session = session
        try:
            yield
        finally:
            del session.commit, session.rollback, sessions.shared.session


def begin(client: MlflowClient, run_id: str, at: int) -> None:
    """Have a run begin at a time, in ms, instead of when it was registered, which no client of MLflow can."""
    from mlflow.store.tracking.dbmodels.models import SqlRun

    store = client._tracking_client.store
    with store.ManagedSessionMaker(read_only=False) as session:
        session.query(SqlRun).filter(SqlRun.run_uuid == run_id).update({"start_time": at})


def set_status(client: MlflowClient, run_id: str, status: str) -> None:
    """Set a run's status and nothing else; `update_run` has a server tell all of the run first, to find its end."""
    try:
        client._tracking_client.store.update_run_info(run_id, RunStatus.from_string(status), None, None)
    except (AttributeError, TypeError):  # another release, whose insides differ
        client.update_run(run_id, status=status)


def works(client: MlflowClient, experiment_id: str) -> bool:
    """Tell whether this MLflow lets itself be written jointly, by trying: a tag that stays, one that is taken back.

    Where it isn't so (another release, whose insides differ), runs are written one by one.
    """
    name, stays, taken_back = "cellskew.joint", uuid.uuid4().hex, uuid.uuid4().hex
    try:
        with one_transaction(client):
            client.set_experiment_tag(experiment_id, name, stays)
        with contextlib.suppress(MlflowException), one_transaction(client):
            client.set_experiment_tag(experiment_id, name, taken_back)
            raise Spoilt
        return client.get_experiment(experiment_id).tags.get(name) == stays
    except Exception:  # whatever other insides raise; what is wrong with the store itself shows at the first write
        return False


def _spoil() -> None:
    raise Spoilt
