"""`prefenvs features`: a data set whose observations are what a frozen encoder makes of its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from tyro.conf import Positional

from prefenvs.errors import PrefenvsError
from prefenvs.limits import DeviceName, PositiveFloat

if TYPE_CHECKING:
    from prefenvs.datasets.offline import OfflineDataset
    from prefenvs.preferences import Preference
    from prefenvs.trajectories import Trajectories


@dataclass(frozen=True)
class Features:
    """Write recordings as vectors: the observations with an encoder's features of each step's pictures behind them.

    Policies learn from the result as from any data set, and from its labels; what was encoded is kept, so that the same
    command goes on where it was stopped.
    """

    dataset: Annotated[str, Positional]
    """Data set of recordings, by name or path."""
    encoder: str
    """A CLIP model, timm:NAME, transformers:NAME or module:NAME."""
    out: Path
    """Folder of .npz files to write."""
    cameras: tuple[str, ...] = ()
    """The recorded views, whose features stand side by side; by default the first."""
    features_only: bool = False
    """Leave out the data's own observations, as beside videos, which have none."""
    cache: Path = Path("features")
    """Where the features of each episode are kept."""
    preferences: str | None = None
    """Store of labels of the recordings."""
    labels_to: str | None = None
    """Store where the same labels are written, of the new data set's segments."""
    task: str | None = None
    """Task of the data, where they have several."""
    skip_damaged: bool = False
    """Leave out damaged episodes of recordings."""
    max_gib: PositiveFloat | None = None
    """Memory in GiB that the data set may take; by default 4."""
    device: DeviceName = "auto"
    """Where the encoder runs: auto, cpu or cuda."""

    def run(self) -> None:
        """Encode, write, and take the labels over."""
        from prefenvs.agents.rewards.image.encoders import load_encoder
        from prefenvs.agents.rewards.image.features import FeatureCache
        from prefenvs.datasets.formats.npz import check_folder, write_npz
        from prefenvs.datasets.load import load_dataset

        check_stores(self.preferences, self.labels_to)
        check_folder(self.out)
        dataset = load_dataset(self.dataset, self.task, max_gib=self.max_gib, skip_damaged=self.skip_damaged)
        cache = FeatureCache(self.cache, load_encoder(self.encoder, self.device), self.cameras)
        encoded = with_features(dataset, cache, self.out.name, own=not self.features_only)
        print(write_npz(encoded, self.out))
        width = encoded.trajectories.observations.shape[1]
        own = 0 if self.features_only else dataset.trajectories.observations.shape[1]
        print(f"{len(encoded)} episodes; observations have {width} entries, {own} of them the data's own")
        if self.preferences is not None and self.labels_to is not None:
            old, new = [dataset.trajectories], encoded.trajectories
            take_labels(self.preferences, self.labels_to, old, new, f"features {self.dataset}")


def check_stores(preferences: str | None, labels_to: str | None) -> None:
    """Raise a PrefenvsError where only one of two stores is named."""
    if (preferences is None) != (labels_to is None):
        raise PrefenvsError("--preferences and --labels-to go together: where labels come from, and where they go")


def take_labels(preferences: str, labels_to: str, old: Sequence[Trajectories], new: Trajectories, run: str) -> None:
    """Write the labels of some data sets into another store, as those of one that holds all their episodes."""
    from prefenvs.cli.data.store import tell_known
    from prefenvs.store import Store

    with Store(preferences, create=False) as store:
        answers = store.preferences()
        tell_known(store)
    moved = move_labels(answers, old, new)
    with Store(labels_to) as store:
        store.add_preferences(moved, run=run)
    print(f"{len(moved)} of {len(answers)} labels are in {labels_to}")


def check_names(old: Sequence[Trajectories]) -> None:
    """Raise a PrefenvsError where two data sets have one name, by which labels tell what they are of."""
    names = [data.source for data in old]
    if len(set(names)) < len(names):
        raise PrefenvsError(f"both data sets are called {names[0]!r}, so labels do not tell which: rename one's folder")


def with_features(dataset: OfflineDataset, cache: object, name: str, own: bool = True) -> OfflineDataset:
    """Return a data set with features behind its observations; its episodes are numbered from 0, and it has no task.

    cache: a `FeatureCache`. own: keep the data's own observations. Raises PrefenvsError where one has no recording.
    """
    from prefenvs.agents.rewards.image.features import FeatureCache

    assert isinstance(cache, FeatureCache)
    data = dataset.trajectories
    cache.fill(data)
    episodes = [data.episode(position) for position in range(len(data))]
    features = np.concatenate([cache.rows(episode, np.arange(len(episode))) for episode in episodes])
    encoded = replace(
        data,
        observations=np.concatenate([data.observations, features] if own else [features], 1).astype(np.float32),
        final_observations=None,
        states=None,
        scenes=None,
        recordings=None,
        numbers=None,
        first_episode=0,
        task="",
        source=name,
    )
    return replace(dataset, name=name, trajectories=encoded)


def move_labels(preferences: list[Preference], old: Sequence[Trajectories], new: Trajectories) -> list[Preference]:
    """Return the labels of data sets' segments as those of the same steps of another, which holds all their episodes.

    Labels of other data are left out. Raises PrefenvsError as `check_names` does.
    """
    from prefenvs.preferences import Query

    check_names(old)
    known = [(data.source, number) for data in old for number in data.episode_numbers.tolist()]
    places = {episode: position for position, episode in enumerate(known)}
    moved = []
    for preference in preferences:
        segments = preference.query.segments
        found = [places.get((segment.source, segment.episode)) for segment in segments]
        if None in found:
            continue
        cut = [
            new.cut(np.array([position]), np.array([segment.start]), len(segment))[0]
            for position, segment in zip(found, segments, strict=True)
        ]
        moved.append(replace(preference, query=Query(tuple(cut))))
    return moved
