"""The Bradley-Terry loss on segment returns, its corrections for flipped labels, and accuracy."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from prefenvs.metrics.accuracy import credit

FlipCorrection = Literal["unbiased", "forward", "smoothing"]

# Absent segments of ragged queries get this return, so that their softmax is 0 and no product is NaN.
ABSENT = -1e9
# Keeps the logarithm of a linear score finite.
LEAST = 1e-5
# The unbiased loss falls without limit in the terms of negative weight; they stop at this log-probability.
LOWEST = -10.0


def preference_loss(
    returns: Tensor,
    targets: Tensor,
    present: Tensor | None = None,
    flip_rate: float = 0.0,
    correction: FlipCorrection = "unbiased",
) -> Tensor:
    """Return the cross entropy [...] between targets [..., K] and the softmax of segment returns [..., K].

    For K = 2 this is Bradley-Terry, for more Plackett-Luce's first choice (Christiano et al. 2017, eq. 1). `present`:
    [..., K] bool, False where a query has fewer than K segments. `flip_rate`, `correction`: see `cross_entropy`.
    """
    if present is not None:
        returns = returns.masked_fill(~present, ABSENT)
    return cross_entropy(returns.log_softmax(-1), targets, present, flip_rate, correction)


def cross_entropy(
    log_chances: Tensor,
    targets: Tensor,
    present: Tensor | None = None,
    flip_rate: float = 0.0,
    correction: FlipCorrection = "unbiased",
) -> Tensor:
    """Return -sum_k p_k log q_k [...] for log q [..., K] and targets p [..., K], corrected for flipped labels.

    `flip_rate`: the share e of labels that name another segment, each of the others as often. "unbiased" weighs log q_k
    so that the mean over flips is the loss of the true label (for K = 2 by (p_k - e) / (1 - 2e); Natarajan et al. 2013,
    for preferences Chowdhury et al. 2024) and stops the terms of negative weight at log q = -10; "forward" takes
    -log((1 - e) q + e (1 - q)) (Patrini et al. 2017); "smoothing" weighs by (1 - e) p_k + e (1 - p_k).
    """
    if not flip_rate:
        return -(targets * log_chances).sum(-1)
    count = log_chances.shape[-1] if present is None else present.sum(-1, keepdim=True)
    other = flip_rate / (count - 1)
    kept = 1.0 - flip_rate - other
    if correction == "forward":
        return -(targets * torch.log(other + kept * log_chances.exp())).sum(-1)
    corrected = other + kept * targets if correction == "smoothing" else (targets - other) / kept
    if present is not None:
        corrected = corrected * present
    return -(corrected * torch.where(corrected < 0, log_chances.clamp_min(LOWEST), log_chances)).sum(-1)


def score_returns(rewards: Tensor, inside: Tensor | None, score: str = "exponential") -> Tensor:
    """Return what the softmax over segments is taken of [..., K], for rewards [..., K, T]; inside: which steps count.

    "exponential": R, the sum of rewards, for Bradley and Terry. "linear": log(R + T + 1e-5), for rewards in [-1, 1], so
    that P(1) = (R1 + T + 1e-5) / (R1 + R2 + 2 T + 2e-5) (LiRE, ICML 2024): better segments differ more in reward.
    """
    returns = (rewards if inside is None else rewards * inside).sum(-1)
    if score == "exponential":
        return returns
    lengths = torch.full_like(returns, rewards.shape[-1]) if inside is None else inside.sum(-1).to(returns.dtype)
    return torch.log((returns + lengths).clamp_min(0.0) + LEAST)


def credit_labels(returns: Tensor, targets: Tensor, present: Tensor | None = None) -> Tensor:
    """Return what the prediction of each label counts [...], by `prefenvs.metrics.accuracy.credit`.

    Meant for decided labels alone: a tied label has no right answer.
    """
    if present is not None:
        returns = returns.masked_fill(~present, ABSENT)
    best = targets.argmax(-1, keepdim=True).expand(*returns.shape[:-1], 1)
    return credit(returns, returns.gather(-1, best))


def is_decided(targets: Tensor) -> Tensor:
    """Return [...] bool: one segment of targets [..., K] is preferred over all others."""
    top = targets.topk(2, dim=-1).values
    return top[..., 0] - top[..., 1] > 1e-6
