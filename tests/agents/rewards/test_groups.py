"""Rewards of raters who disagree: groups are recovered, scales are equal, and what is saved comes back."""

from pathlib import Path

import numpy as np
import pytest
import torch

from prefenvs import PrefenvsError, Query, Segment
from prefenvs.agents.rewards.groups import GroupReward, GroupRewardConfig, maxmin_weights
from prefenvs.agents.rewards.kinds import fit_kind, kind_settings
from prefenvs.preferences import Preference


def labels(people: int = 10, each: int = 12, minority: int = 3, seed: int = 0) -> list[Preference]:
    """Annotators 0, 1, ... want the first observation large, the last `minority` of them want it small."""
    rng, made = np.random.default_rng(seed), []
    for person in range(people):
        sign = -1 if person >= people - minority else 1
        for _ in range(each):
            pair = [Segment(rng.normal(size=(4, 2)).astype(np.float32), np.zeros((4, 1), np.float32)) for _ in range(2)]
            gap = sign * (pair[0].observations[:, 0].sum() - pair[1].observations[:, 0].sum())
            made.append(Preference(Query(tuple(pair)), np.array([gap > 0, gap <= 0], float), f"p{person}"))
    return made


def quick(head: str, **options) -> GroupRewardConfig:
    settings = {"width": 16, "features": 4, "epochs": 60, "batch_size": 64, "learning_rate": 1e-2, "restarts": 2}
    return GroupRewardConfig(head, **settings | options)


@pytest.mark.parametrize("head", ["em", "pal", "vpl"])
def test_groups_and_both_rewards_are_recovered(head: str, tmp_path: Path) -> None:
    model = GroupReward(2, 1, quick(head, serve="groups"), seed=1, device="cpu")
    figures = model.fit(labels())
    assert figures["people"] == 10
    assert figures["accuracy"] > 0.85
    found = [model.group_of(f"p{person}") for person in range(10)]
    assert found == [found[0]] * 7 + [1 - found[0]] * 3
    assert sorted([figures["group_0"], figures["group_1"]]) == pytest.approx([0.3, 0.7])
    points = np.random.default_rng(2).normal(size=(200, 2)).astype(np.float32)
    rewards = model.predict(points, np.zeros((200, 1)))
    assert rewards.shape == (2, 200)
    assert np.corrcoef(rewards[found[0]], points[:, 0])[0, 1] > 0.6
    assert np.corrcoef(rewards[found[9]], points[:, 0])[0, 1] < -0.6
    assert rewards.std(axis=1) == pytest.approx([1.0, 1.0], abs=0.4)
    # A plain model serves the majority.
    plain = GroupReward(2, 1, quick("em", groups=1), seed=1, device="cpu")
    plain.fit(labels())
    assert np.corrcoef(plain.predict(points, np.zeros((200, 1)))[0], points[:, 0])[0, 1] > 0.6
    model.save(tmp_path / "reward.pt")
    loaded = GroupReward.load(tmp_path / "reward.pt", "cpu")
    assert np.array_equal(loaded.predict(points, np.zeros((200, 1))), rewards)
    assert loaded.group_of("p9") == found[9]


def test_whom_it_serves() -> None:
    given, points = labels(), (np.ones((3, 2), np.float32), np.zeros((3, 1), np.float32))
    model = GroupReward(2, 1, quick("em", serve="groups", epochs=20), device="cpu")
    model.fit(given)
    both = model.predict(*points)

    def served(whom: str) -> np.ndarray:
        object.__setattr__(model.config, "serve", whom)
        return model.predict(*points)

    assert np.allclose(served("mean"), both.mean(0))
    assert np.allclose(served("worst"), both.min(0))
    assert np.array_equal(served("majority")[0], both[model.group_of("p0")])
    assert np.array_equal(served("p9")[0], both[model.group_of("p9")])
    with pytest.raises(PrefenvsError, match=r"no label is from 'p91'.*p9"):
        served("p91")


def test_maxmin_weights_go_to_the_group_that_fares_worst() -> None:
    found = maxmin_weights(np.array([0.5, 0.5]), np.array([2.0, 1.0]), rate=1.0)
    assert found == pytest.approx([1 / (1 + np.e), np.e / (1 + np.e)])
    # Two arms, r_1 = (1, 0), r_2 = (0, 1): the average of greedy policies serves both alike.
    weights, plays = np.array([0.9, 0.1]), np.zeros(2)
    for _ in range(2_000):
        arm = int(weights.argmax())
        plays[arm] += 1
        weights = maxmin_weights(weights, np.eye(2)[arm], rate=0.05)
    assert plays / plays.sum() == pytest.approx([0.5, 0.5], abs=0.03)


def test_it_is_a_kind_of_reward_model_and_refuses_what_it_cannot_learn(tmp_path: Path) -> None:
    config = kind_settings("groups", small=True)
    model = fit_kind("groups", quick("em", epochs=5), labels(4, 4, 1), "Reacher-v5", seed=3)
    assert model.predict(np.ones((2, 5, 2)), np.ones((2, 5, 1))).shape == (1, 2, 5)
    assert isinstance(config, GroupRewardConfig)
    three = Query(tuple(Segment(np.ones((2, 2), np.float32) * i, np.ones((2, 1), np.float32)) for i in range(3)))
    with pytest.raises(PrefenvsError, match="more than two segments"):
        model.fit([Preference(three, np.eye(3)[0], "a")])
    long = labels(1, 1)[0]
    short = Query(tuple(Segment(one.observations[:2], one.actions[:2]) for one in long.query.segments))
    with pytest.raises(PrefenvsError, match=r"one length, got \[2, 4\]"):
        model.fit([long, Preference(short, np.eye(2)[0], "a")])
    with pytest.raises(PrefenvsError, match="head"):
        GroupRewardConfig("boltzmann")
    torch.save({"format": "else"}, tmp_path / "reward.pt")
    with pytest.raises(PrefenvsError, match="not a reward model written by GroupReward"):
        GroupReward.load(tmp_path / "reward.pt")
    with pytest.raises(PrefenvsError, match="there is no reward model"):
        GroupReward.load(tmp_path / "none.pt")
