"""What LoRA leaves in the tuple that forward walks: one small object per live slot.

Each kind of module has an *exact* class, which is all that most forwards need, and a *general* one, which drops out and casts as well.
`refresh` decides between them, so that no forward asks.

The scale is held twice. A float is the faster and the more exact in eager mode, but a constant to ``torch.compile``: each further value
would compile again, and with inductor ``torch.add(..., alpha=)`` computes wrong numbers from the second value on (torch 2.13). So compiled
code reads a tensor of no dimensions, float64 because that promotes no result.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.compiler import is_dynamo_compiling

from adapterstate.modules.slots import CHILD

_CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


class LoraLive:
    """One live LoRA slot. Plain attributes, so that deepcopy and pickle carry it along with its module.

    Attributes:
        tensors: the slot's tensors by name, the slot's own mapping.
        scale: what the product of the two matrices is multiplied with.
        factor: `scale` as a tensor of shape ``()`` on the device of the adapter, for compiled code.
        dropout: probability of dropping an element of the input while the module trains.
    """

    __slots__ = ("dropout", "factor", "scale", "tensors")

    FIRST: ClassVar[str] = "lora_A"
    tensors: Mapping[str, torch.Tensor]
    factor: torch.Tensor

    def __init__(self, module: nn.Module, tensors: Mapping[str, torch.Tensor], scale: float, dropout: float) -> None:
        self.scale = scale
        self.dropout = dropout
        self.refresh(module, tensors)

    def __call__(self, module: Any, output: Any, input: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Return `output` plus what the low-rank product makes of `input`: the first positional argument, else the first by keyword."""
        raise NotImplementedError

    def weighted(self, weight: float) -> LoraLive:
        """Return one with `weight` times the scale, and the same tensors."""
        other = copy.copy(self)
        other.scale = self.scale * weight
        other.factor = _factor(other.scale, self.factor.device)
        return other

    def refresh(self, module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
        """Decide again between the exact and the general class, and put the scale on the adapter's device."""
        adapter = tensors[self.FIRST]
        self.tensors = tensors
        self.factor = _factor(self.scale, adapter.device)
        exact, general = _CLASSES[type(self)]
        plain = adapter.dtype == reference_tensor(module).dtype and not self.dropout and not self.scales_itself(module)
        self.__class__ = exact if plain else general

    def scales_itself(self, module: nn.Module) -> bool:
        """Whether the module multiplies what its weight gives."""
        return False


class LinearLive(LoraLive):
    """``y + s (x A^T) B^T``, for weights of either orientation."""

    __slots__ = ()

    def __call__(self, module: Any, output: Any, input: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Add the product to `output`."""
        t = self.tensors
        x = input if input is not None else _first(kwargs)
        delta = F.linear(F.linear(x, t["lora_A"]), t["lora_B"])
        # `_add`, written out where a call counts
        return output + delta * self.factor if is_dynamo_compiling() else torch.add(output, delta, alpha=self.scale)


class GeneralLinearLive(LinearLive):
    """As `LinearLive`, with dropout on the input, computed in the adapter's dtype and returned in the output's."""

    __slots__ = ()

    def __call__(self, module: Any, output: Any, input: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Add the product to `output`."""
        x = _prepared(self, module, input if input is not None else _first(kwargs))
        return super().__call__(module, output, x).to(output.dtype)


class ConvLive(LoraLive):
    """``y + s (x * A) * B``, where the first convolution strides, pads and dilates as the module does and the second is pointwise.

    In groups that would take ``r`` channels for each group. There the dense product is convolved with instead, which costs what the
    module's own convolution costs.
    """

    __slots__ = ()

    def __call__(self, module: Any, output: Any, input: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Add the product to `output`."""
        t = self.tensors
        a, b = t["lora_A"], t["lora_B"]
        x = input if input is not None else _first(kwargs)
        if module.groups == 1:
            delta = _CONVOLUTIONS[b.dim()](module._conv_forward(x, a, None), b)
        else:
            dense = (b.flatten(1) @ a.flatten(1)).view(b.shape[:1] + a.shape[1:])
            delta = module._conv_forward(x, dense, None)
        return _add(self, output, delta)


class GeneralConvLive(ConvLive):
    """As `ConvLive`, with dropout on the input, computed in the adapter's dtype and returned in the output's."""

    __slots__ = ()

    def __call__(self, module: Any, output: Any, input: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Add the product to `output`."""
        x = _prepared(self, module, input if input is not None else _first(kwargs))
        return super().__call__(module, output, x).to(output.dtype)


class EmbeddingLive(LoraLive):
    """``y + s A^T[ids] B^T``, at padding indices too. As of the base weight, the row at `padding_idx` gets no gradient."""

    __slots__ = ()

    FIRST = "lora_embedding_A"

    def scales_itself(self, module: nn.Module) -> bool:
        """Whether the module is one of transformers' scaled embeddings."""
        return getattr(module, "embed_scale", None) is not None

    def __call__(self, module: Any, output: Any, input: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Add the product to `output`."""
        return _add(self, output, self.looked_up(module, input if input is not None else _first(kwargs)))

    def looked_up(self, module: Any, ids: torch.Tensor) -> torch.Tensor:
        """Return the unscaled rows of the delta: ``ids.shape + (embedding_dim,)``."""
        t = self.tensors
        rows = F.embedding(ids, t["lora_embedding_A"].T, module.padding_idx, scale_grad_by_freq=module.scale_grad_by_freq)
        return F.linear(rows, t["lora_embedding_B"])


class GeneralEmbeddingLive(EmbeddingLive):
    """As `EmbeddingLive`, returned in the output's dtype, and multiplied with the module's own ``embed_scale`` where it has one."""

    __slots__ = ()

    def __call__(self, module: Any, output: Any, input: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Add the product to `output`."""
        rows = self.looked_up(module, input if input is not None else _first(kwargs))
        own_scale = getattr(module, "embed_scale", None)
        if own_scale is not None:
            # rounded as the module rounds it, or live and merged would differ
            rows = rows * (own_scale.to(output.dtype) if isinstance(own_scale, torch.Tensor) else own_scale)
        return _add(self, output, rows).to(output.dtype)


_CLASSES: Mapping[type[LoraLive], tuple[type[LoraLive], type[LoraLive]]] = {
    kind: pair
    for pair in ((LinearLive, GeneralLinearLive), (ConvLive, GeneralConvLive), (EmbeddingLive, GeneralEmbeddingLive))
    for kind in pair
}


def _add(live: LoraLive, output: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """Return `output` plus the scaled `delta`, in the wider dtype of the two."""
    return output + delta * live.factor if is_dynamo_compiling() else torch.add(output, delta, alpha=live.scale)


def _first(kwargs: Mapping[str, Any]) -> Any:
    """Return the input of a forward that was called with keywords only."""
    return next(iter(kwargs.values()))


def _prepared(live: LoraLive, module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Cast `x` to the adapter's dtype and drop out."""
    x = x.to(live.tensors["lora_A"].dtype)
    return F.dropout(x, live.dropout, module.training) if live.dropout else x


@functools.lru_cache(maxsize=4096)
def _factor(scale: float, device: torch.device) -> torch.Tensor:
    """Make `scale` a tensor of shape ``()`` that a backward may save, also when made in inference mode. It is never written."""
    with torch.inference_mode(False):
        return torch.full((), scale, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)


def _own_tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    """Yield the tensors of `module` and its children, its weight first and no adapter's among them."""
    own = {**module._parameters, **module._buffers}
    for tensor in (own.get("weight"), *own.values()):
        if tensor is not None:
            yield tensor
    for name, child in module._modules.items():
        if name != CHILD and child is not None:
            yield from child.parameters()


def reference_tensor(module: nn.Module) -> torch.Tensor:
    """Return the tensor of `module` that says on which device and in which dtype it computes.

    That is its weight. Where the weight is computed, as by ``weight_norm``, the first floating-point tensor that it has.
    """
    weight = module._parameters.get("weight")
    if weight is not None:
        return weight
    tensors = list(_own_tensors(module))
    return next((t for t in tensors if t.is_floating_point()), tensors[0] if tensors else torch.empty(()))
