"""Training losses that know how unequal classes are, or how related, and what a network trained with them has learnt.

LOSSES[name](class_counts [C] of the rows trained on, **parameters) is a `Loss`: called with (outputs_BC, labels_B,
progress) it gives a scalar, where progress is the finished share of the training. All are the mean over the cells of a
batch, in float32 whatever the outputs are, so that accumulated batches weigh every cell alike. A class without training
cells has weight 0 where classes are weighted, and counts as one cell where the logarithm or a power of its count is
needed; it never gives NaN.
Shapes: n or B cells, C classes.
"""

from typing import Any

from data_pipeline.errors import RequestError
from data_pipeline.outside import Functions
from trainables.class_weights import Counts
from trainables.losses.flat import (
    BalancedSoftmax,
    ClassBalanced,
    CrossEntropy,
    Focal,
    Ldam,
    LogitAdjusted,
    Weighted,
)
from trainables.losses.hierarchical import Below, Hierarchical
from trainables.losses.loss import Loss, made_of

OWN: dict[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "weighted": Weighted,
    "class_balanced": ClassBalanced,
    "focal": Focal,
    "ldam": Ldam,
    "logit_adjusted": LogitAdjusted,
    "balanced_softmax": BalancedSoftmax,
    "hierarchical": Hierarchical,
}
LOSSES: Functions[type[Loss]] = Functions("losses", OWN, made_of)


def loss_of(described: dict[str, Any], class_counts: Counts, below: Below | None = None) -> Loss:
    """Return the loss that {"kind": name in LOSSES, **parameters} describes, for rows of these classes.

    below: which classes lie below which, bool [C, C], for a loss that asks for it; None: none does. RequestError for a
    loss from outside that isn't there.
    """
    if described["kind"] not in LOSSES:
        raise RequestError(f"loss {described['kind']} isn't there: name the folder that has it with --plugins")
    params = {name: value for name, value in described.items() if name != "kind"}
    kind = LOSSES[described["kind"]]
    return kind(class_counts, **params | ({"below": below} if "below" in kind.passed else {}))
