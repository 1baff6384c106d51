"""Servers for tests, each a process of its own on 127.0.0.1: MLflow, PostgreSQL, an S3 endpoint, a proxy that fails."""

import contextlib
import http.client
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # seven processes less
HOP_HEADERS = {"connection", "transfer-encoding", "content-length", "keep-alive", "server", "date"}


def free_port() -> int:
    """Return a port that nothing has, outside the range from which the system gives others theirs later on."""
    for port in random.SystemRandom().sample(range(20_000, 30_000), 100):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("100 ports from 20000 to 30000 tried, none is free")


def wait_for_port(port: int, process: subprocess.Popen, seconds: float = 180) -> None:
    """Wait until something listens; AssertionError if the process ends or takes too long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, f"{process.args} ended with code {process.returncode}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError(f"nothing listens on port {port} after {seconds} s")


def stop(process: subprocess.Popen, number: int = signal.SIGKILL) -> None:
    """End a process group that we started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    process.wait(60)


@dataclass
class MlflowServer:
    """`mlflow server`, which can be stopped and started again on the same port and database."""

    store: str
    artifacts: str
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    process: subprocess.Popen | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += [
            "--backend-store-uri",
            self.store,
            "--artifacts-destination",
            self.artifacts,
            "--workers",
            "1",
            *self.options,
        ]
        given = os.environ | QUIET | self.environment
        with self.log.open("a") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, env=given
            )
        wait_for_port(self.port, self.process)

    def stop(self) -> None:
        if self.process is not None:
            stop(self.process)
            self.process = None


@contextmanager
def s3_endpoint(log: Path, host: str = "127.0.0.1") -> Iterator[str]:
    """moto's S3; yields its URL. host: this machine's address for others, if they are to reach it."""
    pytest.importorskip("moto", reason="moto is not installed: pip install 'moto[server]' boto3")
    port, bound = free_port(), host if host == "127.0.0.1" else "0.0.0.0"
    with log.open("a") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", bound, "-p", str(port)],
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for_port(port, process)
        yield f"http://{host}:{port}"
    finally:
        stop(process)


def server_on(database: str, endpoint: str, log: Path, password: str) -> MlflowServer:
    """Return a server on PostgreSQL that keeps files in a new bucket of an S3 endpoint."""
    import boto3

    keys = {"aws_access_key_id": "test", "aws_secret_access_key": password, "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=endpoint, **keys).create_bucket(Bucket="results")
    environment = {name.upper(): value for name, value in keys.items() if name != "region_name"}
    environment |= {"MLFLOW_S3_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
    return MlflowServer(database, "s3://results/cellskew", log, environment)


def postgres_binary(name: str) -> str:
    """Return the path of one of PostgreSQL's programs; skips the test where there is none."""
    found = shutil.which(name) or next(map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), None)
    if found is None:
        pytest.skip(f"PostgreSQL's {name} is not on this machine: apt-get install postgresql")
    return found


@contextmanager
def postgres(password: str, log: Path) -> Iterator[str]:
    """PostgreSQL with an empty database; yields its URI, password included. It refuses root, who becomes nobody."""
    initdb, server, port = postgres_binary("initdb"), postgres_binary("postgres"), free_port()
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'psycopg[binary]'")
    home = Path(tempfile.mkdtemp(prefix="cellskew-postgres-"))
    user = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
    (home / "password").write_text(password)
    for path in (home, home / "password") if user else ():
        shutil.chown(path, "nobody", "nogroup")
    out = log.open("a")
    common = {"stdout": out, "stderr": out, "cwd": home, **user}
    made = [initdb, "-D", home / "data", "-U", "cellskew", "-A", "scram-sha-256", "--pwfile", home / "password"]
    done = subprocess.run([*made, "-E", "UTF8", "--no-sync"], check=False, **common)
    assert done.returncode == 0, log.read_text()
    options = ["-D", home / "data", "-k", home, "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    process = subprocess.Popen([server, *options], start_new_session=True, **common)
    try:
        wait_for_port(port, process)
        uri = f"postgresql://cellskew:{password}@127.0.0.1:{port}/postgres"
        _wait_for_database(uri)
        yield uri
    finally:
        stop(process, signal.SIGINT)
        out.close()
        shutil.rmtree(home)


def _wait_for_database(uri: str, seconds: float = 60) -> None:
    """Wait until PostgreSQL, which listens before it is ready, lets somebody in."""
    import psycopg

    deadline = time.monotonic() + seconds
    while True:
        try:
            return psycopg.connect(uri).close()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


class Proxy:
    """Passes requests on to a server, failing as told.

    mode "pass": passes all on; "refuse": answers 500 without asking the server; "lose": some requests reach the server
    but are answered with 500, others are refused, drawn from a fixed seed.
    """

    def __init__(self, target_port: int) -> None:
        self.mode, self.refused, self.lost = "pass", 0, 0
        self._target, self._draw, self._lock = target_port, random.Random(0), threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.uri = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _fate(self) -> str:
        with self._lock:
            drawn = {"pass": 1.0, "refuse": 0.0, "lose": self._draw.random()}[self.mode]
            fate = "refuse" if drawn < 0.1 else "lose" if drawn < 0.2 else "pass"
            self.refused += fate == "refuse"
            self.lost += fate == "lose"
            return fate

    def answer(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, list, bytes] | None:
        """Return the (status, headers, body) that a client gets; None: the line is cut."""
        fate = self._fate()
        answered = None if fate == "refuse" else self.ask(method, path, body, headers)
        return answered if fate == "pass" else (500, [], b"the server fell over")

    def _handler(proxy: "Proxy") -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                answered = proxy.answer(self.command, self.path, body, dict(self.headers))
                if answered is None:
                    self.close_connection = True
                    return self.connection.shutdown(socket.SHUT_RDWR)
                status, headers, data = answered
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                return self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, *said: object) -> None:
                """Says nothing."""

        return Handler

    def ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, list, bytes]:
        """Return the server's (status, headers, body)."""
        connection = http.client.HTTPConnection("127.0.0.1", self._target, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_HEADERS]
            return answer.status, kept, answer.read()
        finally:
            connection.close()


class Hostile(Proxy):
    """Passes most requests on and does to the others what servers, ingresses and networks do, drawn from a seed.

    A code: answered with it, the server unasked; lose: the server was asked, its answer is lost in a 500; cut: the
    line is cut before or after that; delay: answered late; repeat: the server is asked twice, as some ingresses do.
    """

    FATES = {"pass": 70, "400": 2, "403": 1, "409": 2, "429": 2, "500": 4, "lose": 4, "cut_before": 3, "cut_after": 3}
    FATES |= {"delay": 5, "repeat": 4}

    def __init__(self, target_port: int, seed: str) -> None:
        super().__init__(target_port)
        self._draw, self.mode, self.fates = random.Random(seed), "hostile", Counter()

    def answer(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, list, bytes] | None:
        with self._lock:
            fate = "pass" if self.mode == "pass" else self._draw.choices([*self.FATES], [*self.FATES.values()])[0]
            self.fates[fate] += 1
        if fate.isdigit():
            return int(fate), [], b"no"
        if fate == "delay":
            time.sleep(0.5)
        answered = None if fate == "cut_before" else self.ask(method, path, body, headers)
        if fate == "repeat":
            answered = self.ask(method, path, body, headers)
        return (500, [], b"lost") if fate == "lose" else None if fate == "cut_after" else answered
