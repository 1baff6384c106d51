"""Multinomial logistic regression, the baseline to beat, and its solver."""

from trainables.models.logistic_regression.model import SPEC

__all__ = ["SPEC"]
