"""One store per sweep, one door to it: away, shut or mistyped, it is a sentence within seconds and without secrets."""

import re
import shutil
from pathlib import Path

import pytest
from fake_trials import spec
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from servers import free_port
from typer.testing import CliRunner

from data_pipeline.errors import RequestError
from sweeps.cli import app
from sweeps.drive import before
from sweeps.drive.launching.job import Job
from sweeps.drive.launching.worker import work
from sweeps.drive.lineage import keep_file, starts_anew
from sweeps.tracking import connection, places, uris
from sweeps.tracking.kept.runs import RunState, runs_of

SECRET = "hunter2-and-more"
ASKING = ("status", "results", "report", "promote")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    monkeypatch.setattr(connection, "PAUSES", (0.01, 0.01))
    for name in ("URI", "USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", "")
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}")


# the door


@pytest.mark.parametrize("user", [f"ann:{SECRET}@", f"{SECRET}@"])
@pytest.mark.parametrize("command", ASKING)
def test_mlflow_away_is_one_sentence_without_the_secret(command, user, tmp_path):
    uri = f"http://{user}127.0.0.1:{free_port()}"
    more = ["--name", "x"] if command == "promote" else []
    ended = CliRunner().invoke(app, [command, "small", "--tracking-uri", uri, "--storage", str(tmp_path), *more])
    assert isinstance(ended.exception, RequestError), ended.output
    assert "doesn't answer" in str(ended.exception) and "Start it, or choose another" in str(ended.exception)
    assert SECRET not in str(ended.exception) + ended.output


def test_a_database_that_is_away_is_not_tried_for_minutes(tmp_path):
    with pytest.raises(RequestError, match="MLflow at postgresql://ann:.*@127.0.0.1:9/x doesn't answer") as refused:
        runs_of(f"postgresql://ann:{SECRET}@127.0.0.1:9/x", "small")
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RestException({"error_code": "UNAUTHENTICATED", "message": "You are not authenticated"}), "wants a user and"),
        (RestException({"error_code": "PERMISSION_DENIED", "message": "no"}), "set MLFLOW_TRACKING_USERNAME and"),
        (
            MlflowException(
                "403 != 200. Response body: 'Invalid Host header - possible'", error_code=PERMISSION_DENIED
            ),
            "refuses the host name lab:5000: start it with `mlflow server --allowed-hosts lab:5000",
        ),
    ],
)
def test_a_server_that_lets_nobody_in_says_what_to_set_at_once(error, said, monkeypatch, tmp_path):
    from sweeps.tracking.store import Tracker

    class Shut:
        def __getattr__(self, name: str):
            def refuse(*args: object, **named: object) -> None:
                raise error

            return refuse

    monkeypatch.setattr(connection, "MlflowClient", lambda uri: Shut())
    (tmp_path / "sweeps").mkdir()
    for ask in (lambda: connection.connect("http://lab:5000"), lambda: Tracker("http://lab:5000", "small", tmp_path)):
        with pytest.raises(RequestError) as refused:
            ask()
        assert said in str(refused.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            "HTTPSConnectionPool(...): (Caused by SSLError(1, '[SSL: WRONG_VERSION_NUMBER] wrong (_ssl.c:1010)'))",
            "not https",
        ),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed", "doesn't trust its certificate"),
        ("API request failed with error code 501 != 200. Response body: '<!DOCTYPE HTML>\\n", "HTTP 501"),
        ("Max retries exceeded (Caused by NewConnectionError([Errno 111] Connection refused'))", "connection refused"),
    ],
)
def test_what_libraries_say_of_a_server_is_said_in_words(error, said):
    told = connection.away("https://token@lab", error)
    assert re.search(f"doesn't answer: .*{said}", told) and "<" not in told and "token" not in told


def test_a_token_as_user_is_taken_for_a_token_and_shown_nowhere(monkeypatch):
    assert uris.take_credentials(f"https://{SECRET}@lab:5000") == "https://lab:5000"
    assert uris.os.environ["MLFLOW_TRACKING_TOKEN"] == SECRET
    for uri in (f"https://{SECRET}@lab/x", f"https://ann:{SECRET}@lab/x", f"postgresql+psycopg://ann:{SECRET}@lab/x"):
        assert SECRET not in uris.shown_uri(uri) + uris.without_secrets(f"can't reach {uri} now") + uris.bare(uri)
    assert uris.bare("postgresql://ann:pw@lab/x") == "postgresql://ann@lab/x"


@pytest.mark.parametrize("given", ["./mlruns", "localhost:5000", "mlflow", "ftp://lab/x"])
def test_what_is_no_store_is_refused_with_what_was_meant(given, tmp_path):
    with pytest.raises(RequestError, match="write http://HOST:5000 for a server"):
        uris.of_sweep(tmp_path, given, "small")


def test_a_database_that_is_not_there_is_refused_by_what_only_reads(tmp_path, monkeypatch):
    uri = places.sqlite_uri(tmp_path / "typo" / "mlflow.db")
    for ask in (lambda: uris.of_sweep(tmp_path, uri, "small"), lambda: uris.stores(tmp_path, uri)):
        with pytest.raises(
            RequestError, match="there is no database .*typo/mlflow.db, .* name the right one with --tra"
        ):
            ask()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(RequestError, match="there is no database"):
        uris.of_sweep(tmp_path, None, "small")
    assert uris.choose(tmp_path, None, "small", False) == (uri, "from MLFLOW_TRACKING_URI"), "run makes it"
    assert not (tmp_path / "typo").exists()


def test_one_place_makes_clients():
    found = [path.name for path in Path("sweeps").rglob("*.py") if "MlflowClient(" in path.read_text()]
    assert found == ["connection.py"]


# one store per sweep


