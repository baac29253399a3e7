"""Frozen records: what the machine reasons about. No torch, no behaviour beyond small derivations.

`Facts` is the whole stored state of one model. It is replaced as one value by each event, never changed in place: the mappings in it
are plain dicts for speed and are treated as immutable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import attrs

Policy = Literal["error", "sum", "override"]
"""How an adapter combines with others that replace the same rows. A sum adds the differences, and with an override the later one stands."""


@attrs.frozen
class Footprint:
    """The rows of one base weight that a slot replaces, at one end of that weight.

    Attributes:
        rows: row indices (of dimension 0), or None for all rows.
        shape: the shape of the base weight.
        fixed: why the replaced values can only stand as they are, neither weighted nor summed; empty when they can be.
    """

    rows: frozenset[int] | None
    shape: tuple[int, ...]
    fixed: str = ""

    def shared_rows(self, other: Footprint) -> str:
        """Name the rows that both replace, as text; empty when there are none."""
        if self.rows is None and other.rows is None:
            return f"rows 0-{self.shape[0] - 1}" if self.shape and self.shape[0] > 0 else "all"
        if self.rows is None:
            common = other.rows
        elif other.rows is None:
            common = self.rows
        else:
            common = self.rows & other.rows
        return _rows_text(sorted(common or ()))


def _rows_text(rows: list[int]) -> str:
    """`[1, 2, 3, 7]` as `rows 1-3, 7`; at most eight runs are written out."""
    runs: list[list[int]] = []
    for row in rows:
        if runs and row == runs[-1][1] + 1:
            runs[-1][1] = row
        else:
            runs.append([row, row])
    parts = [str(a) if a == b else f"{a}-{b}" for a, b in runs[:8]]
    if len(runs) > 8:
        parts.append("...")
    return ("rows " if len(rows) > 1 else "row ") + ", ".join(parts) if rows else ""


@attrs.frozen
class SlotFacts:
    """One adapter on one wrapped module, as far as the machine needs to know.

    Attributes:
        kinds: the methods at work, such as ``("lora",)`` or ``("lora", "trainable_token_indices")``.
        tunes: whether a tuner is among them.
        replaces: name of a base parameter or buffer of this module -> the footprint on it. Empty for a pure tuner.
    """

    kinds: tuple[str, ...]
    tunes: bool
    replaces: Mapping[str, Footprint] = attrs.field(factory=dict)

    def overlaps(self, other: SlotFacts) -> Iterator[tuple[str, Footprint, str]]:
        """Every base tensor of which both replace a row: its name, the footprint here, and the shared rows as text."""
        for weight, footprint in self.replaces.items():
            theirs = other.replaces.get(weight)
            rows = footprint.shared_rows(theirs) if theirs else ""
            if rows:
                yield weight, footprint, rows


@attrs.frozen
class Context:
    """What one wrapped module holds beside its chart state. Modules in the same situation share one.

    Attributes:
        present: adapters with weights here, in the order in which they were added.
        active: those of them that are active, in activation order.
        merged: those of the active that are merged, in activation order.
        weights: the weight of each active adapter whose weight is not 1.
        policies: the policy in force for each active adapter that replaces something here, where that is not ``"error"``.
    """

    present: Mapping[str, SlotFacts] = attrs.field(factory=dict)
    active: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()
    weights: Mapping[str, float] = attrs.field(factory=dict)
    policies: Mapping[str, Policy] = attrs.field(factory=dict)


NOTHING = Context()
"""The context of a module without adapters."""


@attrs.frozen
class ModuleFacts:
    """One wrapped module: its state in the activation chart, and its context."""

    activation: str
    context: Context


@attrs.frozen
class Cohort:
    """Modules that shared one record in one state and share one in another, so that what happens to one happens to all.

    Attributes:
        before: what they were; None where no adapter had weights on them.
        after: what they become; None where none has any more.
        paths: which modules these are, in their order.
    """

    before: ModuleFacts | None
    after: ModuleFacts | None
    paths: Sequence[str]


def cohorts(before: Mapping[str, ModuleFacts], after: Mapping[str, ModuleFacts]) -> tuple[Cohort, ...]:
    """Return the modules whose records are not the same in two states, as cohorts, in the order of their first modules.

    Records are compared by identity: an event leaves the record of a module alone whose facts it does not change.
    """
    if before is after:
        return ()
    found: dict[tuple[int, int], list[str]] = {}
    paths = list(before) if before.keys() == after.keys() else list({**before, **after})
    was = becomes = None
    for path, old, new in zip(paths, map(before.get, paths), map(after.get, paths), strict=True):
        if old is new:
            continue
        if old is not was or new is not becomes:  # neighbours are alike more often than not
            was, becomes = old, new
            alike = found.setdefault((id(old), id(new)), [])
        alike.append(path)
    return tuple(Cohort(before.get(alike[0]), after.get(alike[0]), alike) for alike in found.values())


@attrs.frozen
class AdapterFacts:
    """One adapter: its state in the trainability chart, where it lives, and its config as given.

    Attributes:
        trainability: state in the trainability chart.
        modules: paths of the wrapped modules on which it has weights.
        config: the config it was added with, kept as an opaque value.
        asked: `set_requires_grad(name, True)` named it (read with ``grad_follows="activation"`` only).
        on_overlap: how it combines with others, unless an activation names another policy.
    """

    trainability: str
    modules: tuple[str, ...]
    config: object
    asked: bool = False
    on_overlap: Policy = "error"


@attrs.frozen
class Facts:
    """The stored state of one model.

    Attributes:
        adapters: in the order in which they were added.
        active: names in activation order.
        merged: those of the active that are merged, in activation order.
        weights: the weight of each active adapter whose weight is not 1.
        on_overlap: the policy that the activation named in place of those that the adapters carry; None for theirs.
        enablement: state in the enablement chart.
        disabled_by_call: `disable_adapters()` holds.
        disabled_by_contexts: how many `disable_adapter()` contexts hold.
        modules: wrapped modules by path.
        base_trainable: names of the base parameters that required grad before the first adapter came.
    """

    adapters: Mapping[str, AdapterFacts] = attrs.field(factory=dict)
    active: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()
    weights: Mapping[str, float] = attrs.field(factory=dict)
    on_overlap: Policy | None = None
    enablement: str = "enabled"
    disabled_by_call: bool = False
    disabled_by_contexts: int = 0
    modules: Mapping[str, ModuleFacts] = attrs.field(factory=dict)
    base_trainable: tuple[str, ...] = ()

    @property
    def enabled(self) -> bool:
        """Whether adapters are applied at all."""
        return self.enablement == "enabled"

    def paths_of(self, names: Iterable[str]) -> dict[str, None]:
        """Paths of the modules on which any of the named adapters has weights, each once, in a fixed order. Other names have none."""
        return {path: None for name in names if name in self.adapters for path in self.adapters[name].modules}

    def context_of(self, path: str) -> Context:
        """The context of a module; an empty one where no adapter has weights."""
        record = self.modules.get(path)
        return record.context if record is not None else NOTHING


@attrs.frozen
class Proposal:
    """What `add_adapter` would put where.

    Attributes:
        config: the config as given.
        slots: path of a module -> what the adapter would be there.
        base_trainable: names of the base parameters that require grad now (read when the adapter is the first).
    """

    config: object
    slots: Mapping[str, SlotFacts] = attrs.field(factory=dict)
    base_trainable: tuple[str, ...] = ()


@attrs.frozen
class Event:
    """One event, with everything that choices and guards may ask about it.

    Attributes:
        name: a name of the charts, such as ``"set_adapter"``.
        adapters: the adapters named, in the order given.
        wanted: ``"trainable"`` or ``"frozen"``, for `add_adapter` and `set_requires_grad`.
        holder: who disables or enables: ``"call"`` or ``"context"``.
        weights: for `set_adapter`, one for each name; None for 1 each.
        on_overlap: for `add_adapter` the policy that the adapter carries, for `set_adapter` the one that takes the place of those.
        proposal: for `add_adapter`.
        reports: name of a guard -> path (``""`` for the model) -> what is wrong there. Facts about torch that only the modules know
            arrive here, so that guards need no torch.
    """

    name: str
    adapters: tuple[str, ...] = ()
    wanted: str = "trainable"
    holder: str = "call"
    weights: tuple[float, ...] | None = None
    on_overlap: Policy | None = None
    proposal: Proposal | None = None
    reports: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict)

    def __str__(self) -> str:
        said = [str(list(self.adapters))] if self.adapters or self.name == "set_adapter" else []
        said += ["False"] if self.name == "set_requires_grad" and self.wanted == "frozen" else []
        said += [f"weights={list(self.weights)}"] if self.weights is not None else []
        said += [f"on_overlap={self.on_overlap!r}"] if self.on_overlap is not None else []
        return f"{self.name}({', '.join(said)})"


@attrs.frozen
class Situation:
    """What a choice or guard looks at: the facts before the event, and the subject it is asked about.

    Attributes:
        facts: the stored state that the event meets.
        subject: path of a wrapped module, name of an adapter, or ``""`` for the model.
        context: of the wrapped module, when the subject is one.
    """

    facts: Facts
    subject: str = ""
    context: Context = Context()


@attrs.frozen
class Refusal:
    """One reasoned no.

    Attributes:
        guard: name of the guard that said it.
        where: path of the module, or ``""`` for the model.
        reason: what was given and what was expected.
        adapters: the adapters that are concerned.
        kinds: what those adapters are at that module.
    """

    guard: str
    where: str
    reason: str
    adapters: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    def __str__(self) -> str:
        kinds = f" ({', '.join(self.kinds)})" if self.kinds else ""
        return f"{self.where}{kinds}: {self.reason}  [{self.guard}]" if self.where else f"{self.reason}  [{self.guard}]"
