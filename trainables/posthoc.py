"""What can still be done after training, from logits alone: calibrate, or correct for the mix of classes.

POSTHOC[name](val_logits [v, C], val_labels int [v], train_prior [C], test_logits [n, C]) -> Adjusted.
Logits are what softmax makes probabilities of (losses.Loss.logits). train_prior: the class shares (or counts) that they
have learnt: those of the rows trained on, resampling included, as the loss weighs them (losses.Loss.prior). Test labels
are never seen. A class that had no training cells gets probability 0 wherever the prior is used.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax, softmax

from data_pipeline.errors import RequestError
from data_pipeline.outside import Functions
from data_pipeline.seeds import generator
from trainables.metrics import macro_f1

HOTTEST = 100.0  # temperatures from 1 / HOTTEST to HOTTEST are searched
LEVEL = 0.05  # of the test that test cells come in another mix than the one learnt
DRAWS = 1000  # of what test cells of the learnt mix would be taken for
PSEUDO = 1.0  # cells that every class counts more when a mix is estimated
MOST_ROUNDS, CONVERGED = 100_000, 1e-10  # of EM; relative gain in likelihood below which it ends


@dataclass(frozen=True)
class Adjusted:
    """Probabilities, float64 [n, C]; `unchanged` says why they are the network's own where nothing was adjusted."""

    probabilities: np.ndarray
    unchanged: str | None = None


Adjust = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], Adjusted]


def none(val_logits: np.ndarray, val_labels: np.ndarray, train_prior: np.ndarray, test_logits: np.ndarray) -> Adjusted:
    """The network's own probabilities."""
    return Adjusted(_plain(test_logits))


def temperature(
    val_logits: np.ndarray, val_labels: np.ndarray, train_prior: np.ndarray, test_logits: np.ndarray
) -> Adjusted:
    """Logits over the one number that makes the validation labels likeliest; the predicted types stay as they are.

    Source: Guo et al. 2017, arXiv 1706.04599. Without validation cells, the plain probabilities.
    """
    return Adjusted(_plain(test_logits, fit_temperature(val_logits, val_labels)))


def logit_adjust(
    val_logits: np.ndarray, val_labels: np.ndarray, train_prior: np.ndarray, test_logits: np.ndarray
) -> Adjusted:
    """The training prior divided out, as if all types were equally common.

    Source: Menon et al. 2021, arXiv 2007.07314, equation 9 with tau = 1.
    """
    prior = _prior(train_prior)
    with np.errstate(divide="ignore"):
        adjusted = np.where(prior > 0, np.asarray(test_logits, dtype=np.float64) - np.log(prior), -np.inf)
    return Adjusted(softmax(adjusted, axis=1))


def prior_shift(
    val_logits: np.ndarray, val_labels: np.ndarray, train_prior: np.ndarray, test_logits: np.ndarray
) -> Adjusted:
    """Probabilities corrected to the class mix of the test cells, where these tell that it isn't the learnt one.

    First the test cells' predicted types are held against those that cells of the learnt mix would get, by the mistakes
    on validation cells and what so few of them leave open (`likelihood_of_no_shift`). Nothing is adjusted unless they
    differ at the 5 % level. Then the mix is estimated by EM (Saerens, Latinne, Decaestecker 2002, Neural Computation
    14, equations 2.6-2.9) with one cell more of every class, without which rare classes end at 0, until the likelihood
    no longer grows. EM takes the probabilities at their word, so they are calibrated first, as Alexandari 2020 (arXiv
    1901.06852) advises: by a temperature, on validation cells weighted to the training mix. Where validation cells
    come in another mix than the learnt one, all of it is done to them first: if their macro F1 doesn't rise, as it
    doesn't after weights, copies and made cells, the probabilities don't stand for the learnt mix, and only what sets
    test cells apart from validation cells is adjusted, each class by what EM finds more or less of it there.
    """
    prior, plain = _prior(train_prior), _plain(test_logits)
    if not len(val_labels) or not len(plain):
        return Adjusted(plain, f"{len(val_labels)} validation and {len(plain)} test cells tell nothing of a shift")
    chance = likelihood_of_no_shift(val_logits.argmax(1), val_labels, prior, plain.argmax(1))
    if chance > LEVEL:
        cells = f"{len(plain):,} test and {len(val_labels):,} validation cells"
        return Adjusted(plain, f"{cells} don't tell a shift of the mix from none (p = {chance:.2g}, {LEVEL} needed)")
    seen = np.bincount(val_labels, minlength=len(prior))
    heat = fit_temperature(val_logits, val_labels, (prior / np.maximum(seen, 1))[val_labels])
    if _misleads(val_logits, val_labels, prior, heat):
        return _beside_validation(_plain(val_logits), val_labels, prior, plain)
    return Adjusted(shift(_plain(test_logits, heat), prior)[0])


