"""Sweeps converge: every trial one run, finished once, whatever happens. Fake trials, real Ray and MLflow."""

import dataclasses
import os
import subprocess
import sys

import pytest
from fake_trials import Silent, check_whole, drive, faults, parts, runs, spec, trained
from typer.testing import CliRunner

from data_pipeline.errors import RequestError
from sweeps import cli
from sweeps.drive.launching import order
from sweeps.tracking.locks.lock import SweepLock


def test_all_trials_finish_and_a_second_run_finds_nothing_to_do(ray_here, tmp_path):
    screen = Silent()
    outcome = drive(tmp_path, screen=screen)
    assert (outcome.wanted, outcome.finished, outcome.before, outcome.failed) == (8, 8, 0, {})
    assert outcome.is_complete and 0 < outcome.given["CPU"][0] <= outcome.given["CPU"][1] == pytest.approx(2)
    check_whole(tmp_path, spec())
    assert sorted(event for event, _ in screen.events).count("finished") == 8
    again = Silent()
    outcome = drive(tmp_path, screen=again)
    assert (outcome.before, outcome.finished) == (8, 0) and "begin" not in again.said
    assert all(trained(tmp_path, trial) == [1, 2, 3] for trial in spec().trials())


def test_runs_are_registered_with_params_tags_and_artifacts(ray_here, tmp_path):
    from mlflow import MlflowClient

    drive(tmp_path, spec(tracking="{checkpoints: link}"))
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    trial = spec().trials()[0]
    found = client.search_runs(
        [client.get_experiment_by_name("small").experiment_id], f"tags.`cellskew.trial` = '{trial.key}'"
    )
    (run,) = found
    assert run.data.params["recipe.epochs"] == "3" and run.data.params["split.seed"] == "0"
    assert run.data.tags["cellskew.model"] == "scgpt" and run.data.tags["cellskew.skew"] == "natural"
    assert run.data.tags["cellskew.checkpoint"] == f"{tmp_path}/trials/{trial.key}/checkpoint"
    others = client.search_runs([run.info.experiment_id], "tags.`cellskew.model` = 'majority'")
    assert others and all("cellskew.checkpoint" in one.data.tags for one in others), "baselines leave theirs too"
    assert "cellskew 0." in run.data.tags["cellskew.packages"] and run.data.tags["cellskew.code"]
    assert "cores" in run.data.tags["cellskew.machine"] and run.data.tags["cellskew.host"]
    assert run.data.tags["cellskew.digest"] == "d0" and run.data.tags["cellskew.sweep"] == "small"
    assert [artifact.path for artifact in client.list_artifacts(run.info.run_id)] == [
        "history.json",
        "log.txt",
        "per_class.csv",
    ]


def test_adding_a_seed_runs_only_the_new_trials_and_removing_one_leaves_its_runs(ray_here, tmp_path):
    drive(tmp_path)
    outcome = drive(tmp_path, spec(splits="[0, 2]"))
    assert (outcome.wanted, outcome.before, outcome.finished) == (8, 4, 4)
    assert len(runs(tmp_path)) == 12
    check_whole(tmp_path, spec(splits="[0, 1, 2]"))


def test_trials_start_by_their_turns_each_splits_baselines_first(ray_here, tmp_path):
    screen = Silent()
    drive(tmp_path, screen=screen, max_concurrent=1)
    models = {trial.key: (trial.labels["split"], trial.model) for trial in spec().trials()}
    started = [models[key] for event, key in screen.events if event == "started"]
    assert started == [(split, model) for split in "01" for model in ("majority",) * 2 + ("scgpt",) * 2]


def test_a_trial_that_raises_is_failed_with_its_reason_and_the_others_go_on(ray_here, tmp_path):
    faults(tmp_path, {"run": "scgpt·none·cross_entropy·natural·pbmc68k_reduced·s1", "epoch": 2, "kind": "raise"})
    outcome = drive(tmp_path)
    assert outcome.finished == 7 and not outcome.is_complete
    assert list(outcome.failed.values()) == ["ValueError: loss is not finite in epoch 2"]
    status, history, tags = runs(tmp_path)["scgpt·none·cross_entropy·natural·pbmc68k_reduced·s1·0"]
    assert status == "FAILED" and [step for step, _ in history["train_loss"]] == [1]
    assert tags["cellskew.reason"] == "ValueError: loss is not finite in epoch 2"
    assert tags["cellskew.cause"] == "trial" and "in fail" in tags["cellskew.traceback"]


def test_a_failed_trial_waits_for_retry_failed_and_then_goes_on_from_its_last_epoch(ray_here, tmp_path):
    fault = {"run": "scgpt·none·cross_entropy·natural·pbmc68k_reduced·s1", "epoch": 2, "kind": "raise", "times": 1}
    faults(tmp_path, fault)
    drive(tmp_path)
    left_alone = drive(tmp_path)
    assert left_alone.finished == 0 and len(left_alone.failed) == 1
    assert drive(tmp_path, retry_failed=True).finished == 1
    check_whole(tmp_path, spec())
    failed = next(trial for trial in spec().trials() if fault["run"] in trial.name)
    assert trained(tmp_path, failed) == [1, 2, 2, 3]


