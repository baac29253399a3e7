"""New values for some rows of an embedding: what ``trainable_token_indices`` trains."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
from torch import nn

from adapterstate.modules.lora import adapter_dtype
from adapterstate.modules.method import base_tensor

NAME = "trainable_tokens"
"""Name of the one tensor: ``(len(rows), dim)``."""


@attrs.frozen
class TrainableTokens:
    """Replace single rows of a module's weight.

    Attributes:
        rows: indices of dimension 0 of the weight, each once and none negative. Row k of the parameter belongs to the k-th of them, and
            holds the row itself, not a difference.
        make: whether the parameter is made here; else the slot at another end of the tie holds it.
        name: what the weight is called here; another end of a tie may have its own name for it.
    """

    rows: tuple[int, ...]
    make: bool = True
    name: str = "weight"

    @property
    def kind(self) -> str:
        """The name shown in tables and refusals."""
        return "trainable_token_indices"

    def tensors(self, module: nn.Module, *, autocast: bool) -> Mapping[str, torch.Tensor]:
        """Copy the rows of the *base* weight, in float32 where that is in half precision and `autocast`.

        Raises:
            TypeError: if the weight is not a floating-point one, so that its rows are not what the module computes with.
        """
        if not self.make:
            return {}
        base = base_tensor(module, self.name)
        if not base.is_floating_point():
            raise TypeError(f"{self.kind} needs a floating-point weight, not {base.dtype}")
        return {NAME: nn.Parameter(_rows(base, self.rows).to(adapter_dtype(base.dtype, autocast=autocast)))}

    def replaces(self) -> Mapping[str, tuple[int, ...] | None]:
        """The rows of the weight, in the order in which they were given."""
        return {self.name: self.rows}

    def replacement(self, name: str, base: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the trained rows: ``(len(rows), dim)``."""
        return tensors[NAME]


@torch.no_grad()
def _rows(base: torch.Tensor, rows: tuple[int, ...]) -> torch.Tensor:
    """Copy `rows` of `base`. Of a sharded weight the whole is gathered, which every rank must do at the same time."""
    gather = getattr(base, "full_tensor", None)
    whole: torch.Tensor = base if gather is None else gather()
    return whole.index_select(0, torch.tensor(rows, dtype=torch.long, device=whole.device))
