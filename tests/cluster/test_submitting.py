"""cellskew submit: one Ray job per sweep, found again, followed, left and ended; nothing secret in what Ray shows."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray._private.runtime_env.packaging import _get_excludes
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus
from requests.exceptions import RequestException
from typer.testing import CliRunner

from data_pipeline.errors import RequestError
from sweeps.cli import app
from sweeps.cluster.nodes import beginning
from sweeps.commands import jobs

SWEEP = """
name: mine
datasets: [{path: %s, label: kind}]
models: {majority: {}}
splits: {seeds: [0]}
"""
WHERE = ["--address", "http://head:8265", "--storage", "/shared/runs"]


class Cluster:
    """Ray's side: jobs that print line after line, one per look, and end with `code`."""

    def __init__(self) -> None:
        self.jobs: list[SimpleNamespace] = []
        self.lines, self.code, self.interrupt, self.stopped = ["one\n", "two\n"], 0, False, False

    def list_jobs(self) -> list[SimpleNamespace]:
        return self.jobs

    def submit_job(self, **asked: object) -> str:
        folder = Path(asked["runtime_env"]["working_dir"])
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        status = {"status": JobStatus.RUNNING, "message": "", "driver_exit_code": None, "looks": 0}
        self.jobs.append(SimpleNamespace(**asked, **status, files=files, start_time=len(self.jobs)))
        return asked["submission_id"]

    def get_job_info(self, job: str) -> SimpleNamespace:
        return next(one for one in self.jobs if one.submission_id == job)

    def get_job_status(self, job: str) -> JobStatus:
        found = self.get_job_info(job)
        found.looks += 1
        if self.interrupt:
            raise KeyboardInterrupt
        if found.looks >= len(self.lines):
            found.status = JobStatus.FAILED if self.code else JobStatus.SUCCEEDED
            found.driver_exit_code = self.code
        if self.stopped and found.looks >= len(self.lines):
            found.status, found.driver_exit_code = JobStatus.STOPPED, None
        return found.status

    def get_job_logs(self, job: str) -> str:
        return "".join(self.lines[: self.get_job_info(job).looks])

    def stop_job(self, job: str) -> None:
        self.lines.append("stopping: running trials save their epoch\n")
        self.stopped = True


@pytest.fixture
def cluster(monkeypatch) -> Cluster:
    made = Cluster()
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", lambda address: made)
    monkeypatch.setattr(jobs, "PAUSE", 0.0)
    monkeypatch.setattr(jobs, "_use_token", lambda: None)
    return made


@pytest.fixture
def sweep(tmp_path) -> Path:
    (tmp_path / "secret.txt").write_text("not to be sent")
    (tmp_path / "my sweep.yaml").write_text(SWEEP % "/data/x.h5ad")
    return tmp_path / "my sweep.yaml"


def submit(sweep: Path, *more: str, where: list[str] = WHERE):
    ended = CliRunner().invoke(app, ["submit", str(sweep), *where, *more])
    if isinstance(ended.exception, RequestError):
        raise ended.exception
    return ended


