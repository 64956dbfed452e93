"""Labels carried from one task to another by a Gromov-Wasserstein coupling of segments (PEARL)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import logsumexp

from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Array, Segment

OUTER, INNER = 60, 20
"""Steps of the coupling at most, and Sinkhorn iterations of each."""
STILL = 1e-7
"""Largest change of the coupling that ends it, as a share of one segment's mass."""


def transfer_labels(
    source: Sequence[Preference],
    target: Sequence[Query],
    epsilon: float = 0.01,
    annotator: str = "transfer",
) -> list[Preference]:
    """Return soft labels of target queries (pairs) from labels of another task's pairs (Liu et al. 2024, PEARL).

    Distances between segments are Euclidean, over observations and actions that have deviation 1 in their task, and
    divided by the largest. With T [S, N] the coupling of source and target segments, of uniform marginals, that
    `couple` finds, P(x > y) is the mean of p(i > j) over labelled source pairs (i, j), weighed by T_ix T_jy, either way
    round. Raises PrefenvsError for fewer than two decided source labels, and for segments of several lengths in a task.
    """
    labels = [one for one in source if one.probabilities is not None and len(one.query.segments) == 2]
    if sum(one.best is not None for one in labels) < 2 or not target:
        raise PrefenvsError("labels are transferred from 2 decided ones or more, to at least 1 pair")
    theirs = {segment.hash: segment for one in labels for segment in one.query.segments}
    ours = {segment.hash: segment for query in target for segment in query.segments}
    costs = segment_distances(list(theirs.values())), segment_distances(list(ours.values()))
    coupling = couple(*costs, epsilon) * len(theirs)
    rows, columns = ({name: i for i, name in enumerate(part)} for part in (theirs, ours))
    i, j = np.array([[rows[segment.hash] for segment in one.query.segments] for one in labels]).T
    first = np.array([one.probabilities[0] for one in labels if one.probabilities is not None])
    made = []
    for query in target:
        x, y = (columns[segment.hash] for segment in query.segments)
        straight, crossed = coupling[i, x] * coupling[j, y], coupling[j, x] * coupling[i, y]
        weight = float((straight + crossed).sum())
        chance = float((straight * first + crossed * (1.0 - first)).sum()) / weight if weight > 0 else 0.5
        made.append(Preference(query, np.array([chance, 1.0 - chance]), annotator, "transfer"))
    return made


def segment_distances(segments: Sequence[Segment]) -> Array:
    """Return Euclidean distances [N, N] between segments of one length, the largest being 1."""
    lengths = sorted({len(segment) for segment in segments})
    if len(lengths) > 1:
        raise PrefenvsError(f"segments of one task are compared at one length, got {lengths} steps")
    steps = np.stack([np.hstack([one.observations, one.actions]) for one in segments]).astype(np.float64)
    flat = ((steps - steps.mean((0, 1))) / (steps.std((0, 1)) + 1e-6)).reshape(len(segments), -1)
    squares = (flat**2).sum(1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * flat @ flat.T, 0.0))
    np.fill_diagonal(distances, 0.0)
    scaled: Array = distances / max(float(distances.max()), 1e-12)
    return scaled


def couple(first: Array, second: Array, epsilon: float) -> Array:
    """Return the coupling T [S, N] of two spaces with distances [S, S] and [N, N]; rows and columns are uniform.

    T is a stationary point of sum_ikjl |first_ik - second_jl|^2 T_ij T_kl - epsilon H(T), by repeated optimal transport
    (Peyre et al. 2016, square loss): the cost of moving i to j under the present T is
    sum_k first_ik^2 / S + sum_l second_jl^2 / N - 2 (first T second)_ij. It begins with segments of like distances.
    Raises PrefenvsError for an epsilon of 0 or less.
    """
    if not epsilon > 0:
        raise PrefenvsError(f"epsilon, the weight of the coupling's entropy, must be above 0, got {epsilon}")
    constant = (first**2).mean(1)[:, None] + (second**2).mean(1)
    # Uniform mass is a saddle where spaces are symmetric; distributions of distances are told apart at once.
    order = np.linspace(0, 1, 21)
    profiles = [np.quantile(part, order, axis=1).T for part in (first, second)]
    coupling, potential = _sinkhorn(((profiles[0][:, None] - profiles[1]) ** 2).mean(2), epsilon)
    for _ in range(OUTER):
        # Begun where the step before ended, few iterations are enough.
        moved, potential = _sinkhorn(constant - 2.0 * first @ coupling @ second, epsilon, potential)
        still = np.abs(moved - coupling).max() * coupling.size < STILL
        coupling = moved
        if still:
            break
    return coupling


def _sinkhorn(cost: Array, epsilon: float, potential: Array | None = None) -> tuple[Array, Array]:
    """Return the entropic optimal transport of uniform masses for a cost [S, N], and its potential of columns [N]."""
    logits = -cost / epsilon
    rows, columns = -np.log(cost.shape[0]), -np.log(cost.shape[1])
    g = np.zeros(cost.shape[1]) if potential is None else potential
    for _ in range(INNER):
        f = rows - logsumexp(logits + g, axis=1)
        g = columns - logsumexp(logits + f[:, None], axis=0)
    transported: Array = np.exp(logits + f[:, None] + g)
    return transported, g
