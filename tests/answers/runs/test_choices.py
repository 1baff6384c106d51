"""What a person can choose, and what of it is a network, a baseline or chance."""

import pandas as pd

from sweeps.answers.runs import choices


def test_what_is_to_be_beaten_is_a_baseline_whatever_it_is_called_and_however_it_is_trained():
    runs = pd.DataFrame(
        {
            "model": ["scgpt-head", "deep", "lr", "dice", "of-mine"],
            "architecture": ["scgpt", "mlp", "logistic_regression", "majority", "a-network-of-mine"],
        }
    )
    kinds = {"scgpt-head": "network", "deep": "baseline", "lr": "baseline", "dice": "chance", "of-mine": "network"}
    assert choices.kinds(runs) == kinds
