from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import prefenvs
from prefenvs import PrefenvsError, Query, Segment, TrajectoryBuffer
from prefenvs.envs.rendering.gl import gl_backend
from prefenvs.envs.rendering.renderer import Renderer
from prefenvs.frames.clips import write_clip
from prefenvs.frames.recording import Camera, Recording
from prefenvs.tasks import list_tasks
from prefenvs.videos import Recorder, decode, layout, record_episodes

SIZE = 64


def roll_out(task_id, episodes=2, steps=30):
    try:
        env = prefenvs.make(task_id, max_episode_steps=steps)
    except PrefenvsError as error:
        pytest.skip(str(error))
    env.action_space.seed(0)
    buffer = TrajectoryBuffer(task=task_id)
    for episode in range(episodes):
        observation, info = env.reset(seed=episode)
        done = False
        while not done:
            action = env.action_space.sample()
            following, _, terminated, truncated, later = env.step(action)
            done = terminated or truncated
            buffer.add_step(
                0, observation, action, later["true_reward"], info["state"], done=done, scene=info.get("scene")
            )
            observation, info = following, later
    env.close()
    return buffer.trajectories()


@pytest.fixture(scope="module")
def pendulum():
    return roll_out("Pendulum-v1")


@pytest.fixture
def recorder():
    with Recorder("Pendulum-v1", SIZE, progress=False) as recorder:
        yield recorder


def segments(trajectories, length=12):
    return list(trajectories.cut(np.array([0, 1]), np.array([0, 5]), length))


@given(
    length=st.integers(1, 400),
    task=st.sampled_from(["HalfCheetah-v5", "Hopper-v5", "FrankaKitchen-v1", "metaworld-reach-v3", "Humanoid-v5"]),
    speed=st.sampled_from([0.1, 0.5, 1.0, 3.0]),
    fps=st.one_of(st.none(), st.floats(1, 120)),
)
def test_a_clip_keeps_time(length, task, speed, fps):
    recorder = Recorder(task, fps=fps, speed=speed)
    steps, rate = recorder.steps(length)
    assert steps[0] == 0
    assert steps[-1] == length - 1
    assert np.all(np.diff(steps) >= 0)
    # As long as the behaviour itself, to within the last step, which is always shown.
    seconds, real = len(steps) / float(rate), length / recorder.task.fps / speed
    assert -1e-9 <= seconds - real <= 2 / float(rate) + 1e-9
    if fps is None:
        assert rate <= 40
        assert np.all(np.diff(steps) > 0)
    else:
        assert float(rate) == pytest.approx(fps, abs=1e-3)


def test_every_task_plays_in_real_time_at_most_forty_frames_a_second():
    for task in list_tasks():
        steps, rate = Recorder(task).steps(task.segment_length)
        assert 4 <= rate <= 40
        assert len(steps) <= task.segment_length
    assert Recorder("Hopper-v5").steps(1000)[1] == Fraction(125, 4)


def test_frames_are_those_of_the_states(recorder, pendulum):
    segment = segments(pendulum)[1]
    with Renderer("Pendulum-v1", SIZE, SIZE) as renderer:
        expected = renderer.frames(segment.states)
    np.testing.assert_array_equal(recorder.frames(segment), expected)
    np.testing.assert_array_equal(recorder.frames(segment, np.array([7, 2, 7])), expected[[7, 2, 7]])
    with pytest.raises(PrefenvsError, match="12"):
        recorder.frames(segment, np.array([12]))


def test_a_clip_of_a_segment_and_of_its_states_is_the_same(recorder, pendulum, tmp_path):
    segment = segments(pendulum)[0]
    one = recorder.clip(segment, tmp_path / "one.mp4")
    two = recorder.clip(segment.states, tmp_path / "two.mp4")
    assert one == tmp_path / "one.mp4"
    assert one.read_bytes() == two.read_bytes()
    frames, fps = decode(one)
    assert frames.shape == (12, SIZE, SIZE, 3)
    assert fps == 20


def test_a_slow_clip_repeats_steps(pendulum, tmp_path):
    with Recorder("Pendulum-v1", SIZE, fps=40, speed=0.5, progress=False) as slow:
        frames, fps = decode(slow.clip(segments(pendulum)[0], tmp_path / "slow.mp4"))
    assert fps == 40
    assert len(frames) == 4 * 12


