"""`prefenvs labels accuracy`: how well reward models predict answers that they were not fitted to."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
from tyro.conf import Positional

from prefenvs.errors import PrefenvsError
from prefenvs.limits import AtLeastTwo, PositiveFloat, Seed

if TYPE_CHECKING:
    from prefenvs.preferences import Preference
    from prefenvs.segments import Array, Segment

MODELS = ("return", "ensemble", "transformer", "gaussian", "segment")
LOCOMOTION = {"HalfCheetah-v5": (8, 0.0, 0.1), "Hopper-v5": (5, 1.0, 1e-3), "Walker2d-v5": (8, 1.0, 1e-3)}
"""Where observations hold the forward velocity, the reward for being healthy, and the weight of squared actions."""


class Labelled(NamedTuple):
    """Answers, what each is held out with, and which of them are read across an episode's end [N]."""

    preferences: list[Preference]
    sources: list[frozenset[Hashable]]
    crossing: Array


@dataclass(frozen=True)
class LabelsAccuracy:
    """Measure by k folds how well reward models predict answers, people's or others', beside the true return.

    Folds are of episodes; where labels tell none, pairs that share a step are held out together. Only answers that
    prefer one segment count, a predicted tie as half a hit. The same command goes on where it stopped.
    """

    labels: Annotated[str, Positional]
    """A store (.sqlite or postgresql://...), a label file (.csv, .jsonl, .parquet, .npz), or published labels by folder
    or name."""
    dataset: str = ""
    """The data that the labels are about; stores and files that hold their segments need none."""
    task: str = ""
    """Task of segments in a file: Hopper-v5, Walker2d-v5 and HalfCheetah-v5 get a return by their observed velocity."""
    name: str = ""
    """How the labels are called in the results; by default as the file is."""
    models: tuple[str, ...] = MODELS
    """The true return, our ensemble, Preference Transformer, PEARL's robust reward, DPPO's score of segments, or
    module:NAME of your own."""
    preset: Literal["published", "small"] = "small"
    """Settings of the models, published or for a CPU."""
    folds: AtLeastTwo = 5
    """Parts that are held out in turn."""
    seeds: tuple[Seed, ...] = (0,)
    """Seeds of folds and networks."""
    crossing: Literal["drop", "straight"] = "drop"
    """Of published labels, leave out pairs across an episode's end, or fit to them too, their rows read straight on."""
    out: Path = Path("accuracy.csv")
    """Results, one row a fold; rows that it holds are not measured again."""
    max_gib: PositiveFloat | None = None
    """Memory in GiB that the data set may take; by default 4."""
    skip_damaged: bool = False
    """Leave out damaged episodes of recordings."""

    def run(self) -> None:
        """Measure what is missing, write it fold by fold, and print the accuracies of these labels."""
        from prefenvs.agents.rewards.kinds import check_kind
        from prefenvs.datasets.holdout import fold_pairs
        from prefenvs.internal.csv_tables import read_table, write_table
        from prefenvs.metrics.folds import COLUMNS, fold_table
        from prefenvs.runs import provenance

        for model in self.models:
            check_kind(model, MODELS)
        commit = str(provenance()["commit"])
        name = self.name or Path(self.labels.partition("?")[0]).stem
        labelled = self._read()
        decided = np.array([one.best is not None for one in labelled.preferences])
        kept = read_table(self.out, COLUMNS)
        done = {tuple(row[:5]): row[5:7] for row in kept}
        for model in self.models:
            for seed in self.seeds if model != "return" else self.seeds[:1]:
                for fold, (train, held) in enumerate(fold_pairs(labelled.sources, self.folds, seed)):
                    settings = "" if self.preset == "small" or model == "return" else " (published)"
                    key = (name, model + settings, self.crossing, str(seed), str(fold))
                    held &= decided & ~labelled.crossing
                    sizes = ["0" if model == "return" else str(int(train.sum())), str(int(held.sum()))]
                    if done.get(key, sizes) != sizes:
                        raise PrefenvsError(
                            f"{self.out} holds other folds of {name!r}, as by other --folds or fewer labels: choose "
                            "another --out or --name"
                        )
                    if key in done or not held.any():
                        continue
                    fitted = [one for one, use in zip(labelled.preferences, train, strict=True) if use]
                    tested = [one for one, use in zip(labelled.preferences, held, strict=True) if use]
                    hits = self._hits(model, fitted, tested, seed)
                    if hits is not None:
                        kept.append([*key, *sizes, f"{hits:g}", commit])
                        write_table(self.out, COLUMNS, kept)
        print(fold_table([row for row in kept if row[0] == name]))

    def _read(self) -> Labelled:
        from prefenvs.cli.data.store import tell_known
        from prefenvs.datasets.holdout import sources_of
        from prefenvs.datasets.labels.files import find_labels, label_preferences, read_labels
        from prefenvs.datasets.labels.rows import is_table
        from prefenvs.datasets.labels.table import read_label_table
        from prefenvs.datasets.load import load_dataset
        from prefenvs.store import Store, is_store

        dataset = (
            load_dataset(self.dataset, self.task or None, max_gib=self.max_gib, skip_damaged=self.skip_damaged)
            if self.dataset
            else None
        )
        if is_store(self.labels):
            with Store(self.labels, create=False) as store:
                preferences = store.preferences(with_true_rewards=True)
                tell_known(store)
        elif is_table(path := find_labels(self.labels)):
            found = read_label_table(path, dataset, task=self.task, max_gib=self.max_gib)
            found.check()
            preferences = found.preferences
        elif dataset is None:
            raise PrefenvsError(f"{self.labels} holds row numbers: name the data with --dataset")
        else:
            preferences = label_preferences(read_labels(path), dataset)
        sources = sources_of([one.query for one in preferences])
        more, their = self._straight(dataset) if self.crossing == "straight" else ([], [])
        if not preferences:
            raise PrefenvsError(f"{self.labels} holds no label")
        crossing = np.arange(len(preferences) + len(more)) >= len(preferences)
        return Labelled(standardise([*preferences, *more]), [*sources, *their], crossing)

    def _straight(self, dataset: Any) -> tuple[list[Preference], list[frozenset[Hashable]]]:
        """Return the pairs across an episode's end, their rows read one after the other as in the released code."""
        from prefenvs.datasets.labels.files import find_labels, place, read_labels
        from prefenvs.preferences import Preference, Query
        from prefenvs.segments import Segment

        if dataset is None:
            raise PrefenvsError(f"--crossing straight is for published labels of row numbers, not for {self.labels}")
        labels, rows, data = read_labels(find_labels(self.labels)), dataset.qlearning_rows(), dataset.trajectories
        found, sources = [], []
        for number in np.flatnonzero(place(labels, dataset).crossing & ~labels.skipped):
            steps = [rows[start : start + labels.length] for start in labels.starts[number]]
            parts = [
                Segment(data.observations[at], data.actions[at], task=data.task, source=data.source) for at in steps
            ]
            found.append(Preference(Query(tuple(parts)), labels.probabilities[number]))
            episodes = np.unique(np.searchsorted(data.ends, np.concatenate(steps), side="right"))
            sources.append(frozenset[Hashable]((data.source, int(episode)) for episode in episodes))
        return found, sources

    def _hits(self, model: str, fitted: list[Preference], tested: list[Preference], seed: int) -> float | None:
        """Return how many of the tested answers are predicted; None for the return where it is unknown."""
        from prefenvs.metrics.accuracy import label_accuracy

        if model == "return":
            score = _return_of(tested[0].query.segments[0])
        else:
            score = _fit(model, fitted, seed, self.preset == "small")
        return None if score is None else label_accuracy(tested, score) * len(tested)


