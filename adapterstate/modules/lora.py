"""LoRA on linear layers, embeddings and convolutions: a product of two small matrices is added to a weight that stays as it is.

Source: LoRA, arXiv:2106.09685; the scale of rank-stabilised LoRA, arXiv:2312.03732. Names and shapes of the tensors are
PEFT's, with one difference on purpose: for a convolution in ``g`` groups ``lora_A`` is ``(r, in / g, *kernel)`` and ``lora_B`` is
``(out, r, 1, ...)``, so that their product has the shape of the weight and can be merged. The product of PEFT's has not.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import attrs
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from adapterstate.modules.lora_live import ConvLive, EmbeddingLive, LinearLive, reference_tensor
from adapterstate.modules.method import Live, Tuner

Shape = tuple[int, ...]


@attrs.frozen
class Lora:
    """What LoRA is on every kind of module. `lora_for` makes one of the subclasses.

    Attributes:
        r: rank of the product.
        lora_alpha: the product is multiplied with ``lora_alpha / r``.
        lora_dropout: probability of dropping an element of the input in training. Embeddings drop nothing, as in PEFT.
        use_rslora: multiply with ``lora_alpha / sqrt(r)`` instead.
        init_lora_weights: ``True`` starts at a delta of zero, ``"gaussian"`` too, from normal numbers; ``False`` does not.
        scale: what the product is multiplied with. Source: arXiv:2106.09685, section 4.1; arXiv:2312.03732, section 3.
    """

    r: int
    lora_alpha: float
    lora_dropout: float = 0.0
    use_rslora: bool = False
    init_lora_weights: bool | str = True
    scale: float = attrs.field(init=False)

    @scale.default
    def _scale(self) -> float:
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    @property
    def kind(self) -> str:
        """The name shown in tables and refusals."""
        return "lora"

    def tensors(self, module: nn.Module, *, autocast: bool) -> Mapping[str, torch.Tensor]:
        """Make the two matrices on the device of the module's weight, float32 where that is in half precision and `autocast`."""
        base = reference_tensor(module)
        dtype, device = adapter_dtype(base.dtype, autocast=autocast), base.device
        (first, shape), (second, other) = self.shapes(module).items()
        a, b = torch.empty(shape, dtype=dtype, device=device), torch.empty(other, dtype=dtype, device=device)
        self.initialise(a, b)
        return {first: nn.Parameter(a), second: nn.Parameter(b)}

    def shapes(self, module: nn.Module) -> Mapping[str, Shape]:
        """Name the two tensors, the one that meets the input first, and their shapes."""
        raise NotImplementedError

    def initialise(self, a: torch.Tensor, b: torch.Tensor) -> None:
        """Fill both tensors, as PEFT does: ``a`` as a fresh linear layer's weight and ``b`` with zeros."""
        if isinstance(self.init_lora_weights, str):
            if self.init_lora_weights.lower() != "gaussian":
                raise ValueError(f"init_lora_weights={self.init_lora_weights!r} is not supported; give True, False or 'gaussian'")
            a.normal_(std=1 / self.r)
        else:
            _as_linear(a)
        if self.init_lora_weights is False:
            _as_linear(b)
        else:
            b.zero_()

    def live(self, module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Live:
        """Make what adds the product in forward."""
        raise NotImplementedError

    def delta(self, module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return the scaled product under ``"weight"``, shaped as that is, in float32 or in float64 where module or adapter are."""
        a, b = (tensors[name].detach() for name in self.shapes(module))
        dtype = torch.promote_types(a.dtype, adapter_dtype(reference_tensor(module).dtype, autocast=True))
        # neither a surrounding autocast may round it, nor inference mode make it unfit for a later backward
        uncast = torch.autocast(a.device.type, enabled=False) if torch.amp.is_autocast_available(a.device.type) else nullcontext()
        with torch.inference_mode(False), torch.no_grad(), uncast:
            return {"weight": self.dense(a.to(dtype), b.to(dtype)) * self.scale}

    def dense(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Return the product of the two tensors, in the shape of the module's weight."""
        return b @ a


@attrs.frozen
class LinearLora(Lora):
    """LoRA on `nn.Linear`: ``lora_A`` is ``(r, in)``, ``lora_B`` is ``(out, r)``."""

    def shapes(self, module: nn.Module) -> Mapping[str, Shape]:
        """Name the two tensors and their shapes."""
        inside, outside = self.features(module)
        return {"lora_A": (self.r, inside), "lora_B": (outside, self.r)}

    def features(self, module: nn.Module) -> tuple[int, int]:
        """Return the sizes of an input and of an output. A parametrised or quantised weight would not tell them."""
        return module.in_features, module.out_features  # type: ignore[return-value]

    def live(self, module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Live:
        """Make what adds the product in forward."""
        return LinearLive(module, tensors, self.scale, self.lora_dropout)


@attrs.frozen
class Conv1DLora(LinearLora):
    """LoRA on transformers' ``Conv1D``, a linear layer whose weight is ``(in, out)``."""

    def features(self, module: nn.Module) -> tuple[int, int]:
        """Return the sizes of an input and of an output."""
        return module.nx, module.nf  # type: ignore[return-value]

    def dense(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Return the product of the two tensors, in the shape of the module's weight."""
        return (b @ a).T.contiguous()


@attrs.frozen
class EmbeddingLora(Lora):
    """LoRA on `nn.Embedding`: ``lora_embedding_A`` is ``(r, num_embeddings)``, ``lora_embedding_B`` is ``(embedding_dim, r)``."""

    def shapes(self, module: nn.Module) -> Mapping[str, Shape]:
        """Name the two tensors and their shapes."""
        assert isinstance(module, nn.Embedding)
        return {"lora_embedding_A": (self.r, module.num_embeddings), "lora_embedding_B": (module.embedding_dim, self.r)}

    def initialise(self, a: torch.Tensor, b: torch.Tensor) -> None:
        """Fill both tensors, as PEFT does: ``a`` with zeros, as the delta shall be, and ``b`` with normal numbers."""
        a.normal_() if self.init_lora_weights is False else a.zero_()
        b.normal_()

    def live(self, module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Live:
        """Make what adds the product in forward."""
        return EmbeddingLive(module, tensors, self.scale, 0.0)

    def dense(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Return the product of the two tensors, in the shape of the module's weight."""
        return a.T @ b.T


@attrs.frozen
class ConvLora(Lora):
    """LoRA on a convolution: ``lora_A`` is ``(r, in / groups, *kernel)``, ``lora_B`` is ``(out, r, 1, ...)``."""

    def shapes(self, module: nn.Module) -> Mapping[str, Shape]:
        """Name the two tensors and their shapes."""
        assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        kernel = module.kernel_size
        b = (module.out_channels, self.r, *(1 for _ in kernel))
        return {"lora_A": (self.r, module.in_channels // module.groups, *kernel), "lora_B": b}

    def live(self, module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Live:
        """Make what adds the product in forward."""
        return ConvLive(module, tensors, self.scale, self.lora_dropout)

    def dense(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Return the product of the two tensors, in the shape of the module's weight."""
        return (b.flatten(1) @ a.flatten(1)).view(b.shape[:1] + a.shape[1:])


def adapter_dtype(base: torch.dtype, *, autocast: bool) -> torch.dtype:
    """Return the dtype of an adapter's parameters beside a weight of dtype `base`.

    Half precision becomes float32 if `autocast`. What arithmetic is not done in (integers and floats of one byte, as quantised weights are
    stored in) always does.
    """
    if not base.is_floating_point or base.itemsize == 1 or (autocast and base.itemsize == 2):
        return torch.float32
    return base


@functools.lru_cache(maxsize=1024)
def _class_for(kind: type[nn.Module]) -> type[Lora] | None:
    """Return the kind of LoRA for a class of modules, subclasses included, as PEFT does."""
    if issubclass(kind, nn.Embedding):
        return EmbeddingLora
    if issubclass(kind, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return ConvLora
    if issubclass(kind, nn.Linear):
        return LinearLora
    # not imported: whoever has such a module has imported it, and this package does not depend on transformers
    transposed = getattr(sys.modules.get("transformers.pytorch_utils"), "Conv1D", None)
    return Conv1DLora if transposed is not None and issubclass(kind, transposed) else None


def lora_for(
    module: nn.Module, *, r: int, lora_alpha: float, lora_dropout: float, use_rslora: bool, init_lora_weights: bool | str
) -> Tuner | None:
    """Return LoRA for `module`, or None where it is not supported.

    Supported are `nn.Linear`, `nn.Embedding` without ``max_norm``, `nn.Conv1d`, `nn.Conv2d`, `nn.Conv3d`, transformers' ``Conv1D`` and
    their subclasses, with weights that are real and not lazy. A subclass whose forward does more than its parent's gets LoRA on the input
    that it is called with.

    Args:
        module: the module to be adapted, read only.
        r: rank, positive.
        lora_alpha: numerator of the scale.
        lora_dropout: probability in [0, 1).
        use_rslora: whether the scale's denominator is ``sqrt(r)`` and not ``r``.
        init_lora_weights: ``True``, ``False`` or ``"gaussian"``.
    """
    parameters: Iterable[Any] = module._parameters.values()
    kind = _class_for(type(module))  # type: ignore[arg-type]  # classes are hashable
    if kind is None or any(map(is_lazy, parameters)) or reference_tensor(module).is_complex():
        return None
    if kind is EmbeddingLora and module.max_norm is not None:
        return None  # renormalising happens to the row that is looked up: base and delta apart are not what they are together
    return _shared(kind, r, lora_alpha, lora_dropout, use_rslora, init_lora_weights)  # type: ignore[arg-type]  # classes are hashable


def _as_linear(tensor: torch.Tensor) -> None:
    """Fill `tensor` as `nn.Linear` fills its weight: `nn.init.kaiming_uniform_` with ``a = sqrt(5)``, whose bound is worked out once."""
    bound = _bound_of(tensor.shape)
    tensor.uniform_(-bound, bound)


@functools.lru_cache(maxsize=1024)
def _bound_of(shape: Shape) -> float:
    """Return the bound of the uniform numbers in this shape. Source: `nn.init.kaiming_uniform_`, arXiv:1502.01852."""
    fan_in = math.prod(shape[1:])
    return 0.0 if fan_in == 0 else math.sqrt(3.0) * (nn.init.calculate_gain("leaky_relu", math.sqrt(5)) / math.sqrt(fan_in))


@functools.lru_cache(maxsize=1024, typed=True)
def _shared(kind: type[Lora], *fields: Any) -> Lora:
    """One object for all modules on which LoRA is the same: it is immutable and holds nothing of a module."""
    return kind(*fields)
