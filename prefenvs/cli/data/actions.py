"""`prefenvs actions`: actions for recordings that have none, from recordings that have some."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from prefenvs.errors import PrefenvsError
from prefenvs.limits import DeviceName, FractionBelowOne, NonNegativeInt, PositiveFloat, PositiveInt, Seed


@dataclass(frozen=True)
class Actions:
    """Infer the actions of a data set without any, by inverse dynamics learned from one with actions (VPT).

    Both have the same observations: a robot's own, or the same encoder's features of both (`prefenvs features`). The
    result holds both, and marks the episodes with inferred actions.
    """

    dataset: Annotated[str, Positional]
    """Data set without actions, by name or path."""
    known: str
    """Data set with actions."""
    out: Path
    """Folder of .npz files to write."""
    before: NonNegativeInt = 2
    """Observations before a step from which its action is told."""
    after: PositiveInt = 3
    """Observations after a step from which its action is told."""
    steps: PositiveInt = 5_000
    """Updates of the model."""
    held_out: FractionBelowOne = 0.2
    """Share of the episodes with actions that measures the model."""
    preferences: str | None = None
    """Store of labels of segments of either data set."""
    labels_to: str | None = None
    """Store where the same labels are written, of the new data set's segments."""
    task: str | None = None
    """Task of both data sets, where they do not tell it."""
    skip_damaged: bool = False
    """Leave out damaged episodes of recordings."""
    max_gib: PositiveFloat | None = None
    """Memory in GiB that each data set may take; by default 4."""
    seed: Seed = 0
    """Seed of the networks and of the hold-out."""
    device: DeviceName = "auto"
    """Where the model runs: auto, cpu or cuda."""

    def run(self) -> None:
        """Learn, tell the error, infer, write, and take the labels over."""
        from prefenvs.agents.inverse_dynamics import InverseDynamics, InverseDynamicsConfig
        from prefenvs.cli.data.features import check_names, check_stores, take_labels
        from prefenvs.datasets.formats.npz import check_folder, write_npz
        from prefenvs.datasets.load import load_dataset
        from prefenvs.datasets.offline import join_inferred

        check_stores(self.preferences, self.labels_to)
        check_folder(self.out)
        bare, known = (
            load_dataset(name, self.task, max_gib=self.max_gib, skip_damaged=self.skip_damaged)
            for name in (self.dataset, self.known)
        )
        sizes = known.trajectories.observations.shape[1], known.trajectories.actions.shape[1]
        for what, size in zip(("observations", "actions"), sizes, strict=True):
            if not size:
                raise PrefenvsError(f"{self.known} holds no {what}, from which actions could be told")
        if bare.trajectories.actions.shape[1]:
            raise PrefenvsError(f"{self.dataset} has actions: name the data set without any, and this one as --known")
        if bare.trajectories.observations.shape[1] != sizes[0]:
            raise PrefenvsError(
                f"observations of {self.known} have {sizes[0]} entries, of {self.dataset} "
                f"{bare.trajectories.observations.shape[1]}: make both by the same `prefenvs features`"
            )
        if self.preferences is not None:
            check_names([known.trajectories, bare.trajectories])
        config = InverseDynamicsConfig(self.before, self.after, steps=self.steps, held_out=self.held_out)
        model = InverseDynamics(*sizes, config, self.seed, self.device)
        errors = model.fit(known.trajectories)
        both = join_inferred(known, bare, model.predict(bare.trajectories), self.out.name)
        print(write_npz(both, self.out))
        if errors is not None:
            print(
                f"inferred actions of held-out episodes ({errors.steps} steps) miss by {errors.absolute:.4g} on "
                f"average, and leave {errors.unexplained:.1%} of the actions' variance unexplained"
            )
        print(f"{len(both)} episodes; the actions of {both.inferred_share:.1%} of all steps are inferred")
        if self.preferences is not None and self.labels_to is not None:
            old = [known.trajectories, bare.trajectories]
            take_labels(self.preferences, self.labels_to, old, both.trajectories, f"actions {self.dataset}")
