"""`attach`: from a model to the state that drives it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import attrs
from torch import nn

from adapterstate import errors
from adapterstate.link import Options, link_of
from adapterstate.machine.arguments import refuse_no_flag
from adapterstate.machine.charts import Charts
from adapterstate.projection import GradFollows
from adapterstate.state import AdapterState

_GIVEN: Any = object()


def attach(
    model: nn.Module,
    *,
    charts: Charts | None = None,
    grad_follows: GradFollows = _GIVEN,
    autocast_adapter_dtype: bool = _GIVEN,
    fallback_on_delete: bool = _GIVEN,
    merge_activates: bool = _GIVEN,
    repair: bool = False,
) -> AdapterState:
    """Return the state that drives the adapters of `model`. Nothing is written to the model until the first adapter is added.

    A model that is attached already has one state, which is returned; a copy of an attached model gets one of its own, equal to the
    original's.

    Args:
        model: any `nn.Module`.
        charts: what may happen; None for the charts of this package.
        grad_follows: what `requires_grad` of adapter parameters follows: ``"trainability"`` (the default) or ``"activation"``.
        autocast_adapter_dtype: whether half-precision base weights get float32 adapter parameters; True by default.
        fallback_on_delete: whether deleting the last active adapter activates the first of those that remain; False by default.
        merge_activates: whether `merge_adapter` of an inactive adapter activates it first, as one event; False by default.
        repair: for a PEFT model whose flags break a rule: set it to the nearest legal state, instead of refusing. A warning says what was
            changed.

    A model that carries PEFT's layers is driven through them. There the defaults are ``grad_follows="activation"``,
    ``fallback_on_delete=True`` and ``merge_activates=True``, as PEFT does.

    Raises:
        ArgumentError: an argument has the wrong type or value. Nothing has changed.
        AttachError: the model is attached with other options, or is a part or a whole of an attached model. Nothing has changed.
    """
    if not isinstance(model, nn.Module):
        raise errors.ArgumentError(f"attach was given {errors.type_of(model)}; an nn.Module is expected; nothing has changed")
    if charts is not None and not isinstance(charts, Charts):
        raise errors.ArgumentError(f"attach was given {errors.type_of(charts)} as charts; Charts are expected; nothing has changed")
    if grad_follows is not _GIVEN and grad_follows not in ("trainability", "activation"):
        raise errors.ArgumentError(f"grad_follows is {grad_follows!r}; 'trainability' or 'activation' is expected; nothing has changed")
    given = {
        "charts": charts,
        "grad_follows": grad_follows,
        "autocast_adapter_dtype": autocast_adapter_dtype,
        "fallback_on_delete": fallback_on_delete,
        "merge_activates": merge_activates,
    }
    given = {name: value for name, value in given.items() if value is not _GIVEN and not (name == "charts" and value is None)}
    for name, value in (*given.items(), ("repair", repair)):
        if name not in ("charts", "grad_follows"):
            refuse_no_flag("attach", name, value)
    link = link_of(model)
    if link is not None and link.state is not None:
        _refuse_other_options(link.state, given)
        return link.state
    kind = _kind_of_state(model)
    return kind._attached(model, link, given, repair=repair)


def _kind_of_state(model: nn.Module) -> type[AdapterState]:
    """The class of the state that drives `model`: the one for PEFT's layers where there are any. PEFT is not imported for that."""
    if "peft" in sys.modules:
        from adapterstate.peft.state import PeftState
        from adapterstate.peft.tuners import carries_peft

        if carries_peft(model):
            return PeftState
    return AdapterState


def _refuse_other_options(state: AdapterState, given: Mapping[str, Any]) -> None:
    """Refuse options that differ from those that the model is attached with."""
    have = {field.name: getattr(state.options, field.name) for field in attrs.fields(Options)}
    other = [name for name, value in given.items() if value != have[name]]
    if other:
        said = ", ".join(f"{name}={have[name]!r}" if name != "charts" else "other charts" for name in other)
        raise errors.AttachError(
            f"the model is attached already, with {said}; nothing has changed. Leave the options out to get its state."
        )
