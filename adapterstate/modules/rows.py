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
    from adapterstate.modules.wiring import Part, Replaced


class _Rows:
    """The replaced rows of one weight, by part: where they are and what stands there."""

    __slots__ = ("indices", "parts")

    def __init__(self, read: Replaced) -> None:
        self.parts: tuple[Part, ...] = read.parts
        self.indices: tuple[torch.Tensor, ...] = ()
        self.refresh(read)

    def refresh(self, read: Replaced) -> None:
        """Put what is fixed where the base weight is."""
        self.indices = tuple(index for index in read.indices if index is not None)

    def values(self, part: Part, base: torch.Tensor) -> torch.Tensor:
        """The rows of one part, in the dtype of the base."""
        return part.method.replacement("weight", base, part.tensors).to(base.dtype)  # type: ignore[union-attr]


class EmbeddingRows(_Rows):
    """`nn.Embedding` with replaced rows: gather from the base, find the hits, copy the replaced rows into the result."""

    __slots__ = ("orders", "sorteds")

    def refresh(self, read: Replaced) -> None:
        """Sort the row indices, so that hits are found without a table of the vocabulary's size."""
        super().refresh(read)
        pairs = [torch.sort(index) for index in self.indices]
        self.sorteds = tuple(pair[0] for pair in pairs)
        self.orders = tuple(pair[1] for pair in pairs)

    def __call__(self, module: nn.Embedding, input: torch.Tensor) -> torch.Tensor:
        base = base_tensor(module, "weight")
        output = F.embedding(input, base, module.padding_idx, None, module.norm_type, module.scale_grad_by_freq, module.sparse)
        tokens = input.reshape(-1).to(torch.long)
        flat = output.reshape(-1, output.shape[-1])
        for part, rows, order in zip(self.parts, self.sorteds, self.orders, strict=True):
            values = self.values(part, base)
            place = torch.searchsorted(rows, tokens).clamp_(max=len(rows) - 1)
            hit = rows[place] == tokens
            if torch.compiler.is_compiling():  # a result of fixed shape: the number of hits would not be one
                flat = torch.where(hit.unsqueeze(-1), values[order[place]], flat)
                continue
            found = hit.nonzero().squeeze(1)
            flat.index_copy_(0, found, values[order[place[found]]])  # the output is fresh: nothing else sees it
        return flat.reshape(output.shape)


class LinearRows(_Rows):
    """`nn.Linear` with replaced rows of its weight: compute all outputs from the base, then write over those of the rows."""

    __slots__ = ()

    def __call__(self, module: nn.Linear, input: torch.Tensor) -> torch.Tensor:
        base, bias = base_tensor(module, "weight"), module.bias
        output = F.linear(input, base, bias)
        for part, index in zip(self.parts, self.indices, strict=True):
            own = F.linear(input, self.values(part, base), None if bias is None else bias[index])
            output.index_copy_(-1, index, own.to(output.dtype))  # the output is fresh: nothing else sees it
        return output


def rows_forward(module: nn.Module, reads: Mapping[str, Replaced]) -> Any:
    """Return what computes in place of the forward of `module`, or None where its own forward has to, reading whole weights.

    Only the plain forward of `nn.Embedding` and `nn.Linear` is known well enough; a subclass with a forward of its own reads the weight.
    """
    if set(reads) != {"weight"} or any(index is None for index in reads["weight"].indices):
        return None
    base = getattr(type(module), "_adapterstate_base", type(module))
    if base.forward is nn.Embedding.forward and module.max_norm is None:
        return EmbeddingRows(reads["weight"])
    return LinearRows(reads["weight"]) if base.forward is nn.Linear.forward else None
