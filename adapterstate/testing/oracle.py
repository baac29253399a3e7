"""The oracle: what a model computes with, worked out naively from dense tensors, one row after the other."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from adapterstate.testing.reference import Reference
from adapterstate.testing.system import Slot, Tensors

Weights = dict[str, dict[str, torch.Tensor]]


def normal_form(reference: Reference, base: Mapping[str, Mapping[str, torch.Tensor]], tensors: Tensors) -> Weights:
    """Return module path -> name -> the weight that must be computed with.

    The base with the rows of the active adapters put in, in activation order and as their policies say, plus the deltas of the active
    tuners. `base` holds the values from before the first event: what the system says about them later is not trusted.
    """
    weights = {path: {name: value.detach().clone() for name, value in values.items()} for path, values in base.items()}
    if not reference.enabled:
        return weights
    for name in reference.activation.names:
        share = reference.activation.weight(name)
        for path in weights:
            for slot in tensors.slots.get(path, {}).get(name, ()):
                if slot.kind != "tuner":
                    _replace(weights[path][slot.weight], base[path][slot.weight], slot, share, reference.policy(name))
    for name in reference.activation.names:
        share = reference.activation.weight(name)
        for path in weights:
            for slot in tensors.slots.get(path, {}).get(name, ()):
                if slot.kind == "tuner":
                    weights[path][slot.weight] += share * slot.scale * slot.values.detach().to(weights[path][slot.weight].dtype)
    return weights


def _replace(weight: torch.Tensor, original: torch.Tensor, slot: Slot, share: float, policy: str) -> None:
    """Put the rows of one slot into `weight`: added to what is there, or in its place."""
    values = slot.values.detach().to(weight.dtype)
    if weight.dim() == 0:
        weight, original, values = weight[None], original[None], values[None]  # views of one row
    rows = range(len(weight)) if slot.rows is None else slot.rows
    for row, value in zip(rows, values, strict=True):
        difference = share * (value - original[row])
        weight[row] = weight[row] + difference if policy == "sum" else original[row] + difference
