"""Transformers over trajectories: pre-norm blocks, and an encoder of (observation, action) steps.

Sequences are aligned to the left: real steps first, padding after them. A causal layer then never looks at padding, so
that only bidirectional ones need to be told which steps are real.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from prefenvs.errors import PrefenvsError

# GPT-2's standard deviation of initial weights.
INITIAL_STD = 0.02


class Block(nn.Module):
    """Self-attention and a ReLU layer of four times the width, each behind a layer norm and a residual connection."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise PrefenvsError(f"a transformer's width={width} must be a multiple of heads={heads}")
        self.heads, self.rate = heads, dropout
        self.attention_norm, self.wide_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.join, self.widen, self.narrow = (
            nn.Linear(width, width),
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, causal: bool, mask: Tensor | None = None, keep: slice | None = None) -> Tensor:
        """Return [B, T, width]; `mask` [B, T] is True for tokens that may be looked at.

        `keep`: compute these tokens only, which is enough in a last layer.
        """
        normed = self.attention_norm(x)
        kept, whole = normed, keep is None
        if keep is not None:
            x, kept = x[:, keep], normed[:, keep]
        query = self._split(self.query(kept))
        key, value = (self._split(part) for part in self.key_value(normed).chunk(2, -1))
        allowed = None if mask is None else mask[:, None, None, :]
        if causal and not (whole and mask is None):
            steps = torch.arange(key.shape[2], device=x.device)
            seen = steps <= (steps if keep is None else steps[keep])[:, None]
            allowed = seen if allowed is None else seen & allowed
        attended = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            allowed,
            self.rate if self.training else 0.0,
            is_causal=bool(causal and whole and mask is None),
        )
        x = x + self.dropout(self.join(attended.transpose(1, 2).flatten(2)))
        wide: Tensor = self.dropout(self.narrow(functional.relu(self.widen(self.wide_norm(x)))))
        return x + wide

    def _split(self, x: Tensor) -> Tensor:
        """Return [B, heads, T, width / heads] of [B, T, width]."""
        return x.view(*x.shape[:-1], self.heads, -1).transpose(1, 2)


class Transformer(nn.Module):
    """Several blocks, dropout before them and a layer norm after."""

    def __init__(self, width: int, layers: int, heads: int, dropout: float, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.blocks = nn.ModuleList([Block(width, heads, dropout) for _ in range(layers)])
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor | None = None, keep: slice | None = None) -> Tensor:
        """Return [B, T, width] of tokens [B, T, width], or of those to `keep` alone; see `Block.forward`."""
        x = self.dropout(x)
        for i, block in enumerate(self.blocks):
            x = block(x, self.causal, mask, keep if i == len(self.blocks) - 1 else None)
        normed: Tensor = self.norm(x)
        return normed


class StepTransformer(nn.Module):
    """Hidden states of steps, each of two tokens: observation, then action, with the step's number added to both.

    Causal, the hidden state of a step knows that step and all before it; otherwise it knows all steps.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        positions: int,
        causal: bool = True,
    ) -> None:
        """`positions`: how many step numbers there are, 0 to positions - 1."""
        super().__init__()
        self.observation_size, self.positions = observation_size, positions
        self.observation, self.action = nn.Linear(observation_size, width), nn.Linear(action_size, width)
        self.position, self.norm = nn.Embedding(positions, width), nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, heads, dropout, causal)
        initialise(self)

    def forward(self, inputs: Tensor, numbers: Tensor | None = None, inside: Tensor | None = None) -> Tensor:
        """Return hidden states [B, T, 2, width] of steps [B, T, obs + act]: of the observation and the action token.

        numbers: [B, T] the steps' numbers; 0, 1, ... by default. inside: [B, T] bool, False for padding; a causal
        transformer needs it not. Raises PrefenvsError for more steps than positions.
        """
        hidden = self.transformer(*self._tokens(inputs, numbers, inside))
        split: Tensor = hidden.view(len(inputs), -1, 2, hidden.shape[-1])
        return split

    def of_actions(self, inputs: Tensor, inside: Tensor | None = None, last: bool = False) -> Tensor:
        """Return `forward`'s hidden states of the action tokens alone, [B, T, width], or [B, 1, width] of the `last`.

        The last layer then computes half of the tokens, or one.
        """
        keep = slice(2 * inputs.shape[1] - 1, None) if last else slice(1, None, 2)
        hidden: Tensor = self.transformer(*self._tokens(inputs, None, inside), keep)
        return hidden

    def _tokens(self, inputs: Tensor, numbers: Tensor | None, inside: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return tokens [B, 2 T, width], and which of them may be looked at; None: all."""
        if inputs.shape[1] > self.positions and numbers is None:
            raise PrefenvsError(f"{inputs.shape[1]} steps are more than the transformer's {self.positions} positions")
        if numbers is None:
            numbers = torch.arange(inputs.shape[1], device=inputs.device)
        observation = self.observation(inputs[..., : self.observation_size])
        action = self.action(inputs[..., self.observation_size :])
        tokens = torch.stack([observation, action], 2) + self.position(numbers).unsqueeze(-2)
        mask = None if inside is None or self.transformer.causal else inside.repeat_interleave(2, 1)
        return self.norm(tokens).flatten(1, 2), mask


def initialise(module: nn.Module) -> None:
    """Give linear and embedding weights GPT-2's normal distribution of standard deviation 0.02, and biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=INITIAL_STD)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
