"""Whoever waits for a sweep's end is told of it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from data_pipeline.errors import RequestError

PATIENCE = 60.0  # seconds that the command may take


@contextmanager
def telling(command: str | None) -> Iterator[dict[str, str]]:
    """Run a shell command after what is done inside, however it ends; its environment has what was put into the dict.

    CELLSKEW_EXIT is the code that cellskew ends with. What becomes of the command changes nothing.
    """
    said = {"CELLSKEW_SWEEP": "", "CELLSKEW_SAID": ""}
    code = 0
    try:
        yield said
    except typer.Exit as end:
        code = end.exit_code
        raise
    except RequestError as refused:
        code, said["CELLSKEW_SAID"] = refused.exit_code, "; ".join(refused.problems)
        raise
    except BaseException as error:
        code, said["CELLSKEW_SAID"] = 3, f"{type(error).__name__}: {error}"
        raise
    finally:
        if command is not None:
            _tell(command, said | {"CELLSKEW_EXIT": str(code)})


def _tell(command: str, said: dict[str, str]) -> None:
    try:
        done = subprocess.run(command, shell=True, env=os.environ | said, timeout=PATIENCE, check=False)
        trouble = f"ended with {done.returncode}" if done.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        trouble = str(error)
    if trouble is not None:
        print(f"cellskew: --on-end {command!r}: {trouble}", file=sys.stderr)