def test_a_pair_runs_on_one_clock_and_the_shorter_side_waits(recorder, pendulum, tmp_path):
    long = segments(pendulum)[0]
    short = segments(pendulum, 5)[1]
    for order in ((long, short), (short, long)):
        frames, fps = decode(recorder.pair(Query(order), tmp_path / "pair.mp4"))
        assert frames.shape == (12, SIZE, 2 * SIZE + layout.GAP, 3)
        assert fps == 20
        sides = frames[:, :, :SIZE], frames[:, :, -SIZE:]
        for side, segment in zip(sides, order, strict=True):
            expected = recorder.frames(segment)
            held = expected[np.minimum(np.arange(12), len(segment) - 1)]
            assert np.abs(side.astype(int) - held).mean() < 3
            assert np.abs(side[11].astype(int) - held[0]).mean() > np.abs(side[11].astype(int) - held[11]).mean()


def test_captions_are_readable_text_under_the_frame_and_off_by_default(recorder, pendulum, tmp_path):
    first, second = segments(pendulum)
    plain, _ = decode(recorder.clip(first, tmp_path / "plain.mp4"))
    titled, _ = decode(recorder.clip(first, tmp_path / "titled.mp4", caption="one"))
    assert titled.shape[1] > plain.shape[1] == SIZE
    assert titled[:, SIZE + 2 :].max() > 180
    texts = ["left", "right, with a text that does not fit on one line"]
    frames, _ = decode(recorder.pair(Query((first, second)), tmp_path / "pair.mp4", captions=texts))
    assert frames.shape[1] > titled.shape[1]
    with pytest.raises(PrefenvsError, match="1 captions"):
        recorder.pair(Query((first, second)), tmp_path / "pair.mp4", captions=["left"])


def test_episodes_follow_each_other_with_their_captions(pendulum, tmp_path):
    path = record_episodes("Pendulum-v1", pendulum, tmp_path / "all.mp4", "no. {episode}: {true_return:.1f}", size=SIZE)
    frames, fps = decode(path)
    # Two episodes, and half a second between them.
    assert len(frames) == int(pendulum.lengths.sum()) + 10
    assert fps == 20
    with Recorder("Pendulum-v1", SIZE, progress=False) as recorder:
        second, _ = decode(recorder.episodes(pendulum, tmp_path / "second.mp4", episodes=[1]))
        assert len(second) == pendulum.lengths[1]
        assert second.shape[1] == SIZE < frames.shape[1]
        with pytest.raises(PrefenvsError, match="there are 2"):
            recorder.episodes(pendulum, tmp_path / "none.mp4", episodes=[2])
        with pytest.raises(PrefenvsError, match="fields are episode"):
            recorder.episodes(pendulum, tmp_path / "none.mp4", caption="{reward}")
        blind = dataclasses.replace(pendulum, true_rewards=None)
        recorder.episodes(blind, tmp_path / "blind.mp4", caption="{episode}", episodes=[0])
        with pytest.raises(PrefenvsError, match="no true rewards"):
            recorder.episodes(blind, tmp_path / "none.mp4", caption="{true_return}")
    assert not (tmp_path / "none.mp4").exists()


def test_a_gallery_plays_all_episodes_at_once(recorder, pendulum, tmp_path):
    three = TrajectoryBuffer("Pendulum-v1")
    three.extend(pendulum)
    three.extend(roll_out("Pendulum-v1", episodes=1, steps=12))
    together = three.trajectories()
    frames, fps = decode(recorder.gallery(together, tmp_path / "all.mp4"))
    side = 2 * SIZE + layout.GAP
    assert (frames.shape, fps) == ((30, side, side, 3), 20)
    places = [(0, 0), (0, 1), (1, 0)]
    for (row, column), begin, length in zip(places, together.begins, together.lengths, strict=True):
        top, left = row * (SIZE + layout.GAP), column * (SIZE + layout.GAP)
        shown = frames[:, top : top + SIZE, left : left + SIZE].astype(int)
        segment = Segment(np.zeros((length, 1)), np.zeros((length, 1)), states=together.states[begin : begin + length])
        expected = recorder.frames(segment)[np.minimum(np.arange(30), length - 1)]
        assert np.abs(shown - expected).mean() < 3
    assert frames[:, -SIZE:, -SIZE:].max() < 60
    wide, _ = decode(recorder.gallery(pendulum, tmp_path / "wide.mp4", columns=2))
    assert wide.shape[1:3] == (SIZE, side)
    with pytest.raises(PrefenvsError, match="0 columns"):
        recorder.gallery(pendulum, tmp_path / "none.mp4", columns=0)


