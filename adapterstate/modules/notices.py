"""What a module says about its state while it computes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class MergedNotice:
    """Warns once when a forward in training mode meets a trainable adapter that is merged: it will learn nothing from it.

    It stands among the live tuners, and adds nothing.
    """

    __slots__ = ("names", "said")

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.said = False

    def __call__(self, module: nn.Module, output: Any, *_: Any, **__: Any) -> Any:
        if module.training and not self.said and not torch.compiler.is_compiling():
            self.said = True
            warnings.warn(
                f"forward in training mode while {list(self.names)} are merged: a merged adapter has no dropout and receives no gradient. "
                "Call unmerge_adapter() to train it, or set_requires_grad(name, False) to say that it should not be trained.",
                stacklevel=2,
            )
        return output

    def weighted(self, weight: float) -> MergedNotice:
        """Nothing is added, whatever the weight."""
        return self

    def refresh(self, module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
        """Nothing depends on dtype or device."""
