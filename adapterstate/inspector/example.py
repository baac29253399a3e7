"""The model that is inspected when none is named."""

from __future__ import annotations

import contextlib

import torch
from torch import nn

from adapterstate import AdapterState, EventRefusedError, LoraConfig, attach


class Block(nn.Module):
    """Two projections, as in attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_proj, self.v_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Something that uses both."""
        changed: torch.Tensor = self.q_proj(hidden).tanh() * self.v_proj(hidden)
        return hidden + changed


class SmallModel(nn.Module):
    """An embedding, two blocks and a head."""

    def __init__(self, width: int = 8, tokens: int = 16) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(tokens, width)
        self.layers = nn.Sequential(Block(width), Block(width))
        self.lm_head = nn.Linear(width, tokens, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of every token."""
        logits: torch.Tensor = self.lm_head(self.layers(self.embed_tokens(tokens)))
        return logits


def example() -> AdapterState:
    """Make a small model that has been through a few events, and ends with one adapter merged and active, and one frozen."""
    state = attach(SmallModel())
    state.add_adapter("poet", LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head"]))
    state.add_adapter("chemist", LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [7, 8]}))
    state.add_adapter("critic", LoraConfig(r=2, target_modules=["v_proj"], modules_to_save=["lm_head"]))
    state.set_adapter(["poet", "chemist"], weights=[1.0, 0.5])
    state.set_requires_grad("chemist", False)
    with state.disable_adapter():
        pass
    with contextlib.suppress(EventRefusedError):  # both replace the head: refused, so it is not in the journal
        state.set_adapter(["poet", "critic"])
    state.merge_adapter(["poet"])
    return state
