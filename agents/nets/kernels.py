"""Which kernels compute float32 matrix products on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch


@cache
def onednn_is_exact() -> bool:
    """Tell whether oneDNN, allowed to round operands to bfloat16, keeps float32 on this CPU after all.

    PyTorch computes float32 products by MKL, which leaves the AVX-512 units of other makers' processors unused; oneDNN
    uses them, but is asked only where bfloat16 is allowed. On many processors it then still computes in float32, which
    operands that bfloat16 cannot hold reveal. The shapes are those of networks here: the kernel depends on them.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    for rows, inputs, outputs in ((256, 256, 256), (256, 23, 128), (1024, 1024, 1024), (2048, 64, 256)):
        x, w = (torch.rand(size, generator=generator) for size in ((rows, inputs), (inputs, outputs)))
        exact = x.double() @ w.double()
        for left, right in (
            (x, w),
            (x.expand(2, -1, -1), w.expand(2, -1, -1)),
            (x.T.contiguous().T, w.T.contiguous().T),
        ):
            with _allowed(True):
                product = left @ right
            # Rounding both operands to 8 bits is off by about 2^-9 / sqrt(inputs), float32 by less than 2^-20.
            if float(((product - exact).abs() / exact).max()) > 2.0**-18:
                return False
    return True


@contextmanager
def products(width: int = 256) -> Iterator[None]:
    """Compute float32 products on the CPU by the fastest kernels that are exact: oneDNN's if they are, else PyTorch's.

    Affects the process within the block only; no effect on other devices. width: of the widest layer; below 256, what
    oneDNN needs for each call is more than it saves.
    """
    with _allowed(width >= 256 and onednn_is_exact()):
        yield


def round_rows(rows: int) -> int:
    """Return a number of rows, larger by at most a quarter or 15, such that few different ones occur.

    oneDNN compiles and keeps a kernel for each shape of operands: some milliseconds and a megabyte or two. So where the
    number of rows changes all the time, padding them is quicker, and keeps memory from growing.
    """
    step = max(1 << max(rows.bit_length() - 3, 0), 16)
    return -(-rows // step) * step


@contextmanager
def _allowed(bfloat16: bool) -> Iterator[None]:
    setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = setting.fp32_precision
    if bfloat16:
        setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before
