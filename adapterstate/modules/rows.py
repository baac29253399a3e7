"""Forward of an embedding or output head of which only some rows are replaced, without making the whole weight.

The base computes as usual; then the results that belong to replaced rows are written over. The cost follows the number of tokens and
replaced rows, not the size of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from adapterstate.modules.method import base_tensor

if TYPE_CHECKING:
    from adapterstate.modules.reads import Replaced


class EmbeddingRows:
    """`nn.Embedding` with replaced rows: gather from the base, find the hits, copy the replaced rows into the result."""

    __slots__ = ("order", "read", "sorted")

    def __init__(self, read: Replaced) -> None:
        self.read = read
        self.refresh()

    def refresh(self) -> None:
        """Sort the row indices where the base weight is, so that hits are found without a table of the vocabulary's size."""
        assert self.read.rows is not None
        self.sorted, self.order = torch.sort(self.read.rows)

    def __call__(self, module: nn.Embedding, input: torch.Tensor) -> torch.Tensor:
        base = base_tensor(module, "weight")
        output = F.embedding(input, base, module.padding_idx, None, module.norm_type, module.scale_grad_by_freq, module.sparse)
        tokens = input.reshape(-1).to(torch.long)
        flat = output.reshape(-1, output.shape[-1])
        values = self.read.values(base)
        place = torch.searchsorted(self.sorted, tokens).clamp_(max=len(self.sorted) - 1)
        hit = self.sorted[place] == tokens
        if torch.compiler.is_compiling():  # a result of fixed shape: the number of hits would not be one
            flat = torch.where(hit.unsqueeze(-1), values[self.order[place]], flat)
        else:
            found = hit.nonzero().squeeze(1)
            flat.index_copy_(0, found, values[self.order[place[found]]])  # the output is fresh: nothing else sees it
        return flat.reshape(output.shape)


class LinearRows:
    """`nn.Linear` with replaced rows of its weight: compute all outputs from the base, then write over those of the rows."""

    __slots__ = ("read",)

    def __init__(self, read: Replaced) -> None:
        self.read = read

    def refresh(self) -> None:
        """Nothing is kept beside what the read keeps."""

    def __call__(self, module: nn.Linear, input: torch.Tensor) -> torch.Tensor:
        base, bias, rows = base_tensor(module, "weight"), module.bias, self.read.rows
        assert rows is not None
        output = F.linear(input, base, bias)
        own = F.linear(input, self.read.values(base), None if bias is None else bias[rows])
        return output.index_copy_(-1, rows, own.to(output.dtype))  # the output is fresh: nothing else sees it


def rows_forward(module: nn.Module, reads: Mapping[str, Replaced]) -> Any:
    """Return what computes in place of the forward of `module`, or None where its own forward has to, reading whole weights.

    Only the plain forward of `nn.Embedding` and `nn.Linear` is known well enough; a subclass with a forward of its own reads the weight.
    """
    if set(reads) != {"weight"} or reads["weight"].rows is None:
        return None
    base = getattr(type(module), "_adapterstate_base", type(module))
    if base.forward is nn.Embedding.forward and module.max_norm is None:
        return EmbeddingRows(reads["weight"])
    return LinearRows(reads["weight"]) if base.forward is nn.Linear.forward else None
