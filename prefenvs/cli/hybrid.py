"""What a command that asks two raters is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from prefenvs.errors import PrefenvsError
from prefenvs.limits import Fraction, NonNegativeInt
from prefenvs.seeding import derive_seed

if TYPE_CHECKING:
    from prefenvs.oracles import HybridOracle
    from prefenvs.preferences import Oracle


@dataclass(frozen=True)
class HybridOptions:
    """Two raters as one; either may be any that --oracle takes, with that one's own options."""

    cheap: Annotated[str, arg(name="cheap")] = "vlm"
    """Who answers most queries."""
    costly: Annotated[str, arg(name="costly")] = "human"
    """Who answers where it pays."""
    route: Annotated[
        Literal["disagreement", "uncertainty", "inconsistency", "learned", "random"], arg(name="route")
    ] = "disagreement"
    """What sends a query to the costly rater: the reward ensemble's disagreement, the cheap rater's uncertainty, its
    verdict changing with the order (--vlm-order both), a router that learns where the two differ, or chance."""
    share: Annotated[Fraction, arg(name="costly-share")] = 0.25
    """Largest share of the queries sent to the costly rater for that."""
    audit: Annotated[Fraction, arg(name="audit-share")] = 0.05
    """Share of the queries put to both by chance, to measure how far they agree."""
    limit: Annotated[NonNegativeInt | None, arg(name="costly-limit")] = None
    """Most queries for the costly rater in all."""

    @property
    def raters(self) -> tuple[str, str]:
        """Both raters' names."""
        return self.cheap, self.costly

    def make(self, make_rater: Callable[[str, int], Oracle], seed: int) -> HybridOracle:
        """Return the rater; `make_rater` makes each by its name and its seed."""
        from prefenvs.oracles import HybridOracle
        from prefenvs.oracles.hybrid.config import HybridConfig

        for name in {"hybrid", "ratings"} & {*self.raters}:
            raise PrefenvsError(f"--cheap and --costly name raters that compare two segments, which {name!r} is not")
        config = HybridConfig(self.route, self.share, self.audit, self.limit)
        if self.cheap == self.costly:
            raise PrefenvsError(f"--cheap and --costly are both {self.cheap!r}: one rater needs no routing")
        # With one seed the two would err on the same queries.
        cheap, costly = (
            make_rater(name, derive_seed(seed, part)) for name, part in ((self.cheap, "cheap"), (self.costly, "costly"))
        )
        return HybridOracle(cheap, costly, config, seed=seed)
