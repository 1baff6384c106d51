"""How much a launch may use, what is left when it is spent, and who is told of the end."""

import os
from types import SimpleNamespace

import pytest
import typer
from fake_trials import Silent, drive, faults

from data_pipeline.errors import RequestError
from sweeps.cluster.resources import Shape
from sweeps.commands.ending import telling
from sweeps.drive.allowance import Allowance, left


def used(gpu: float = 0.0, cpu: float = 0.0, seconds: float = 0.0, finished: tuple = (), failed: tuple = ()):
    over = {"finished": set(finished), "failed": dict.fromkeys(failed, "why")}
    return SimpleNamespace(given=Shape(3600 * gpu, 3600 * cpu), seconds=seconds, **over)


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("40 gpu-hours", 40, "gpu-hours"),
        ("1 GPU-hour", 1, "gpu-hours"),
        ("1.5hours", 1.5, "hours"),
        ("90 minutes", 90, "minutes"),
    ],
)
def test_a_budget_is_a_number_and_a_unit(text, amount, unit):
    assert Allowance.of(text) == Allowance(amount, unit)


@pytest.mark.parametrize("text", ["40", "gpu-hours", "40 dollars", "0 hours", "-3 hours", "1.2.3 hours", ""])
def test_anything_else_is_refused_with_the_units(text):
    with pytest.raises(RequestError, match="give a number and one of gpu-hours, cpu-hours, hours, minutes"):
        Allowance.of(text)


def test_it_is_spent_by_what_trials_had_or_by_the_clock():
    gpus = Allowance.of("2 gpu-hours")
    assert gpus.spent(used(gpu=1.9, seconds=1e9)) is None
    assert gpus.spent(used(gpu=2.1)) == "the budget of 2 gpu-hours is spent (2.1)"
    assert Allowance.of("90 minutes").spent(used(seconds=5400.0)) == "the budget of 90 minutes is spent (90)"


def test_what_is_left_is_told_by_what_the_others_took():
    costs = {"a": 3.0, "b": 1.0, "c": 2.0, "d": 5.0}
    some = used(gpu=6.0, cpu=6.0, finished=("a", "b"), failed=("d",))
    assert left(costs, some) == "1 trial is left, about 3 GPU-hours by what the others took"
    short = used(cpu=0.0008, finished=("a", "b"), failed=("d",))
    assert left(costs, short) == "1 trial is left, about 1 CPU-second by what the others took"
    assert "about 10 CPU-minutes by" in left(costs, used(cpu=1 / 3, finished=("a", "b"), failed=("d",)))
    assert left(costs, used(finished=tuple(costs))) is None
    assert left(costs, used(cpu=1.0)) == "4 trials are left"


def test_a_sweep_stops_when_its_budget_is_spent_and_goes_on_later(ray_here, tmp_path, monkeypatch):
    from sweeps.drive.launching import launch

    monkeypatch.setattr(launch, "LOOK_EVERY", 0.1)
    faults(tmp_path, seconds=0.7)
    screen = Silent()
    outcome = drive(tmp_path, screen=screen, max_concurrent=1, allowance=Allowance.of("0.05 minutes"))
    assert "the budget of 0.05 minutes is spent" in outcome.stopped and not outcome.is_complete
    assert outcome.finished < 8 and f"{8 - outcome.finished} trials are left" in outcome.left
    faults(tmp_path)
    assert drive(tmp_path).is_complete


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (None, "0", ""),
        (typer.Exit(1), "1", ""),
        (RequestError("no such file"), "2", "no such file"),
        (ValueError("broken"), "3", "ValueError: broken"),
    ],
)
def test_whoever_waits_is_told_however_it_ends(tmp_path, raised, code, said):
    command = f'echo "$CELLSKEW_SWEEP,$CELLSKEW_EXIT,$CELLSKEW_SAID" > {tmp_path}/told'
    try:
        with telling(command) as words:
            words["CELLSKEW_SWEEP"] = "small"
            if raised is not None:
                raise raised
    except type(raised) as error:
        assert error is raised
    assert (tmp_path / "told").read_text() == f"small,{code},{said}\n"
    assert "CELLSKEW_SWEEP" not in os.environ


def test_a_command_that_fails_changes_nothing(capsys):
    with telling("exit 7"):
        pass
    assert "cellskew: --on-end 'exit 7': ended with 7" in capsys.readouterr().err
