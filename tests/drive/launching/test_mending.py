"""A finished trial that can't upload its files keeps its numbers; a later run brings the files, training nothing."""

import json
import shutil

from fake_trials import Silent, parts, spec
from typer.testing import CliRunner

from sweeps import cli
from sweeps.drive.converge import Request, converge
from sweeps.drive.launching.mending import GIVES_UP, mend
from sweeps.drive.outcome import Outcome
from sweeps.tracking.artifacts import Upload


def test_an_upload_that_fails_costs_no_number_and_is_done_by_the_next_run(ray_here, tmp_path):
    sweep, screen = spec(splits="[0]"), Silent()
    place = tmp_path / "artifacts" / "small"
    place.parent.mkdir()
    place.write_text("in the way")
    outcome = converge(sweep, Request(tmp_path), Silent(), parts())
    assert (outcome.finished, outcome.failed, outcome.is_complete) == (4, {}, False)
    assert len(outcome.lacking) == 4 and all(list(lacks) == ["upload"] for lacks in outcome.lacking.values())
    asked = ["--storage", str(tmp_path)]
    said = CliRunner().invoke(cli.app, ["status", "small", *asked]).output
    assert "4 trials: 4 finished" in said and said.count("FINISHED without upload: ") == 4
    told = json.loads(CliRunner().invoke(cli.app, ["status", "small", "--json", *asked]).output)
    assert len(told["lacking"]) == 4 and told["failed"] == [] == told["troubled"]
    place.unlink()
    again = converge(sweep, Request(tmp_path), screen, parts())
    assert again.is_complete and (again.before, again.finished, again.lacking) == (4, 0, {})
    assert "making what 4 finished trials lack" in screen.said and "begin" not in screen.said
    assert len(list(place.glob("**/per_class.csv"))) == 4
    assert "FINISHED without" not in CliRunner().invoke(cli.app, ["status", "small", *asked]).output
    shutil.rmtree(tmp_path / "trials")
    assert converge(sweep, Request(tmp_path), Silent(), parts()).is_complete


def finished_trials(folder, number: int) -> dict[str, dict[str, str]]:
    for at in range(number):
        (folder / f"k{at}").mkdir()
        (folder / f"k{at}" / ".told.json").write_text("{}"), (folder / f"k{at}" / "config.yaml").touch()
    return {f"k{at}": {"upload": "away"} for at in range(number)}


def test_a_store_that_stays_away_is_not_asked_for_every_trial(tmp_path):
    lacking, (blocked, told) = finished_trials(tmp_path, 9), (tmp_path / "file", [])
    blocked.touch()
    left = mend(lacking, tmp_path, lambda key: Upload(str(blocked), None, False), lambda *now: told.append(now))
    assert len(left) == 9 and len(told) == GIVES_UP, "the reason is another one now"


def test_a_folder_that_is_gone_is_no_reason_to_run_for_ever(tmp_path):
    (lacks,) = mend(
        {"k": {"upload": "away"}}, tmp_path, lambda key: Upload("", None, False), lambda *now: None
    ).values()
    assert list(lacks) == ["files"] and "the numbers are good" in lacks["files"]
    assert Outcome(1, finished=1, lacking={"k": lacks}).is_complete
    assert Outcome(1, finished=1, lacking={"k": {"confusion_matrix.png": "no ink"}}).is_complete
    assert not Outcome(1, finished=1, lacking={"k": {"per_class.csv": "no room"}}).is_complete
