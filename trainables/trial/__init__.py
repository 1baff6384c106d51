"""One trial, from its shards to its metrics and files."""

from trainables.trial.trial import run_trial

__all__ = ["run_trial"]
