from __future__ import annotations

import dataclasses
import errno
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prefenvs import PrefenvsError, Segment
from prefenvs.videos import ClipCache, Look, decode

LOOK = Look(size=48)


def swing(seed=0, length=6, states=True):
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 2, length) + rng.uniform(0, 3)
    observations = np.stack([np.cos(angles), np.sin(angles), np.zeros(length)], axis=1)
    kept = np.stack([angles, np.zeros(length)], axis=1) if states else None
    return Segment(observations, np.zeros((length, 1)), states=kept, task="Pendulum-v1")


@pytest.fixture
def cache(tmp_path):
    with ClipCache(tmp_path, LOOK) as cache:
        yield cache


def test_a_clip_is_made_once_and_found_by_content(cache, tmp_path):
    segment = swing()
    assert cache.get(segment) is None
    assert cache.get(segment.hash) is None
    path = cache.make(segment)
    assert path == cache.path(segment) == cache.path(segment.hash) == cache.get(segment.hash)
    written = path.stat().st_ino
    # Rewards and origin are not to be seen, so they make no other clip.
    same = dataclasses.replace(swing(), true_rewards=np.ones(6), source="elsewhere", episode=7)
    assert cache.make(same) == path
    with ClipCache(tmp_path, LOOK) as other:
        assert other.make(same) == path
    assert path.stat().st_ino == written
    frames, fps = decode(path)
    assert (frames.shape, fps) == ((6, 48, 48, 3), 20.0)
    assert cache.describe(segment) == {"frames": 6, "fps": 20.0, "width": 48, "height": 48}


def test_render_makes_what_is_missing_in_order(cache):
    segments = [swing(seed) for seed in (0, 1, 2, 1)]
    before = cache.make(segments[2]).stat().st_ino
    paths = cache.render(segments)
    assert paths == [cache.path(segment) for segment in segments]
    assert paths[1] == paths[3]
    assert paths[2].stat().st_ino == before
    assert len(list(cache.folder.iterdir())) == 3


def test_clips_on_a_read_only_file_system_are_shown(cache, monkeypatch):
    clip = cache.make(swing(0))

    def refuse(path):
        raise OSError(errno.EROFS if Path(path).exists() else errno.ENOENT, "read-only", path)

    monkeypatch.setattr(os, "utime", refuse)
    assert cache.get(swing(0)) == clip
    assert cache.get("0" * 64) is None


def test_looks_do_not_share_clips(tmp_path):
    looks = [
        LOOK,
        Look(size=(48, 64)),
        Look(size=48, fps=10),
        Look(size=48, speed=0.5),
        Look(size=48, quality=True),
        Look(size=48, format="webp"),
        Look(size=48, format="gif"),
        Look(size=48, format="png"),
        Look(size=48, format="png", strip=2),
    ]
    assert len({look.name for look in looks}) == len(looks)
    paths = []
    for look in looks:
        with ClipCache(tmp_path, look) as cache:
            paths.append(cache.make(swing()))
            assert cache.get(swing()) == paths[-1]
    assert len(set(paths)) == len(looks)
    assert Image.open(paths[-1]).width < Image.open(paths[-2]).width


def test_a_segment_without_states_is_drawn_as_curves(cache):
    frames, _ = decode(cache.make(swing(states=False)))
    assert len(frames) == 6
    assert np.abs(frames[0].astype(int) - decode(cache.make(swing()))[0][0]).mean() > 3


def test_the_clips_used_longest_ago_make_room(tmp_path):
    with ClipCache(tmp_path, LOOK) as free:
        paths = free.render([swing(seed) for seed in range(4)])
        for age, path in enumerate(reversed(paths)):
            os.utime(path, (time.time() - 100 * (age + 1),) * 2)
        sizes = [path.stat().st_size for path in paths]
        assert free.get(swing(0)) == paths[0]
    with ClipCache(tmp_path, LOOK, max_bytes=sum(sizes)) as full:
        newest = full.make(swing(9))
        assert newest.exists()
        assert paths[0].exists()
        assert not paths[1].exists()
        left = sum(path.stat().st_size for path in full.folder.iterdir())
        assert left <= sum(sizes)
        assert full.trim(1) == 0
        assert list(full.folder.iterdir()) == []
        assert full.make(swing(9)).exists()
        # Of several workers one may make room by removing what another has just written and is about to count.
        full.note(full.path(swing(0)))


def test_half_written_files_are_swept_once_nobody_writes_them(tmp_path):
    with ClipCache(tmp_path, LOOK) as cache:
        old, new = cache.folder / ".abc-1.mp4", cache.folder / ".abc-2.mp4"
        for path in (old, new):
            path.write_bytes(b"half")
        os.utime(old, (time.time() - 7200,) * 2)
    ClipCache(tmp_path, LOOK).close()
    assert not old.exists()
    assert new.exists()


def test_a_clip_that_fails_leaves_nothing(cache):
    broken = dataclasses.replace(swing(), states=np.full((6, 2), np.nan))
    with pytest.raises(PrefenvsError, match="NaN"):
        cache.make(broken)
    assert list(cache.folder.iterdir()) == []


@pytest.mark.parametrize("key", ["../../etc/passwd", "", "A" * 64, "0" * 63, "0" * 64 + "/.."])
def test_what_is_no_hash_names_no_file(cache, key):
    with pytest.raises(PrefenvsError, match="no segment's hash"):
        cache.get(key)


def test_bad_settings_are_refused(tmp_path):
    with pytest.raises(PrefenvsError, match="avi"):
        Look(format="avi")
    with pytest.raises(PrefenvsError, match="max_bytes=0"):
        ClipCache(tmp_path, max_bytes=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(PrefenvsError, match="another folder"):
        ClipCache(tmp_path / "file")
