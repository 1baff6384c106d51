"""Ray Jobs: a sweep driven on its cluster, asked for from a machine that is no node of it."""

import itertools
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from data_pipeline.errors import RequestError
from sweeps.cluster.joining import token_here

STOPPING = "3600"  # seconds that a stopped driver has for its trials to save their epoch, before Ray kills it
LEFT_OUT = (".git", ".venv", "__pycache__", "*.egg-info", "/cellskew-runs", "/mlruns", "/data", "/weights", "*.h5ad")
PAUSE = 2.0  # seconds between looks at a job's output
AWAY = 600.0  # seconds for which a dashboard that doesn't answer is asked again
T = TypeVar("T")


class Jobs:
    """The jobs of a cluster, by the address of its dashboard: http://HEAD:8265. RequestError for what it refuses.

    The job of a sweep is called cellskew-NAME, then cellskew-NAME-2 and so on: Ray takes a name once.
    """

    def __init__(self, address: str) -> None:
        if not re.match(r"https?://[^/]", address):
            raise RequestError(f"--address {address}: give the address of Ray's dashboard, http://HEAD:8265")
        self.address = address
        _use_token()
        with self._in_words():
            from ray.job_submission import JobSubmissionClient

            self.client = JobSubmissionClient(address)

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        from ray.exceptions import AuthenticationError

        try:
            yield
        except (OSError, RuntimeError, AuthenticationError) as error:  # Ray lets through what `requests` raises
            if getattr(error, "filename", None) is not None:  # of what is to be sent
                raise
            said = " ".join(str(error).split()).rstrip(".")[:300]
            if isinstance(error, AuthenticationError):
                said = f"wants its token, and {token_here()}: copy ~/.ray/auth_token from its head node, or set "
                raise RequestError(f"the dashboard at {self.address} {said}RAY_AUTH_TOKEN") from None
            raise RequestError(
                f"no Ray dashboard answers at {self.address}: {said}. The head needs ray[default], started "
                "with `ray start --head --dashboard-host=0.0.0.0`; a tunnel will do: ssh -L 8265:localhost:8265 HEAD"
            ) from None

    def of(self, sweep: str) -> list[Any]:
        """Return the jobs that drove or drive a sweep, the oldest first."""
        with self._in_words():
            listed = [job for job in self.client.list_jobs() if (job.submission_id or "").startswith("cellskew-")]
        found = [job for job in listed if (job.metadata or {}).get("sweep") == sweep]
        return sorted(found, key=lambda job: job.start_time or 0)

    def running(self, sweep: str) -> str | None:
        """Return the name of the job that drives a sweep now, or is about to; None if there is none."""
        return next((job.submission_id for job in self.of(sweep) if not job.status.is_terminal()), None)

    def start(self, sweep: str, command: str, folder: Path, about: dict[str, str]) -> str:
        """Have `command` run on the cluster in a copy of `folder`; returns the name of the job, which takes no CPU."""
        name = f"cellskew-{sweep}"
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        environment = {"working_dir": str(folder), "excludes": list(LEFT_OUT)}
        environment["env_vars"] = {"RAY_JOB_STOP_WAIT_TIME_S": STOPPING}
        with self._in_words():
            taken = {job.submission_id for job in self.client.list_jobs()}
            return self.client.submit_job(
                entrypoint=command,
                submission_id=next(one for one in names if one not in taken),
                runtime_env=environment,
                entrypoint_num_cpus=0,
                metadata={"sweep": sweep} | about,
            )

    def stop(self, job: str) -> None:
        """Ask a driver to end: its trials save their epoch."""
        with self._in_words():
            self.client.stop_job(job)

    def follow(self, job: str, show: Callable[[str], None]) -> int:
        """Show what a job prints until it has ended; returns its exit code, 1 if it was stopped, 3 if Ray lost it.

        A dashboard that doesn't answer, the network of a laptop that slept, is asked again for AWAY seconds; then
        RequestError.
        """
        shown = 0
        while True:
            has_ended, text = self._awaited(lambda: self._look(job), show)
            show(text[shown:])
            shown = len(text)
            if has_ended:
                return self._awaited(lambda: self._code(job, show), show)
            time.sleep(PAUSE)

    def _look(self, job: str) -> tuple[bool, str]:
        with self._in_words():
            return self.client.get_job_status(job).is_terminal(), self.client.get_job_logs(job)

    def _awaited(self, look: Callable[[], T], show: Callable[[str], None]) -> T:
        until, told = time.monotonic() + AWAY, False
        while True:
            try:
                return look()
            except RequestError as error:
                if time.monotonic() > until:
                    raise
                if not told:
                    show(f"{error}. It is asked again\n")
                    told = True
                time.sleep(PAUSE)

    def _code(self, job: str, show: Callable[[str], None]) -> int:
        with self._in_words():
            info = self.client.get_job_info(job)
        if info.status == "STOPPED":  # whose own code Ray doesn't keep; trials are left
            return 1
        if info.driver_exit_code is None:
            show(f"{info.status}: {info.message}\n")
            return 3
        return info.driver_exit_code


def _use_token() -> None:
    """Show the cluster's token where there is one; this process drives nothing, so that it does no harm elsewhere."""
    from ray._private.authentication import authentication_token_setup as tokens

    logging.getLogger("ray").setLevel(logging.ERROR)  # once Ray is imported, which sets it
    tokens.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


@contextmanager
def sent_alone(file: Path, plugins: list[Path]) -> Iterator[tuple[Path, list[Path]]]:
    """Give a folder that holds a copy of a file and of the folders `plugins`, and nothing else; and these copies."""
    with tempfile.TemporaryDirectory(prefix="cellskew-") as folder:
        shutil.copyfile(file, Path(folder, file.name))
        copies = [Path(folder, f"plugins-{number}") for number in range(1, len(plugins) + 1)]
        for plugin, copy in zip(plugins, copies, strict=True):
            shutil.copytree(plugin, copy, ignore=shutil.ignore_patterns("__pycache__", ".git"))
        yield Path(folder), copies


def dashboard(given: str | None) -> str:
    """Return the address of the dashboard: `given`, else what Ray's own commands go by."""
    for address in (given, os.environ.get("RAY_API_SERVER_ADDRESS"), os.environ.get("RAY_ADDRESS")):
        if address:
            return address
    raise RequestError("say where the cluster is: --address http://HEAD:8265, the address of its dashboard")
