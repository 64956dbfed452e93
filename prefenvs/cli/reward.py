"""`prefenvs reward`: learn a reward from the labels of a data set, look at it, and export it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from tyro.conf import Positional

from prefenvs.errors import PrefenvsError
from prefenvs.limits import DeviceName, FractionBelowOne, PositiveFloat, PositiveInt, Seed
from prefenvs.runs import to_json

if TYPE_CHECKING:
    from prefenvs.cli.train.labels import Labels
    from prefenvs.datasets.offline import OfflineDataset
    from prefenvs.preferences import Preference
    from prefenvs.segments import Array
    from prefenvs.trajectories import Trajectories


@dataclass(frozen=True)
class Reward:
    """Learn a reward of a data set from labels of its segments; write it, a report with pictures, and its progress.

    The same command again takes up features and networks where they are, and writes the report anew.
    """

    dataset: Annotated[str, Positional]
    """Data set whose segments were compared, by name or path."""
    preferences: str
    """The labels: a store, or a folder of published labels."""
    folder: Path = Path("reward")
    """Where the networks, the features, the rewards of all steps and the report are written."""
    kind: Literal["image", "ensemble", "transformer", "gaussian"] = "image"
    """What the reward looks at: pictures, observations and actions, or windows of them (gaussian: PEARL's)."""
    encoder: str | None = None
    """With images: a frozen CLIP model, timm:NAME, transformers:NAME or module:NAME; without it convolutions learn."""
    cameras: tuple[str, ...] = ()
    """With images: the recorded views to look at, by default the first."""
    proprioception: bool = False
    """With an encoder: look at the observations too."""
    held_out: FractionBelowOne = 0.2
    """Share of the episodes whose labels measure the reward."""
    progress_to: Path | None = None
    """Write the reward as progress to this Parquet file, by which `lerobot-train` weighs actions."""
    chunk: PositiveInt = 50
    """Steps over which LeRobot compares progress: the chunk of its policy."""
    discard: FractionBelowOne = 0.5
    """Share of the chunks, the worst ones, that get no weight; the best episodes are those of the other share."""
    task: str | None = None
    """Task of the data, where they have several or tell none."""
    skip_damaged: bool = False
    """Leave out damaged episodes of recordings."""
    max_gib: PositiveFloat | None = None
    """Memory in GiB that the data set may take; by default 4."""
    seed: Seed = 0
    """Seed of networks and hold-out."""
    device: DeviceName = "auto"
    """Where to train: auto, cpu or cuda."""

    def run(self) -> None:
        """Fit or read the reward, measure it on held-out episodes, and write what was asked for."""
        from prefenvs.agents.rewards.relabel import relabel
        from prefenvs.cli.train.labels import LabelOptions, LabelSource, labels_at_hand
        from prefenvs.datasets.load import load_dataset
        from prefenvs.datasets.recorded.progress import reward_progress, write_progress
        from prefenvs.videos.reward_report import report_reward

        dataset = load_dataset(self.dataset, self.task, max_gib=self.max_gib, skip_damaged=self.skip_damaged)
        data = dataset.trajectories
        options = LabelOptions(self.preferences, held_out=self.held_out)
        labels = LabelSource(options, self.seed).read(dataset)
        labels = labels_at_hand(labels, data) if self.skip_damaged else labels
        if not labels.train:
            raise PrefenvsError(
                f"{self.preferences} holds no label of undamaged episodes outside the held-out ones: label more pairs"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_folder()
        model = self._fit(dataset, labels.train)
        figures = self._measure(model, labels)
        rewards = relabel(model, data)
        figures["best_episodes"] = best = best_episodes(rewards, data, 1.0 - self.discard)
        np.savez(self.folder / "rewards.npz", rewards=rewards, ends=data.ends, episodes=data.episode_numbers)
        (self.folder / "metrics.json").write_text(to_json(figures, indent=2) + "\n")
        length = len(labels.train[0].query.segments[0])
        if data.episode(0).visible:
            facts = [_describe(figures)]
            print(report_reward(data, rewards, self.folder / "report.html", dataset.name, facts, length))
        if self.progress_to is not None:
            progress = reward_progress(rewards, data, self.chunk, self.discard)
            print(write_progress(self.progress_to, progress, data))
            print(f"episodes of the largest mean reward: --dataset.episodes='{best}'")
        print(_describe(figures))

    def _check_folder(self) -> None:
        """Raise a PrefenvsError where the folder holds the reward of other data, labels or settings."""
        asked = {
            name: getattr(self, name)
            for name in ("dataset", "preferences", "kind", "encoder", "proprioception", "held_out", "task", "seed")
        } | {"cameras": list(self.cameras)}
        path = self.folder / "config.json"
        if not path.is_file():
            path.write_text(to_json(asked, indent=2) + "\n")
            return
        try:
            kept = dict(json.loads(path.read_text()))
        except (ValueError, TypeError):
            raise PrefenvsError(f"{path} is damaged: remove {self.folder}, or choose another --folder") from None
        changed = [name for name, value in asked.items() if kept.get(name) != value]
        if changed and (self.folder / "reward.pt").is_file():
            name = changed[0]
            raise PrefenvsError(
                f"{self.folder} holds a reward with {name}={kept.get(name)!r}, not {asked[name]!r}: choose another "
                "--folder"
            )
        path.write_text(to_json(asked, indent=2) + "\n")

    def _fit(self, dataset: OfflineDataset, preferences: list[Preference]) -> Any:
        from prefenvs.agents.rewards.ensemble import RewardEnsemble
        from prefenvs.agents.rewards.image.ensemble import ImageRewardConfig, ImageRewardEnsemble
        from prefenvs.agents.rewards.kinds import fit_kind, kind_settings

        data, kept = dataset.trajectories, self.folder / "reward.pt"
        sizes = data.observations.shape[1], data.actions.shape[1]
        if self.kind != "image" and not all(sizes):
            raise PrefenvsError(
                f"{dataset.name} holds no {'observations' if not sizes[0] else 'actions'}: take --kind image"
            )
        model: Any
        if self.kind == "image":
            config = ImageRewardConfig(cameras=self.cameras, proprioception=self.proprioception)
            features = self.folder / "features"
            if kept.is_file():
                return ImageRewardEnsemble.load(kept, self.device, self.encoder, data.task, features)
            model = ImageRewardEnsemble(data.task, config, self.encoder, self.seed, self.device, sizes[0], features)
            if model.features is not None and data.recordings is not None:
                model.features.fill(data)
            model.fit(preferences, progress=None)
        elif self.kind == "ensemble":
            if kept.is_file():
                return RewardEnsemble.load(kept, self.device)
            model = RewardEnsemble(*sizes, seed=self.seed, device=self.device)
            model.fit(preferences)
        else:
            folder = self.folder if kept.is_file() else None
            settings = kind_settings(self.kind)
            model = fit_kind(self.kind, settings, preferences, data.task, None, self.seed, self.device, folder)
        model.save(kept)
        return model

    def _measure(self, model: Any, labels: Labels) -> dict[str, Any]:
        """Return how many labels the reward predicts, of those that it was fitted to and of held-out episodes."""
        from prefenvs.metrics.accuracy import credit

        figures: dict[str, Any] = {"labels": len(labels.train or []), "left_out": labels.left_out}
        undecided = [one for one in (*(labels.train or []), *labels.held_out) if one.best is None]
        figures["ties"] = sum(not one.skipped for one in undecided)
        for name, preferences in (("training", labels.train or []), ("held_out", labels.held_out)):
            decided = [preference for preference in preferences if preference.best is not None]
            figures[f"{name}_labels"] = len(decided)
            if decided:
                beliefs: Array = model.preference_probabilities([preference.query for preference in decided]).mean(0)
                best = np.array([[preference.best] for preference in decided])
                figures[f"{name}_accuracy"] = float(credit(beliefs, np.take_along_axis(beliefs, best, 1)).mean())
        return figures


def best_episodes(rewards: Array, trajectories: Trajectories, share: float) -> list[int]:
    """Return the numbers of a share of the episodes, at least one: those of the largest mean reward."""
    means = np.add.reduceat(rewards, trajectories.begins) / trajectories.lengths
    count = max(1, round(share * len(means)))
    best: list[int] = sorted(trajectories.episode_numbers[np.argsort(-means, kind="stable")[:count]].tolist())
    return best


def _describe(figures: dict[str, Any]) -> str:
    def share(name: str) -> str:
        count = figures[f"{name}_labels"]
        return f"{figures[f'{name}_accuracy']:.1%} of {count}" if count else "none"

    ties = f"; not counted: {figures['ties']} ties" if figures["ties"] else ""
    left_out = "".join(f"; left out: {count} {reason}" for reason, count in figures["left_out"].items())
    shares = f"{share('training')} in training, {share('held_out')} of held-out episodes"
    return f"labels predicted: {shares}{ties}{left_out}"
