"""What the loss of a stage is told of its rows."""

import numpy as np
from conftest import trial_config

from trainables.config import read
from trainables.material import open_material


def test_where_draws_are_balanced_on_average_the_loss_is_told_the_average(tmp_path):
    """Of one epoch of independent draws the mix would be off by chance, and with it what `posthoc` makes of it."""
    material = open_material(read(trial_config(tmp_path, "majority", strategy={"kind": "scbalance"})))
    drawn, told = material.counts(material.training_rows(0)), material.counts_on_average()
    assert told.tolist() == [len(material.kept) / len(material.classes)] * len(material.classes)
    assert np.ptp(drawn) > 0 and drawn.sum() == told.sum()
    plain = open_material(read(trial_config(tmp_path / "b", "majority", strategy={"kind": "oversample"})))
    assert np.array_equal(plain.counts_on_average(), plain.counts(plain.training_rows(0)))
