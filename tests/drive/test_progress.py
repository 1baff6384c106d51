"""What a person sees while a sweep runs, on a terminal of 80 columns and elsewhere; the time left: kinds differ,
estimates are wrong, drivers come back after a night."""

import io
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from fake_trials import spec
from rich.cells import cell_len
from rich.console import Console

from sweeps.cluster.resources import Shape
from sweeps.drive import progress
from sweeps.drive.launching.news import Tally, utilisation
from sweeps.drive.progress import Progress
from sweeps.pace import Due, Ended, keep, kept, learnt, place, seconds_left


def terminal(columns: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=columns, height=30, soft_wrap=True)


def shown(screen: Progress) -> list[str]:
    """Return the lines of the picture as it is drawn now."""
    drawn = Console(file=io.StringIO(), width=screen.console.width)
    drawn.print(screen._picture())
    return [line for line in drawn.file.getvalue().splitlines() if line.strip()]


def begun(screen: Progress, cores: float = 2.0) -> list:
    trials = spec().trials()
    screen.begin(trials, 3, dict.fromkeys((trial.key for trial in trials), 60.0), cores, lambda: None)
    return trials


def test_what_is_prepared_and_how_far_is_seen_before_the_first_trial():
    with Progress(terminal()) as screen:
        screen.count("preparing: genes", 3, 6)
        assert "preparing: genes: 3 of 6" in shown(screen)[0] and "elapsed 0:00:00" in shown(screen)[0]
        screen.count("preparing: genes", 6, 6)
        assert shown(screen) == []
        screen.count("preparing: blocks encoded", 7, 8)
        screen.passed("preparing: blocks encoded")
        assert shown(screen) == [], "of an end that others tell no step stays behind"
    assert screen.live is None


def test_threads_that_prepare_beside_each_other_draw_one_picture(monkeypatch):
    begun: list[float] = []

    def slow(**about: object) -> SimpleNamespace:
        begun.append(time.monotonic()), time.sleep(0.02)
        return SimpleNamespace(start=lambda: None, stop=lambda: None)

    monkeypatch.setattr(progress, "Live", slow)
    with Progress(terminal()) as screen, ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: screen.count(f"preparing: {number}", 1, 2), range(4)))
    assert len(begun) == 1, "a second one would stay behind when the first is ended"


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_none_is_broken(columns):
    with Progress(terminal(columns)) as screen:
        trials = begun(screen)
        screen.short = {key: f"细胞类型 🧬 {name} " * 9 for key, name in screen.names.items()}
        for trial in trials[:2]:
            screen.event("started", trial.key, {})
        screen.event("finished", trials[0].key, {"test_macro_f1": 0.61})
        lines = shown(screen)
        assert len(lines) == 4, "bar, counts, the best, what runs"
        assert all(cell_len(line) <= columns - len("^C^C") for line in lines), (
            "else what a key echoes makes a line more"
        )


def test_the_best_says_which_metric_on_which_cells():
    with Progress(terminal()) as screen:
        trial = begun(screen)[0]
        screen.event("finished", trial.key, {"test_macro_f1": 0.61})
        assert trial.name == "scgpt·none·cross_entropy·natural·pbmc68k_reduced·s0·0"
        assert "best macro_f1 on test cells 0.610: scgpt·natural·s0" in screen.line(), "without what all have"


def test_the_time_left_begins_as_planned_and_is_kept_for_status(tmp_path):
    file = tmp_path / "small.left.json"
    screen = Progress(Console(file=io.StringIO()), file)
    trials = begun(screen)
    assert f"left about 0:{len(trials) // 2:02d}:00" in screen.line(), "minutes each, two at once"
    screen.event("started", trials[0].key, {})
    assert kept(file, os.getpid()) == pytest.approx(60 * len(trials) / 2, abs=5)
    screen.end()
    assert kept(file, os.getpid()) is None
    begun(screen, cores=0.0)
    assert "left ?" in screen.line(), "GPUs train, of which nothing is known yet"


