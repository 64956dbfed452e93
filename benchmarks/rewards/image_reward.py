"""Frames scored a second, in batches and one by one: an image reward, a CLIP model, and rendering before both.

The reference is what a wrapper does that scores each step as it happens: a frame at a time. Both ways give the same
rewards, which is checked. CLIP has random weights of ViT-B/32's size by default; `--clip-model` reads a real one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import prefenvs
from prefenvs.agents import ImageRewardConfig, ImageRewardEnsemble
from prefenvs.frames.clip_models import CLIP, load_clip
from prefenvs.oracles import CLIPReward


def random_clip(layers: int, width: int, size: int = 224) -> CLIP:
    """Return a CLIP whose picture half has the given size and random weights; texts get random vectors."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        image_size=size,
        patch_size=32,
        projection_dim=512,
    )
    module = CLIPVisionModelWithProjection(config)
    return CLIP(
        f"random ViT, {layers} x {width}",
        module,
        lambda pixels: module(pixel_values=pixels).image_embeds,
        lambda texts: torch.randn(len(texts), 512),
        size,
        device="cpu",
    )


def record(task: str, count: int) -> np.ndarray:
    """Return `count` states [N, s] of random actions."""
    env = prefenvs.make(task)
    env.action_space.seed(0)
    states = [env.reset(seed=0)[1]["state"]]
    while len(states) < count:
        *_, terminated, truncated, info = env.step(env.action_space.sample())
        states.append(info["state"])
        if terminated or truncated:
            env.reset()
    return np.array(states)


def compare(name: str, score: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, rounds: int) -> None:
    """Time both ways in turn and print frames a second and the ratio, medians over rounds."""
    ways: dict[str, Callable[[], np.ndarray]] = {
        "batched": lambda: score(rows),
        "one by one": lambda: np.concatenate([score(rows[i : i + 1]) for i in range(len(rows))]),
    }
    assert np.allclose(ways["batched"](), ways["one by one"](), atol=1e-4)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            begin = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - begin)
    rates = {way: len(rows) / statistics.median(times) for way, times in seconds.items()}
    ratio = statistics.median(b / a for a, b in zip(seconds["batched"], seconds["one by one"], strict=True))
    print(f"{name:34} {rates['batched']:9.1f} {rates['one by one']:11.1f} {ratio:7.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="humanoid-kneel-v0")
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--clip-model", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clip = load_clip(options.clip_model) if options.clip_model else random_clip(options.layers, options.width)
    states = record(options.task, options.frames)
    print(f"{options.task}, {options.frames} frames, {options.threads} threads, median of {options.rounds} rounds")
    print(f"{'frames a second':34} {'batched':>9} {'one by one':>11} {'ratio':>7}")
    image = ImageRewardEnsemble(options.task, ImageRewardConfig(cached_frames=options.frames), device="cpu")
    image.predict(states)
    compare("image reward, frames in the cache", image.score, states, options.rounds)
    fresh = ImageRewardEnsemble(options.task, ImageRewardConfig(cached_frames=0), device="cpu")
    compare("image reward, rendering included", fresh.score, states, options.rounds)
    reward = CLIPReward(options.task, clip, goal=["a humanoid robot kneeling"], batch_size=32)
    frames = reward.frames.frames(states)
    compare(f"{clip.name}, frames given"[:34], reward.score_frames, frames, options.rounds)
    compare(f"{clip.name}, rendering too"[:34], reward.score, states, options.rounds)


if __name__ == "__main__":
    main()
