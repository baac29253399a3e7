"""What a module says about its state while it computes."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from types import FrameType
from typing import Any

import torch
from torch import nn

CALLING = nn.Module.__module__
"""Where torch calls a module's forward, and hooks around it."""


class MergedNotice:
    """Warns once when a forward in training mode meets a trainable adapter that is merged: it will learn nothing from it.

    It stands among the live tuners, and adds nothing. All modules of a model share theirs, so that a merge is spoken of once.

    Attributes:
        names: the adapters that are merged and trainable.
        said: whether the warning has been given for them.
    """

    __slots__ = ("names", "said")

    def __init__(self, names: tuple[str, ...] = ()) -> None:
        self.names = names
        self.said = False

    def __call__(self, module: nn.Module, output: Any, *_: Any, **__: Any) -> Any:
        if module.training and not self.said and not torch.compiler.is_compiling():
            self.said = True
            _warn(
                f"forward in training mode while {list(self.names)} are merged: a merged adapter has no dropout and receives no gradient. "
                "Call unmerge_adapter() to train it, or set_requires_grad(name, False) to say that it should not be trained."
            )
        return output

    def weighted(self, weight: float) -> MergedNotice:
        """Nothing is added, whatever the weight."""
        return self

    def refresh(self, module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
        """Nothing depends on dtype or device."""


def _warn(text: str) -> None:
    """Warn at the line that called the outermost module."""
    frame = _caller()
    where = frame.f_globals
    registry = where.setdefault("__warningregistry__", {})
    warnings.warn_explicit(text, UserWarning, frame.f_code.co_filename, frame.f_lineno, where.get("__name__", "sys"), registry)


def _caller() -> FrameType:
    """The frame below which all modules run that are running now; where forward was called past them, the first that is not ours."""
    outermost = frame = sys._getframe(1)
    while frame.f_back is not None:
        if frame.f_globals.get("__name__") == CALLING:
            outermost = frame.f_back
        frame = frame.f_back
    while outermost.f_back is not None and _is_ours(outermost.f_globals.get("__name__", "")):
        outermost = outermost.f_back
    return outermost


def _is_ours(module: str) -> bool:
    """Whether a module is one that users do not call from: of torch, or of this package."""
    return module.partition(".")[0] in ("torch", __name__.partition(".")[0])
