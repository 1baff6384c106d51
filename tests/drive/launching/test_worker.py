"""What a worker sends of a trial: numbers as numbers, how they were computed as tags."""

from typing import Any

import pytest

from sweeps.cluster import origin
from sweeps.drive.launching import worker
from sweeps.drive.launching.job import Job
from sweeps.drive.launching.news import _where_tags


def test_how_a_trial_was_computed_is_sent_beside_its_numbers(tmp_path):
    def trainable(config: dict[str, Any], report: Any, checkpoint: Any) -> dict[str, Any]:
        final = {"epoch": 1, "final": 1, "test_macro_f1": 0.5, "tags": {"precision": "bfloat16", "device": "a card"}}
        report(final, None)
        return final

    news: list[dict[str, Any]] = []
    job = Job({"key": "t", "directory": str(tmp_path / "t")}, "r", {"cpu": 1, "gpu": 0}, {}, {})
    worker.work(job, news.append, trainable)
    assert news[-1]["final"] == {"epoch": 1, "final": 1, "test_macro_f1": 0.5}
    assert news[-1]["where"]["precision"] == "bfloat16" and "host" in news[-1]["where"]


def test_a_trial_that_is_registered_again_keeps_the_code_and_the_machine_that_trained_it(tmp_path, monkeypatch):
    """In another store, or another sweep: a run that named the code which found it finished would mislead."""

    def trainable(config: dict[str, Any], report: Any, checkpoint: Any) -> dict[str, Any]:
        (tmp_path / "t" / "result.json").write_text('{"history": [], "final": {}}')
        return {"epoch": 1, "final": 1}

    def tags_of(commit: str) -> dict[str, str]:
        tags = {"cellskew.code": f"0.1.0, commit {commit}", "mlflow.source.git.commit": commit}
        job = Job({"key": "t", "directory": str(tmp_path / "t")}, "r", {"cpu": 1, "gpu": 0}, tags, {})
        told: list[dict[str, Any]] = []
        worker.work(job, told.append, trainable)
        return _where_tags(told[-1]["where"])

    first = tags_of("old")
    assert first["mlflow.source.git.commit"] == "old" and "cellskew.filled" not in first
    monkeypatch.setattr(origin.socket, "gethostname", lambda: "another")
    again = tags_of("new")
    assert again["cellskew.filled"] and first.items() <= again.items()
    (tmp_path / "t" / origin.KEPT).write_text('{"code": "0.1.0"}')
    assert tags_of("new")["mlflow.source.git.commit"] == origin.UNKNOWN, "trained by an installed package"
    (tmp_path / "t" / origin.KEPT).unlink()
    assert tags_of("new")["cellskew.code"] == origin.UNKNOWN, "of a folder that an earlier version left"


@pytest.mark.parametrize("lacking", ["stop_file", "shards", "weights", "generated"])
def test_a_node_that_does_not_see_what_a_trial_needs_is_named_and_makes_nothing(tmp_path, lacking):
    for name in ("sweeps", "shards", "weights", "generated"):
        (tmp_path / name).mkdir()
    config = {name: str(tmp_path / name) for name in ("shards", "weights", "generated")}
    config |= {"stop_file": str(tmp_path / "sweeps" / "small.stop"), "rows": None}
    worker.check_node(config)
    gone = tmp_path / ("sweeps" if lacking == "stop_file" else lacking)
    gone.rmdir()
    with pytest.raises(worker.NodeError, match=rf"node .* does not see .*{gone}") as refused:
        worker.check_node(config)
    assert worker.cause(refused.value) == "node"


@pytest.mark.parametrize("is_finished", [True, False])
def test_from_scratch_leaves_what_another_sweep_has_finished(tmp_path, is_finished):
    """A trial's folder is one for all sweeps: its result, and the network that lies beside it, are theirs as well."""
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "result.json").write_text('{"history": [], "final": {}}' if is_finished else '{"history": [')
    job = Job({"key": "t", "directory": str(tmp_path)}, "r", {"cpu": 1, "gpu": 0}, {}, {}, fresh="launch")
    there: list[bool] = []

    def trainable(*_: Any) -> dict[str, Any]:
        there.append((tmp_path / "checkpoint").exists() and (tmp_path / "result.json").exists())
        return {"epoch": 1, "final": 1}

    worker.work(job, lambda news: None, trainable)
    assert there == [is_finished]