def test_from_scratch_starts_a_failed_trial_over(ray_here, tmp_path):
    fault = {"run": "scgpt·none·cross_entropy·natural·pbmc68k_reduced·s1", "epoch": 2, "kind": "raise", "times": 1}
    faults(tmp_path, fault)
    drive(tmp_path)
    faults(tmp_path)
    drive(tmp_path, retry_failed=True, from_scratch=True)
    check_whole(tmp_path, spec())
    failed = next(trial for trial in spec().trials() if fault["run"] in trial.name)
    assert trained(tmp_path, failed) == [1, 2, 3]


def test_what_failed_for_want_of_memory_is_run_again_without_being_asked(ray_here, tmp_path):
    faults(
        tmp_path,
        {"run": "scgpt·none·cross_entropy·natural·pbmc68k_reduced·s0", "epoch": 1, "kind": "memory", "times": 4},
    )
    outcome = drive(tmp_path)
    assert list(outcome.failed.values()) == ["MemoryError: cannot allocate 3 GB"]
    assert drive(tmp_path).finished == 1
    check_whole(tmp_path, spec())


def test_a_request_error_in_a_trial_keeps_its_words(ray_here, tmp_path):
    faults(tmp_path, {"run": "scgpt·none·cross_entropy·natural·pbmc68k_reduced·s0", "epoch": 1, "kind": "request"})
    assert list(drive(tmp_path).failed.values()) == ["class b lacks 3 cells; ask for fewer"]


def test_a_trial_that_a_node_fails_is_tried_again_for_free(ray_here, tmp_path):
    faults(
        tmp_path, {"run": "scgpt·none·cross_entropy·natural·pbmc68k_reduced·s1", "epoch": 2, "kind": "node", "times": 1}
    )
    screen = Silent()
    assert drive(tmp_path, spec(max_failures=0), screen).finished == 8
    check_whole(tmp_path, spec())
    _, _, tags = runs(tmp_path)["scgpt·none·cross_entropy·natural·pbmc68k_reduced·s1·0"]
    assert "node n1 does not see weights /weights; it goes on elsewhere" in tags["cellskew.trouble"]
    assert screen.said[-1] == "end" and not (tmp_path / "sweeps" / "small.barred.json").exists()


@pytest.mark.slow
def test_a_sweep_whose_only_node_fails_all_trials_stops_and_says_why(ray_here, tmp_path):
    faults(tmp_path, {"run": "scgpt", "epoch": 1, "kind": "node"})
    outcome = drive(tmp_path)
    assert "no node is left that trials don't fail on: NodeError: node n1 does not see" in outcome.stopped
    assert not outcome.failed and outcome.finished < 8
    faults(tmp_path)
    assert drive(tmp_path).is_complete


@pytest.mark.faults
def test_a_killed_worker_is_replaced_and_the_trial_goes_on(ray_here, tmp_path):
    fault = {"run": "scgpt·none·cross_entropy·natural·pbmc68k_reduced·s1", "epoch": 3, "kind": "kill", "times": 2}
    faults(tmp_path, fault)
    assert drive(tmp_path).finished == 8
    check_whole(tmp_path, spec())
    killed = next(trial for trial in spec().trials() if fault["run"] in trial.name)
    assert trained(tmp_path, killed) == [1, 2, 3, 3, 3]


@pytest.mark.faults
def test_epochs_after_the_last_checkpoint_are_trained_again_and_reported_once(ray_here, tmp_path):
    fault = {"run": "scgpt·none·cross_entropy·natural·pbmc68k_reduced·s1", "epoch": 3, "kind": "kill", "times": 1}
    faults(tmp_path, fault, save_every=100)
    assert drive(tmp_path).finished == 8
    check_whole(tmp_path, spec())
    killed = next(trial for trial in spec().trials() if fault["run"] in trial.name)
    assert trained(tmp_path, killed) == [1, 2, 3, 1, 2, 3]


def test_the_driver_does_without_torch():
    code = "import sys, sweeps.drive.launching.launch; from sweeps.drive.converge import real_parts; real_parts();"
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False", "two hundred megabytes, two seconds"


def test_networks_on_a_cluster_that_has_no_gpu_yet_are_told_of(ray_here, tmp_path):
    import ray

    screen, asked, here = Silent(), Silent(), ray.get_runtime_context().gcs_address
    drive(tmp_path, screen=screen, address=here)
    assert any("no node of the cluster has a GPU now, so these train on CPUs: scgpt." in said for said in screen.said)
    drive(tmp_path, spec(resources="{scgpt: {gpu: 0}}", seeds="[0, 1]"), screen=asked, address=here)
    assert not any("no node of the cluster has a GPU" in said for said in asked.said), "the file says so itself"


