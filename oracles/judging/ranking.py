"""Rank agents by who beat whom: Bradley-Terry strengths with intervals that stay honest when answers are few."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prefenvs.errors import PrefenvsError, import_extra
from prefenvs.segments import Array

DRAWS = 1000
"""Bootstrap draws behind an interval."""
LEVEL = 0.95
"""Chance with which an interval is to cover."""


@dataclass(frozen=True, eq=False)
class Matches:
    """M answers about pairs of N agents.

    first, second: [M] int64, numbers of the two agents. scores: [M] float64, the chance that the first is better: 1 a
    win, 0 a loss, 0.5 a tie. questions: [M] int64; answers to one question, by several people, have one number.
    """

    first: Array
    second: Array
    scores: Array
    questions: Array

    def __len__(self) -> int:
        return len(self.scores)

    def wins(self, agents: int, weights: Array | None = None) -> Array:
        """Return how often agent i beat agent j, [N, N] float64, a tie being half a win for each."""
        weights = np.ones(len(self)) if weights is None else weights
        table = np.zeros((agents, agents))
        np.add.at(table, (self.first, self.second), weights * self.scores)
        np.add.at(table, (self.second, self.first), weights * (1 - self.scores))
        return table


@dataclass(frozen=True, eq=False)
class Ranking:
    """What the answers say about N agents.

    strengths: [N] Bradley-Terry log-odds with mean 0, so that i beats j with chance 1 / (1 + exp(s_j - s_i)).
    draws: [D, N] strengths under the bootstrap. wins: [N, N] how often agent i beat agent j, a tie being half a win.
    ties, answers: [N] of each agent's matches.
    """

    names: tuple[str, ...]
    strengths: Array
    draws: Array
    wins: Array
    ties: Array
    answers: Array

    @property
    def order(self) -> Array:
        """[N] numbers of the agents, best first."""
        return np.argsort(-self.strengths, kind="stable")

    @property
    def intervals(self) -> Array:
        """[N, 2] central interval of each strength."""
        return _interval(self.draws)

    @property
    def win_rates(self) -> Array:
        """[N] chance of beating another agent, drawn at random among the others."""
        rates: Array = _win_rates(self.strengths[None])[0]
        return rates

    @property
    def win_rate_intervals(self) -> Array:
        """[N, 2] central interval of each win rate."""
        return _interval(_win_rates(self.draws))

    @property
    def best(self) -> Array:
        """[N] share of the bootstrap in which each agent is the strongest."""
        return np.bincount(self.draws.argmax(axis=1), minlength=len(self.names)) / len(self.draws)

    @property
    def better(self) -> Array:
        """[N, N] share of the bootstrap in which agent i is stronger than agent j."""
        share: Array = (self.draws[:, :, None] > self.draws[:, None, :]).mean(axis=0)
        return share


def rank(names: Sequence[str], matches: Matches, draws: int = DRAWS, seed: int = 0) -> Ranking:
    """Fit Bradley-Terry strengths (choix, iterative Luce spectral ranking) and their bootstrap distribution.

    Every pair of agents is given half a win either way, shared among the N - 1 pairs of an agent, so that nobody who
    has not lost yet is infinitely strong. The bootstrap is Rubin's Bayesian one (1981): each question, with all its
    answers, has a weight drawn from the exponential distribution, and the given half wins have gamma weights likewise.
    For two agents this is the Jeffreys interval of a proportion, which covers well even where all answers agree.
    Raises PrefenvsError for fewer than two agents or without choix.
    """
    count = len(names)
    if count < 2:
        raise PrefenvsError(f"a ranking takes at least 2 agents, got {count}")
    rng = np.random.default_rng(seed)
    prior = np.full((count, count), 0.5 / (count - 1))
    np.fill_diagonal(prior, 0.0)
    wins = matches.wins(count)
    strengths = fit_strengths(wins + prior)
    _, questions = np.unique(matches.questions, return_inverse=True)
    sampled = np.empty((draws, count))
    for draw in sampled:
        weights = rng.exponential(size=questions.max(initial=-1) + 1)[questions]
        # A gamma variate of so small a shape may come out as 0, which would leave an agent without any tie to others.
        given = np.maximum(rng.gamma(prior), 1e-6) * (prior > 0)
        draw[:] = fit_strengths(matches.wins(count, weights) + given, strengths)
    tied = np.abs(matches.scores - 0.5) < 1e-9
    both = np.concatenate([matches.first, matches.second])
    return Ranking(
        tuple(names),
        strengths,
        sampled,
        wins,
        np.bincount(both, np.tile(tied, 2), count),
        np.bincount(both, minlength=count),
    )


def fit_strengths(wins: Array, start: Array | None = None) -> Array:
    """Return the strengths [N], mean 0, that make wins [N, N] most likely; every entry off the diagonal is positive.

    Raises PrefenvsError where choix is not installed.
    """
    if len(wins) == 2:
        half = 0.5 * np.log(wins[0, 1] / wins[1, 0])
        return np.array([half, -half])
    choix = import_extra("choix", "a ranking of agents")
    with warnings.catch_warnings():
        # choix factorises the matrix of a Markov chain, which is singular by its nature; SciPy warns when it notices.
        warnings.filterwarnings("ignore", "Diagonal number")
        strengths: Array = choix.ilsr_pairwise_dense(wins, initial_params=start, max_iter=10_000, tol=1e-6)
    centred: Array = strengths - strengths.mean()
    return centred


def information(draws: Array) -> Array:
    """Return how much an answer about each pair tells of the strengths, [N, N] nats, given their draws [D, N].

    The mutual information between the answer and the strengths: entropy of the mean chance less mean entropy (Houlsby
    et al., "Bayesian Active Learning for Classification and Preference Learning", 2011).
    """
    chances = _chances(draws)
    gain: Array = _entropy(chances.mean(axis=0)) - _entropy(chances).mean(axis=0)
    return gain


def _chances(draws: Array) -> Array:
    """Chance [D, N, N] that i beats j."""
    chances: Array = 1 / (1 + np.exp(np.clip(draws[:, None, :] - draws[:, :, None], -500, 500)))
    return chances


def _entropy(chances: Array) -> Array:
    chances = np.clip(chances, 1e-12, 1 - 1e-12)
    entropy: Array = -chances * np.log(chances) - (1 - chances) * np.log1p(-chances)
    return entropy


def _win_rates(draws: Array) -> Array:
    # An agent meets itself with chance 0.5 in the sum, which is taken out.
    rates: Array = (_chances(draws).sum(axis=2) - 0.5) / (draws.shape[1] - 1)
    return rates


def _interval(draws: Array) -> Array:
    tail = (1 - LEVEL) / 2
    interval: Array = np.quantile(draws, [tail, 1 - tail], axis=0).T
    return interval
