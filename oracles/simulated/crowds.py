"""How people answered in published label sets, and simulated raters that answer as often alike and as often equal."""

from __future__ import annotations

from typing import NamedTuple


class Measured(NamedTuple):
    """Crowd labels of one D4RL data set against the true return, by Uni-RLHF's label files (Yuan et al. 2024).

    Its people's and its script's labels of the same 2000 pairs were joined on the pairs' rows; the files order them
    differently. strict: pairs that both decide; agreement: share of those decided alike; ties: share of pairs that
    people call equal; script_ties: share whose true returns are equal, or within 10 on the MuJoCo sets.
    """

    dataset: str
    domain: str
    strict: int
    agreement: float
    ties: float
    script_ties: float


MEASURED = (
    Measured("halfcheetah-medium", "mujoco", 1830, 0.597, 0.021, 0.066),
    Measured("halfcheetah-medium-replay", "mujoco", 1753, 0.785, 0.097, 0.034),
    Measured("halfcheetah-medium-expert", "mujoco", 1778, 0.785, 0.080, 0.037),
    Measured("hopper-medium", "mujoco", 1652, 0.435, 0.116, 0.072),
    Measured("hopper-medium-replay", "mujoco", 1647, 0.646, 0.146, 0.046),
    Measured("hopper-medium-expert", "mujoco", 1669, 0.686, 0.099, 0.081),
    Measured("walker2d-medium", "mujoco", 1663, 0.663, 0.120, 0.061),
    Measured("walker2d-medium-replay", "mujoco", 1784, 0.622, 0.087, 0.025),
    Measured("walker2d-medium-expert", "mujoco", 1682, 0.860, 0.122, 0.089),
    Measured("pen-human", "adroit", 1683, 0.521, 0.159, 0.001),
    Measured("pen-cloned", "adroit", 1500, 0.500, 0.250, 0.0),
    Measured("door-human", "adroit", 1848, 0.836, 0.076, 0.0),
    Measured("door-cloned", "adroit", 1775, 0.850, 0.113, 0.001),
    Measured("hammer-human", "adroit", 1664, 0.920, 0.168, 0.0),
    Measured("hammer-cloned", "adroit", 1579, 0.914, 0.210, 0.0),
    Measured("antmaze-medium-play", "antmaze", 178, 0.955, 0.187, 0.906),
    Measured("antmaze-medium-diverse", "antmaze", 96, 0.688, 0.127, 0.940),
    Measured("antmaze-large-play", "antmaze", 193, 1.0, 0.199, 0.899),
    Measured("antmaze-large-diverse", "antmaze", 134, 0.866, 0.150, 0.911),
)
"""All sets whose pairs a script labelled too. People call 66% of antmaze-umaze equal, and 99% of its diverse set."""


def pool(rows: tuple[Measured, ...]) -> tuple[float, float]:
    """Return agreement, over all pairs that both decide, and the mean share of ties of several sets."""
    decided = sum(row.strict for row in rows)
    agreement = sum(row.strict * row.agreement for row in rows) / decided
    return agreement, sum(row.ties for row in rows) / len(rows)


def crowd_rates() -> dict[str, tuple[float, float]]:
    """Return agreement and share of ties of each simulated crowd by name: domains first, then single data sets."""
    domains = dict.fromkeys(row.domain for row in MEASURED)
    rates = {f"crowd-{name}": pool(tuple(row for row in MEASURED if row.domain == name)) for name in domains}
    return rates | {f"crowd-{row.dataset}": (row.agreement, row.ties) for row in MEASURED}
