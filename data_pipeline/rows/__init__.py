"""Which rows a trial trains on: SKEWS thin the training part, STRATEGIES repeat or leave out its rows."""

from data_pipeline.rows.resample import STRATEGIES
from data_pipeline.rows.skew import SKEWS

__all__ = ["SKEWS", "STRATEGIES"]
