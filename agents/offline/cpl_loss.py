"""Contrastive preference learning's losses on segment scores, and what they do about flipped labels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefenvs.agents.rewards.losses import LOWEST

FlipCorrection = Literal["unbiased", "forward", "smoothing"]


def segment_scores(log_probs: Tensor, alpha: float, discount: float = 1.0, inside: Tensor | None = None) -> Tensor:
    """Return sum_t discount^t alpha log pi(a_t | s_t), [...], for [..., T]; steps outside a segment count nothing."""
    weights = alpha * discount ** torch.arange(log_probs.shape[-1], device=log_probs.device, dtype=log_probs.dtype)
    if inside is not None:
        log_probs = log_probs * inside
    return log_probs @ weights


def pair_loss(
    scores: Tensor,
    targets: Tensor,
    bias: float = 1.0,
    flip_rate: float = 0.0,
    correction: FlipCorrection = "unbiased",
) -> Tensor:
    """Return the loss [B] of scores [B, 2] under targets [B, 2], the chance that each segment is preferred.

    Of one side it is l_k = -log(exp(g_k) / (exp(g_k) + exp(bias g_other))) (Hejna et al. 2024, eq. 5 and 10), and the
    two are weighted by the targets; bias 1 is Bradley-Terry's cross entropy. flip_rate e corrects for labels that name
    the other segment: "unbiased" weighs l_k by (p_k - e) / (1 - 2e) and stops the negatively weighted term at
    -log p = 10 (Natarajan et al. 2013, used for preferences by Chowdhury et al. 2024), "forward" takes
    -log((1 - e) p + e (1 - p)) (Patrini et al. 2017), "smoothing" weighs l_k by (1 - e) p_k + e (1 - p_k).
    """
    margins = scores - bias * scores.flip(-1)
    log_chance = logsigmoid(margins)
    if flip_rate and correction == "forward":
        chance = log_chance.exp()
        return -(targets * torch.log((1.0 - flip_rate) * chance + flip_rate * (1.0 - chance))).sum(-1)
    if flip_rate and correction == "smoothing":
        targets = (1.0 - flip_rate) * targets + flip_rate * (1.0 - targets)
    elif flip_rate:
        targets = (targets - flip_rate) / (1.0 - 2.0 * flip_rate)
        log_chance = torch.where(targets < 0, log_chance.clamp_min(LOWEST), log_chance)
    return -(targets * log_chance).sum(-1)


def ranking_loss(scores: Tensor, ranks: Tensor, bias: float = 1.0) -> Tensor:
    """Return the mean of `pair_loss` over all pairs of n segments, scores [n], the higher of `ranks` [n] preferred.

    n forward passes give n (n - 1) / 2 comparisons; segments of equal rank are tied.
    """
    margins = scores[:, None] - bias * scores[None, :]
    preferred = (ranks[:, None] > ranks[None, :]).to(scores.dtype) + 0.5 * (ranks[:, None] == ranks[None, :])
    preferred = preferred.fill_diagonal_(0.0)
    return -(preferred * logsigmoid(margins)).sum() / preferred.sum()
