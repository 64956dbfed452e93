"""What learners that fit no reward have in common: saved as others are, and asking about whole episodes."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback

from prefenvs.agents.nets.saved import damage_told, find_folder, new_folder
from prefenvs.agents.nets.spaces import check_spaces
from prefenvs.agents.online.checkpoint import (
    WAY_OUT,
    load_episodes,
    load_model,
    load_random_state,
    random_state,
    restore_trajectories,
    save_episodes,
    save_trajectories,
)
from prefenvs.agents.online.learner import check_policy
from prefenvs.agents.online.saved_agent import SavedAgent
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Oracle, Query
from prefenvs.raters import AnyRater, as_oracle
from prefenvs.segments import Array, Segment
from prefenvs.tasks import is_same_task

FORMAT = "prefenvs-direct-1"
COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "asked", "labels")


class DirectLearner(SavedAgent):
    """Asks a rater about whole episodes and waits for the answer; put before a Stable-Baselines3 algorithm.

    asked: questions so far; labels: those that were answered and not skipped.
    """

    takes: ClassVar[tuple[str, ...]]
    learns_from = "preferences"

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        oracle: AnyRater | None = None,
        config: Any = None,
        **kwargs: Any,
    ) -> None:
        """oracle: who answers; config: an object of `config_type`; everything else is Stable-Baselines3's."""
        self.oracle: Oracle | None = None if oracle is None else as_oracle(oracle)
        assert self.config_type is not None
        self.config = config or self.config_type()
        self.asked = self.labels = 0
        if env is not None:
            env = maybe_make_env(env, kwargs.get("verbose", 0))
            check_spaces(type(self).__name__, self.takes, env)
            if isinstance(policy, str):
                check_policy(policy, env.observation_space)
        super().__init__(policy, env, **kwargs)

    def check_run(self, total_steps: int) -> None:
        """Raise a PrefenvsError where nobody could be asked."""
        if self.oracle is None:
            raise PrefenvsError(f"{self.name} needs a rater: pass oracle=...")
        if hasattr(self.oracle, "watch"):
            raise PrefenvsError(
                f"{self.name} fits no reward model, by which the rater {self.oracle.name} chooses whom to ask: "
                "choose another rater"
            )

    def start_asking(self) -> None:
        """Tell the rater whom it will rate; called at the start of `learn`."""
        assert self.oracle is not None
        self.oracle.follow(self)

    def compare(self, groups: Sequence[Sequence[Segment]]) -> list[Array | None]:
        """Ask which episode of each group is best; return the chances [K] that each is, or None for a skip.

        Episodes of one group that differ in length are padded at their end. Raises PrefenvsError where the rater has
        not answered all, since learning cannot go on before.
        """
        assert self.oracle is not None
        padded = [[segment.padded(max(map(len, group))) for segment in group] for group in groups]
        queries = [Query(tuple(group)) for group in padded]
        self.oracle.ask(queries)
        self.asked += len(queries)
        answers = {answer.query.id: answer.probabilities for answer in self.oracle.collect()}
        late = sum(query.id not in answers for query in queries)
        if late:
            raise PrefenvsError(
                f"{self.name} cannot go on before its questions are answered, and {late} of {len(queries)} are not: "
                "let it wait for people by --wait, or choose a rater that answers at once"
            )
        found = [answers[query.id] for query in queries]
        self.labels += sum(chances is not None for chances in found)
        return found

    def check_labels(self) -> None:
        """Raise a PrefenvsError where all questions were skipped; called at the end of `learn`."""
        if self.asked and not self.labels:
            raise PrefenvsError(f"{self.name} learned nothing: all {self.asked} questions were skipped")

    def state_dict(self) -> dict[str, Any]:
        """Return what this algorithm keeps beside its networks, fit for JSON."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""

    def save_memory(self, folder: Path) -> None:
        """Write the experience that this algorithm learns from, where it keeps any beyond recorded episodes."""

    def load_memory(self, folder: Path) -> None:
        """Read what `save_memory` wrote."""

    def save_checkpoint(self, folder: str | Path) -> Path:
        """Write all that `resume` needs: networks, recorded episodes, counters, the rater's state and random states."""
        folder = Path(folder)
        with new_folder(folder) as new:
            self.save(new / "model.zip")
            self.save_memory(new)
            save_trajectories(self.recorder.buffer.trajectories(), new / "trajectories.npz")
            save_episodes(self, new / "episodes.npz")
            rater = None if self.oracle is None else self.oracle.state_dict()
            # Nothing is open between two rounds of questions.
            (rater or {}).pop("queries", None)
            state = {
                "format": FORMAT,
                "task": self.task,
                "counters": {name: getattr(self, name) for name in COUNTERS},
                "own": self.state_dict(),
                "rater": rater,
                "random": random_state(self),
            }
            (new / "state.json").write_text(json.dumps(state))
        return folder

    def resume(self, folder: str | Path) -> None:
        """Continue from a checkpoint of the same task; call `learn(..., reset_num_timesteps=False)` after it.

        Raises PrefenvsError for a folder that is damaged, of another task, or no such checkpoint.
        """
        folder = Path(folder)
        find_folder(folder)
        path = folder / "state.json"
        if not path.is_file():
            raise PrefenvsError(f"{folder} is not a checkpoint: it holds no state.json; train anew elsewhere")
        with damage_told(path, WAY_OUT):
            state = json.loads(path.read_text())
            if state.get("format") != FORMAT:
                raise PrefenvsError(f"{folder} is a checkpoint of {state.get('format')}, not of {FORMAT}: train anew")
            if not is_same_task(state["task"], self.task):
                raise PrefenvsError(
                    f"the checkpoint {folder} is of task {state['task']!r}, but the environment is {self.task!r}: "
                    "make the environment of the checkpoint's task"
                )
        load_model(self, folder / "model.zip")
        self.load_memory(folder)
        with damage_told(folder / "trajectories.npz", WAY_OUT):
            restore_trajectories(self.recorder.buffer, folder / "trajectories.npz")
        load_episodes(self, folder / "episodes.npz")
        with damage_told(path, WAY_OUT):
            for name in COUNTERS:
                setattr(self, name, int(state["counters"][name]))
            self.load_state_dict(state["own"])
            if self.oracle is not None and state["rater"] is not None:
                self.oracle.load_state_dict(state["rater"])
            # Last, so that nothing above draws from them.
            load_random_state(self, state["random"])

    def dump_logs(self) -> None:
        """Write the log, without the episode rewards that a hidden-reward environment reports as 0."""
        self.logger.record("feedback/asked", self.asked)
        self.logger.record("feedback/labels", self.labels)
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.record("time/episodes", self.recorder.buffer.episodes_seen, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "oracle"]


