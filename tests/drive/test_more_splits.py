"""A sweep that adds splits until it is sure: rounds, what MLflow is told, and interruptions that change nothing."""

import os
import signal
from types import SimpleNamespace

import pytest
from fake_trials import Silent, cells, check_whole, parts, spec, trained
from typer.testing import CliRunner

from data_pipeline.errors import RequestError
from sweeps import cli
from sweeps.answers import sure
from sweeps.answers.runs import looks
from sweeps.drive import rounds
from sweeps.drive.allowance import Allowance
from sweeps.drive.converge import Request, converge
from sweeps.drive.outcome import Outcome
from sweeps.drive.progress import Progress, console
from sweeps.drive.request import all_splits
from sweeps.file.config import SweepSpec
from sweeps.file.questions import Until
from sweeps.tracking.kept import wanted

UNTIL = Until(half_width=0.001, between="model")


def growing(most: int = 9, until: Until | None = UNTIL) -> SweepSpec:
    splits = [{"seed": seed, "test": 0.2, "validation": 0.1} for seed in range(most)]
    return spec().model_copy(update={"until": until, "splits": splits})


def tags_of(known: dict) -> dict[str, str]:
    tags: dict[str, str] = {}
    wanted.write_until(known, tags, tags.__setitem__)
    return tags


class Told:
    """A tracker that remembers what is wanted."""

    def __init__(self) -> None:
        self.uri, self.kept, self.outbox = "", {}, SimpleNamespace(drain=lambda seconds: True)

    def tags(self) -> dict[str, str]:
        return self.kept

    def want(self, keys, questions, until) -> None:
        self.keys = list(keys)
        wanted.write_until(until, self.kept, self.kept.__setitem__)


def go(sweep: SweepSpec, answers: list[tuple[int, str]], outcome=None, stop=None) -> tuple[list[int], Told, list[str]]:
    """Return how many splits each round had, what MLflow was told, what was said; `answers`: of the looks in a row."""
    told, said, left = Told(), [], iter(answers)
    look = lambda *about: sure.Wanted(*next(left))  # noqa: E731
    outcome, stop = outcome or Outcome(0), stop or SimpleNamespace(asked=False)
    had = []
    for one in rounds.rounds(sweep, told, look, outcome, stop, said.append):
        rounds.want(sweep, one.trials(), told)
        had.append(len(one.splits))
    return had, told, said


def test_rounds_grow_until_a_look_says_enough_and_mlflow_knows_why():
    had, told, said = go(growing(), [(5, ""), (9, ""), (9, "sure")])
    assert had == [5, 9] and len(told.keys) == len(growing().trials())
    known = wanted.read_until(told.kept)
    assert known["looks"] == [5, 9] and (known["splits"], known["at_most"], known["said"]) == (9, 9, "sure")
    assert said[-1] == "macro_f1 between model, to ±0.001 or beyond ±0.005: sure"
    assert looks.sentences(known) == [
        "macro_f1 between model, to ±0.001 or beyond ±0.005: 9 of at most 9 splits are wanted now; sure"
    ]


def test_no_split_is_added_to_what_is_not_finished_or_was_stopped():
    had, _, said = go(growing(), [(5, "")], Outcome(4, before=3))
    assert had == [5] and said[-1] == "no splits are added before every trial of these is finished"
    stopped = Outcome(4, before=4)
    assert go(growing(), [(5, "")], stopped, SimpleNamespace(asked=True))[0] == [5]
    assert not stopped.is_complete, "stopped before the look: more may be wanted"
    go(growing(), [(5, ""), (5, "sure")], sure_of_it := Outcome(4, before=4))
    assert sure_of_it.is_complete


def test_listed_splits_are_one_round_for_which_nothing_is_looked_at_or_said():
    had, told, said = go(growing(3, None), [])
    assert (had, told.kept, said) == ([3], {}, [])


