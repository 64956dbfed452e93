"""Residual bodies against a plain statement of their formulas, and the normaliser before them."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from prefenvs.agents.nets.residual import NormalisedObservations, ResidualBody, he
from prefenvs.errors import PrefenvsError


def normal(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight + bias


def simba(x: np.ndarray, p: dict[str, np.ndarray], blocks: int) -> np.ndarray:
    x = x @ p["first.0.weight"].T + p["first.0.bias"]
    for i in range(blocks):
        y = normal(x, p[f"blocks.{i}.0.weight"], p[f"blocks.{i}.0.bias"])
        y = np.maximum(y @ p[f"blocks.{i}.1.weight"].T + p[f"blocks.{i}.1.bias"], 0.0)
        x = x + y @ p[f"blocks.{i}.3.weight"].T + p[f"blocks.{i}.3.bias"]
    return normal(x, p["last.0.weight"], p["last.0.bias"])


def bro(x: np.ndarray, p: dict[str, np.ndarray], blocks: int) -> np.ndarray:
    x = x @ p["first.0.weight"].T + p["first.0.bias"]
    x = np.maximum(normal(x, p["first.1.weight"], p["first.1.bias"]), 0.0)
    for i in range(blocks):
        y = normal(x @ p[f"blocks.{i}.0.weight"].T + p[f"blocks.{i}.0.bias"], *(p[f"blocks.{i}.1.{n}"] for n in NAMES))
        y = np.maximum(y, 0.0) @ p[f"blocks.{i}.3.weight"].T + p[f"blocks.{i}.3.bias"]
        x = x + normal(y, *(p[f"blocks.{i}.4.{n}"] for n in NAMES))
    return x


NAMES = ("weight", "bias")


@pytest.mark.parametrize(("kind", "statement"), [("simba", simba), ("bro", bro)])
@pytest.mark.parametrize("members", [None, 3])
def test_a_residual_body_is_its_formula(kind: Any, statement: Any, members: int | None) -> None:
    torch.manual_seed(0)
    body = ResidualBody(kind, 5, [8, 8], members)
    for parameter in body.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x = torch.randn(7, 5)
    found = body(x).detach().numpy()
    parts = {name: value.numpy().astype(np.float64) for name, value in body.state_dict().items()}
    for k in range(members or 1):
        own = parts if members is None else {name: value[k] for name, value in parts.items()}
        expected = statement(x.numpy().astype(np.float64), own, 2)
        np.testing.assert_allclose(found if members is None else found[k], expected, rtol=1e-4, atol=1e-5)


def test_blocks_start_with_he_s_variance() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(200, 300)
    he(layer)
    assert layer.weight.var().item() == pytest.approx(2 / 200, rel=0.05)
    assert not layer.bias.any()


def test_blocks_of_unlike_widths_are_refused() -> None:
    with pytest.raises(PrefenvsError, match=r"hidden=\(8, 16\)"):
        ResidualBody("simba", 5, [8, 16])


def test_an_entry_that_hardly_varies_is_divided_by_a_share_of_the_largest_deviation() -> None:
    norm = NormalisedObservations(spaces.Box(-np.inf, np.inf, (3,)), floor=0.01)
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(400, 3)) * [2.0, 0.5, 1e-6] + [1.0, -1.0, 3.0]
    for part in np.split(seen, 8):
        norm.see(torch.from_numpy(part))
    deviations = np.array([seen[:, 0].std(), seen[:, 1].std(), 0.01 * seen[:, 0].std()])
    expected = (seen[:5] - seen.mean(0)) / deviations
    np.testing.assert_allclose(norm(torch.from_numpy(seen[:5]).float()).numpy(), expected, rtol=1e-3, atol=1e-4)
