"""What a person can choose: a model, a strategy, a loss and an adjustment after training. A row of a table is one."""

from collections.abc import Hashable, Mapping

import pandas as pd

from sweeps.answers.runs.results import FIXED

CHOICE = ["model", "strategy", "loss", "posthoc"]
PLAIN = {"strategy": "none", "loss": "cross_entropy", "posthoc": "none"}  # doing nothing about the imbalance
NETWORK, BASELINE, CHANCE = "network", "baseline", "chance"
CHANCES = ("majority",)  # models that look at no gene
OF_PREDICTIONS = ["test_accuracy", "test_mcc", "test_weighted_precision"]  # the same of the same predictions alone
SIMPLE = ("mlp",)  # trained as networks are, and there to be beaten


def unfolded(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with `posthoc`: once as they are ("none") and once per adjustment made after their training.

    A number of an adjustment, which runs have as test_<metric>.<adjustment>, stands as test_<metric> in its rows; what
    the adjustment has no number for is NaN there, test cells apart. Runs that have `posthoc` already come back as they
    are.
    """
    if "posthoc" in runs:
        return runs
    adjusted = {name: _parts(name) for name in runs.columns if name.startswith("test_") and _parts(name)[1]}
    plain = runs.drop(columns=list(adjusted)).assign(posthoc="none")
    parts = [plain]
    for name in dict.fromkeys(adjustment for _, adjustment in adjusted.values()):
        numbers = {metric: runs[full] for full, (metric, one) in adjusted.items() if one == name}
        mine = pd.concat(numbers, axis=1).notna().any(axis=1)
        lost = [one for one in plain if _is_of_predictions(one) and one not in numbers]
        parts.append(plain.assign(posthoc=name, **numbers, **dict.fromkeys(lost, float("nan")))[mine])
    found = pd.concat(parts, ignore_index=True)
    found.attrs |= runs.attrs
    return found


def before_adjustment(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs as their training left them, unfolded or not: of an adjustment no probabilities are kept."""
    return runs[runs.get("posthoc", pd.Series("none", index=runs.index)) == "none"].assign(posthoc="none")


def _parts(column: str) -> tuple[str, str]:
    """Return what a metric is called without its adjustment, and that: test_f1.x:DC -> (test_f1:DC, x)."""
    head, colon, kind = column.partition(":")
    name, _, adjustment = head.partition(".")
    return f"{name}{colon}{kind}", adjustment


def _is_of_predictions(column: str) -> bool:
    is_count = column in ("test_cells", "test_donors") or column.startswith(("test_cells_", "test_cells:"))
    return column.startswith("test_") and column not in FIXED and not is_count


def labels(runs: pd.DataFrame) -> pd.Series:
    """Return what each run's choice is called: its model and what is done about the imbalance, or none."""
    return pd.Series([label(row) for row in runs[["model", *PLAIN]].to_dict("records")], index=runs.index, dtype=str)


def label(row: Mapping[str, str]) -> str:
    """Return what a choice is called: scgpt · oversample · focal, scgpt · none."""
    return f"{row['model']} · {remedy(row)}"


def remedy(row: Mapping[str, str]) -> str:
    """Return what is done about the imbalance, whatever the model: oversample · focal, or none."""
    done = [row[name] for name, usual in PLAIN.items() if row[name] != usual]
    return " · ".join(done or ["none"])


def predicted(runs: pd.DataFrame, metric: str) -> Hashable | None:
    """Return what is the same of runs with the same predictions on the same cells alone, None where that isn't known.

    As of a model that doesn't heed a remedy, or where an adjustment changes probabilities and no prediction: such
    choices are one, and ask one question.
    """
    columns = ["dataset", "split", "skew", "seed", metric, *OF_PREDICTIONS]
    if not set(columns) <= set(runs) or runs[columns].isna().any(axis=None):
        return None
    return tuple(sorted(map(tuple, runs[columns].to_numpy().tolist())))


def kinds(runs: pd.DataFrame) -> dict[str, str]:
    """Return NETWORK, BASELINE or CHANCE of each model, by its label: what it is, whatever it is called."""
    what = runs["architecture"] if "architecture" in runs else runs["model"]
    return {label: _kind(model) for label, model in dict(zip(runs["model"], what, strict=True)).items()}


def _kind(model: str) -> str:
    """Return what a model of the registry is, see `kinds`; one that this version doesn't know counts as a network."""
    from trainables.spec import get, names

    if model in CHANCES:
        return CHANCE
    return BASELINE if model in SIMPLE or (model in names() and get(model).kind == "baseline") else NETWORK


def is_plain(runs: pd.DataFrame) -> pd.Series:
    """Tell which runs do nothing about the imbalance."""
    return pd.concat([runs[name] == usual for name, usual in PLAIN.items()], axis=1).all(axis=1)
