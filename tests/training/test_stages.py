"""What the loss of a stage is told of its rows, and what a network has learnt by it."""

import numpy as np
from conftest import trial_config

from trainables.config import read
from trainables.cost import Cost
from trainables.material import open_material
from trainables.spec import get
from trainables.training.training import _Run


def test_where_draws_are_balanced_on_average_the_loss_is_told_the_average(tmp_path):
    """Of one epoch of independent draws the mix would be off by chance, and with it what `posthoc` makes of it."""
    material = open_material(read(trial_config(tmp_path, "majority", strategy={"kind": "scbalance"})))
    drawn, told = material.counts(material.training_rows(0)), material.counts_on_average()
    assert told.tolist() == [len(material.kept) / len(material.classes)] * len(material.classes)
    assert np.ptp(drawn) > 0 and drawn.sum() == told.sum()
    plain = open_material(read(trial_config(tmp_path / "b", "majority", strategy={"kind": "oversample"})))
    assert np.array_equal(plain.counts_on_average(), plain.counts(plain.training_rows(0)))


def test_ldam_has_learnt_its_weights_only_where_the_best_round_had_them(tmp_path):
    loss = {"kind": "ldam", "reweight_from": 0.5}
    config = read(trial_config(tmp_path, "scgpt", recipe={"epochs": 2}, loss=loss))
    trained = _Run(get("scgpt"), config, open_material(config), Cost(on_gpu=False))
    while trained.goes_on():
        trained.one_round()
    counts, are_learnt = trained.stage.class_counts / trained.stage.class_counts.sum(), []
    for trained.at.since_best in (1, 0):
        prior = trained.result().loss.prior
        are_learnt.append(np.allclose(prior / prior.sum(), counts))
    assert are_learnt == [True, False], "of the first round and of the second, which weighs types"
