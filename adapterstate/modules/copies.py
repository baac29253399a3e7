"""Whole copies of base parameters and buffers: what ``modules_to_save`` trains in their place."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
from torch import nn

from adapterstate.modules.method import base_tensor


@attrs.frozen
class ModulesToSave:
    """Replace parameters and buffers of one module by copies.

    Attributes:
        own: names of the base parameters and buffers that are copied here.
        replaced: all names that are replaced: `own`, and those whose copy is held at another end of a tie.
    """

    own: tuple[str, ...]
    replaced: tuple[str, ...]

    @property
    def kind(self) -> str:
        """The name shown in tables and refusals."""
        return "modules_to_save"

    def tensors(self, module: nn.Module, *, autocast: bool) -> Mapping[str, torch.Tensor]:
        """Copy the *base* values, on their device, in their dtype whatever `autocast` says, and in their memory format."""
        return {name: _copy(base_tensor(module, name), parameter=name in module._parameters) for name in self.own}

    def replaces(self) -> Mapping[str, tuple[int, ...] | None]:
        """Every replaced name, with all of its rows."""
        return dict.fromkeys(self.replaced)

    def replacement(self, name: str, base: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the copy."""
        return tensors[name]


def _copy(base: torch.Tensor, *, parameter: bool) -> torch.Tensor:
    """Copy `base`, as a parameter that may train if its dtype can, or as a buffer."""
    # cloned and not detached: a detached view would still be an inference tensor where the model was made in inference mode
    with torch.no_grad():
        copy = base.clone(memory_format=torch.preserve_format)
    if not parameter:
        return copy
    return nn.Parameter(copy, requires_grad=copy.is_floating_point() or copy.is_complex())
