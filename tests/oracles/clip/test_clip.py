"""The CLIP reward, its rater and its learner, with a CLIP of random weights: arithmetic and plumbing, not judgement."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prefenvs
from prefenvs.agents import StateRewardSAC
from prefenvs.cli import main
from prefenvs.envs.rendering.gl import gl_backend
from prefenvs.errors import PrefenvsError
from prefenvs.frames.cache import FrameCache
from prefenvs.frames.rewards import reward_steps
from prefenvs.oracles import CLIPOracle, CLIPReward, PartialReturnOracle
from prefenvs.oracles.clip.reward import projected_reward
from prefenvs.oracles.contract import check_oracle
from prefenvs.preferences import make_pairs
from prefenvs.segments import SegmentBatch
from prefenvs.trajectories import Trajectories

TASK = "humanoid-kneel-v0"


def unit(*shape: int, seed: int) -> torch.Tensor:
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))
    return x / x.norm(dim=-1, keepdim=True)


@settings(max_examples=30, deadline=None)
@given(alpha=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_the_reward_is_the_formula(alpha: float, seed: int) -> None:
    x, g, b = unit(5, 8, seed=seed), unit(8, seed=seed + 1), unit(8, seed=seed + 2)
    d = g - b
    projection = alpha * torch.outer(d, d) / (d @ d) + (1 - alpha) * torch.eye(8, dtype=d.dtype)
    expected = 1 - 0.5 * ((x - g) @ projection).norm(dim=-1) ** 2
    assert torch.allclose(projected_reward(x, g, b, alpha), expected)
    assert torch.allclose(projected_reward(x, g, b, 0.0), x @ g)
    assert torch.allclose(projected_reward(g[None], g, b, alpha), torch.ones(1, dtype=d.dtype))
    # On the line itself only the part along it counts.
    across = x - x @ torch.outer(d, d) / (d @ d)
    assert torch.allclose(projected_reward(x + across, g, b, 1.0), projected_reward(x, g, b, 1.0))


class Brightness:
    """A reward of states that can be checked by hand: the second number of the state."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def score(self, states: np.ndarray, scenes: np.ndarray | None = None) -> np.ndarray:
        self.batches.append(len(states))
        return np.asarray(states[:, 1])


def test_a_step_s_reward_is_that_of_the_state_it_led_to_within_its_episode() -> None:
    states = np.stack([np.arange(7.0), 10.0 * np.arange(7)], 1)
    flat = np.zeros((7, 1), np.float32)
    trajectories = Trajectories(flat, flat, np.array([3, 7]), states=states, task=TASK)
    assert reward_steps(Brightness(), trajectories).tolist() == [10, 20, 20, 40, 50, 60, 60]
    with pytest.raises(PrefenvsError, match="hold no simulator states"):
        reward_steps(Brightness(), Trajectories(flat, flat, np.array([3, 7]), task=TASK))


def test_rewards_in_the_replay_buffer_are_those_of_the_states_after_the_step_also_at_episode_ends() -> None:
    """Episodes of 5 steps in 2 environments; the state's second number is the angular velocity, as the observation's
    third is, so that the buffer's next observation tells what the reward must be."""
    venv_steps, reward = 5, Brightness()
    from stable_baselines3.common.vec_env import DummyVecEnv

    venv = DummyVecEnv([lambda: prefenvs.make("Pendulum-v1", max_episode_steps=venv_steps)] * 2)
    agent = StateRewardSAC(
        "MlpPolicy",
        venv,
        reward,
        learning_starts=1_000,
        train_freq=8,
        buffer_size=60,
        policy_kwargs={"net_arch": [8]},
        device="cpu",
        seed=0,
    )
    agent.learning_starts = 10_000
    with pytest.raises(PrefenvsError, match="learning starts after 10000 random steps"):
        agent.learn(80)
    agent.learning_starts = 70
    agent.learn(80)
    buffer = agent.replay_buffer
    assert set(reward.batches) == {16}, "8 steps of 2 environments are scored in one call"
    rows = buffer.size()
    assert rows == 30, "the ring has wrapped"
    ends = buffer.timeouts[:rows].astype(bool)
    assert ends.any()
    # SB3 keeps the last observation of an episode as the next one, not the first after the reset.
    assert np.allclose(buffer.rewards[:rows], buffer.next_observations[:rows, :, 2], atol=1e-5)
    following = np.roll(buffer.observations[:rows, :, 2], -1, 0)
    inner = ends.copy()
    inner[buffer.pos - 1] = False
    assert not np.allclose(buffer.rewards[:rows][inner], following[inner], atol=1e-5)


