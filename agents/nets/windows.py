"""Windows of consecutive steps, cut on the device from flat arrays."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def window_batches(inputs: Tensor, begins: Tensor, ends: Tensor, length: int) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Yield the windows through which a causal network sees every step once, in batches of bounded size.

    inputs: [S, d], episodes end to end; begins, ends: [E]. The first window of an episode serves its first `length`
    steps at once, because a causal network's output there is that of the shorter window ending at each; every later
    step takes one window for itself. Yields windows [B, length, d], the row of each output in `inputs`, and whether
    only a window's last output is wanted: then rows [B, 1], else rows [B, length] with -1 for padding.
    """
    size = windows_per_batch(length, inputs.device)
    for first, end in zip(torch.split(begins, size), torch.split(ends, size), strict=True):
        rows, inside = ragged_rows(first, end, length)
        yield inputs[rows], rows.masked_fill(~inside, -1), False
    steps = torch.arange(len(inputs), device=inputs.device)
    begin_of_step = begins.repeat_interleave(ends - begins)
    later = steps[steps - begin_of_step >= length]
    for rows in torch.split(later, size) if len(later) else ():
        yield cut_windows(inputs, rows - length + 1, length), rows[:, None], True


def ragged_rows(starts: Tensor, ends: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return the rows [..., length] of windows from `starts` [...], and which lie before `ends` [...], as bool.

    Rows that do not lie there are `starts` once more, so that they can be gathered too.
    """
    rows = starts[..., None] + torch.arange(length, device=starts.device)
    inside = rows < ends[..., None]
    return torch.where(inside, rows, starts[..., None]), inside


def cut_windows(inputs: Tensor, starts: Tensor, length: int) -> Tensor:
    """Return the windows [B, length, d] of rows [S, d] that begin at `starts` [B]."""
    # A strided view, of which only the chosen windows are copied.
    return inputs.unfold(0, length, 1)[starts].transpose(1, 2)


def windows_per_batch(length: int, device: torch.device) -> int:
    """Windows in one batch: few enough for their activations to stay small, enough to fill the device."""
    return max((8_192 if device.type == "cpu" else 262_144) // length, 1)
