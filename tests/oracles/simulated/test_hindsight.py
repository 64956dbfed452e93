"""The hindsight rater: continuations are the simulator's own, and labels those of what follows."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import prefenvs
from prefenvs import PrefenvsError, Query, Segment
from prefenvs.agents.rewards.options.surf import CroppingOracle
from prefenvs.envs.delivery.board import find_board
from prefenvs.envs.delivery.values import BoardValues
from prefenvs.oracles import HindsightOracle, HybridOracle, PartialReturnOracle, make_rater
from prefenvs.oracles.contract import check_oracle
from prefenvs.preferences import Oracle, Preference
from prefenvs.raters import as_oracle
from prefenvs.store import Recorded, Store
from prefenvs.trajectories import TrajectoryBuffer


class Best:
    """The optimal driver of board 0."""

    def __init__(self) -> None:
        self.values = BoardValues(find_board(0), 0.99)

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return self.values.q[self.values.cells(observation)].argmax(-1), None


class Keeping(PartialReturnOracle):
    """A rater that keeps what it is asked."""

    def ask(self, queries) -> None:
        self.asked = list(queries)
        super().ask(queries)


def collect(task: str, steps: int, seed: int = 0):
    """Random episodes of a task with their states."""
    with closing(prefenvs.make(task)) as env:
        env.action_space.seed(seed)
        buffer = TrajectoryBuffer(task)
        observation, info = env.reset(seed=seed)
        for step in range(steps):
            action, state, scene = env.action_space.sample(), info.get("state"), info.get("scene")
            following, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated or step == steps - 1
            vector = np.eye(4)[action] if task == "Delivery-v0" else action
            buffer.add_step(
                0, observation, vector, info["true_reward"], state, done=done, terminated=terminated, scene=scene
            )
            observation = following
            if done:
                observation, info = env.reset()
        return buffer.trajectories()


def test_a_continuation_is_what_the_simulator_did() -> None:
    """A policy that replays the recorded actions continues a segment to the recorded segment."""
    episodes = collect("Reacher-v5", 50)

    class Replay:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            row = np.abs(episodes.observations - np.ravel(observation)).sum(1).argmin()
            return episodes.actions[row][None], None

    inner = Keeping()
    oracle = HindsightOracle(inner, "Reacher-v5", steps=6, policy=Replay())
    starts = np.array([3, 20])
    short, whole = (episodes.cut(np.zeros(2, int), starts, length) for length in (5, 11))
    oracle.ask([Query((short[0], short[1]))])
    for made, known in zip(inner.asked[0].segments, whole, strict=True):
        assert np.allclose(made.observations, known.observations, atol=1e-4)
        assert np.allclose(made.true_rewards, known.true_rewards, atol=1e-4)
        assert np.allclose(made.states, known.states, atol=1e-5)
    answer = oracle.collect()[0]
    assert answer.query.segments == (short[0], short[1]) or answer.query.id == Query((short[0], short[1])).id
    assert answer.best == int(np.argmax([one.true_rewards.sum() for one in whole]))


def test_a_myopic_rater_sees_what_a_detour_leads_to() -> None:
    """A move that pays more at once may lead away from the flag: only hindsight tells."""
    board = find_board(0)
    values = BoardValues(board, 0.99)
    starts, moves = np.nonzero(~board.terminal[board.next_cells] & (values.a < -1.5))
    better, asked = [], []
    for cell, move in zip(starts, moves, strict=True):
        if board.glyphs[cell] == "#" or board.terminal[cell]:
            continue
        best = int(values.q[cell].argmax())
        if board.rewards[cell, move] <= board.rewards[cell, best] or board.terminal[board.next_cells[cell, best]]:
            continue
        made = []
        for action in (move, best):
            state = np.array([[0, *divmod(cell, 10)]], float)
            made.append(
                Segment(
                    board.observations[[cell]], np.eye(4, dtype=np.float32)[[action]],
                    board.rewards[[cell], [action]], state, task="Delivery-v0", start=0,
                )
            )  # fmt: skip
        asked.append(Query(tuple(made)))
        better.append(values.q[cell, best])
    assert len(asked) > 10
    oracle = HindsightOracle(PartialReturnOracle(), "Delivery-v0", steps=30, policy=Best())
    oracle.ask(asked)
    assert all(answer.best == 1 for answer in oracle.collect())
    myopic = PartialReturnOracle()
    myopic.ask(asked)
    assert all(answer.best == 0 for answer in myopic.collect())


def test_it_keeps_the_contract_and_follows_the_agent_in_training() -> None:
    batch = collect("Delivery-v0", 60).sample(8, 3, np.random.default_rng(0))
    asked = [Query((batch[2 * i], batch[2 * i + 1])) for i in range(4)]
    check_oracle(lambda: HindsightOracle(PartialReturnOracle("mistake", seed=0), "Delivery-v0", 5, Best()), asked)
    followed, given = HindsightOracle(PartialReturnOracle(), "Delivery-v0"), Best()
    followed.follow(given)
    assert followed.policy is given
    fixed = HindsightOracle(PartialReturnOracle(), "Delivery-v0", policy=given)
    fixed.follow(Best())
    assert fixed.policy is given


def test_what_cannot_be_continued_is_refused() -> None:
    class Late(Oracle):
        name = "late"
        pending = 1

        def ask(self, queries) -> None:
            pass

        def collect(self) -> list[Preference]:
            return []

    batch = collect("Delivery-v0", 60).sample(2, 3, np.random.default_rng(0))
    with pytest.raises(PrefenvsError, match="answers at once, which late does not"):
        HindsightOracle(Late(), "Delivery-v0", policy=Best()).ask([Query((batch[0], batch[1]))])
    bare = Segment(batch[0].observations, batch[0].actions, batch[0].true_rewards, task="Delivery-v0")
    with pytest.raises(PrefenvsError, match="from their states"):
        HindsightOracle(PartialReturnOracle(), "Delivery-v0", policy=Best()).ask([Query((bare, bare))])
    with pytest.raises(PrefenvsError, match="no agent is in training"):
        HindsightOracle(PartialReturnOracle(), "Delivery-v0").ask([Query((bare, bare))])
    with pytest.raises(PrefenvsError, match="'human' is not"):
        make_rater("hindsight:rater=human", prefenvs.oracles.RaterContext("Delivery-v0"))
    hand = collect("metaworld-drawer-open-v3", 12).sample(2, 8, np.random.default_rng(0))
    with pytest.raises(PrefenvsError, match="cannot be continued"):
        HindsightOracle(PartialReturnOracle(), "metaworld-drawer-open-v3", policy=Best()).ask(
            [Query((hand[0], hand[1]))]
        )


def test_raters_in_other_raters_hear_which_agent_is_trained(tmp_path: Path) -> None:
    """As in training, where answers go through a store."""
    heard = []

    class Hearing(PartialReturnOracle):
        def follow(self, policy) -> None:
            heard.append(policy)

    given = Best()
    with Store(tmp_path / "answers.sqlite") as store:
        both = HybridOracle(Hearing(), Hearing(), route="random", seed=0)
        for rater in (Recorded(Hearing(), store), CroppingOracle(Hearing(), 2), both, as_oracle(Hearing())):
            rater.follow(given)
    assert heard == [given] * 5