def test_a_segment_without_states_is_refused_or_drawn_as_curves(recorder, pendulum, tmp_path):
    segment = dataclasses.replace(segments(pendulum)[0], states=None)
    with pytest.raises(PrefenvsError, match=r"no simulator states.*plot=True"):
        recorder.clip(segment, tmp_path / "clip.mp4")
    with Recorder("Pendulum-v1", SIZE, plot=True, progress=False) as drawing:
        frames = drawing.frames(segment)
        assert len(decode(drawing.clip(segment, tmp_path / "clip.mp4"))[0]) == 12
    assert frames.shape == (12, SIZE, SIZE, 3)
    cursors = [int(np.argmin(frame.astype(int).sum(axis=(0, 2)))) for frame in frames]
    assert np.all(np.diff(cursors) > 0)


def test_a_segment_of_another_task_is_refused(recorder, pendulum, tmp_path):
    stranger = dataclasses.replace(segments(pendulum)[0], task="CartPole-v1")
    with pytest.raises(PrefenvsError, match=r"'CartPole-v1'.*'Pendulum-v1'"):
        recorder.clip(stranger, tmp_path / "clip.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"fps": 0}, {"fps": -5.0}, {"speed": 0.0}, {"speed": -1.0}])
def test_an_impossible_rate_is_refused(options):
    with pytest.raises(PrefenvsError, match=next(iter(options))):
        Recorder("Pendulum-v1", **options)


@pytest.mark.parametrize("size", [0, -5, 8, 10**6, 64.5, "64", None, (64,), (64, 0), (64, 64, 64)])
def test_an_impossible_size_is_refused(size):
    with pytest.raises(PrefenvsError, match="size"):
        Recorder("Pendulum-v1", size, plot=True)


def test_captions_of_narrow_recordings_have_one_height(tmp_path):
    write_clip(np.zeros((6, 160, 48, 3), np.uint8), tmp_path / "narrow.mp4", 10)
    recording = Recording((Camera("top", "narrow.mp4"),), np.arange(6) / 10, str(tmp_path))
    segment = Segment(np.zeros((6, 1)), np.zeros((6, 0)), recording=recording, task="recorded:wave")
    with Recorder("recorded:wave", 128, progress=False) as narrow:
        path = narrow.pair(Query((segment, segment)), tmp_path / "pair.mp4", captions=["a", "b c d e f g h i j k l m"])
    assert decode(path)[0].shape[2] == 2 * 38 + layout.GAP


def test_a_pair_of_two_scenes_shows_each_in_its_own(tmp_path):
    try:
        gl_backend()
    except PrefenvsError as error:
        pytest.skip(str(error))
    trajectories = roll_out("metaworld-drawer-open-v3", steps=20)
    one, two = segments(trajectories, 10)
    assert np.any(one.scene != two.scene)
    with Recorder("metaworld-drawer-open-v3", SIZE, progress=False) as recorder:
        frames, _ = decode(recorder.pair(Query((one, two)), tmp_path / "pair.mp4"))
        for side, own, other in ((frames[:, :, :SIZE], one, two), (frames[:, :, -SIZE:], two, one)):
            mixed = dataclasses.replace(own, scene=other.scene)
            right, wrong = (np.abs(side.astype(int) - recorder.frames(segment)).mean() for segment in (own, mixed))
            assert right < wrong


def test_recordings_of_several_rates_play_on_one_clock(tmp_path):
    """Two cameras saw the same two seconds grow bright, one twice as often as the other."""
    parts = []
    for rate in (10, 20):
        count = 2 * rate
        write_clip(
            (np.full((32, 32, 3), 240 * i // count, np.uint8) for i in range(count)), tmp_path / f"{rate}.mp4", rate
        )
        recording = Recording((Camera("top", f"{rate}.mp4"),), np.arange(count) / rate, str(tmp_path))
        parts.append(Segment(np.zeros((count, 1)), np.zeros((count, 0)), recording=recording, task="recorded:wave"))
    with Recorder("recorded:wave", 32, progress=False) as recorder:
        for order in (parts, parts[::-1]):
            pair, rate = decode(recorder.pair(Query(tuple(order)), tmp_path / "pair.mp4"))
            assert (len(pair), rate) == (40, 20)
            apart = pair[:, :, :32].mean((1, 2, 3)) - pair[:, :, -32:].mean((1, 2, 3))
            assert np.abs(apart).max() < 15
            for side in recorder.sides(Query(tuple(order)), [tmp_path / "a.mp4", tmp_path / "b.mp4"]):
                frames, rate = decode(side)
                assert (len(frames), rate) == (40, 20)