def _misleads(logits: np.ndarray, labels: np.ndarray, prior: np.ndarray, heat: float) -> bool:
    """Tell whether validation cells come in another mix than the learnt one, and EM makes them no better."""
    if likelihood_of_no_shift(labels, labels, prior, labels) > LEVEL:
        return False
    plain = _plain(logits)
    moved = shift(_plain(logits, heat), prior)[0]
    return macro_f1(moved, labels) <= macro_f1(plain, labels)


def _beside_validation(held: np.ndarray, labels: np.ndarray, prior: np.ndarray, plain: np.ndarray) -> Adjusted:
    """Return test cells' probabilities `plain` times what EM finds more or less of a class there than in `held`.

    One model's estimates err alike in both, so that their ratio tells a shift where neither tells a mix. Nothing is
    adjusted unless the test cells tell their mix from that of the validation cells.
    """
    mix = _prior((np.bincount(labels, minlength=len(prior)) + PSEUDO) * (prior > 0))
    chance = likelihood_of_no_shift(held.argmax(1), labels, mix, plain.argmax(1))
    if chance > LEVEL:
        return Adjusted(
            plain,
            "done to the validation cells, whose types are known, it doesn't raise their macro F1, and test cells "
            f"don't tell their mix from that of the validation cells (p = {chance:.2g}, {LEVEL} needed)",
        )
    found, there = shift(plain, prior)[1], shift(held, prior)[1]
    return Adjusted(_normalised(plain * np.divide(found, there, out=np.zeros_like(found), where=there > 0)))


OWN: dict[str, Adjust] = {
    "none": none,
    "temperature": temperature,
    "logit_adjust": logit_adjust,
    "prior_shift": prior_shift,
}


def _verified(adjust: Callable[..., Adjusted | np.ndarray]) -> Adjust:
    """Return an adjustment from outside, which may give bare probabilities; RequestError if they are none."""

    @functools.wraps(adjust)
    def verified(*given: np.ndarray) -> Adjusted:
        found = adjust(*given)
        found = found if isinstance(found, Adjusted) else Adjusted(np.asarray(found, dtype=np.float64))
        chances, shape = found.probabilities, given[-1].shape
        if chances.shape != shape or not (chances >= 0).all() or not np.allclose(chances.sum(axis=1), 1, atol=1e-6):
            raise RequestError(
                f"adjustment {adjust.__name__}: gives what are no probabilities: {list(shape)} numbers from 0 on, with "
                f"1 as the sum of each row, were wanted, and [{', '.join(map(str, chances.shape))}] came"
            )
        return found

    return verified


POSTHOC: Functions[Adjust] = Functions("posthoc", OWN, _verified)