def test_looks_made_under_an_earlier_file_count_for_ever():
    """A file whose at_most was raised, or that lists its splits now, has been looked at all the same."""
    first = wanted.until(growing(9), 9, {})
    raised = wanted.until(growing(12), 5, tags_of(first))
    assert (first["looks"], raised["looks"]) == ([5, 9], [5, 8, 9, 12])
    again = wanted.until(growing(12), 8, tags_of(raised))
    assert again["looks"] == raised["looks"] and again["made"] == [5, 9]
    listed = wanted.until(growing(10, None), 10, tags_of(first))
    assert (listed["asked"], listed["looks"]) == (None, [5, 9, 10]) and looks.sentences(listed) == []
    unseen = wanted.until(growing(3, None), 3, tags_of(wanted.until(growing(9), 3, {})))
    assert unseen["looks"] == [3], "nothing had been looked at yet"
    assert wanted.until(growing(3, None), 3, {}) is None


def test_what_splits_can_not_make_surer_is_refused_before_anything_is_trained():
    fixed = SimpleNamespace(**vars(cells("d")) | {"fixed_test": [True]})
    with pytest.raises(RequestError, match="pbmc has a test set of its own, on which all splits are tested"):
        rounds.check(growing(), {"pbmc": fixed})
    of_type = growing(until=UNTIL.model_copy(update={"type": "DC", "metric": "recall"}))
    with pytest.raises(RequestError, match="splits.until.type: unknown cell type 'DC'; did you mean d?"):
        rounds.check(of_type, {"pbmc": cells("d")})
    rounds.check(growing(until=None), {"pbmc": fixed})
    with pytest.raises(TypeError, match="who looks"):
        all_splits(growing(), "", 1)


def test_the_budget_of_a_launch_is_that_of_all_its_rounds():
    used = SimpleNamespace(given=SimpleNamespace(gpu=0.0, cpu=5400.0), seconds=1800.0)
    assert Allowance.of("2 cpu-hours").less(used) == Allowance.of("0.5 cpu-hours")
    assert Allowance.of("20 minutes").less(used).spent(used) is not None


def test_the_screen_shows_a_round_at_a_time():
    screen, trials = Progress(console()), growing().first(1).trials()
    for some in (trials[:2], trials[2:]):
        screen.begin(some, 0, dict.fromkeys((trial.key for trial in some), 1.0), 1.0, lambda: None)
        screen.event("finished", some[0].key, {})
        assert screen.line().startswith("1 of 2 done")


@pytest.mark.slow
def test_a_sweep_that_was_interrupted_wants_the_same_splits_in_the_same_order(ray_here, tmp_path):
    class Impatient(Silent):
        """Presses Ctrl-C in the second round."""

        def event(self, what, key, numbers):
            super().event(what, key, numbers)
            if len([one for one in self.events if one[0] == "finished"]) == 23:
                os.kill(os.getpid(), signal.SIGINT)

    sweep = growing(12, UNTIL.model_copy(update={"half_width": 0.5}))
    folders = [tmp_path / "undisturbed", tmp_path / "interrupted"]
    whole = converge(sweep, Request(folders[0]), Silent(), parts(), look=sure.wanted)
    broken = converge(sweep, Request(folders[1]), Impatient(), parts(), look=sure.wanted)
    assert whole.wanted > 20, "the premise: several rounds"
    assert whole.is_complete and not broken.is_complete and "Ctrl-C" in broken.stopped
    again = converge(sweep, Request(folders[1]), Silent(), parts(), look=sure.wanted)
    assert again.is_complete and again.wanted == whole.wanted == whole.finished
    assert again.before + again.finished == whole.wanted and again.before >= 23
    said = []
    for folder in folders:
        told = CliRunner().invoke(cli.app, ["status", "small", "--storage", str(folder)])
        said.append([line for line in told.output.splitlines() if "splits" in line])
        kept = sweep.first(whole.wanted // 4)
        check_whole(folder, kept)
        assert all(trained(folder, trial) == [1, 2, 3] for trial in kept.trials())
    assert said[0] == said[1] and f"{whole.wanted // 4} of at most 12 splits are wanted now" in " ".join(said[0])
    once_more = converge(sweep, Request(folders[0]), Silent(), parts(), look=sure.wanted)
    assert (once_more.is_complete, once_more.finished) == (True, 0)
