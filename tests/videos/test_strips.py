from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from prefenvs import PrefenvsError, Query, Segment
from prefenvs.videos import Recorder, decode, layout

SIZE = 48


def swing(length=12, seed=0):
    rng = np.random.default_rng(seed)
    states = np.stack([np.linspace(0, 3, length) + rng.uniform(0, 3), np.zeros(length)], axis=1)
    return Segment(np.zeros((length, 3)), np.zeros((length, 1)), states=states, task="Pendulum-v1")


@pytest.fixture(scope="module")
def recorder():
    with Recorder("Pendulum-v1", SIZE, progress=False) as recorder:
        yield recorder


@pytest.mark.parametrize("count", [1, 2, 4, 12, 30])
def test_a_strip_shows_frames_evenly_from_the_first_to_the_last(recorder, tmp_path, count):
    segment = swing()
    picture = np.asarray(Image.open(recorder.strip(segment, tmp_path / "strip.png", count)))
    assert picture.shape == (SIZE, count * SIZE + (count - 1) * layout.GAP, 3)
    frames = [picture[:, at : at + SIZE] for at in range(0, picture.shape[1], SIZE + layout.GAP)]
    every = recorder.frames(segment, range(12))
    shown = [int(np.argmin([np.abs(frame.astype(int) - one).sum() for one in every])) for frame in frames]
    assert shown[-1] == 11
    if count > 1:
        assert shown[0] == 0
        gaps = np.diff(shown)
        assert gaps.max() - gaps.min() <= 1
    for frame, step in zip(frames, shown, strict=True):
        np.testing.assert_array_equal(frame, every[step])


def test_a_strip_of_nothing_or_under_another_name_is_refused(recorder, tmp_path):
    with pytest.raises(PrefenvsError, match="at least 1"):
        recorder.strip(swing(), tmp_path / "strip.png", 0)
    with pytest.raises(PrefenvsError, match=r"ends in \.png"):
        recorder.strip(swing(), tmp_path / "strip.jpg")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["mp4", "webp", "gif"])
def test_the_sides_of_a_query_have_one_length_and_rate(recorder, tmp_path, suffix):
    query = Query((swing(12), swing(5, seed=1), swing(9, seed=2)))
    paths = [tmp_path / f"{name}.{suffix}" for name in "abc"]
    assert recorder.sides(query, paths) == paths
    if suffix == "mp4":
        clips = [decode(path) for path in paths]
        assert {(len(frames), fps) for frames, fps in clips} == {(12, 20.0)}
        short = recorder.frames(query.segments[1])[-1].astype(int)
        for frame in clips[1][0][4:]:
            assert np.abs(frame - short).mean() < 3
    else:
        # Writers may join equal frames, so what is the same is how long they play.
        assert {playing_time(path) for path in paths} == {12 * 50}
    with pytest.raises(PrefenvsError, match="2 paths"):
        recorder.sides(query, paths[:2])


def playing_time(path):
    with Image.open(path) as picture:
        total = 0
        for frame in range(picture.n_frames):
            picture.seek(frame)
            picture.load()
            total += picture.info["duration"]
    return total