def fit_temperature(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the temperature of least negative log-likelihood; convex in 1 / T, so one minimum.

    weights: of the cells, [v]; None: all alike. 1 where no cell has any weight.
    """
    from scipy.optimize import minimize_scalar

    weights = np.ones(len(labels)) if weights is None else weights
    if not weights.sum() > 0:
        return 1.0
    logits, cells = np.asarray(logits, dtype=np.float64), np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        return -np.average(log_softmax(logits / np.exp(log_temperature), axis=1)[cells, labels], weights=weights)

    limit = np.log(HOTTEST)
    return float(np.exp(minimize_scalar(loss, bounds=(-limit, limit), method="bounded", options={"xatol": 1e-6}).x))


def likelihood_of_no_shift(
    val_predicted: np.ndarray, val_labels: np.ndarray, prior: np.ndarray, predicted: np.ndarray
) -> float:
    """Return the p value of the test cells' predicted types, int [n], if the cells come in the mix `prior` [C].

    Which types cells of each class are taken for is known from validation cells alone: their counts, half a cell that
    is right and one spread over all types, make a Dirichlet posterior. Test sets are drawn by it; the found one is held
    against them by its squared distance from their mean, in variances of each type. In simulations (6 and 14 types, 80
    and 95 % right, 60 and 200 validation cells) 1.6 % of sets without a shift came below 5 %.
    The idea of reading a shift off predicted types: Lipton, Wang, Smola 2018, arXiv 1802.03916.
    """
    num_classes, rng = len(prior), generator(0, "prior_shift")
    known = np.zeros((num_classes, num_classes))
    np.add.at(known, (val_labels, val_predicted), 1)
    known += np.eye(num_classes) / 2 + 1 / num_classes
    shares = np.stack([_drawn_shares(row, rng) for row in known], axis=1)  # [DRAWS, class, predicted]
    expected = np.einsum("c,dcp->dp", prior, shares)
    drawn = rng.multinomial(len(predicted), expected / expected.sum(1, keepdims=True))
    sets = np.vstack([np.bincount(predicted, minlength=num_classes), drawn])
    distance = ((sets - drawn.mean(0)) ** 2 / (drawn.var(0) + 0.25)).sum(1)  # 0.25: counts are whole
    return float((1 + (distance[1:] >= distance[0]).sum()) / (DRAWS + 1))


def _drawn_shares(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return draws of the Dirichlet distribution of `counts` [C], float64 [DRAWS, C]."""
    drawn = rng.standard_gamma(counts, size=(DRAWS, len(counts)))
    return drawn / drawn.sum(1, keepdims=True)


def shift(probabilities: np.ndarray, prior: np.ndarray, pseudo: float = PSEUDO) -> tuple[np.ndarray, np.ndarray]:
    """Return (probabilities under the cells' own class mix, that mix) of probabilities [n, C] under `prior` [C].

    The mix is the likeliest one if `pseudo` cells more of every class had been seen (0: maximum likelihood).
    """
    seen = prior > 0
    density = np.divide(probabilities, prior, out=np.zeros_like(probabilities), where=seen)
    mix, before, more = prior, -np.inf, pseudo * seen
    for _ in range(MOST_ROUNDS):
        mix = (_normalised(density * mix).sum(axis=0) * seen + more) / (len(density) + more.sum())
        mix = mix / mix.sum()
        likelihood = np.log(np.maximum(density @ mix, 1e-300)).sum() + more[seen] @ np.log(
            np.maximum(mix[seen], 1e-300)
        )
        if likelihood - before <= CONVERGED * max(1.0, abs(likelihood)):
            break
        before = likelihood
    return _normalised(density * mix), mix


def averaged(draws: list[np.ndarray]) -> np.ndarray:
    """Return logits, float [n, C], of the mean probabilities of several sets of logits of the same cells."""
    if len(draws) == 1:
        return draws[0]
    return np.log(np.maximum(np.mean([_plain(logits) for logits in draws], axis=0), 1e-300))


def _plain(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    return softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1)


def _normalised(weights: np.ndarray) -> np.ndarray:
    """Return rows that sum to one; a row without any weight is spread over all classes."""
    sums = weights.sum(axis=1, keepdims=True)
    return np.divide(weights, sums, out=np.full_like(weights, 1 / weights.shape[1]), where=sums > 0)


def _prior(train_prior: np.ndarray) -> np.ndarray:
    prior = np.asarray(train_prior, dtype=np.float64)
    return prior / prior.sum()
