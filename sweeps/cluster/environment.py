"""Settings that Ray and MLflow read from the environment when they are imported; what a user has set there stays."""

import getpass
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEFAULTS = {
    "AIR_VERBOSITY": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # it would draw into what `predict` and `promote` say
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for every run that ends
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # we try again, knowing what was said; MLflow would make a run twice
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # 2 s: a busy worker that isn't free by then costs the next trial its place
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # Tune's own state is never read: what is left to do is read off MLflow
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # none waits inside Tune unless there is room for it
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "60",
}
CACHES = {"MPLCONFIGDIR": "matplotlib", "NUMBA_CACHE_DIR": "numba", "TORCHINDUCTOR_CACHE_DIR": "torch"}


def private_folder() -> Path:
    """Return this user's folder among the temporary ones, made if need be."""
    folder = Path(tempfile.gettempdir()) / f"cellskew-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder if folder.stat().st_uid == os.getuid() else Path(tempfile.mkdtemp(prefix="cellskew-"))


def settle() -> None:
    """See to it that libraries find a user, a home and places for their caches, as in a container run as any uid."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # a uid without an entry among the users
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"
    try:
        home = Path.home()
    except RuntimeError:
        home = Path("(none)")
    if not home.is_dir():
        os.environ["HOME"] = str(private_folder())
    elif not os.access(home, os.W_OK):
        for name, folder in CACHES.items():
            os.environ.setdefault(name, str(private_folder() / folder))


for name, value in DEFAULTS.items():
    os.environ.setdefault(name, value)
settle()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Ray's own talk below errors while it lasts."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.air", "ray.train", "ray.data")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
