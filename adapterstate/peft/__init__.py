"""The same machine over PEFT's layers: PEFT builds and computes them, adapterstate owns their state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterstate.records import Finding

if TYPE_CHECKING:
    from torch import nn

__all__ = ["audit"]


def audit(model: nn.Module) -> tuple[Finding, ...]:
    """Read any PEFT model's flags, attached or not; say which rules they break and where. Changes nothing.

    Returns:
        One finding for each place, empty when the flags are those of a legal state. `what` begins with the name of the rule.

    Raises:
        ArgumentError: it is no module that PEFT has touched.
        ImportError: PEFT is not installed.
    """
    from adapterstate.peft.reading import audit as read_and_judge  # it imports PEFT, which is an extra

    return read_and_judge(model)
