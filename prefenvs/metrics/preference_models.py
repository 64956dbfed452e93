"""How well a model of preference explains people's answers: agreement, and likelihood at its best temperature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array


@dataclass(frozen=True)
class ModelFit:
    """How one model explains the decided answers to pairs.

    agreement: share of them that name the segment with the higher score; equal scores count half. cross_entropy: mean,
    in nats, of P(first) = logistic(beta (score(first) - score(second))) with the beta >= 0 that makes it least; 0.693
    is a coin. decided, ties: answers that name one segment, and that name none; ties count in neither figure.
    """

    agreement: float
    cross_entropy: float
    beta: float
    decided: int
    ties: int


def fit_scores(scores: Array, first: Array) -> ModelFit:
    """Return how segment scores [N, 2] explain answers [N], the chance that the first segment is preferred.

    Raises PrefenvsError where no answer is decided, or a score is not finite.
    """
    from scipy.optimize import minimize_scalar

    scores, first = np.asarray(scores, np.float64), np.asarray(first, np.float64)
    decided = first != 0.5
    if not decided.any():
        raise PrefenvsError(f"none of {len(first)} answers names a better segment: there is nothing to explain")
    if not np.isfinite(scores).all():
        raise PrefenvsError("a segment's score is NaN or infinite, so no model of preference can be fitted to it")
    gaps, chances = (scores[:, 0] - scores[:, 1])[decided], first[decided]
    right = np.where(gaps == 0, 0.5, ((gaps > 0) == (chances > 0.5)).astype(np.float64))

    def loss(log_beta: float) -> float:
        logits = np.exp(log_beta) * gaps
        return float(np.mean(np.logaddexp(0.0, -logits) * chances + np.logaddexp(0.0, logits) * (1.0 - chances)))

    found = minimize_scalar(loss, bounds=(-15.0, 10.0), method="bounded")
    # With beta 0 every model is a coin.
    coin = float(np.log(2.0))
    best, beta = (float(found.fun), float(np.exp(found.x))) if found.fun < coin - 1e-9 else (coin, 0.0)
    return ModelFit(float(right.mean()), best, beta, int(decided.sum()), int((~decided).sum()))
