"""Any uid, any home, any TMPDIR: a container's or a Slurm job's surroundings are no reason to fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline.errors import RequestError
from sweeps.cluster import alone, environment

LONG = "/".join(["scratch_of_a_job_with_a_long_name"] * 4)


@pytest.fixture
def nobody(monkeypatch):
    """A uid without an entry among the users, as with docker's --user."""
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", *environment.CACHES, *AUTH):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(f"uid not found: {uid}")))


AUTH = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def test_a_uid_without_an_entry_and_a_home_is_given_both(nobody, tmp_path, monkeypatch):
    import getpass

    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    environment.settle()
    assert getpass.getuser() == f"uid-{os.getuid()}"
    assert Path.home() == tmp_path / f"cellskew-{os.getuid()}" and Path.home().stat().st_mode & 0o777 == 0o700


def test_a_home_that_is_not_there_is_replaced_and_one_that_is_stays(nobody, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    environment.settle()
    assert Path.home() == tmp_path / f"cellskew-{os.getuid()}"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    environment.settle()
    assert Path.home() == tmp_path, "credentials may lie there, and ~ in a sweep file means it"
    assert os.environ["MPLCONFIGDIR"].startswith(str(tmp_path / "cellskew-"))


def test_rays_folder_is_tmpdirs_unless_its_sockets_would_have_too_long_names(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", f"/tmp/t{os.getpid()}")
    assert alone.folder() == f"/tmp/t{os.getpid()}/ray"
    Path(alone.folder()).rmdir()
    Path(f"/tmp/t{os.getpid()}").rmdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / LONG))
    assert len(alone.folder() + alone.INSIDE) <= alone.LONGEST and not (tmp_path / LONG.split("/")[0]).exists()
    monkeypatch.setattr(alone, "_is_ours", lambda place: False)
    with pytest.raises(RequestError, match="Ray finds no folder for its sockets.*Name one with RAY_TMPDIR"):
        alone.folder()


def test_a_token_is_made_for_our_own_ray_only_where_there_is_none(nobody, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    alone.token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64 and not list(tmp_path.iterdir()), "no trace in the home"
    for name in AUTH:
        monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
        monkeypatch.setenv(name, "disabled")
        alone.token()
        assert os.environ.get("RAY_AUTH_TOKEN") == ("disabled" if name == "RAY_AUTH_TOKEN" else None)
        monkeypatch.delenv(name)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("mine")
    alone.token()
    assert "RAY_AUTH_TOKEN" not in os.environ


@pytest.mark.slow
@pytest.mark.parametrize("home", [None, "/nonexistent"])
def test_a_sweep_runs_for_a_uid_that_nobody_knows(home, tmp_path):
    if os.getuid() != 0:
        pytest.skip("only root may become another user")
    (tmp_path / "small.yaml").write_text(
        "name: small\ndatasets: [pbmc68k_reduced]\ngenes: {select: hvg, n: 50}\nmodels: {majority: {}}\n"
        "splits: {seeds: [0]}\n"
    )
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    (tmp_path / LONG).mkdir(parents=True)
    os.chown(tmp_path, 12345, 12345)
    may_read = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]  # root's own Python
    become = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", *may_read]
    bare = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "OMP_NUM_THREADS")}
    bare |= {"PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(tmp_path / LONG)}
    bare |= {} if home is None else {"HOME": home}
    command = [*become, sys.executable, "-m", "sweeps.cli", "run", "small.yaml", "--storage", str(tmp_path / "runs")]
    ended = subprocess.run(command, cwd=tmp_path, env=bare, capture_output=True, text=True)
    assert ended.returncode == 0 and "1 of 1 trials finished" in ended.stderr, ended.stderr[-2000:]


def test_what_ray_prints_of_a_lost_node_is_kept_off_the_screen(capsys):
    from ray._private.worker import print_to_stdstream

    from sweeps.cluster.nodes import unsaid

    lost = {"lines": ["Raylet is terminated. [state-dump] ..."], "pid": "raylet", "is_err": False}
    with unsaid():
        print_to_stdstream(lost, ignore_prefix=False)
    assert capsys.readouterr().out == ""
    print_to_stdstream(lost | {"lines": ["another [state-dump]"]}, ignore_prefix=False)
    assert "state-dump" in capsys.readouterr().out, "afterwards Ray is as it was"