def remember(storage: Path, uri: str) -> None:
    (storage / "sweeps").mkdir(exist_ok=True)
    keep_file(spec(), storage, uri)


def test_a_forgotten_option_goes_on_in_the_store_of_before(tmp_path, monkeypatch):
    assert uris.choose(tmp_path, None, "small", False) == (uris.default_uri(tmp_path), "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://lab:5000")
    assert uris.choose(tmp_path, None, "small", False) == ("http://lab:5000", "from MLFLOW_TRACKING_URI")
    assert uris.choose(tmp_path, "http://mine", "small", False) == ("http://mine", "")
    remember(tmp_path, f"http://ann:{SECRET}@other:5000/")
    assert uris.choose(tmp_path, None, "small", False) == ("http://other:5000", "as before")
    assert uris.choose(tmp_path, "http://bob:x@other:5000", "small", False)[0] == "http://bob:x@other:5000"
    assert not [path for path in (tmp_path / "sweeps").iterdir() if SECRET in path.read_text()]


def test_another_store_is_refused_unless_it_is_meant(tmp_path):
    remember(tmp_path, "http://lab:5000")
    with pytest.raises(RequestError, match="kept in MLflow at http://lab:5000, not at http://.*--move-tracking"):
        uris.choose(tmp_path, f"http://ann:{SECRET}@other", "small", False)
    assert uris.choose(tmp_path, "http://other", "small", True) == ("http://other", "")
    remember(tmp_path, uris.default_uri(tmp_path))
    assert not (tmp_path / "sweeps" / "small.tracking").exists(), "the folder's own store goes where the folder goes"
    (tmp_path / "mlflow.db").touch()
    with pytest.raises(RequestError, match="kept in MLflow at sqlite:"):
        uris.choose(tmp_path, "http://other", "small", False)


def test_news_that_wait_for_the_old_store_are_not_left_behind(tmp_path):
    remember(tmp_path, "http://lab:5000")
    (tmp_path / "sweeps" / "small.outbox.jsonl").write_text('{"run": "a"}\n')
    with pytest.raises(RequestError, match="1 records .* wait for MLflow at http://lab:5000: run once without"):
        before.check_nothing_waits(tmp_path, "small")


def test_a_database_elsewhere_puts_artifacts_under_the_storage(tmp_path, blank_database):
    from sweeps.tracking.store import Tracker

    (tmp_path / "sweeps").mkdir()
    shutil.copyfile(blank_database, tmp_path / "elsewhere.db")
    tracker = Tracker(f"sqlite:///{tmp_path}/elsewhere.db", "small", tmp_path)
    place = tracker.client.get_experiment(tracker.experiment_id).artifact_location
    assert place.removeprefix("file://") == str(tmp_path / "artifacts" / "small")
    tracker.close(10)


# a fresh start is a fresh run


def state(status: str, has_metrics: bool) -> RunState:
    return RunState("r", "k", "name", status, "", True, has_metrics, {})


def test_a_trial_starts_anew_if_asked_or_if_its_folder_is_gone(tmp_path):
    there, bare = tmp_path / "there", tmp_path / "bare"
    for folder in (there, bare):
        folder.mkdir()
        (folder / ".lock").touch()
    (there / "epoch-0001").mkdir()
    assert not starts_anew(state("RUNNING", True), there, False)
    assert starts_anew(state("RUNNING", True), bare, False) and starts_anew(
        state("FAILED", True), tmp_path / "no", False
    )
    assert starts_anew(state("FAILED", True), there, True) and starts_anew(state("RUNNING", False), there, True)
    assert not starts_anew(state("SCHEDULED", False), bare, True)


def test_a_superseded_run_is_left_out_and_another_takes_its_place(tracker, tmp_path):
    from sweeps.answers.runs import results

    trials = spec().trials()[:2]
    old = tracker.register(trials, {}, lambda done, total: None)
    key = trials[0].key
    tracker.report(old[key].run_id, {"epoch": 1, "train_loss": 0.5})
    assert tracker.outbox.drain(20)
    tracker.supersede([old[key]])
    assert set(tracker.runs()) == {trials[1].key}
    (new,) = tracker.register(trials[:1], {}, lambda done, total: None).values()
    tracker.report(new.run_id, {"epoch": 1, "train_loss": 0.123})
    assert tracker.outbox.drain(20)
    points = tracker.client.get_metric_history(new.run_id, "train_loss")
    assert new.run_id != old[key].run_id and [point.value for point in points] == [0.123]
    assert tracker.client.get_run(old[key].run_id).info.status == "KILLED"
    every = results.fetch(uris.default_uri(tmp_path), "small")
    table, said = results.choose(uris.default_uri(tmp_path), every, every=False)
    assert "or that trained anew" in said
    told = results.choose(uris.default_uri(tmp_path), every, every=True)[0].set_index("run_id")["settings"]
    assert told[old[key].run_id] == "superseded" and told[new.run_id] == ""
    assert sorted(table["run_id"]) == sorted([new.run_id, old[trials[1].key].run_id])


def test_from_scratch_wipes_once_and_not_again_when_a_worker_dies(tmp_path):
    folder = tmp_path / "trials" / "k"
    folder.mkdir(parents=True)
    (folder / "epoch-0001").mkdir()
    seen = []

    def trial(config: dict, report: object, checkpoint: object) -> dict:
        seen.append(sorted(path.name for path in folder.iterdir() if path.name[0] != "."))
        (folder / "history.json").touch()
        return {"epoch": 1}

    job = Job({"key": "k", "directory": str(folder)}, "r", {"cpu": 1, "gpu": 0}, {}, {}, fresh="launch1")
    for _ in range(2):
        work(job, lambda news: None, trial)
    assert seen == [["log.txt"], ["history.json", "log.txt"]]