def test_without_a_reward_it_says_so() -> None:
    agent = StateRewardSAC("MlpPolicy", prefenvs.make("Pendulum-v1"), policy_kwargs={"net_arch": [8]}, device="cpu")
    with pytest.raises(PrefenvsError, match=r"no reward to learn from: pass reward="):
        agent.learn(10)


@pytest.mark.parametrize("pose", ["kneel", "splits", "lotus", "arms-raised", "one-leg"])
def test_poses_have_prompts_and_no_reward(pose: str) -> None:
    task = prefenvs.find_task(f"humanoid-{pose}-v0")
    assert task.goal
    assert task.baseline
    assert not set(task.goal) & set(task.baseline)
    env = prefenvs.make(task.id)
    env.reset(seed=0)
    for step in range(task.horizon):
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert (reward, info["true_reward"], terminated) == (0.0, 0.0, False)
        assert truncated == (step == task.horizon - 1), "a fall does not end the episode"


def test_a_task_without_a_reward_is_refused_by_whoever_needs_one() -> None:
    zeros = SegmentBatch(np.zeros((2, 3, 4)), np.zeros((2, 3, 1)), np.zeros((2, 3)), task=TASK)
    with pytest.raises(PrefenvsError, match=r"'humanoid-kneel-v0' has no true reward"):
        PartialReturnOracle().ask(make_pairs(zeros))
    with pytest.raises(SystemExit):
        main(["train", "pebble", "--task", TASK, "--true-reward", "--no-progress"])


# What follows renders, and reads a model from files.


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers", reason='pip install "prefenvs[clip]"')
    try:
        gl_backend()
    except PrefenvsError as error:
        pytest.skip(str(error))
    sys.path.insert(0, str(Path(__file__).parent))
    import tiny_clip

    return tiny_clip.write(tmp_path_factory.mktemp("clip"))


def humanoid_segments(count: int, length: int = 3) -> SegmentBatch:
    env = prefenvs.make(TASK)
    env.action_space.seed(0)
    states, seen = [], []
    for seed in range(count):
        observation, info = env.reset(seed=seed)
        for _ in range(10 * seed):
            env.step(env.action_space.sample())
        for _ in range(length):
            seen.append(observation)
            states.append(info["state"])
            observation, _, _, _, info = env.step(env.action_space.sample())
    shape = (count, length, -1)
    return SegmentBatch(
        np.array(seen).reshape(shape),
        np.zeros((count, length, 17), np.float32),
        states=np.array(states).reshape(shape),
        episodes=np.arange(count),
        task=TASK,
    )


def test_scores_do_not_depend_on_batches_and_differ_between_prompts(clip: Path) -> None:
    segments = humanoid_segments(4)
    assert segments.states is not None
    states = segments.states.reshape(12, -1)
    with CLIPReward(TASK, clip, alpha=0.5, device="cpu") as reward:
        together = reward.score(states)
        one_by_one = np.concatenate([reward.score(state[None]) for state in states])
        small = CLIPReward(TASK, reward.model, alpha=0.5, batch_size=5).score(states)
        other = CLIPReward(TASK, reward.model, goal=["a cat"], alpha=0.5).score(states)
    assert together.shape == (12,)
    assert together.dtype == np.float32
    assert np.allclose(together, one_by_one, atol=1e-5)
    assert np.allclose(together, small, atol=1e-5)
    assert np.ptp(together) > 1e-5, "different states look different"
    assert not np.allclose(together, other, atol=1e-4)
    assert np.all(together <= 1.0)
    assert reward.score(states[:0]).shape == (0,)


