"""`prefenvs rate --check` with a model that fails or lies: one line that names it, and no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prefenvs import PrefenvsError
from prefenvs.cli import main
from prefenvs.oracles import CLIPReward

sys.path.insert(0, str(Path(__file__).parent / "vlm"))

from server import ScriptedServer, hashes

CHECK = ["rate", "--task", "Pendulum-v1", "--segment-length", "3", "--check", "2"]


class Failing:
    """A CLIP of two numbers whose pictures or texts come out as a test says."""

    name, size = "failing", 16

    def __init__(self, images: Any = None, texts: Any = None) -> None:
        self.images, self.texts = images, texts

    def embed_images(self, frames: Any) -> Any:
        return torch.ones(len(frames), 2) if self.images is None else self.images(frames)

    def embed_texts(self, texts: Any) -> Any:
        return torch.ones(len(texts), 2) if self.texts is None else self.texts(texts)


def fail(inputs: Any) -> Any:
    raise RuntimeError("CUDA out of memory:\n tried to allocate")


CLIPS = [
    (Failing(lambda frames: torch.ones(len(frames), 3)), "embeds a frame to 3 numbers, a prompt to 2"),
    (Failing(lambda frames: torch.ones(1, 2)), r"frames to shape \(1, 2\)"),
    (Failing(lambda frames: torch.full((len(frames), 2), torch.nan)), "embeds frames to NaN"),
    (Failing(lambda frames: "a cat"), "failed to embed 3 frames: AttributeError"),
    (Failing(fail), "failing failed to embed 3 frames: RuntimeError: CUDA out of memory: tried"),
    (Failing(None, fail), "failing failed to embed 1 prompts: RuntimeError"),
    (Failing(None, lambda texts: torch.full((1, 2), torch.inf)), "embeds prompts to NaN or infinity"),
]


@pytest.mark.parametrize(("model", "message"), CLIPS)
def test_a_failing_clip_is_told_in_one_line(model: Any, message: str) -> None:
    import numpy as np

    with pytest.raises(PrefenvsError, match=message) as told:
        CLIPReward("Pendulum-v1", model, ["a pole"]).score_frames(np.zeros((3, 16, 16, 3), np.uint8))
    assert "\n" not in str(told.value)


def test_rate_tells_of_a_failing_clip(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("prefenvs.oracles.clip.reward.load_clip", lambda *_: Failing(fail))
    with pytest.raises(SystemExit) as stop:
        main([*CHECK, "--oracle", "clip", "--clip-model", "failing", "--clip-goal", "a pole"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "failing failed to embed 12 frames: RuntimeError: CUDA out of memory: tried to allocate" in line


@pytest.mark.parametrize(
    ("script", "seen"),
    [
        (lambda request: (500, {"error": {"message": "boom"}}), "answered none of the queries"),
        (
            lambda request: {"refusal": "I cannot judge people.", "content": None},
            "abstention: 100.0% (refused to answer 2)",
        ),
        (
            lambda request: "I see two pendulums." if hashes(request) else "Sorry, no.",
            "abstention: 100.0% (answer in the wrong form 2); ties: 0; the last reply that is no verdict: 'Sorry, no.'",
        ),
        (lambda request: b"<html>", "answered none of the queries"),
    ],
)
def test_rate_tells_of_a_failing_server(
    script: Callable[[dict[str, Any]], Any], seen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server = ScriptedServer(script)
    try:
        words = ["--vlm-model", "m", "--vlm-url", server.url, "--vlm-attempts", "1", "--vlm-size", "32"]
        try:
            main([*CHECK, *words])
            status: Any = 0
        except SystemExit as stop:
            status = stop.code
    finally:
        server.close()
    told = capsys.readouterr()
    assert seen in " ".join((told.out + told.err).split())
    assert status == (2 if "none" in seen else 0)
    assert len(told.err.strip().splitlines()) == (1 if status else 0)
