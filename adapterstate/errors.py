"""Errors: one root, one class per mistake, data in fields and text second.

Every class is also the builtin that a PEFT user already catches. A class that derives from `EventRefusedError` means: nothing has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapterstate.machine.records import Event, Refusal


def type_of(value: object) -> str:
    """Return the type of a value as texts say it, such as ``"an int"``."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeioAEIO' else 'a'} {name}"


class AdapterStateError(Exception):
    """Root of all errors of this package."""


class ArgumentError(AdapterStateError, TypeError, ValueError):
    """An argument has the wrong type, or is none of the values that there are. Nothing has changed."""


class ChartError(AdapterStateError, ValueError):
    """A chart, or charts together, are not well formed.

    Attributes:
        chart: the name of the chart; empty for charts together.
        offenders: everything that is wrong.
    """

    def __init__(self, chart: str, offenders: Sequence[str]) -> None:
        self.chart = chart
        self.offenders = tuple(offenders)
        which = f"chart {chart!r} is" if chart else "the charts are"
        super().__init__(f"{which} not well formed:\n" + "\n".join(f"  {offender}" for offender in self.offenders))


class InternalError(AdapterStateError, RuntimeError):
    """The charts and the stored facts disagree: a bug in this package or in a derived chart. Everything was put back."""


class AttachError(AdapterStateError, ValueError):
    """`attach`, `detach` or an event met a model that another state drives, or cannot be driven. Nothing has changed."""


class SnapshotError(AdapterStateError, ValueError):
    """`restore` was given a snapshot that names adapters which are gone. Nothing has changed."""

    def __init__(self, missing: Sequence[str]) -> None:
        self.missing = tuple(missing)
        super().__init__(
            f"the snapshot names {list(self.missing)} as active, merged or frozen, but the model has no such adapters any more; "
            "nothing has changed. Add them again, or take a new snapshot."
        )


class ContextError(AdapterStateError, RuntimeError):
    """A context of a state was entered again. Nothing has changed."""

    def __init__(self, method: str) -> None:
        self.method = method
        super().__init__(f"a context of {method}() is good for one use; nothing has changed. Call {method}() again for another one.")

    def __reduce__(self) -> tuple[type[ContextError], tuple[str]]:
        return type(self), (self.method,)


class ProtocolError(AdapterStateError, TypeError):
    """A config, tuner or auxiliary of one's own does not keep to its protocol. Nothing has changed.

    Attributes:
        where: the class at fault, and the module that it was asked about, if it was asked about one.
        reason: what it gave, and what is expected.
    """

    def __init__(self, where: str, reason: str) -> None:
        self.where = where
        self.reason = reason
        super().__init__(f"{where}: {reason}; nothing has changed")

    def __reduce__(self) -> tuple[type[ProtocolError], tuple[str, str]]:
        return type(self), (self.where, self.reason)


class ObserverError(AdapterStateError, RuntimeError):
    """Observers raised after an event had been committed. The event is complete; `exceptions` holds what they raised."""

    def __init__(self, event: str, exceptions: Sequence[BaseException]) -> None:
        self.event = event
        self.exceptions = tuple(exceptions)
        texts = "; ".join(f"{type(e).__name__}: {e}" for e in self.exceptions)
        super().__init__(f"{event} is complete, but {len(self.exceptions)} observer(s) raised: {texts}")


class EventRefusedError(AdapterStateError, ValueError):
    """An event was refused. Nothing has changed.

    Raised as it is when the refusals are of several classes; otherwise one of its subclasses is raised.

    Attributes:
        event: the event that was refused.
        refusals: every refusal, in the order of the tables.
        opening: a first line that users of another library match on; empty for none.
        method: the method that was called, where the event is a step of it; else empty.
    """

    hint = ""

    def __init__(self, event: Event, refusals: Sequence[Refusal], modules: int = 0, opening: str = "", method: str = "") -> None:
        self.event = event
        self.refusals = tuple(refusals)
        self.opening = opening
        self.method = "" if method == event.name else method
        places = len({refusal.where for refusal in self.refusals if refusal.where})
        where = f" on {places} of {modules} modules" if places and modules else ""
        lines = [opening] if opening else []
        lines.append(f"{self.method + ': ' if self.method else ''}{event} refused{where}; nothing has changed.")
        lines += [f"  {refusal}" for refusal in self.refusals[:20]]
        if len(self.refusals) > 20:
            lines.append(f"  ... and {len(self.refusals) - 20} more in .refusals")
        if self.hint:
            lines.append(f"  {self.hint}")
        super().__init__("\n".join(lines))
        self._modules = modules

    def __reduce__(self) -> tuple[type[EventRefusedError], tuple[Event, tuple[Refusal, ...], int, str, str]]:
        return type(self), (self.event, self.refusals, self._modules, self.opening, self.method)


class AdapterNameError(EventRefusedError):
    """An adapter's name is empty or holds a dot."""


class DuplicateAdapterError(EventRefusedError):
    """An adapter of that name is already there, or one name was given twice."""


class UnknownAdapterError(EventRefusedError):
    """A name was given that no adapter has."""


class ConfigError(EventRefusedError):
    """A config holds a value or a field that is not supported."""


class TargetError(EventRefusedError):
    """A config's targets match nothing, or something that cannot be adapted that way."""


class AdapterOverlapError(EventRefusedError):
    """Two adapters replace the same rows of the same base weight, and no policy combines them."""

    hint = 'Activate one of them, or say how to combine them: on_overlap="sum" or on_overlap="override" on set_adapter or add_adapter.'


class SelfOverlapError(AdapterOverlapError):
    """Two parts of one adapter would replace the same rows of the same base weight."""

    hint = "List each row once."


class NotSummableError(EventRefusedError):
    """Values that training updates, or that are no floating-point numbers, would be summed or weighted."""

    hint = 'Use on_overlap="override", and no weights.'


class AdapterWeightsError(EventRefusedError):
    """Weights are not as many as the names, or not finite."""


class NotSwappableError(EventRefusedError):
    """A module's class cannot be exchanged for a generated subclass."""


class ForwardNotCalledError(EventRefusedError):
    """A tuner was placed on a module whose `forward` its parent never calls."""


class NotActiveError(EventRefusedError):
    """An adapter must be active for this event, and is not."""


class SingleActiveError(EventRefusedError):
    """Several adapters were named where only one can be active at a time."""


class NotMergeableError(EventRefusedError):
    """A merge has no meaning for a module: a sharded or computed weight, or a result that is not finite."""


class MergedError(EventRefusedError):
    """An adapter is merged where the event needs it not to be."""

    hint = "Call unmerge_adapter() first."


class CoveredClassError(EventRefusedError):
    """Another class was put on top of a wrapped module's class, which must come off before ours can."""


class EventInProgressError(EventRefusedError):
    """An event was started from inside another one, or inside `hold()`, by the same thread."""
