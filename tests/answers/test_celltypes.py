"""Which types a number is about."""

import pandas as pd

from sweeps.answers import celltypes


def test_rare_is_by_the_natural_count_unless_the_metric_says_otherwise():
    """As trials count them (trainables.metrics): what a number is a mean over decides how sure it is."""
    cells = {"natural": [900, 300, 40, 3], "train": [40, 300, 40, 3], "test": [9, 9, 0, 1]}
    table = pd.DataFrame({"class": list("abcd")} | cells)
    names = ("recall_tail", "recall_tail.x", "recall_tail_after_skew", "recall_middle", "recall_rarefied", "macro_f1")
    assert ["".join(table["class"][celltypes.averaged(f"test_{name}", table)]) for name in names] == [
        "d",
        "d",
        "ad",
        "b",
        "a",
        "abd",
    ]
