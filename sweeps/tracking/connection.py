"""MLflow reached, or told why it can't be."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from data_pipeline.atomic import replacing
from data_pipeline.errors import RequestError
from sweeps.tracking.outbox import Undeliverable
from sweeps.tracking.uris import harmless, shown_uri

for name in ("mlflow", "alembic"):
    logging.getLogger(name).setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # pages per failed write, which we try again

AWAY = (408, 425, 429, 401, 403)  # HTTP codes below 500 that may pass: overloaded, or credentials being renewed


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Turn what MLflow raises when it can't be reached into Undeliverable; what it refuses stays as it is."""
    try:
        yield
    except MlflowException as error:
        code = error.get_http_status_code()
        if code >= 500 or code in AWAY:
            raise Undeliverable(harmless(str(error), uri)) from None
        raise
    except OperationalError as error:  # a database that is locked, or away, while MLflow opens it
        raise Undeliverable(harmless(str(error.orig), uri)) from None
    except OSError as error:
        raise Undeliverable(harmless(str(error), uri)) from None


@contextmanager
def asking(uri: str) -> Iterator[None]:
    """Turn whatever MLflow raises, away or refusing, into RequestError: for a person who waits for the answer."""
    try:
        with reaching(uri):
            yield
    except (MlflowException, Undeliverable) as error:
        said = harmless(str(error), uri)
        raise RequestError(f"MLflow at {shown_uri(uri)} can't do that: {said}") from None


def create_database(path: Path) -> None:
    """Make an MLflow database and publish it by rename: MLflow can't go on with one whose making was cut short."""
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with replacing(path, alone=True) as part:
        SqlAlchemyStore(f"sqlite:///{part}", str(path.parent / "artifacts")).engine.dispose()
