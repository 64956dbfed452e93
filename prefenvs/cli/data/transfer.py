"""`prefenvs labels transfer`: labels of one task for the data of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from tyro.conf import Positional

from prefenvs.errors import PrefenvsError
from prefenvs.limits import PositiveFloat, PositiveInt, Seed


@dataclass(frozen=True)
class LabelsTransfer:
    """Carry labels to a data set of another task, by a Gromov-Wasserstein coupling of segments (PEARL)."""

    source: Annotated[str, Positional]
    """Preference store of the source task, with answers to pairs."""
    dataset: str
    """Data of the target task, by name or path."""
    store: str
    """Where the transferred labels go: path of an SQLite file, which is made where there is none, or a URL."""
    task: str | None = None
    """Target task, where the data set does not tell it."""
    labels: PositiveInt = 500
    """Labels of the source to use, at most."""
    pairs: PositiveInt = 500
    """Pairs of the target to label."""
    segment_length: PositiveInt | None = None
    """Steps in a target segment; the task's own by default."""
    epsilon: PositiveFloat = 0.01
    """Weight of the coupling's entropy, where the largest distance is 1; larger values blur."""
    seed: Seed = 0
    """Seed of the pairs."""
    max_gib: PositiveFloat | None = None
    """Memory in GiB that the data set may take; by default 4."""
    skip_damaged: bool = False
    """Leave out damaged episodes of recordings."""

    def run(self) -> None:
        """Transfer and store the labels, soft ones, under the annotator `transfer`."""
        from prefenvs.cli.data.store import tell_known
        from prefenvs.datasets.labels.transfer import transfer_labels
        from prefenvs.datasets.load import load_dataset
        from prefenvs.preferences import make_pairs
        from prefenvs.store import Store
        from prefenvs.tasks import find_task

        with Store(self.source, create=False) as kept:
            known = [one for one in kept.preferences() if len(one.query.segments) == 2][: self.labels]
            tell_known(kept)
        read = load_dataset(self.dataset, self.task, max_gib=self.max_gib, skip_damaged=self.skip_damaged)
        data = read.trajectories
        task = data.task or self.task
        if not task:
            raise PrefenvsError(f"the data set {self.dataset} does not tell its task: name it with --task")
        length = self.segment_length or find_task(task).segment_length
        targets = make_pairs(data.sample(2 * self.pairs, length, np.random.default_rng(self.seed)))
        made = transfer_labels(known, targets, self.epsilon)
        with Store(self.store) as store:
            store.add_preferences(made, run=f"transfer {self.source}")
        clear = np.mean([max(one.probabilities) > 0.75 for one in made if one.probabilities is not None])
        print(
            f"{len(known)} labels became {len(made)} of {task} in {self.store}, {clear:.0%} of them clear (above .75)"
        )
