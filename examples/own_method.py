"""A learner of one's own against one of the suite's: one file, and a benchmark with a table of both.

`prefenvs bench run own_method:SUITE` runs it, `prefenvs bench table runs/bench-reach` makes the table; `prefenvs train
own_method:ALGORITHM --dataset ...` trains the learner alone, with its settings as flags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from prefenvs import Preference, Task
from prefenvs.agents.offline.learner import OfflineConfig, OfflineLearner
from prefenvs.agents.registry import Algorithm, Row, Settings
from prefenvs.bench import Data, Grid, Suite
from prefenvs.cli import main
from prefenvs.datasets import OfflineDataset
from prefenvs.limits import PositiveFloat, PositiveInt


@dataclass(frozen=True)
class WinnersConfig(OfflineConfig):
    """Settings of Winners."""

    learning_rate: PositiveFloat = 1e-2
    """Adam's."""
    batch_size: PositiveInt = 64
    """Steps in an update."""


class Winners(OfflineLearner[WinnersConfig]):
    """Imitates the preferred segments with a small network, and ignores the others."""

    name = "winners"
    config_type: ClassVar[type[WinnersConfig]] = WinnersConfig

    def _build(self) -> None:
        self.policy = nn.Sequential(nn.Linear(self.observation_size, 32), nn.Tanh(), nn.Linear(32, self.action_size))
        self.optimiser = torch.optim.Adam(self.policy.parameters(), lr=self.config.learning_rate)

    def _load(self, dataset: OfflineDataset, preferences: Sequence[Preference] | None) -> None:
        best = [p.query.segments[p.best] for p in preferences or () if p.best is not None]
        self.labels = len(best)
        seen = np.concatenate([segment.observations for segment in best])
        done = (np.concatenate([segment.actions for segment in best]) - self.center) / self.half_width
        self.seen = (torch.as_tensor(seen, dtype=torch.float32) - self.mean) / self.std
        self.done = torch.as_tensor(done, dtype=torch.float32)

    def _update(self) -> dict[str, Tensor]:
        rows = torch.randint(len(self.seen), (self.config.batch_size,), generator=self.generator)
        loss = (self.policy(self.seen[rows]) - self.done[rows]).square().mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return {"loss": loss.detach()}

    def _act(self, observations: Tensor, deterministic: bool) -> Tensor:
        action: Tensor = self.policy(observations).clamp(-1.0, 1.0)
        return action

    def _modules(self) -> dict[str, nn.Module]:
        return {"policy": self.policy}

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {"adam": self.optimiser}


def preset(task: Task, name: str = "published", *, steps: int | None = None, **_: Any) -> Settings:
    """Return the settings for a task."""
    return Settings(WinnersConfig(), steps or 1_000)


ALGORITHM = Algorithm(
    name="winners",
    title="imitation of the preferred segments",
    source="offline",
    learner=Winners,
    config=WinnersConfig,
    preset=preset,
    rows=(Row("winners", "imitation of the preferred segments"),),
    upper="iql-true-reward",
)
DATA = Data("reach", (("collect", "own_environment:Reach", "--episodes", "40", "--out", "{data}/episodes"),))
SUITE = Suite(
    "reach",
    "Imitation of what was preferred against imitation of everything.",
    (
        Grid(
            methods=("own_method:ALGORITHM", "bc"),
            tasks=("own_environment:Reach",),
            oracles=("own_environment:nearer",),
            labels=(200,),
            seeds=(0,),
            options={"steps": 400, "evaluate_every": 200, "episodes": 5, "segment_length": 10},
            method_options={"bc": {"preset": "small"}},
            dataset="{data}/episodes",
            data=DATA,
        ),
    ),
)

if __name__ == "__main__":
    main(["bench", "run", "own_method:SUITE", "--folder", "bench", "--workers", "1"])
    main(["bench", "table", "bench", "--resamples", "100"])
