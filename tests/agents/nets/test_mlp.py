"""A batch of networks is that many networks."""

import pytest
import torch
from torch import nn

from prefenvs.agents.nets.mlp import BatchedLinear, BatchedMLP


@pytest.mark.parametrize("shared", [True, False])
def test_a_batch_of_networks_computes_and_learns_as_each_alone(shared: bool) -> None:
    batched = BatchedMLP(3, [4, 8, 8, 2])
    alone = []
    for k in range(3):
        network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        network.load_state_dict({name: value[k] for name, value in batched.state_dict().items()})
        alone.append(network)
    x = torch.randn(5, 4) if shared else torch.randn(3, 5, 4)
    each = [network(x if shared else x[k]) for k, network in enumerate(alone)]
    together = batched(x)
    torch.testing.assert_close(together, torch.stack(each))
    together.square().sum().backward()
    torch.stack(each).square().sum().backward()
    for name, parameter in batched.named_parameters():
        grads = [dict(network.named_parameters())[name].grad for network in alone]
        torch.testing.assert_close(parameter.grad, torch.stack(grads))


def test_members_start_as_plain_layers_do() -> None:
    torch.manual_seed(0)
    batched = BatchedLinear(2, 6, 3)
    torch.manual_seed(0)
    plain = [nn.Linear(6, 3) for _ in range(2)]
    torch.testing.assert_close(batched.weight, torch.stack([layer.weight for layer in plain]))
    torch.testing.assert_close(batched.bias, torch.stack([layer.bias for layer in plain]))
    orthogonal = BatchedLinear(2, 6, 3, lambda layer: nn.init.orthogonal_(layer.weight)).weight
    torch.testing.assert_close(orthogonal @ orthogonal.mT, torch.eye(3).expand(2, 3, 3))
