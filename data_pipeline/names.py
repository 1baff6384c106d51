"""Names as they come: how they are shown, cut short, and the nearest one that is known where nobody knows them."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

UNSEEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u00ad\u2028\u2029\u200b\u200e\u200f\u2060\ufeff\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
ALSO = {  # what the field calls models, remedies and settings: name here -> its words, or what is like it
    "linear_svm": ("svm", "svc", "linear_svc", "support_vector_machine"),
    "logistic_regression": ("lr", "logreg", "logit"),
    "gradient_boosting": ("boosting", "boosted_trees", "xgboost", "lightgbm", "catboost", "gbm", "gbdt"),
    "knn": ("nearest_neighbours", "nearest_neighbors"),
    "mlp": ("nn", "dnn", "perceptron", "neural_network"),
    "majority": ("dummy", "most_frequent"),
    "scanvi": ("scvi",),
    "oversample": ("ros", "upsample"),
    "undersample": ("rus", "downsample"),
    "class_balanced_batches": ("weighted_sampler", "balanced_batches"),
    "cross_entropy": ("ce",),
    "balanced_softmax": ("bsm",),
    "temperature": ("ts",),
    "logit_adjust": ("la",),
    "prior_shift": ("em", "saerens"),
    "learning_rate": ("lr",),
    "weight_decay": ("wd", "l2"),
    "batch_size": ("bs",),
    "patience": ("early_stopping",),
    "neighbours": ("k",),
    "components": ("pca",),
    "strengths": ("c",),
    "penalty": ("l1", "l2"),
    "train": ("lora",),
}


def shown(name: object, lines: bool = False) -> str:
    """Return a name in one line of visible characters: what breaks lines, controls a terminal or turns the direction of
    writing stands there as \\n, \\x1b, \\u202e. lines: line breaks may stay."""
    return UNSEEN.sub(lambda found: found[0] if lines and found[0] == "\n" else _escaped(found[0]), str(name))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def short(name: object, most: int) -> str:
    """Return a name as it is shown, in at most so many characters; of a longer one its begin and its end."""
    text, end = shown(name), most // 3
    return text if len(text) <= most else f"{text[: most - end - 1]}…{text[-end:]}"


def nearest(given: object, known: Iterable[str], least: float = 0.6) -> str | None:
    """Return the known name most like `given`, whatever the case, or None if none is so similar (0..1, difflib's).

    So is one that is ALSO called something like it.
    """
    known = list(known)
    meant = {also: name for name in known for also in ALSO.get(name, ())}
    near = next(iter(few_near(given, [*known, *meant], 1, least)), None)
    return meant.get(near, near)


def few_near(given: object, known: Iterable[str], most: int = 4, least: float = 0.5) -> list[str]:
    """Return the known names most like `given`, whatever the case, the likest first; at most so many."""
    folded = {name.casefold(): name for name in reversed(list(known))}
    return [folded[name] for name in get_close_matches(str(given).casefold(), list(folded)[::-1], most, least)]


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """Return "did you mean name? ", with a space to go on from, or nothing where no known name is near."""
    near = nearest(given, known)
    return "" if near is None else f"did you mean {near}? "