def standardise(preferences: list[Preference]) -> list[Preference]:
    """Return the answers about observations of mean 0 and standard deviation 1 over all segments."""
    rows = np.concatenate([one.observations for preference in preferences for one in preference.query.segments])
    mean, std = rows.mean(0, dtype=np.float64), rows.std(0, dtype=np.float64) + 1e-3

    def scaled(segment: Segment) -> Segment:
        observations = ((segment.observations - mean) / std).astype(np.float32)
        rewards = segment.true_rewards if segment.true_rewards is not None else _observed_rewards(segment)
        return replace(segment, observations=observations, true_rewards=rewards)

    return [
        replace(one, query=replace(one.query, segments=tuple(map(scaled, one.query.segments)))) for one in preferences
    ]


def _observed_rewards(segment: Segment) -> Array | None:
    """Return a locomotion task's rewards by the velocity seen after each step; None for other tasks."""
    if segment.task not in LOCOMOTION:
        return None
    index, healthy, cost = LOCOMOTION[segment.task]
    velocity = np.append(segment.observations[1:, index], segment.observations[-1, index])
    rewards: Array = velocity + healthy - cost * np.square(segment.actions).sum(1)
    return rewards


def _return_of(segment: Segment) -> Callable[[Segment], float] | None:
    return None if segment.true_rewards is None else lambda one: float(np.asarray(one.true_rewards, np.float64).sum())


def _fit(model: str, preferences: list[Preference], seed: int, small: bool) -> Callable[[Segment], float]:
    """Fit a reward model; return its score of a segment."""
    import torch

    from prefenvs.agents.offline.dppo import SegmentScore, SegmentScoreConfig
    from prefenvs.agents.rewards.ensemble import RewardConfig, RewardEnsemble
    from prefenvs.agents.rewards.kinds import kind_settings, make_reward_model
    from prefenvs.agents.rewards.pearl import GaussianReward
    from prefenvs.agents.rewards.preference_transformer import PreferenceTransformer
    from prefenvs.protocols import predict_rewards

    torch.set_num_threads(1)
    segment = preferences[0].query.segments[0]
    sizes = segment.observations.shape[1], segment.actions.shape[1]
    learned: Any
    if ":" in model:
        own = make_reward_model(model, *sizes, seed)
        own.fit(preferences)
        return lambda one: float(predict_rewards(own, one.observations, one.actions).mean(0).sum())
    if model == "ensemble":
        learned = RewardEnsemble(*sizes, RewardConfig(width=128 if small else 256), seed=seed, device="cpu")
        learned.fit(preferences)
        return lambda one: float(learned.predict(one.observations, one.actions).mean(0).sum())
    if model == "segment":
        score = SegmentScoreConfig(width=64, heads=2, epochs=100) if small else SegmentScoreConfig()
        learned = SegmentScore(*sizes, score, seed=seed, device="cpu")
    else:
        kind: Literal["transformer", "gaussian"] = "transformer" if model == "transformer" else "gaussian"
        settings: Any = kind_settings(kind, small)
        learned = (PreferenceTransformer if kind == "transformer" else GaussianReward)(*sizes, settings, seed, "cpu")
    learned.fit(preferences)
    return lambda one: float(learned.score_one(one))
