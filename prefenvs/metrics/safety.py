"""A test before release: with confidence 1 - delta, does a policy's cost stay below a limit? (HC-RLHF.)"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array

Bound = Literal["hoeffding", "student-t"]


@dataclass(frozen=True)
class SafetyTest:
    """What a safety test found: the mean cost of `episodes` episodes, and the bound that its expectation lies below.

    passed: upper <= limit; then, but for a chance of at most delta, the expected cost is at most the limit.
    """

    mean: float
    upper: float
    limit: float
    delta: float
    bound: Bound
    episodes: int

    @property
    def passed(self) -> bool:
        """Whether the policy may be released."""
        return self.upper <= self.limit


def check_safety(
    costs: Array,
    limit: float,
    delta: float = 0.05,
    bound: Bound = "student-t",
    cost_range: tuple[float, float] | None = None,
) -> SafetyTest:
    """Bound the expectation of costs [E] of episodes from above, with confidence 1 - delta, and compare with a limit.

    hoeffding: mean + (b - a) sqrt(ln(1 / delta) / 2 E), for costs in the range [a, b]: holds for any such costs.
    student-t: mean + s t_{1-delta, E-1} / sqrt(E), with s the sample deviation: shorter, exact for normal costs and
    approximate for others. The episodes must have chosen nothing, neither the policy nor its checkpoint.
    Raises PrefenvsError for fewer than two episodes, costs out of range, and a Hoeffding bound without a range.
    """
    costs = np.asarray(costs, np.float64)
    if costs.ndim != 1 or len(costs) < 2 or not np.isfinite(costs).all():
        raise PrefenvsError(f"a safety test needs the finite costs of 2 episodes or more, got {costs.tolist()[:3]}")
    if not 0.0 < delta < 1.0:
        raise PrefenvsError(f"delta, the chance of a false pass, lies between 0 and 1, got {delta}")
    count, mean = len(costs), float(costs.mean())
    if bound == "hoeffding":
        if cost_range is None or not cost_range[0] < cost_range[1]:
            raise PrefenvsError(f"the Hoeffding bound needs the range that costs lie in, low < high, got {cost_range}")
        low, high = cost_range
        # Costs are means of float32 observations, so that the ends of a range are met but nearly.
        slack = 1e-6 * (high - low)
        if costs.min() < low - slack or costs.max() > high + slack:
            raise PrefenvsError(f"costs of {costs.min():g} to {costs.max():g} leave the range {low:g} to {high:g}")
        reach = (high - low) * math.sqrt(math.log(1.0 / delta) / (2 * count))
    elif bound == "student-t":
        from scipy.stats import t

        reach = float(costs.std(ddof=1) * t.ppf(1.0 - delta, count - 1)) / math.sqrt(count)
    else:
        raise PrefenvsError(f"the bound is hoeffding or student-t, got {bound!r}")
    return SafetyTest(mean, mean + reach, limit, delta, bound, count)
