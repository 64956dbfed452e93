"""`prefenvs ask`: questions about a data set, put into a store for people or models to answer."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from tyro.conf import Positional

from prefenvs.cli.data.store import filling, learning
from prefenvs.errors import PrefenvsError
from prefenvs.limits import PositiveFloat, PositiveInt, Seed
from prefenvs.preferences import Query, query_id
from prefenvs.tasks import find_task

if TYPE_CHECKING:
    from prefenvs.protocols import RewardModel
    from prefenvs.store import Store
    from prefenvs.trajectories import Trajectories

DRAWS = 5
"""How often a selector is asked again where the store holds what it chose."""


@dataclass(frozen=True)
class Ask:
    """Put questions about a data set into a store, for `prefenvs label` to show to people or `prefenvs rate` to answer.

    The same command again asks as many more; no pair is asked twice.
    """

    dataset: Annotated[str, Positional]
    """Data set whose segments are compared, by name or path."""
    store: str
    """Store that the questions go into: a SQLite file, which is made if there is none, or postgresql:// URL."""
    count: PositiveInt = 100
    """Questions to add."""
    selector: str = "uniform"
    """How pairs are chosen: uniform, k-center, with --reward-model disagreement, entropy or bald, or module:NAME."""
    reward_model: Path | None = None
    """Run folder whose learned reward the selector asks, or the file of a reward model."""
    segment_length: PositiveInt | None = None
    """Steps in a segment; the task's own by default."""
    task_run: str | None = None
    """Name of the questions in the store; "ask DATASET" by default."""
    task: str | None = None
    """Task of the data, where they do not tell it."""
    skip_damaged: bool = False
    """Leave out damaged episodes of recordings."""
    seed: Seed = 0
    """Seed of the choice."""
    max_gib: PositiveFloat | None = None
    """Memory in GiB that the data set may take; by default 4."""

    def run(self) -> None:
        """Choose and store the questions; raises PrefenvsError for data that nobody can be shown."""
        from prefenvs.datasets.load import load_dataset

        model = None if self.reward_model is None else load_reward(self.reward_model)
        data = load_dataset(self.dataset, self.task, max_gib=self.max_gib, skip_damaged=self.skip_damaged).trajectories
        if not data.task:
            raise PrefenvsError(f"the data set {self.dataset} does not tell its task: name it with --task")
        length = self.segment_length or find_task(data.task).segment_length
        run = self.task_run if self.task_run is not None else f"ask {self.dataset}"
        if data.states is None and data.recordings is None:
            print(
                f"{self.dataset} holds neither states nor recordings: people see its observations as curves. An "
                "environment with a `state` that can be set is drawn; one that renders, `prefenvs train` films"
            )
        with filling(self.store) as store:
            added = self._choose(store, run, data, length, model)
            store.add_queries(added, run=run)
            waiting = store.count_pending(run)
        acts = data.actions.size > 0 and data.recordings is None
        if len(added) < self.count:
            print(f"the data hold no more: {len(added)} of {self.count} questions are new")
        print(f"{len(added)} questions about {length} steps each are new in {self.store}, run {run!r}; {waiting} wait")
        print(f"people answer them: prefenvs label --store {shlex.quote(self.store)}")
        print(f"learn from the answers: {learning(self.dataset, self.task, self.store, acts=acts)}")

    def _choose(
        self, store: Store, run: str, data: Trajectories, length: int, model: RewardModel | None
    ) -> list[Query]:
        """Return at most `count` queries by the selector, without the pairs that the store holds, in either order."""
        from prefenvs.queries import find_selector

        chosen: dict[str, Query] = {}
        labelled = store.preferences(run=run)
        select = find_selector(self.selector).select
        held = store.stats().queries
        for draw in range(DRAWS):
            rng = np.random.default_rng([self.seed, held, draw])
            found = select(data, self.count, length, model, labelled, rng)
            known = store.find_queries(key for query in found for key in _orders(query))
            for query in found:
                # A selector of one's own may choose a pair twice.
                if not {*_orders(query)} & (known.keys() | chosen.keys()):
                    chosen[query.id] = query
            if len(chosen) >= self.count:
                break
        return list(chosen.values())[: self.count]


def _orders(query: Query) -> Sequence[str]:
    hashes = [segment.hash for segment in query.segments]
    return query.id, query_id(reversed(hashes))


def load_reward(path: Path) -> RewardModel:
    """Return the reward model of a run folder, or of a file; raises PrefenvsError where there is none."""
    from prefenvs.agents.rewards.kinds import read_reward
    from prefenvs.agents.runs.train import load_reward
    from prefenvs.runs import Run

    if (path / "run.json").is_file():
        model = load_reward(Run.open(path))
    else:
        file = path / "reward.pt" if path.is_dir() else path
        model = read_reward(file) if file.is_file() else None
    if model is None:
        raise PrefenvsError(f"{path} keeps no reward model: name a run folder that learned one, or its reward.pt")
    return model
