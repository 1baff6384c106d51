"""How a sweep ends: by a signal, by a lost cluster, by a full disk; each in a sentence, with its own exit code."""

import errno
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_pipeline.errors import RequestError
from sweeps import cli
from sweeps.drive.launching import launch
from sweeps.drive.outcome import Outcome
from sweeps.drive.stopping import Stop, one_signal


def test_sigterm_ends_the_preparation_as_ctrl_c_does_and_is_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), one_signal():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("error", "code", "said", "has_traceback"),
    [
        (RequestError("too few cells"), 2, "cellskew: too few cells", False),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 3, "No space left on device", False),
        (KeyError("ours"), 3, "KeyError: 'ours'", True),
    ],
)
def test_whatever_ends_a_command_has_its_exit_code_and_a_sentence(
    monkeypatch, capsys, error, code, said, has_traceback
):
    def app() -> None:
        raise error

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr().err
    assert ended.value.code == code and said in shown and ("Traceback" in shown) is has_traceback
    assert ("run the same command again" in shown) is (code == 3)


def test_no_secret_is_in_what_a_fault_says(monkeypatch, capsys):
    def app() -> None:
        raise OSError("can't reach https://s3cret-token@lab/x or http://ann:hunter2@lab/x")

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit):
        cli.main()
    shown = capsys.readouterr().err
    assert "s3cret" not in shown and "hunter2" not in shown and "lab/x" in shown


def test_the_last_node_lost_is_a_value_and_its_code_says_run_again(monkeypatch, tmp_path: Path):
    stop = Stop(tmp_path / "stop")

    def fit(*about: object) -> None:
        stop.ask(launch.LOST)
        raise RuntimeError(stop.why)

    monkeypatch.setattr(launch, "_fit", fit)
    job = SimpleNamespace(key="k")
    settings = launch.Settings(lambda *about: {})
    tally = launch.train([job], SimpleNamespace(sweep="small"), lambda *about: None, stop, tmp_path, settings)
    assert not tally.finished and stop.why == "Ray lost its last node"
    assert (
        Outcome(wanted=1, stopped=stop.why).is_broken and not Outcome(wanted=1, stopped="stopped by Ctrl-C").is_broken
    )
