"""Errors: one root, one class per mistake, data in fields and text second.

Every class is also the builtin that a PEFT user already catches. A class that derives from `EventRefusedError` means: nothing has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapterstate.machine.records import Event, Refusal


class AdapterStateError(Exception):
    """Root of all errors of this package."""


class ArgumentError(AdapterStateError, TypeError, ValueError):
    """An argument has the wrong type, or is none of the values that there are. Nothing has changed."""


class ChartError(AdapterStateError, ValueError):
    """A chart is not well formed; `offenders` lists everything that is wrong with it."""

    def __init__(self, chart: str, offenders: Sequence[str]) -> None:
        self.chart = chart
        self.offenders = tuple(offenders)
        super().__init__(f"chart {chart!r} is not well formed:\n" + "\n".join(f"  {offender}" for offender in self.offenders))


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
    """

    hint = ""

    def __init__(self, event: Event, refusals: Sequence[Refusal], modules: int = 0, opening: str = "") -> None:
        self.event = event
        self.refusals = tuple(refusals)
        self.opening = opening
        places = len({refusal.where for refusal in self.refusals if refusal.where})
        where = f" on {places} of {modules} modules" if places and modules else ""
        lines = [opening] if opening else []
        lines.append(f"{event} refused{where}; nothing has changed.")
        lines += [f"  {refusal}" for refusal in self.refusals[:20]]
        if len(self.refusals) > 20:
            lines.append(f"  ... and {len(self.refusals) - 20} more in .refusals")
        if self.hint:
            lines.append(f"  {self.hint}")
        super().__init__("\n".join(lines))
        self._modules = modules

    def __reduce__(self) -> tuple[type[EventRefusedError], tuple[Event, tuple[Refusal, ...], int, str]]:
        return type(self), (self.event, self.refusals, self._modules, self.opening)


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
