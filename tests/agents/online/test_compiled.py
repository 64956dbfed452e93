"""Compiled and recorded updates do what eager ones do; on a CPU a recorded one is the eager one."""

import copy
import shutil
from typing import Any

import pytest
import torch

from prefenvs.agents.nets.flat import FlatAdam
from prefenvs.agents.online.compiled import GraphedUpdate
from prefenvs.errors import PrefenvsError

from ..offline.test_seeds import MADE, assert_alike, make


def make_problem(device: str) -> tuple[torch.nn.Module, FlatAdam, Any]:
    torch.manual_seed(0)
    network = torch.nn.Linear(4, 1).to(device)
    optimizer = FlatAdam(network.parameters(), lr=1e-2)

    def update(batch: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        loss = (network(batch[0]) - batch[1]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.detach()}

    return network, optimizer, update


def check(device: str) -> GraphedUpdate:
    eager, _, step = make_problem(device)
    recorded, _, other = make_problem(device)
    graphs = GraphedUpdate(torch.device(device), warm_up=2)
    generator = torch.Generator(device).manual_seed(0)
    for _ in range(12):
        batch = tuple(torch.randn(8, size, generator=generator, device=device) for size in (4, 1))
        expected, found = step(batch), graphs(other, batch, key="step")
        torch.testing.assert_close(found["loss"], expected["loss"])
    for p, q in zip(eager.parameters(), recorded.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    return graphs


def test_on_a_cpu_the_update_runs_as_it_is() -> None:
    assert not check("cpu").recordings


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_cuda_device_recorded_updates_equal_eager_ones() -> None:
    assert len(check("cuda").recordings) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_recorded_sac_update_equals_the_eager_one() -> None:
    import gymnasium as gym
    from stable_baselines3 import SAC
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    from prefenvs.agents.nets.policies import PebblePolicy
    from prefenvs.agents.online.sac import update

    agents = [SAC(PebblePolicy, gym.make("Pendulum-v1"), seed=0, device="cuda") for _ in range(2)]
    for agent in agents:
        agent.ent_coef_optimizer = FlatAdam([agent.log_ent_coef], lr=1e-3)
    agents[1].policy.load_state_dict(copy.deepcopy(agents[0].policy.state_dict()))
    graphs = GraphedUpdate(agents[0].device)
    # Noise is drawn within a recording from a stream of its own, so only the losses' sizes can be compared.
    losses: list[list[float]] = [[], []]
    for _ in range(50):
        parts = [torch.randn(256, n, device="cuda") for n in (3, 1, 3)]
        batch = ReplayBufferSamples(
            parts[0], parts[1].tanh(), parts[2], torch.zeros(256, 1, device="cuda"), torch.ones(256, 1, device="cuda")
        )
        losses[0].append(float(update(agents[0], batch)["critic_loss"]))
        found = graphs(lambda p: update(agents[1], ReplayBufferSamples(*p)), tuple(batch[:5]), key=0)
        losses[1].append(float(found["critic_loss"]))
    assert len(graphs.recordings) == 1
    torch.testing.assert_close(torch.tensor(losses[1]), torch.tensor(losses[0]), rtol=0.2, atol=0.05)


@pytest.mark.parametrize("kind", MADE)
def test_a_learner_learns_the_same_from_its_traced_loss(kind, make_dataset, prefer) -> None:
    """What torch.compile traces and differentiates, without the compiler that a machine may lack."""
    eager, traced = (make(kind, make_dataset, prefer, 3) for _ in range(2))
    assert_alike(traced.compile("aot_eager").learn(15), eager.learn(15))


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_learner_learns_the_same_from_its_compiled_loss(make_dataset, prefer) -> None:
    eager, compiled = (make("iql", make_dataset, prefer, 3) for _ in range(2))
    assert_alike(compiled.compile().learn(15), eager.learn(15))


def test_compiling_that_does_not_work_is_told(make_dataset, prefer) -> None:
    with pytest.raises(PrefenvsError, match=r"torch\.compile does not work here"):
        make("iql", make_dataset, prefer, 3).compile("no-such-backend")
