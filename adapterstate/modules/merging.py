"""Whether a merge has a meaning for a module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from adapterstate.modules.method import Tuner, is_auxiliary
from adapterstate.modules.wiring import Bindings, Cache


def why_not_mergeable(module: nn.Module, bindings: Bindings, names: Sequence[str]) -> str | None:
    """Say why the weights that the adapters `names` touch cannot be kept precomputed; None when they can. Computes nothing."""
    for name in names:
        for part in bindings[name].parts:
            method: Any = part.method
            touched = method.replaces() if is_auxiliary(method) else _tuned(module, method)
            for key in touched:
                reason = _why_not(module, key)
                if reason:
                    return reason
    return None


def _tuned(module: nn.Module, method: Tuner) -> tuple[str, ...]:
    """Names of the base parameters that a tuner adds to. Without a declaration it is the weight."""
    return tuple(getattr(method, "adds_to", ("weight",)))


def _why_not(module: nn.Module, name: str) -> str | None:
    """Say why the base tensor `name` cannot be kept in a merged form."""
    tensor: torch.Tensor | None = module._parameters.get(name)
    if tensor is None:
        tensor = module._buffers.get(name)
    if tensor is None and name in module._parameters:
        return f"the module has no {name}"
    if tensor is None:
        return f"{name} is not stored in the module but computed, as by a parametrization; remove that first"
    if type(tensor).__name__ == "DTensor":
        return f"{name} is sharded (a DTensor); gather the model before merging"
    if name in module._parameters and not (tensor.is_floating_point() or tensor.is_complex()):
        return f"{name} is stored as {tensor.dtype}; a floating-point weight is expected"
    return None


def why_not_finite(cache: Cache) -> str | None:
    """Say which merged tensors hold values that are not finite."""
    bad = [name for name, read in cache.reads.items() if not bool(torch.isfinite(read.tensor).all())]
    return f"the merged {' and '.join(bad)} would hold values that are not finite" if bad else None