def test_alpha_zero_is_transformers_own_similarity(clip: Path) -> None:
    """Pictures prepared by hand and put through the published classes give the same number."""
    from transformers import AutoTokenizer, CLIPModel

    reward = CLIPReward(TASK, clip, goal=["a", "bc"], device="cpu")
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    model, tokenizer = CLIPModel.from_pretrained(clip).eval(), AutoTokenizer.from_pretrained(clip)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    pixels = ((torch.from_numpy(frames) / 255.0 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        out: Any = model(pixel_values=pixels, **tokenizer(["a", "bc"], padding=True, return_tensors="pt"))
    x, g = out.image_embeds, out.text_embeds.mean(0)
    assert np.allclose(reward.score_frames(frames), 1 - 0.5 * (x - g).square().sum(-1), atol=1e-5)


def test_frames_of_another_size_are_squeezed_to_the_model_s(clip: Path) -> None:
    reward = CLIPReward(TASK, clip, pixels=48, device="cpu")
    wide = np.full((2, 20, 60, 3), 200, np.uint8)
    assert reward.model.prepare(wide).shape == (2, 3, 32, 32)  # type: ignore[attr-defined]
    assert reward.score_frames(wide).shape == (2,)
    assert reward.frames.size == 48
    with pytest.raises(PrefenvsError, match=r"frames are \[N, H, W, 3\] uint8"):
        reward.score_frames(np.zeros((2, 3, 20, 20), np.uint8))


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (TASK, {"alpha": 1.5}, r"alpha=1.5 must lie in \[0, 1\]"),
        ("HalfCheetah-v5", {}, "has no goal prompt for CLIP"),
        ("HalfCheetah-v5", {"goal": ["a cheetah"], "alpha": 0.5}, "has no baseline prompt for CLIP"),
        (TASK, {"goal": [" "]}, "a goal prompt is empty"),
        (TASK, {"goal": ["x"], "baseline": ["x"], "alpha": 0.5}, "mean the same to"),
        (TASK, {"goal": ["long " * 30]}, "is longer than the 77 tokens"),
        (TASK, {"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_bad_settings_are_refused(task: str, options: dict[str, Any], message: str, clip: Path) -> None:
    with pytest.raises(PrefenvsError, match=message):
        CLIPReward(task, clip, device="cpu", **options)


def test_names_that_lead_nowhere(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason='pip install "prefenvs[clip]"')
    with pytest.raises(PrefenvsError, match=r"no CLIP model can be read from .*nothing"):
        CLIPReward(TASK, tmp_path / "nothing")


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("prefenvs.frames.clip_models.import_module", refuse)
    with pytest.raises(PrefenvsError, match=r'pip install -e ".*\[clip\]"'):
        CLIPReward(TASK, "openai/clip-vit-base-patch32")
    with pytest.raises(PrefenvsError, match="pip install open_clip_torch"):
        CLIPReward(TASK, "open_clip:ViT-B-32@laion2b_s34b_b79k")


def test_open_clip_agrees_with_itself(tmp_path: Path) -> None:
    open_clip: Any = pytest.importorskip("open_clip", reason="pip install open_clip_torch")
    small = {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (tmp_path / "tiny-32.json").write_text(json.dumps(small))
    open_clip.add_model_config(tmp_path)
    module = open_clip.create_model("tiny-32").eval()
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    reward = CLIPReward(TASK, f"open_clip:tiny-32@{tmp_path / 'weights.pt'}", goal=["a cat"], device="cpu")
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        text = module.encode_text(open_clip.get_tokenizer("tiny-32")(["a cat"]), normalize=True)
        image = module.encode_image(reward.model.prepare(frames), normalize=True)  # type: ignore[attr-defined]
    assert np.allclose(reward.score_frames(frames), (image @ text.T)[:, 0], atol=1e-5)


def test_the_rater_keeps_the_contract_and_prefers_the_larger_sum(clip: Path) -> None:
    segments = humanoid_segments(12)
    queries = make_pairs(segments)
    reward = CLIPReward(TASK, clip, alpha=1.0, capacity=100, device="cpu")
    check_oracle(lambda: CLIPOracle(reward), queries, patience=300.0)
    oracle = CLIPOracle(reward, seed=0)
    oracle.ask(queries)
    for answer in oracle.collect():
        sums = [float(reward.score(segment.states).sum()) for segment in answer.query.segments]
        assert answer.best == int(np.argmax(sums))
        assert answer.oracle == "clip-oracle"
    assert reward.frames.rendered == 36, "each state was rendered once"


@pytest.mark.parametrize("cameras", [(), ("top", "wrist")])
def test_the_rater_sees_what_cameras_recorded(
    cameras: tuple[str, ...], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    from prefenvs.frames import frames
    from prefenvs.store import Store

    monkeypatch.chdir(tmp_path)
    rows = ["video_top,video_wrist,fps,task"]
    for episode in range(3):
        for view in ("top", "wrist"):
            (Path("robot") / f"{view}{episode}").mkdir(parents=True)
            for step in range(8):
                colour = (80 * episode, 30 * step, 0 if view == "top" else 200)
                Image.new("RGB", (32, 32), colour).save(f"robot/{view}{episode}/{step}.png")
        rows.append(f"top{episode},wrist{episode},10,wave")
    Path("robot/episodes.csv").write_text("\n".join(rows) + "\n")
    words = ["rate", "--dataset", "robot", "--pairs", "6", "--segment-length", "4", "--no-progress", "--oracle", "clip"]
    words += ["--clip-model", str(clip), "--clip-goal", "a bright picture", "--store", "labels.sqlite"]
    main([*words, *(["--clip-cameras", *cameras] if cameras else [])])
    reward = CLIPReward("recorded:wave", clip, ["a bright picture"], device="cpu")
    with Store("labels.sqlite") as store:
        answers = store.preferences()
    assert len(answers) == 6
    for answer in answers:
        sums = []
        for segment in answer.query.segments:
            both = frames(segment, size=32)
            views = [both[:, :, :32], both[:, :, 32:]][: max(1, len(cameras))]
            sums.append(sum(float(reward.score_frames(view).sum()) for view in views))
        assert answer.best == int(np.argmax(sums))


def test_the_rater_s_bad_input() -> None:
    oracle = CLIPOracle(Brightness())
    bare = SegmentBatch(np.zeros((2, 3, 4)), np.zeros((2, 3, 1)), task=TASK)
    with pytest.raises(PrefenvsError, match="carries no simulator states to render"):
        oracle.ask(make_pairs(bare))
    assert (oracle.pending, oracle.collect()) == (0, [])
    with pytest.raises(PrefenvsError, match="threshold_scale"):
        CLIPOracle(Brightness(), "skip")


def test_segments_of_another_task_are_not_judged_as_if_they_were_the_reward_s() -> None:
    class Model:
        """Knows nothing, and need not: nobody may be asked about a walker's states as a cheetah's."""

        name, size = "blind", 32

        def embed_texts(self, texts: Any) -> torch.Tensor:
            return torch.eye(4)[: len(texts)]

        def embed_images(self, frames: Any) -> torch.Tensor:
            return torch.eye(4)[:1].repeat(len(frames), 1)

    env = prefenvs.make("Walker2d-v5")
    states = np.array([env.reset(seed=seed)[1]["state"] for seed in range(4)])
    walker = SegmentBatch(np.zeros((4, 1, 17)), np.zeros((4, 1, 6)), states=states[:, None], task="Walker2d-v5")
    with CLIPReward("HalfCheetah-v5", Model(), ["a cheetah"], device="cpu") as reward:
        oracle = CLIPOracle(reward)
        with pytest.raises(PrefenvsError, match=r"HalfCheetah-v5.* cannot judge a segment of 'Walker2d-v5'"):
            oracle.ask(make_pairs(walker))
        assert oracle.collect() == []


def test_a_cache_renders_each_state_once_and_forgets_the_oldest() -> None:
    try:
        gl_backend()
    except PrefenvsError as error:
        pytest.skip(str(error))
    segments = humanoid_segments(2, length=4)
    assert segments.states is not None
    states = segments.states.reshape(8, -1)
    with FrameCache(TASK, 32, capacity=4) as cache:
        first = cache.frames(states[[0, 1, 0, 1]])
        assert (cache.rendered, len(cache)) == (2, 2)
        assert np.array_equal(first[0], first[2])
        everything = cache.frames(states)
        assert (cache.rendered, len(cache)) == (8, 4)
        assert np.array_equal(everything[:2], first[:2])
        again = cache.frames(states[::-1])
        assert np.array_equal(again[::-1], everything)
    with pytest.raises(PrefenvsError, match="cannot keep -1 frames"):
        FrameCache(TASK, capacity=-1)


@pytest.mark.parametrize("how", ["clip", "pebble"])
def test_a_run_and_its_continuation(how: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--task", TASK, "--clip-model", str(clip), "--clip-alpha", "0.5", "--preset", "small", "--no-progress"]
    options += ["--episodes", "1", "--evaluate-every", "1000", "--folder", str(tmp_path / "run")]
    if how == "clip":
        options += ["--steps", "220", "--train-freq", "110", "--learning-starts", "200"]
    else:
        options += ["--oracle", "clip", "--steps", "220", "--learning-starts", "50", "--unsupervised-steps", "60"]
        options += ["--labels", "4", "--per-session", "4", "--interact", "1000", "--segment-length", "2"]
    main(["train", how, *options, "--evaluate-async"])
    printed = capsys.readouterr().out
    assert "no true reward" in printed
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["labels"] == (0 if how == "clip" else 4)
    assert summary["learns_from"] == ("a reward of states" if how == "clip" else "preferences")
    if how == "clip":
        assert np.isfinite(summary["last"]["learned_return"])
        assert summary["last"]["learned_return"] <= 100.0
    main(["train", how, "--resume", str(tmp_path / "run"), "--no-progress"])
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == summary["steps"]
