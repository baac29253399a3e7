"""Bounded models as plain data: which adapters there can be, what each is on which module, and which events are tried."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import get_args

import attrs

from adapterstate.errors import ArgumentError
from adapterstate.machine.records import Event, Footprint, Policy, Proposal, SlotFacts

SHAPE = (8, 4)
"""The shape of a base weight where it does not matter."""


def tuner(kind: str = "lora") -> SlotFacts:
    """Describe a slot that adds to a module's output and replaces nothing."""
    return SlotFacts((kind,), tunes=True)


def whole(shape: tuple[int, ...] = SHAPE, *, weight: str = "weight", kind: str = "modules_to_save", fixed: str = "") -> SlotFacts:
    """Describe a slot that replaces all rows of a base weight.

    Args:
        shape: of the base weight.
        weight: its name on the module.
        kind: the method at work.
        fixed: why the copy can neither be weighted nor summed; empty when it can.
    """
    return SlotFacts((kind,), tunes=False, replaces={weight: Footprint(None, shape, fixed)})


def rows(
    *indices: int, shape: tuple[int, ...] = SHAPE, weight: str = "weight", kind: str = "trainable_token_indices", fixed: str = ""
) -> SlotFacts:
    """Describe a slot that replaces these rows of a base weight.

    Raises:
        ArgumentError: there is no such row in a weight of this shape.
    """
    strange = [row for row in indices if isinstance(row, bool) or not isinstance(row, int) or not 0 <= row < (shape[0] if shape else 0)]
    if strange:
        raise ArgumentError(f"rows was given {strange}; rows of a weight of shape {tuple(shape)} are expected")
    return SlotFacts((kind,), tunes=False, replaces={weight: Footprint(frozenset(indices), shape, fixed)})


def both(one: SlotFacts, two: SlotFacts) -> SlotFacts:
    """Describe a slot of two methods at once, such as LoRA on an embedding that also has trained rows."""
    return SlotFacts(tuple(dict.fromkeys(one.kinds + two.kinds)), one.tunes or two.tunes, {**one.replaces, **two.replaces})


@attrs.frozen
class Report:
    """What a module reports for a guard: the walk offers `event` also with this in `Event.reports`.

    Attributes:
        event: name of the event.
        guard: name of the guard that reads it.
        where: path of the module, or ``""`` for the model.
        text: what is wrong there.
    """

    event: str
    guard: str
    where: str
    text: str = "reported by the world"


@attrs.frozen(slots=False, eq=False)
class World:
    """A model small enough to visit all of its states, and the events that are tried in each.

    Adding, setting and deleting are always offered: adding each adapter, deleting each one alone, and setting every selection of
    the adapters in every order.

    Attributes:
        name: for reports.
        adapters: name of an adapter -> path of a module -> what the adapter is there.
        carried: the policies that an adapter can be added with.
        named: the policies that `set_adapter` names; None means that it names none.
        weights: weights that `set_adapter` gives, in every combination with each other and with 1; none given when empty.
        merging: also merge, each adapter alone and all active ones at once, and unmerge.
        enablement: also enable and disable, by call and by up to `contexts` contexts.
        contexts: how many `disable_adapter()` contexts are entered at most.
        trainability: also add frozen adapters, and call `set_requires_grad`.
        bad_input: also unknown, repeated and illegal names, and weights that do not fit.
        reports: also offer events with these facts about torch.
        every_order: keep states apart that differ only in the order in which adapters came, and name several adapters to merge, delete or
            freeze at once, in every order.

    Raises:
        ArgumentError: a value means nothing; the text lists all of them.
    """

    name: str
    adapters: Mapping[str, Mapping[str, SlotFacts]]
    carried: tuple[Policy, ...] = ("error",)
    named: tuple[Policy | None, ...] = (None,)
    weights: tuple[float, ...] = ()
    merging: bool = True
    enablement: bool = False
    contexts: int = 0
    trainability: bool = False
    bad_input: bool = False
    reports: tuple[Report, ...] = ()
    every_order: bool = False

    def __attrs_post_init__(self) -> None:
        offenders = [f"adapter {name!r} has no module" for name, places in self.adapters.items() if not places]
        offenders += [f"{name!r} is no legal name of an adapter" for name in self.adapters if not name or "." in name]
        offenders += [
            f"what adapter {name!r} is on {path!r} is {slot!r}; tuner(), whole(), rows() or both() makes it"
            for name, places in self.adapters.items()
            for path, slot in places.items()
            if not isinstance(slot, SlotFacts)
        ]
        offenders += [f"{policy!r} is no policy" for policy in (*self.carried, *self.named) if policy not in (*get_args(Policy), None)]
        offenders += ["nothing is carried: an adapter needs a policy to be added with"] if not self.carried else []
        offenders += ["there is no adapter"] if not self.adapters else []
        if offenders:
            raise ArgumentError(f"the world {self.name!r} cannot be walked: {'; '.join(offenders)}")

    def places(self, name: str) -> Mapping[str, SlotFacts]:
        """What the adapter is where. A name that the world does not have (bad input) stands for the first adapter under another name."""
        return self.adapters[name] if name in self.adapters else next(iter(self.adapters.values()))

    def proposal(self, name: str) -> Proposal:
        """What adding the adapter would put where; one object per adapter, so that modules in one situation share a record."""
        return self._proposals[name if name in self.adapters else next(iter(self.adapters))]

    @cached_property
    def _proposals(self) -> Mapping[str, Proposal]:
        return {name: Proposal(f"config of {name}", dict(places), base_trainable=("base",)) for name, places in self.adapters.items()}

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """Paths of the modules, in the order in which adapters name them."""
        return tuple(dict.fromkeys(path for places in self.adapters.values() for path in places))

    @property
    def reductions(self) -> tuple[str, ...]:
        """What the walk of this world leaves out, and why nothing is lost."""
        found = list(_ALWAYS)
        if not self.every_order:
            found += _ONE_ORDER
        if not self.enablement:
            found += ["enablement is not walked here: it stays enabled; a world of its own walks it (rule independent_axes is why)"]
        if not self.trainability:
            found += ["trainability is not walked here: adapters are added trainable; a world of its own walks it (rule independent_axes)"]
        if self.enablement:
            found += [f"at most {self.contexts} disable_adapter() contexts are entered; only entered ones are left"]
        return tuple(found)


_ALWAYS = ("slots, proposals and configs are those of the world: values that the machine never looks into are not varied",)
_ONE_ORDER = (
    "presence order: of the states that differ only in the order in which the present adapters came (in Facts.adapters and in each "
    "module's Context.present), one is walked. It is sound if every event gives the same in all of them, up to that order: checked by "
    "judging every seventh event also with the order reversed, and completely in the worlds that keep every order",
    "several at once: merge_adapter, delete_adapter and set_requires_grad name one adapter (merge also all active ones), since every state "
    "that several lead to is reached by one after the other; the worlds that keep every order name every selection in every order",
)


def adding(
    world: World,
    name: str,
    policy: Policy | None = None,
    wanted: str = "trainable",
    reports: Mapping[str, Mapping[str, str]] | None = None,
) -> Event:
    """`add_adapter` of an adapter of the world."""
    return Event("add_adapter", (name,), wanted=wanted, on_overlap=policy, proposal=world.proposal(name), reports=reports or {})
