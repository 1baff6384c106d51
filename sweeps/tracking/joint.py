"""Many writes to MLflow's database file in one transaction; alone, each waits for the disk several times.

The only place that reaches behind MlflowClient: to the store in it, whose every method opens a session of its own.
"""

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlflow import MlflowClient

MOST = 50  # runs written in one transaction: the database is locked for others while it lasts


class Spoilt(Exception):
    """A write had to be taken back; those before it in the transaction go with it."""


class _Sessions:
    """Stands in for a store's maker of sessions: a thread that is in a joint transaction gets that one's."""

    def __init__(self, alone: Any) -> None:
        self.alone, self.shared = alone, threading.local()

    def __call__(self, read_only: bool = True) -> Any:
        session = getattr(self.shared, "session", None)
        return self.alone(read_only=read_only) if session is None else contextlib.nullcontext(session)


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


def _spoil() -> None:
    raise Spoilt