def test_a_driver_that_goes_on_knows_how_long_trials_take(tmp_path, monkeypatch):
    file, now = tmp_path / "small.left.json", [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    first = Progress(Console(file=io.StringIO()), file)
    trials = begun(first, cores=1.0)
    for trial in trials[:2]:
        first.event("started", trial.key, {})
        now[0] += 6.0  # a tenth of what was expected
        first.event("finished", trial.key, {})
    first.end()
    second = Progress(Console(file=io.StringIO()), file)
    left = begun(second, cores=1.0)
    kinds = [trial.called for trial in trials[:2]]
    expected = sum(6.0 if trial.called in kinds else 60.0 for trial in left)
    assert second._seconds_left() == pytest.approx(expected)
    second.end()
    assert Progress(Console(file=io.StringIO()), file).taught == second.taught, "however often it is interrupted"


def test_sentences_are_broken_between_words_and_commands_never():
    screen = Progress(terminal())
    screen.say("word " * 40 + "\n  again: cellskew resume small --storage " + "long/" * 20)
    lines = screen.console.file.getvalue().splitlines()
    assert max(map(len, lines[:-1])) <= 80 and lines[-1].endswith("long/" * 20)
    elsewhere = Progress(Console(file=io.StringIO(), width=80, soft_wrap=True))
    elsewhere.say("word " * 40)
    assert len(elsewhere.console.file.getvalue().splitlines()) == 1


def test_what_trials_were_given_is_that_of_all_rounds():
    first, second = Tally(given=Shape(0.0, 10.0), had=Shape(0.0, 40.0)), Tally(given=Shape(0.0, 50.0))
    first.seconds, second.seconds, second.had = 10.0, 20.0, Shape(0.0, 80.0)
    assert utilisation([first, second]) == {"CPU": (2.0, 4.0)}


def ends(kind: str, number: int, expected: float, took: float, every: float, begin: float = 0.0) -> list[Ended]:
    return [Ended(kind, expected, took, begin + every * (place + 1)) for place in range(number)]


def test_one_kind_that_was_thought_dear_says_nothing_of_the_others():
    """Ten dear trials ended in a fifth of the time expected: the hundred cheap ones aren't five times faster for it."""
    dear = ends("trees", 10, 15.0, 3.0, 1.5)  # two at once
    assert seconds_left(dear, [Due("lr", 1.0)] * 100) == pytest.approx(50)
    assert seconds_left(dear, [Due("lr", 1.0)] * 100 + [Due("trees", 15.0)] * 10) == pytest.approx(65)


def test_what_each_trial_takes_whatever_its_size_is_learnt_from_long_ones():
    """Each starts and is put away in 2 s; what is left are hundreds that train in no time."""
    sizes = [9.0, 8.0, 7.0, 5.0]
    long = [Ended("probe", size, 2.0 + 0.5 * size, 6.0 * place) for place, size in enumerate(sizes)]
    pace = sum(one.took for one in long[1:]) / 18.0
    assert seconds_left(long, [Due("probe", 0.1)] * 200) == pytest.approx(200 * 2.05 / pace)
    alike = [Ended("probe", size, 2.0 * size, 6.0 * place) for place, size in enumerate([9.0, 9.1, 8.9])]
    assert learnt(alike, [Due("probe", 1.0)]) == pytest.approx([2.0]), "nothing tells short ones apart"


def test_a_trial_is_not_shared_out_and_too_few_tell_nothing():
    assert seconds_left(ends("lr", 30, 1.0, 1.0, 0.25), [Due("lr", 8.0)]) == pytest.approx(8)
    assert seconds_left(ends("lr", 2, 1.0, 1.0, 1.0), [Due("lr", 1.0)]) is None
    assert seconds_left(ends("lr", 5, 1.0, 1.0, 1.0), []) is None


def test_until_trials_ended_the_plan_holds_and_of_what_gpus_train_nothing_is_said():
    due = [Due("lr", 4.0)] * 3
    assert seconds_left([], due, cores=2.0) == 6 and seconds_left(ends("lr", 2, 1.0, 3.0, 1.0), due, cores=2.0) == 18
    assert seconds_left([], due, cores=0.0) is None


def test_whoever_asks_hears_what_the_drivers_screen_says(tmp_path):
    file = place(tmp_path, "mine")
    keep(file, 60.0)
    assert kept(file, os.getpid()) == pytest.approx(60, abs=5)
    assert kept(file, os.getpid() + 1) is None, "kept by a driver that is gone"
    keep(file, None)
    assert kept(file, os.getpid()) is None and kept(tmp_path / "none", 1) is None


def test_a_night_between_two_drivers_is_not_the_pace():
    runs = ends("lr", 10, 1.0, 2.0, 2.0) + ends("lr", 5, 1.0, 2.0, 2.0, begin=30_000.0)
    assert seconds_left(runs, [Due("lr", 1.0)] * 10) == pytest.approx(20, rel=1.5)


def test_what_native_code_writes_is_kept_off_the_screen(tmp_path, capfd):
    log = tmp_path / "sweeps" / "small.native.log"
    with progress.apart(log):
        print("ours", file=sys.stderr)
        os.write(2, b"core_worker.cc: an actor has arguments\n")
        screen = progress.console()
        screen.print("a line")
    os.write(2, b"after\n")
    screen.print("of a thread that is late")
    assert capfd.readouterr().err == "ours\na line\nafter\nof a thread that is late\n"
    assert log.read_text() == "core_worker.cc: an actor has arguments\n"
    with progress.apart(log):
        pass
    assert not log.exists(), "nothing was written"
    for wrote in (b"", b"from the driver\n"):
        with progress.apart(log):
            os.write(2, wrote)
            with progress.apart(log):
                pass
            os.write(2, b"goes on\n")
        assert log.read_bytes() == wrote + b"goes on\n", "a run that is refused meanwhile takes nothing away"
    (tmp_path / "file").touch()
    with progress.apart(tmp_path / "file" / "x.log"):
        print("no log can be made", file=sys.stderr)
    assert capfd.readouterr().err == "no log can be made\n"