def test_the_file_alone_is_sent_and_what_is_printed_there_is_printed_here(cluster, sweep):
    ended = submit(sweep, "--max-concurrent", "2", "--retry-failed", "--tracking-uri", "http://mlflow:5000")
    assert ended.exit_code == 0 and ended.output.endswith("one\ntwo\n"), ended.output
    (job,) = cluster.jobs
    assert job.submission_id == "cellskew-mine" and job.entrypoint_num_cpus == 0 and job.files == ["my sweep.yaml"]
    expected = ["exec", "cellskew", "run", "my sweep.yaml", "--address", "auto", "--storage", "/shared/runs"]
    more = ["--max-concurrent", "2", "--tracking-uri", "http://mlflow:5000", "--retry-failed"]
    assert shlex.split(job.entrypoint) == expected + more
    assert int(job.runtime_env["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 600, "longer than an epoch"


def test_a_budget_and_who_is_told_of_the_end_travel_along(cluster, sweep):
    more = ["--max-failed", "9", "--budget", "40 gpu-hours", "--on-end", 'mail -s "$CELLSKEW_SAID" me@lab.org']
    submit(sweep, *more)
    assert shlex.split(cluster.jobs[0].entrypoint)[-6:] == more
    with pytest.raises(RequestError, match="give a number and one of"):
        submit(sweep, "--budget", "much")
    assert len(cluster.jobs) == 1


def test_a_second_submit_finds_the_first_and_a_later_one_has_another_name(cluster, sweep):
    cluster.interrupt = True
    assert submit(sweep).exit_code == 130
    cluster.interrupt = False
    again = submit(sweep)
    assert "cellskew-mine runs already" in again.output and "two" in again.output and len(cluster.jobs) == 1
    submit(sweep)
    cluster.jobs.append(
        SimpleNamespace(submission_id="cellskew-mine-too", status=JobStatus.RUNNING, start_time=9, metadata={})
    )
    assert [job.submission_id for job in cluster.jobs[:2]] == ["cellskew-mine", "cellskew-mine-2"]
    assert jobs.Jobs("http://head:8265").running("mine") is None, "another sweep's name begins alike"


@pytest.mark.parametrize("times", [2, 1000])
def test_a_dashboard_that_is_away_for_a_while_ends_no_following_and_is_never_the_sweeps_end(
    cluster, sweep, monkeypatch, times
):
    logs, away, clock = cluster.get_job_logs, [*range(times)], [0.0]

    def get_job_logs(job: str) -> str:
        if away and clock[0]:
            away.pop()
            raise RequestException("Connection refused")  # as it comes through Ray: no ConnectionError of Python's
        return logs(job)

    monkeypatch.setattr(cluster, "get_job_logs", get_job_logs)
    monkeypatch.setattr(jobs.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + 20.0))
    monkeypatch.setattr(jobs.time, "monotonic", lambda: clock[0])
    cluster.lines = ["one\n", "two\n", "three\n"]
    ended = submit(sweep)
    assert ended.output.count("no Ray dashboard answers at http://head:8265") == 1 + (times > 2)
    if times == 2:
        assert ended.exit_code == 0 and ended.output.endswith("three\n")
    else:
        assert ended.exit_code == 3 and "cellskew-mine goes on without us; follow it again: " in ended.stderr


def test_ctrl_c_leaves_the_sweep_alone_and_says_how_to_come_back(cluster, sweep):
    cluster.interrupt = True
    left = submit(sweep)
    assert left.exit_code == 130 and cluster.jobs[0].status == JobStatus.RUNNING
    assert "cellskew-mine goes on without us" in left.stderr
    back = left.stderr.partition("follow it again: ")[2].splitlines()[0]
    assert shlex.split(back) == ["cellskew", "submit", str(sweep), *WHERE]


def test_the_way_back_has_all_that_the_command_had(cluster, sweep, tmp_path, monkeypatch):
    (tmp_path / "my models").mkdir()
    monkeypatch.setenv("CELLSKEW_PLUGINS", str(tmp_path / "my models"))
    cluster.interrupt = True
    more = ["--tracking-uri", "http://mlflow:5000", "--code", str(tmp_path)]
    back = submit(sweep, *more).stderr.partition("follow it again: ")[2].splitlines()[0]
    env = ["env", f"CELLSKEW_PLUGINS={tmp_path / 'my models'}"]
    assert shlex.split(back) == [*env, "cellskew", "submit", str(sweep), *WHERE, *more]


def test_no_password_is_in_the_way_back(cluster, sweep):
    assert submit(sweep, "--detach").exit_code == 0
    said = submit(sweep, "--detach", "--tracking-uri", "http://ann:hunter2@mlflow:5000").output
    assert "hunter2" not in said and "--tracking-uri http://mlflow:5000 --stop" in said


def test_stop_ends_it_and_follows_it_to_its_end(cluster, sweep):
    with pytest.raises(RequestError, match="sweep mine isn't being run at http://head:8265"):
        submit(sweep, "--stop")
    assert submit(sweep, "--detach").exit_code == 0
    ended = submit(sweep, "--stop")
    assert "is asked to end; its trials save their epoch" in ended.output
    assert ended.output.endswith("stopping: running trials save their epoch\n") and ended.exit_code == 1


def test_a_checkout_is_sent_whole_and_run_in_place_of_what_is_installed(cluster, sweep, tmp_path):
    submit(sweep, "--code", str(tmp_path))
    (job,) = cluster.jobs
    assert shlex.split(job.entrypoint)[:5] == ["exec", "python", "-m", "sweeps.cli", "run"]
    assert "secret.txt" in job.files and job.runtime_env["excludes"] == list(jobs.LEFT_OUT)
    with pytest.raises(RequestError, match="isn't in it; put it there"):
        (tmp_path / "other").mkdir()
        submit(sweep, "--code", str(tmp_path / "other"))


def test_of_a_checkout_only_folders_at_its_top_are_left_out(tmp_path):
    is_left_out = _get_excludes(tmp_path, list(jobs.LEFT_OUT))
    for kept in ("sweeps/answers/data/checking.py", "trainables/weights/x.py", "sweeps/x.py"):
        assert not is_left_out(tmp_path / kept), kept
    for left in ("data/x.csv", "weights/best.pt", "cellskew-runs/x", "deep/x.h5ad", "sweeps/__pycache__/x.pyc"):
        assert is_left_out(tmp_path / left), left


def test_models_of_ones_own_are_sent_along(cluster, sweep, tmp_path, monkeypatch):
    for name in ("models", "more models"):
        (tmp_path / name / "__pycache__").mkdir(parents=True)
        (tmp_path / name / "__pycache__" / "x.pyc").touch()
    (tmp_path / "models" / "mine.py").write_text("# a model")
    (tmp_path / "more models" / "helper.py").touch()
    monkeypatch.setenv("CELLSKEW_PLUGINS", f"{tmp_path / 'models'}:{tmp_path / 'more models'}")
    submit(sweep)
    assert cluster.jobs[0].files == ["my sweep.yaml", "plugins-1/mine.py", "plugins-2/helper.py"]
    first = shlex.split(cluster.jobs[0].entrypoint)[1:5]
    assert first == ["env", "CELLSKEW_PLUGINS=plugins-1:plugins-2", "cellskew", "run"]
    submit(sweep, "--code", str(tmp_path))
    first = shlex.split(cluster.jobs[1].entrypoint)[1:4]
    assert first == ["env", "CELLSKEW_PLUGINS=models:more models", "python"]
    (tmp_path / "code").mkdir()
    inside = sweep.rename(tmp_path / "code" / sweep.name)
    with pytest.raises(RequestError, match="models isn't in it; put it there"):
        submit(inside, "--code", str(tmp_path / "code"))


def test_workers_find_models_of_ones_own_from_any_working_folder(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CELLSKEW_PLUGINS", "models")
    begin = beginning()
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.chdir("/")
    begin()
    assert os.environ["CELLSKEW_PLUGINS"] == str(tmp_path / "models")


def test_what_cannot_be_on_the_cluster_is_refused_all_at_once(cluster, sweep, tmp_path):
    text = SWEEP % "data/x.h5ad"
    sweep.write_text(text.replace("{majority: {}}", "{majority: {}, m: {model: mlp, on: {embeddings: e.h5ad}}}"))
    with pytest.raises(RequestError) as refused:
        submit(sweep, "--tracking-uri", "http://ann:hunter2@mlflow", where=[*WHERE[:2], "--storage", "runs"])
    said = list(refused.value.problems)
    assert len(said) == 4 and "data/x.h5ad isn't on the cluster, where this file alone is sent" in said[0]
    assert "e.h5ad isn't on the cluster" in said[1]
    assert "--storage runs: give the folder as it is on the cluster, from the root" in said[2]
    assert "Ray shows the commands of its jobs to everybody" in said[3] and "hunter2" not in str(said)
    assert not cluster.jobs
    with pytest.raises(RequestError) as refused:
        submit(sweep, "--shared", "gs://bucket/x", "--tracking-uri", "mlflow:5000", "--code", str(tmp_path))
    tracking, shared = refused.value.problems
    assert "did you mean http://mlflow:5000?" in tracking and "--shared gs://bucket/x: give s3://BUCKET" in shared
    assert not cluster.jobs, "and not on the cluster first"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionError("Failed to connect to Ray at address: http://head:8265."), "no Ray dashboard answers at"),
        (RuntimeError("Request failed with status code 500"), "no Ray dashboard answers at http://head:8265: Request"),
        (AuthenticationError("the authentication token is invalid"), "wants its token, and"),
    ],
)
def test_a_dashboard_that_is_away_or_wants_a_token_is_a_sentence(error, said, sweep, monkeypatch):
    def fail(address: str) -> None:
        raise error

    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", fail)
    monkeypatch.setattr(jobs, "_use_token", lambda: None)
    with pytest.raises(RequestError, match=said):
        submit(sweep)


def test_the_dashboard_is_found_by_rays_own_variables(monkeypatch):
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RequestError, match="say where the cluster is"):
        jobs.dashboard(None)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://head:8265")
    assert jobs.dashboard(None) == "http://head:8265" and jobs.dashboard("http://x") == "http://x"
    with pytest.raises(RequestError, match="give the address of Ray's dashboard, http://HEAD:8265"):
        jobs.Jobs("head:6379")


def test_help_of_submit_loads_no_ray():
    code = "import sys; from typer.testing import CliRunner; from sweeps.cli import app; "
    code += "CliRunner().invoke(app, ['submit', '-h']); print('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
