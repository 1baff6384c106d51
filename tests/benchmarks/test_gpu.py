"""benchmarks/gpu.py rehearsed on a CPU: every part runs, writes its records and says how it ended."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = (
    "environment",
    "faults",
    "logits",
    "kernels",
    "training",
    "memory",
    "features",
    "shortcuts",
    "variants",
    "packing",
    "resume",
)


def rehearse(out: Path, *options: str) -> tuple[int, list[dict]]:
    """Return the exit code and the records."""
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--rehearse", "--out", str(out), *options]
    ended = subprocess.run(command, stdout=subprocess.DEVNULL, timeout=580)
    return ended.returncode, [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def check_whole(code: int, records: list[dict], parts: tuple[str, ...]) -> None:
    """No part died or ran out of time; what a part found wrong with cellskew is another matter."""
    ends = {record["part"]: record for record in records if "status" in record}
    assert set(ends) == set(parts)
    assert {end["status"] for end in ends.values()} <= {"ok", "failed checks"}, ends
    for part in parts:
        checks = [record for record in records if record["part"] == part and "check" in record]
        assert len(checks) == ends[part]["checks"] > 0 and any(record["ok"] for record in checks)
    assert code == sum(end["status"] != "ok" for end in ends.values())


def test_one_part(tmp_path):
    code, records = rehearse(tmp_path, "--parts", "environment")
    check_whole(code, records, ("environment",))
    assert code == 0 and "| environment | ok |" in (tmp_path / "table.md").read_text()


def test_a_part_out_of_time_is_a_failed_part(tmp_path):
    code, records = rehearse(tmp_path, "--parts", "environment", "--minutes", "0.001")
    assert code == 1 and records[-1]["status"].startswith("out of time")


def test_what_goes_by_a_check_that_did_not_pass_is_skipped(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from gpu_parts.scene import Scene, Wrong

    def wrong() -> None:
        raise Wrong("so it is", {"found": 3})

    scene, made = Scene(True, tmp_path, time.monotonic() + 30, done={"before": True, "failed": False}), []
    steps = [
        scene.check("before", lambda: made.append(1), again=True),  # done again, for those after it, and not told again
        scene.check("a", lambda: {"made": made}, after="before"),
        scene.check("b", wrong, after="a"),
        scene.check("c", lambda: None, after="b"),
        scene.check("d", lambda: None, after="failed"),
        scene.check("e", lambda: None, seconds=60),
        scene.check("failed", wrong),
    ]
    found = {record["check"]: record for step in steps for record in step}
    assert {name: record["ok"] for name, record in found.items()} == dict(a=True, b=False, c=None, d=None, e=None)
    assert found["a"]["made"] == [1] and found["b"]["found"] == 3
    assert "`b`" in found["c"]["skipped"] and "it needs 60" in found["e"]["skipped"]


@pytest.mark.slow
def test_every_part(tmp_path):
    code, records = rehearse(tmp_path, "--minutes", "8")
    check_whole(code, records, PARTS)
    assert all(
        record["ok"]
        for record in records
        if record["part"] in ("environment", "variants", "packing", "resume")
        if record["ok"] is not None
    )
    assert "| training | batch |" in (tmp_path / "table.md").read_text()
