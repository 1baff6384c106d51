"""A job says to a worker what it said to the driver, and nobody adds to it on the way."""

import dataclasses
import json
from pathlib import Path

import pytest

from sweeps.drive.launching.job import Job
from sweeps.tracking.artifacts import Upload

CONFIG = {"key": "k1", "directory": "/runs/trials/k1", "options": {"size": "tiny"}, "weights": None, "seed": 0}


@pytest.mark.parametrize("upload", [None, Upload("file:///runs/artifacts", None, with_checkpoint=True)])
def test_a_job_survives_its_way_as_text(upload):
    job = Job(CONFIG, "run", {"cpu": 1.0, "gpu": 0.05}, {"cellskew.code": "1"}, {"name": "pbmc"}, True, upload)
    assert Job.from_text(job.to_text()) == job
    assert job.key == "k1" and job.directory == Path("/runs/trials/k1")


def test_a_job_is_not_extended():
    job = Job(CONFIG, "run", {}, {}, {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        job.fresh = True
    with pytest.raises(TypeError, match="unexpected keyword argument 'priority'"):
        Job.from_text(json.dumps(json.loads(job.to_text()) | {"priority": 3}))
