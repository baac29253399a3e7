"""The one thing in a model that points to its state, and how copies of the model find theirs."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from torch import nn

from adapterstate.errors import AttachError
from adapterstate.machine.charts import Charts
from adapterstate.machine.records import Facts
from adapterstate.modules.wrapping import is_wrapped
from adapterstate.projection import GradFollows

if TYPE_CHECKING:
    from adapterstate.state import AdapterState

BARRED = ("add_adapter", "load_adapter")
"""Methods of transformers models that put PEFT's layers in."""

LINK = "_adapterstate_link"
"""Key in the ``__dict__`` of the model."""

STATES: weakref.WeakSet[AdapterState] = weakref.WeakSet()
"""Every state there is, to find one that drives a whole of which a given module is a part."""


@attrs.frozen
class Options:
    """What `attach` was given."""

    charts: Charts
    grad_follows: GradFollows
    autocast_adapter_dtype: bool
    fallback_on_delete: bool = False
    merge_activates: bool = False


@attrs.frozen
class Record:
    """What a copy of an attached model carries: enough to drive it, without the state object.

    Attributes:
        facts: the stored state.
        options: as of the original, without charts where they are those of this package, so that a pickle need not hold the tables.
    """

    facts: Facts
    options: Mapping[str, Any]


class Barred:
    """Stands in a model's ``__dict__`` in place of a method that would put another library's adapters beside ours."""

    def __init__(self, method: str) -> None:
        self.method = method

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise AttachError(
            f"{self.method} of the model itself would put PEFT's layers around modules that adapterstate drives; nothing has changed. "
            "Add the adapter through the state, attach(model).add_adapter(name, adapterstate.LoraConfig(...)); or unload() first, and "
            "attach after PEFT's layers are in."
        )


class Link:
    """From a model to its state. A copy or pickle holds a frozen record in place of the state.

    Attributes:
        state: what drives the model; None in a copy that nothing drives yet.
        record: in a copy, what the original was.
        model: the model, where its parts hold the link too; None in a part that was copied without it.
        builder: the thread in which another library builds on behalf of the state; None in between.
    """

    __slots__ = ("builder", "model", "record", "state")

    def __init__(self, state: AdapterState | None, record: Record | None = None, model: nn.Module | None = None) -> None:
        self.state = state
        self.record = record
        self.model = model
        self.builder: int | None = None

    def driver(self) -> AdapterState | None:
        """The state; a copy that nothing drives yet gets one of its own."""
        if self.state is None and self.model is not None and self.record is not None:
            from adapterstate.attaching import attach

            attach(self.model)
        return self.state

    def is_building(self) -> bool:
        """Whether another library is at work on behalf of the state, in this thread."""
        return self.builder == threading.get_ident()

    def frozen(self) -> Link:
        """What a copy gets."""
        if self.state is None:
            return Link(None, self.record)
        facts, options = self.state.facts, self.state.options
        # a context that is open on the original will never be left on the copy: there, it is as if disable_adapters() had been called
        call = facts.disabled_by_call or facts.disabled_by_contexts > 0
        facts = attrs.evolve(facts, disabled_by_call=call, disabled_by_contexts=0)
        kept = {field.name: getattr(options, field.name) for field in attrs.fields(Options)}
        if options.charts is type(self.state).CHARTS:
            del kept["charts"]
        return Link(None, Record(facts, kept))

    def __deepcopy__(self, memo: dict[int, Any]) -> Link:
        copied = self.frozen()
        copied.model = memo.get(id(self.model))
        return copied

    def __reduce__(self) -> tuple[type[Link], tuple[None, Record | None], nn.Module | None]:
        return Link, (None, self.frozen().record), self.model

    def __setstate__(self, model: nn.Module | None) -> None:
        self.model = model


def link_of(model: nn.Module) -> Link | None:
    """Return the link of an attached model, or of a copy of one."""
    return model.__dict__.get(LINK)


def why_foreign(model: nn.Module) -> str | None:
    """Say why an unlinked `model` cannot be driven: it is a part or a whole of a model that another state drives. None when it can."""
    for path, module in model.named_modules():
        if module is not model and LINK in module.__dict__:
            return f"its part {path!r} is attached already; attach the whole before adding adapters, or detach the part"
        if is_wrapped(module):
            return f"{path or 'it'} is driven by the state of a model that this is a part of; use that state"
    for state in list(STATES):
        if state.facts.adapters and state.model is not model and any(module is model for module in state.model.modules()):
            return f"it is a part of an attached {type(state.model).__name__}; use that state"
    return None
