"""What a trial is told: unknown keys refused with the near one, wrong kinds named, seeds that splits don't share."""

import itertools

import pytest
from conftest import trial_config

from data_pipeline.errors import RequestError
from trainables.config import TrialConfig, read
from trainables.trial.trial import run_trial


@pytest.fixture
def given(tmp_path) -> dict:
    return trial_config(tmp_path, "majority")


def test_a_key_nobody_reads_is_refused_with_the_one_that_was_meant(given):
    with pytest.raises(RequestError, match="unknown key 'sede'; did you mean seed"):
        run_trial(given | {"sede": 3}, lambda *report: None, None)


def test_all_mistakes_are_told_at_once(given):
    del given["split"]
    with pytest.raises(RequestError) as caught:
        read(given | {"gpu_share": 2, "device": "tpu", "zzz": 1})
    said = str(caught.value)
    assert all(word in said for word in ("split", "gpu_share", "device", "'zzz'; known are key"))


def test_what_is_left_out_has_one_default_and_nothing_can_be_changed(given):
    config = read(given)
    assert (config.seed, config.loss, config.weights) == (0, {"kind": "cross_entropy"}, None)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1


def test_what_is_recorded_is_plain_and_reads_as_the_same_trial(given):
    config = read(given)
    assert read(config.public()) == config.model_copy(update={"stop_file": None})


def test_every_split_trial_seed_and_stage_draws_numbers_of_its_own(given):
    def config(split: int, seed: int) -> TrialConfig:
        return read(given | {"split": given["split"] | {"seed": split}, "seed": seed})

    stages = ("init", "whole", "head")
    seeds = [config(*pair).stage_seed(stage) for pair in itertools.product(range(4), range(4)) for stage in stages]
    assert len(set(seeds)) == 4 * 4 * 3


def test_trials_of_a_split_that_are_compared_share_their_numbers(given):
    other = given | {"skew": {"kind": "exponential"}, "strategy": {"kind": "oversample"}, "loss": {"kind": "weighted"}}
    assert read(given).stage_seed("init") == read(other).stage_seed("init")
