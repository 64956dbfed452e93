"""`prefenvs evaluate RUN`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from tyro.conf import Positional

from prefenvs.envs import make
from prefenvs.errors import PrefenvsError
from prefenvs.evaluate import Evaluation, evaluate
from prefenvs.limits import Number, OpenFraction, PositiveInt, Seed
from prefenvs.runs import Run, to_json
from prefenvs.tasks import has_reward


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained policy by the hidden reward, in environments and with seeds that training never saw."""

    run_folder: Annotated[Path, Positional]
    """Folder that `prefenvs train` wrote."""
    task: str | None = None
    """Task to evaluate on, by default the run's own; for runs on data that tell none."""
    encoder: str | None = None
    """For a policy of the data of `prefenvs features`: their encoder, through which it sees --task."""
    episodes: PositiveInt = 20
    """Episodes."""
    seed: Seed = 7_919
    """Seed of the evaluation, other than the run's, with which training itself evaluated."""
    stochastic: bool = False
    """Sample actions instead of taking the mean."""
    json: bool = False
    """Print one JSON object."""
    safety: str | None = None
    """Test before release that an episode's mean cost stays below --limit: effort, jerk, norm(I:J), obs(I), act(I), or
    module:FUNCTION of an episode, with a minus where more is better. A policy that does not pass ends with status 1."""
    limit: Number | None = None
    """Highest cost allowed."""
    delta: OpenFraction = 0.05
    """Chance of passing a policy whose expected cost is above the limit."""
    bound: Literal["student-t", "hoeffding"] = "student-t"
    """student-t, or hoeffding, which holds for any costs within --cost-range."""
    cost_range: tuple[Number, Number] | None = None
    """Lowest and highest cost that an episode can have."""

    def run(self) -> None:
        """Print the returns, or the verdict of the safety test; raises PrefenvsError for the run's own seed."""
        if self.safety is not None:
            self._test_safety(self.safety)
            return
        for name in ("limit", "cost_range"):
            if getattr(self, name) is not None:
                raise PrefenvsError(f"--{name.replace('_', '-')} belongs to the safety test: name a cost with --safety")
        run = Run.open(self.run_folder)
        run.check_fresh(self.seed)
        result, record = evaluate_run(
            run, self.episodes, self.seed, not self.stochastic, task=self.task, encoder=self.encoder
        )
        known = has_reward(record["task"])
        figures = {
            "task": record["task"],
            "episodes": len(result.returns),
            "mean_return": float(result.returns.mean()) if known else None,
            "std_return": float(result.returns.std()) if known else None,
            "min_return": float(result.returns.min()) if known else None,
            "max_return": float(result.returns.max()) if known else None,
            "success": None if result.success is None else float(result.success.mean()),
        }
        if self.json:
            print(to_json(figures))
            return
        print(f"{figures['task']}, {figures['episodes']} episodes, evaluation seed {self.seed}")
        if not known:
            print("this task has no true reward: look at the behaviour itself, with `prefenvs record`")
            return
        print(f"true return: {figures['mean_return']:.1f} +- {figures['std_return']:.1f} (std over episodes), "
              f"{figures['min_return']:.1f} to {figures['max_return']:.1f}")  # fmt: skip
        if figures["success"] is not None:
            print(f"success: {figures['success']:.0%}")

    def _test_safety(self, cost: str) -> None:
        from prefenvs.metrics.safety import check_safety
        from prefenvs.oracles.simulated.heron import find_factor

        factor, run = find_factor(cost), Run.open(self.run_folder)
        if self.limit is None:
            raise PrefenvsError(f"--safety {cost} needs the highest cost allowed: --limit")
        run.check_fresh(self.seed)
        episodes, task = self.episodes, self.task
        result, record = evaluate_run(
            run, episodes, self.seed, not self.stochastic, record=episodes, task=task, encoder=self.encoder
        )
        assert result.trajectories is not None
        lengths = result.trajectories.lengths
        first = np.zeros(1, np.int64)
        whole = [result.trajectories.cut(first + i, first, int(n))[0] for i, n in enumerate(lengths)]
        costs = np.array([factor(episode) for episode in whole])
        found = check_safety(costs, self.limit, self.delta, self.bound, self.cost_range)
        if self.json:
            print(to_json({"task": record["task"], "cost": cost, **asdict(found), "passed": found.passed}))
        else:
            print(f"{record['task']}, {found.episodes} episodes, evaluation seed {self.seed}")
            print(f"mean cost {found.mean:.4g}, below {found.upper:.4g} with {1 - found.delta:.0%} by {found.bound}")
            verdict = "passed: at" if found.passed else "not passed: not known to be at"
            print(f"{verdict} most {found.limit:g}")
        if not found.passed:
            raise SystemExit(1)


def evaluate_run(
    run: Run,
    episodes: int,
    seed: int,
    deterministic: bool = True,
    record: int = 0,
    task: str | None = None,
    film: Path | None = None,
    encoder: str | None = None,
) -> tuple[Evaluation, dict[str, str]]:
    """Evaluate the newest checkpoint of a run; returns the evaluation and the run's configuration.

    task: in the place of the run's own; film: see `prefenvs.evaluate.evaluate`; encoder: through which the policy sees
    the task. Raises PrefenvsError for a run on data that tell none, without it.
    """
    from prefenvs.agents.rewards.image.encoders import load_encoder
    from prefenvs.agents.rewards.image.features import FeatureObservation
    from prefenvs.agents.runs.train import load_policy

    task = task or run.task
    policy = load_policy(run)
    envs: list[Any] | None = None
    if encoder is not None:
        seen = getattr(policy, "observation_space", None)
        if seen is None or len(seen.shape) != 1:
            raise PrefenvsError(f"{run.folder} holds no policy of vectors, such as features are: leave --encoder out")
        envs = [FeatureObservation(make(task), task, load_encoder(encoder), seen.shape[0])]
    result = evaluate(
        policy,
        task,
        episodes=episodes,
        seed=seed,
        deterministic=deterministic,
        record=record,
        film=film,
        envs=envs,
        horizon=getattr(policy, "horizon", None),
    )
    for env in envs or ():
        env.close()
    return result, run.config | {"task": task}
