"""A cluster that can't be joined is told in seconds and words, before data are read or runs registered."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from servers import free_port

from data_pipeline.errors import RequestError
from sweeps.cluster import joining

ROOT = Path(__file__).parents[2]
SECRET = "hunter2-and-more"


@pytest.fixture(autouse=True)
def no_address(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_the_address_is_the_one_given_else_rays_own_variable(monkeypatch):
    assert joining.asked(None) is None and joining.asked("local") is None
    assert joining.asked("auto") == "auto" and joining.asked("head") == "head:6379"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert joining.asked(None) == "10.0.0.1:6379" and joining.asked("local") is None
    assert joining.asked("other:1") == "other:1"
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    with pytest.raises(RequestError, match="^RAY_ADDRESS=http://head:8265 is the address of Ray's dashboard"):
        joining.asked(None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("ray://head:10001", "Ray's client can't drive a sweep.* say `--address auto`.*`cellskew submit"),
        ("http://head:8265", "is the address of Ray's dashboard, for `cellskew submit`"),
    ],
)
def test_an_address_of_another_kind_is_refused_with_what_was_meant(given, said):
    with pytest.raises(RequestError, match=said):
        joining.asked(given)


@pytest.fixture
def server():
    """Something that listens and answers with `server.says`."""
    listening = socket.create_server(("127.0.0.1", 0))

    class Server:
        says, place = b"", f"127.0.0.1:{listening.getsockname()[1]}"

    def serve() -> None:
        while True:
            try:
                line, _ = listening.accept()
            except OSError:
                return
            line.recv(100)
            line.sendall(Server.says)
            line.close()

    threading.Thread(target=serve, daemon=True).start()
    yield Server
    listening.close()


@pytest.mark.parametrize("says", [b"<!DOCTYPE HTML>", b"HTTP/1.0 400 Bad request", b"SSH-2.0-OpenSSH_9.2\r\n", b""])
def test_what_answers_and_is_no_ray_is_told_at_once(server, says):
    server.says, begin = says, time.monotonic()
    with pytest.raises(RequestError, match=f"what answers at {server.place} isn't a Ray cluster"):
        joining.check(server.place)
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("place", ["127.0.0.1:{}", "no.such.host.invalid:6379", "127.0.0.1:port"])
def test_where_nothing_answers_is_told_at_once(place):
    with pytest.raises(RequestError, match="no Ray cluster answers at .* say `--address auto`"):
        joining.check(place.format(free_port()))


def test_an_address_of_this_machine_is_known_from_another_ones():
    assert joining._is_here("127.0.0.1") and not joining._is_here("192.0.2.77")


def asked(address: str, home: Path, code: str = "", **more: str) -> tuple[str, float]:
    """Return what a process of its own says when it joins, and after how many seconds of asking."""
    code = f"import time\nfrom sweeps.cluster import joining\nimport ray\nfrom ray._raylet import GcsClient\n{code}\n"
    code += f"begin = time.monotonic()\ntry:\n    print(joining.check({address!r}))\nexcept Exception as error:\n"
    code += "    print(f'{type(error).__name__}: {error}')\nprint(time.monotonic() - begin)"
    known = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    known |= {"HOME": str(home), "PYTHONPATH": str(ROOT), **more}
    ended = subprocess.run([sys.executable, "-c", code], env=known, capture_output=True, text=True, check=True)
    assert ended.stderr == "", "nothing but our own words"
    *said, seconds = ended.stdout.splitlines()
    return "\n".join(said), float(seconds)


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head that wants a token: (address, home with the token)."""
    home, port = tmp_path_factory.mktemp("home"), free_port()
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("a" * 64)
    known = {**os.environ, "HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
    start = [Path(sys.executable).parent / "ray", "start", "--head", f"--port={port}", "--num-cpus=1", "--block"]
    start += ["--include-dashboard=false", "--object-store-memory=100000000", f"--temp-dir=/tmp/cellskew-{port}"]
    with subprocess.Popen(start, env=known, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        deadline = time.monotonic() + 120
        while (said := asked(f"127.0.0.1:{port}", home)[0]) != f"127.0.0.1:{port}":
            assert time.monotonic() < deadline, said
        yield f"127.0.0.1:{port}", home
        running.terminate()


@pytest.mark.cluster
def test_the_token_is_shown_where_there_is_one_and_asked_for_where_there_is_none(head, tmp_path):
    address, home = head
    assert asked(address, home)[0] == address, "RAY_AUTH_MODE needn't be set by hand"
    said, seconds = asked(address, tmp_path)
    assert f"RequestError: the Ray cluster at {address} wants its token, and there is none here: copy" in said
    assert seconds < 10
    said, seconds = asked(address, tmp_path, RAY_AUTH_TOKEN="b" * 64)
    assert "wants its token, and RAY_AUTH_TOKEN is another" in said and seconds < 10
    assert asked(address, tmp_path, RAY_AUTH_TOKEN="a" * 64)[0] == address


@pytest.mark.cluster
def test_another_version_and_a_machine_that_is_no_node_are_told(head):
    address, home = head
    said, _ = asked(address, home, "ray.__version__ = '2.61.0'")
    assert "runs Ray 2.60.0 on Python" in said and "here is Ray 2.61.0 on Python" in said
    said, seconds = asked(address, home, "joining._is_here = lambda host: False")
    assert "RequestError: this machine is no node of the Ray cluster" in said and "cellskew submit" in said
    assert seconds < 10


@pytest.mark.cluster
def test_credentials_reach_workers_of_a_cluster_and_stand_where_nobody_reads_them(head):
    """`ray job list` and the dashboard show the runtime environment of a job."""
    address, home = head
    code = f"""
import os
from sweeps.cluster import nodes
with nodes.running_ray({address!r}):
    import ray
    print(ray.get(ray.remote(lambda: os.environ.get("MLFLOW_TRACKING_PASSWORD")).remote()))
    from ray._private.state import state
    secret = os.environ["MLFLOW_TRACKING_PASSWORD"]  # not in the code, which is shown, too
    print("shown:", secret in str(state.job_table()) + ray.get_runtime_context().get_runtime_env_string())
"""
    known = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    known |= {"HOME": str(home), "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_PASSWORD": SECRET}
    ended = subprocess.run([sys.executable, "-c", code], env=known, capture_output=True, text=True)
    assert ended.stdout.splitlines() == [SECRET, "shown: False"], ended.stderr
    logs = subprocess.run(["grep", "-rl", SECRET, f"/tmp/cellskew-{address.rpartition(':')[2]}"], capture_output=True)
    assert not logs.stdout


@pytest.mark.parametrize("wanted", [True, False])
def test_the_token_is_shown_only_where_it_is_wanted(monkeypatch, wanted):
    """A driver that wants a token is dead to a cluster without one."""
    from ray._private.authentication import authentication_token_setup as tokens
    from ray.exceptions import AuthenticationError

    from sweeps.cluster import joining

    shown = []

    def client(place: str) -> str:
        if wanted and not shown:
            raise AuthenticationError("no token")
        return place

    monkeypatch.setattr(joining, "_client", client)
    monkeypatch.setattr(
        tokens, "maybe_enable_token_auth_if_token_available", lambda warn_if_disabled: shown.append(1) or True
    )
    assert joining._client_with_token("h:1") == "h:1"
    assert bool(shown) == wanted
