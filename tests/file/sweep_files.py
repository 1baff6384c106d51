"""The smallest sweep file, and how the tests of files read one."""

from pathlib import Path

import pytest

from data_pipeline.errors import RequestError
from sweeps.file import config

MINIMAL = """
name: small
datasets: [pbmc68k_reduced]
models: {scgpt: {epochs: 3}, majority: {}}
"""


def parse(text: str, **options) -> config.SweepSpec:
    return config.parse(text, Path("sweep.yaml"), **options)


def problems(text: str, **options) -> list[str]:
    with pytest.raises(RequestError) as caught:
        parse(text, **options)
    return list(caught.value.problems)