@pytest.mark.faults
def test_a_worker_that_keeps_dying_fails_its_trial_alone(ray_here, tmp_path):
    faults(tmp_path, {"run": "scgpt·none·cross_entropy·natural·pbmc68k_reduced·s1", "epoch": 2, "kind": "kill"})
    outcome = drive(tmp_path, spec(max_failures=1))
    assert outcome.finished == 7
    (reason,) = outcome.failed.values()
    assert "its worker died 2 times" in reason
    _, _, tags = runs(tmp_path)["scgpt·none·cross_entropy·natural·pbmc68k_reduced·s1·0"]
    assert tags["cellskew.cause"] == "outside"


def test_whatever_goes_wrong_has_its_line_in_status(ray_here, tmp_path):
    going_on = {
        "scgpt·none·cross_entropy·natural·pbmc68k_reduced·s0": (
            "memory",
            2,
            "MemoryError: cannot allocate 3 GB; tried again (time 1",
        ),
        "scgpt·none·cross_entropy·natural·pbmc68k_reduced·s1": ("kill", 2, "its worker died once"),
        "scgpt·none·cross_entropy·exponential-20·pbmc68k_reduced·s0": (
            "retreat",
            1,
            "memory ran out, so 4 cells at a time instead of",
        ),
    }
    over = {
        "scgpt·none·cross_entropy·exponential-20·pbmc68k_reduced·s1": (
            "raise",
            2,
            "left alone until --retry-failed",
            "not finite",
        ),
        "majority·none·cross_entropy·natural·pbmc68k_reduced·s0": (
            "disk",
            2,
            "the next run tries it again",
            "No space left on device",
        ),
        "majority·none·cross_entropy·natural·pbmc68k_reduced·s1": (
            "shard",
            1,
            "the next run tries it again",
            "encode this part anew",
        ),
    }
    once = [{"run": run, "kind": kind, "epoch": at, "times": 1} for run, (kind, at, _) in going_on.items()]
    faults(tmp_path, *once, *({"run": run, "kind": kind, "epoch": at} for run, (kind, at, *_) in over.items()))
    assert (drive(tmp_path).finished, len(runs(tmp_path))) == (5, 8)
    said = CliRunner().invoke(cli.app, ["status", "small", "--storage", str(tmp_path)]).output
    lines = [line.strip() for line in said.splitlines()]
    for run, (_, _, reason) in going_on.items():
        at = lines.index(f"FINISHED in spite of trouble: {run}·0")
        assert lines[at + 1].startswith(reason)
    for run, (_, _, then, reason) in over.items():
        at = lines.index(f"FAILED {run}·0: {then}")
        assert reason in lines[at + 1]


def test_changed_data_are_refused(ray_here, tmp_path):
    drive(tmp_path)
    with pytest.raises(RequestError, match="has changed since 8 trials.*Put the old file back") as caught:
        drive(tmp_path, work=parts(digest="d1"))
    assert "another `name:`" in str(caught.value)
    assert len(runs(tmp_path)) == 8


def test_an_impossible_skew_is_refused_before_anything_is_made(tmp_path):
    sweep = spec(exclude="[]").model_copy(update={"skews": spec().skews[:1]})
    demanding = sweep.skews[0].__class__("natural", {"total": 10_000}, "natural-10000")
    with pytest.raises(RequestError, match=r"pbmc68k_reduced · split 0 · natural-10000: .*10,?000"):
        drive(tmp_path / "new", sweep.model_copy(update={"skews": [demanding]}))
    assert not (tmp_path / "new").exists()


def test_more_than_a_node_has_is_refused(ray_here, tmp_path):
    sweep = spec(resources="{scgpt: {cpu: 64}}")
    with pytest.raises(RequestError) as caught:
        drive(tmp_path, sweep)
    (said,) = caught.value.problems
    assert "resources.scgpt: a trial asks for 64 CPU and 0 GPU, but the largest node has 2 CPU" in said


def test_a_worker_that_does_not_let_go_in_time_costs_the_next_trial_nothing(ray_here, tmp_path):
    """Tune drops such a trial without a word and keeps the worker for it; the sweep once stood still, a trial lost."""

    once = tmp_path / "once"

    def impatient(config, report, checkpoint):
        os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "60" if once.exists() else "0"  # read as the next trial comes
        once.touch()
        return usual(config, report, checkpoint)

    work = parts()
    usual = work.run_trial
    outcome = drive(tmp_path, work=dataclasses.replace(work, run_trial=impatient))
    assert outcome.finished == 8 and not outcome.failed
    check_whole(tmp_path, spec())


def test_a_live_driver_refuses_a_second_one(ray_here, tmp_path):
    with (
        SweepLock(tmp_path / "sweeps" / "small.lock"),
        pytest.raises(RequestError, match=rf"another cellskew is running this sweep: pid {os.getpid()} on "),
    ):
        drive(tmp_path)


def test_ended_trials_leave_little_in_the_driver(ray_here, tmp_path, monkeypatch):
    controllers, choose = [], order.InOrder.choose_trial_to_run

    def held(scheduler, controller):
        controllers.append(controller)
        return choose(scheduler, controller)

    monkeypatch.setattr(order.InOrder, "choose_trial_to_run", held)
    drive(tmp_path)
    ended = controllers[0].get_trials()
    assert len(ended) == 8
    assert not any(trial.metric_analysis or trial.metric_n_steps or "news" in trial.last_result for trial in ended)
