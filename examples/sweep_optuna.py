"""A sweep by Optuna: which reward learning rate and session size suit PEBBLE on a small label budget.

    pip install optuna
    python examples/sweep_optuna.py --trials 20 --steps 20000

Each trial trains one agent and reports how it does on the way, so that hopeless ones are pruned. Its score is the true
return in episodes of their own, which no learner sees. Settings that were chosen by it have seen the hidden reward
through it, so judge the best ones on other seeds (`prefenvs bench run`) before you publish them.
"""

from __future__ import annotations

import argparse
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

import prefenvs
from prefenvs.agents import PEBBLE, PebbleConfig, RewardConfig
from prefenvs.evaluate import evaluate
from prefenvs.oracles import PartialReturnOracle


def objective(trial: Any, task: str, steps: int, labels: int) -> float:
    """Train with a trial's settings and return the final mean true return."""
    import optuna

    config = PebbleConfig(
        labels=labels,
        per_session=trial.suggest_int("per_session", 5, min(50, labels)),
        interact=max(steps // 20, 1),
        unsupervised_steps=steps // 10,
        segment_length=trial.suggest_categorical("segment_length", [10, 25]),
        reward=RewardConfig(learning_rate=trial.suggest_float("reward_lr", 1e-4, 1e-2, log=True), width=64),
    )
    agent = PEBBLE(
        "MlpPolicy",
        prefenvs.make(task),
        PartialReturnOracle(seed=trial.number),
        config,
        learning_rate=1e-3,
        learning_starts=steps // 20,
        batch_size=128,
        policy_kwargs={"net_arch": [64, 64]},
        seed=trial.number,
    )
    report = Report(trial, task, steps // 4)
    agent.learn(steps, callback=report)
    if report.pruned:
        raise optuna.TrialPruned
    return evaluate(agent, task, episodes=10, seed=1).mean_return


class Report(BaseCallback):
    """Tell the trial how the agent does after each quarter of the run, and stop where it is to be pruned."""

    def __init__(self, trial: Any, task: str, every: int) -> None:
        super().__init__()
        self.trial, self.task, self.every = trial, task, every
        self.pruned = False

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            self.trial.report(evaluate(self.model, self.task, episodes=5, seed=2).mean_return, self.num_timesteps)
            self.pruned = self.trial.should_prune()
        return not self.pruned


def main(arguments: list[str] | None = None) -> None:
    """Run the sweep and print the best settings."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--task", default="Reacher-v5")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--storage", default="sqlite:///sweep.sqlite", help="an interrupted sweep goes on from here")
    given = parser.parse_args(arguments)
    try:
        import optuna
    except ImportError:
        raise SystemExit("this example needs the package optuna, which is not installed: pip install optuna") from None
    study = optuna.create_study(
        direction="maximize", study_name=f"pebble-{given.task}", storage=given.storage, load_if_exists=True
    )
    study.optimize(lambda trial: objective(trial, given.task, given.steps, given.labels), n_trials=given.trials)
    print(f"best true return {study.best_value:.1f} with {study.best_params}")


if __name__ == "__main__":
    main()
