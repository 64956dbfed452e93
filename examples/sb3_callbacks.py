"""Stable-Baselines3's own tools around an agent that learns from preferences: its callbacks, logs and evaluation."""

from __future__ import annotations

from own_environment import SMALL, Reach, nearer
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import prefenvs
from prefenvs.agents import PEBBLE, PebbleConfig

if __name__ == "__main__":
    # The training environment pays nothing; `reward="true"` is for evaluations.
    judged = Monitor(prefenvs.make(Reach, reward="true"))
    good_enough = StopTrainingOnRewardThreshold(-10.0, verbose=1)
    callbacks = [
        EvalCallback(judged, callback_on_new_best=good_enough, n_eval_episodes=5, eval_freq=300,
                     best_model_save_path="best", log_path="evaluations"),
        CheckpointCallback(400, "checkpoints", save_replay_buffer=True),
    ]  # fmt: skip
    config = PebbleConfig(labels=40, per_session=20, interact=300, segment_length=10, unsupervised_steps=200)
    agent = PEBBLE("MlpPolicy", prefenvs.make(Reach), nearer, config, **SMALL, tensorboard_log="tensorboard")
    agent.learn(900, callback=callbacks, log_interval=5, tb_log_name="reach")
    best = PEBBLE.load("best/best_model.zip")
    mean, std = evaluate_policy(best, judged, n_eval_episodes=10)
    print(f"true return of the best policy: {mean:.1f} +- {std:.1f}")