class RoundLearner(DirectLearner):
    """Plays whole episodes, one after the other in one environment, and asks about those of a round together."""

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        oracle: AnyRater | None = None,
        config: Any = None,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        """As every `DirectLearner`."""
        self.rounds = 0
        super().__init__(policy, env, oracle, config, **{"learning_rate": 0.0, "support_multi_env": True} | kwargs)
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        policy: Any = self.policy_class(self.observation_space, self.action_space, None, **self.policy_kwargs)
        self.policy = policy.to(self.device)
        self.policy.set_training_mode(False)
        self.rng = np.random.default_rng(self.seed)

    @property
    def left(self) -> int:
        """Questions that the budget leaves."""
        return int(self.config.labels) - self.asked

    @property
    def needed(self) -> int:
        """Questions that a round needs."""
        return 1

    def check_run(self, total_steps: int) -> None:
        """As every learner's; raises PrefenvsError too for several environments."""
        super().check_run(total_steps)
        if self.n_envs != 1:
            raise PrefenvsError(
                f"{self.name} plays one episode after the other, not in {self.n_envs} environments: give 1"
            )

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train until the budget of labels or of environment steps is spent; arguments are Stable-Baselines3's.

        A round that is under way when the steps are spent is finished.
        """
        self.check_run(total_timesteps)
        self.start_asking()
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name or type(self).__name__, progress_bar
        )
        callback.on_training_start(locals(), globals())
        going = True
        while going and self.num_timesteps < total_timesteps and self.left >= self.needed:
            callback.on_rollout_start()
            before = self.rounds
            going = self._round(callback)
            self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
            callback.on_rollout_end()
            if log_interval and self.rounds > before and self.rounds % log_interval == 0:
                self.dump_logs()
        callback.on_training_end()
        self.check_labels()
        return self

    @abstractmethod
    def _round(self, callback: BaseCallback) -> bool:
        """Play and ask, counting `rounds`; return False where a callback ends training."""

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "rng"]
