"""Which types a number is about."""

import pandas as pd
import pytest

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


class Tables:
    """What `celltypes.rare` asks of stored runs: a table per type of each split."""

    def __init__(self, *natural: list[int]) -> None:
        self._natural = natural

    def tables(self, runs: pd.DataFrame) -> list[pd.DataFrame]:
        made = [pd.DataFrame({"class": list("abc"), "natural": cells}) for cells in self._natural]
        return [table.assign(test=[40, 3 + split, 9]) for split, table in enumerate(made)]


def test_a_type_that_is_rare_in_some_splits_is_named_with_its_fewest_and_most_cells():
    """As trials count them, split by split: a mean of 60 hid that one split had 20."""
    runs = pd.DataFrame({"dataset": "d", "split": ["0", "1"], "status": "FINISHED"})
    (said,) = celltypes.rare(runs, Tables([900, 100, 30], [900, 20, 30]), ["test_recall_tail"])
    assert said.startswith("d: rare are c (30, 9), b (20 to 100, 3 to 4) (training cells before the skew")


@pytest.mark.parametrize(
    ("cells", "said"), [([44.0, 44.0], "44"), ([31, 60, 44], "31 to 60"), ([], ""), ([float("nan"), 3], "3")]
)
def test_cells_of_a_split_are_the_fewest_and_the_most(cells, said):
    assert celltypes.few_to_most(pd.Series(cells)) == said
