"""`AdapterState`: the one way in. Every event is prepared, planned, run by the engine, and committed everywhere or nowhere."""

from __future__ import annotations

import copy
import functools
import inspect
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

import attrs
from torch import nn

from adapterstate import errors
from adapterstate.calling import call_of
from adapterstate.changes import Change, collect, merged_and_trainable, rewire_all
from adapterstate.commit import Batch, Transaction
from adapterstate.compiled import CompileWatch
from adapterstate.contexts import StateContext
from adapterstate.inspection import Status, findings, status_of
from adapterstate.link import BARRED, LINK, STATES, Barred, Link, Options, link_of, why_foreign
from adapterstate.machine.arguments import names_of, refuse_no_flag, refuse_strange_policy, weights_of
from adapterstate.machine.charts import CHARTS, Charts
from adapterstate.machine.engine import Engine
from adapterstate.machine.plan import Plan, plan
from adapterstate.machine.records import Event, Facts, Policy, Refusal
from adapterstate.memory import Memory, key_of
from adapterstate.modules.merging import why_not_finite, why_not_mergeable
from adapterstate.modules.method import AdapterConfig
from adapterstate.modules.notices import MergedNotice
from adapterstate.modules.slots import Slots
from adapterstate.modules.wiring import Binding, Cache, bind, make_cache, stamp_of
from adapterstate.modules.wrapping import BINDINGS, WIRING, why_covered
from adapterstate.projection import shares_of
from adapterstate.proposal import Prospect, prospect
from adapterstate.records import Explanation, Finding, JournalEntry, Snapshot
from adapterstate.unloading import merged_values, write_values

Names = str | Sequence[str]
Observer = Callable[[JournalEntry], None]
P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="AdapterState")

JOURNAL_LENGTH = 1000
"""How many accepted events `AdapterState.journal` keeps."""


@attrs.frozen(eq=False)
class Prepared:
    """Events, and what was found out for them beforehand.

    Attributes:
        events: in order, to be committed as one.
        prospect: of the adapter that comes, if one does.
        caches: path -> a merged part that has been computed already.
        unloads: whether the values that the first step leaves are written into the base; given the paths, shows progress.
        leaves: whether nothing of the adapters is to be left in the model.
    """

    events: tuple[Event, ...]
    prospect: Prospect | None = None
    caches: Mapping[str, Cache] = attrs.field(factory=dict)
    unloads: Callable[[Iterable[str]], Iterable[str]] | None = None
    leaves: bool = False


def exclusive(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Run `method` as the only event of its state: others wait, and one started from inside it is refused."""

    @functools.wraps(method)
    def alone(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            if reason := self._why_not_now():
                raise errors.EventInProgressError(call_of(method, (self, *args), kwargs), [Refusal("no_event_under_way", "", reason)])
            if self._detached:
                self._refuse_detached(str(call_of(method, (self, *args), kwargs)))
            self._running = sys._getframe()
            try:
                return method(self, *args, **kwargs)
            finally:
                self._running = None

    return alone


class AdapterState:
    """The state of one model's adapters, and the only way to change it. Made by `attach`.

    A model is attached while it has an adapter: the first one links the model to this state, the last one's deletion unlinks it.

    Attributes:
        model: the model that is driven. It is called as ever; nothing wraps it.
    """

    CHARTS: ClassVar[Charts] = CHARTS
    """What a model runs by unless told otherwise."""

    def __init__(self, model: nn.Module, options: Options) -> None:
        self.model = model
        self._options = options
        self._engine = Engine(options.charts)
        self._facts = Facts()
        self._modules: dict[str, nn.Module] = {}
        self._journal: deque[JournalEntry] = deque(maxlen=JOURNAL_LENGTH)
        self._observers: list[Observer] = []
        self._lock = threading.RLock()
        self._running: FrameType | None = None
        self._holding: int | None = None
        self._detached = False
        self._compiles = CompileWatch()
        self._notice = MergedNotice()
        self._memory = Memory()
        STATES.add(self)

    def __repr__(self) -> str:
        facts = self._facts
        return (
            f"AdapterState({type(self.model).__name__}, adapters={list(facts.adapters)}, active={list(facts.active)}, "
            f"merged={list(facts.merged)}, {facts.enablement})"
        )

    # ---------------------------------------------------------------------------------------------------------------- reading

    @property
    def adapters(self) -> tuple[str, ...]:
        """All adapters, in the order in which they were added."""
        return tuple(self._facts.adapters)

    @property
    def active_adapters(self) -> tuple[str, ...]:
        """The active adapters, in activation order."""
        return self._facts.active

    @property
    def merged_adapters(self) -> tuple[str, ...]:
        """The merged adapters, in activation order. They are active."""
        return self._facts.merged

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each active adapter, in activation order."""
        return {name: self._facts.weights.get(name, 1.0) for name in self._facts.active}

    @property
    def on_overlap(self) -> Policy | None:
        """The policy that the activation named in place of those that its adapters carry; None for theirs."""
        return self._facts.on_overlap

    @property
    def enabled(self) -> bool:
        """Whether adapters are applied at all."""
        return self._facts.enabled

    @property
    def facts(self) -> Facts:
        """The whole stored state, as one immutable value."""
        return self._facts

    @property
    def options(self) -> Options:
        """What `attach` was given."""
        return self._options

    @property
    def charts(self) -> Charts:
        """The charts that this model runs by."""
        return self._options.charts

    @property
    def journal(self) -> tuple[JournalEntry, ...]:
        """The last 1,000 accepted events, the oldest first."""
        return tuple(self._journal)

    def trainable(self, name: str) -> bool:
        """Return whether adapter `name` may receive gradients.

        Raises:
            ArgumentError: the name is no string.
            UnknownAdapterError: there is no such adapter.
        """
        if not isinstance(name, str):
            raise errors.ArgumentError(f"trainable was given {name!r}; the name of one adapter is expected")
        if name not in self._facts.adapters:
            reason = f"there is no adapter {name!r}; the model has {list(self._facts.adapters)}"
            raise errors.UnknownAdapterError(Event("trainable", (name,)), [Refusal("known", "", reason)])
        return self._facts.adapters[name].trainability == "trainable"

    def status(self) -> Status:
        """Return the table of modules and adapters; it prints as text and renders in notebooks.

        Raises:
            AttachError: the state was detached from its model.
        """
        self._refuse_detached("status")
        return status_of(self._facts)

    def to_html(self, path: str | Path) -> None:
        """Write one self-contained page about this state: the grid, the charts, the journal, what would be refused, a simulator.

        Raises:
            OSError: the file cannot be written. Nothing has changed.
        """
        from adapterstate.inspector import page  # it draws what is defined here

        Path(path).write_text(page(self), encoding="utf-8")

    def check(self) -> tuple[Finding, ...]:
        """Compare torch with what the state says; return what differs, empty when healthy. Changes nothing.

        Raises:
            AttachError: the state was detached from its model.
        """
        with self._lock:
            self._refuse_detached("check")
            return tuple(self._findings())

    def _findings(self) -> Iterable[Finding]:
        """Name everything that differs from what the state says."""
        return findings(self.model, self._facts, self._modules, self._options.grad_follows)

    def snapshot(self) -> Snapshot:
        """Return a state to come back to with `restore`. It holds names, no tensors."""
        facts = self._facts
        trainable = tuple(name for name, adapter in facts.adapters.items() if adapter.trainability == "trainable")
        weights = tuple(self.weights.values())
        return Snapshot(tuple(facts.adapters), facts.active, facts.merged, weights, facts.on_overlap, facts.enabled, trainable)

    def base_state_dict(self) -> dict[str, Any]:
        """Return the base model's own ``state_dict``: its keys in its order, and its values whatever is active or merged."""
        whole = self.model.state_dict()
        prefixes = tuple(f"{path}." for path, module in self.model.named_modules(remove_duplicate=False) if isinstance(module, Slots))
        return {key: value for key, value in whole.items() if not key.startswith(prefixes)} if prefixes else whole

    def subscribe(self, observer: Observer) -> Callable[[], None]:
        """Call `observer` with the journal entry after each committed event; return a function that ends it.

        What observers raise is raised together as `ObserverError` after the event, which is complete. Ending it twice is ending it once.

        Raises:
            ArgumentError: `observer` cannot be called. Nothing has changed.
        """
        if not callable(observer):
            raise errors.ArgumentError(f"subscribe was given {observer!r}; a function of a journal entry is expected; nothing has changed")
        self._observers.append(observer)
        here = [observer]

        def end() -> None:
            while here:
                self._observers.remove(here.pop())

        return end

    # ----------------------------------------------------------------------------------------------------------------- events

    @exclusive
    def add_adapter(self, name: str, config: AdapterConfig, on_overlap: Policy = "error") -> None:
        """Add an adapter. The first one activates itself; later ones stay inactive. Base parameters are frozen while any is there.

        Args:
            name: any non-empty string without a dot.
            config: what it is and where it goes, such as `LoraConfig`.
            on_overlap: how it combines with active adapters that replace the same rows of a base weight and carry the same policy.
                ``"error"``: not at all. ``"sum"``: ``original + sum(w * (row - original))``. ``"override"``: the later in activation order
                stands, as ``original + w * (row - original)``.

        Raises:
            ArgumentError: an argument has the wrong type. Nothing has changed.
            EventRefusedError: or one of its classes: the name, the config or its targets are refused. Nothing has changed; no random number
                was drawn.
            AttachError: another state drives the model. Nothing has changed.
        """
        self._run("add_adapter", self._prepare_add_adapter(name, config, on_overlap))

    @exclusive
    def set_adapter(self, names: Names, weights: Sequence[float] | None = None, on_overlap: Policy | None = None) -> None:
        """Activate exactly these adapters, in this order, on every module where they have weights. Afterwards nothing is merged.

        Weights and policy are part of the activation until the next `set_adapter`.

        Args:
            names: one name or several; ``[]`` deactivates all.
            weights: one for each name, what its part is multiplied with: the delta of a tuner, the difference of a copy or of rows to the
                base's. None for 1 each.
            on_overlap: the policy for all of them, as for `add_adapter`; None for those that they carry.

        Raises:
            ArgumentError: a name is no string, a weight no number, or there is no such policy. Nothing has changed.
            UnknownAdapterError: there is no such adapter. Nothing has changed.
            DuplicateAdapterError: a name is given twice. Nothing has changed.
            AdapterWeightsError: the weights are not as many as the names, or not finite. Nothing has changed.
            AdapterOverlapError: two of them replace the same rows of one base weight, and no policy combines them. Nothing has changed.
            NotSummableError: values that training updates would be summed or weighted. Nothing has changed.
        """
        key = key_of("set_adapter", names, weights, on_overlap)
        self._again_or("set_adapter", key, lambda: self._prepare_set_adapter(names, weights, on_overlap))

    @exclusive
    def delete_adapter(self, name: str) -> None:
        """Delete an adapter and its weights. After the last one, the model is as it was before the first.

        Activates nothing else, unless the model is attached with ``fallback_on_delete=True``: then, where no active adapter would be left,
        the first of the remaining ones is activated.

        Raises:
            ArgumentError: the name is no string. Nothing has changed.
            UnknownAdapterError: there is no such adapter. Nothing has changed.
            MergedError: it is merged. Nothing has changed.
            CoveredClassError: another class sits on top of a module that would be unwrapped. Nothing has changed.
        """
        self._run("delete_adapter", self._prepare_delete_adapter(name))

    @exclusive
    def merge_adapter(self, names: Names | None = None, *, safe_merge: bool = False) -> None:
        """Keep the part of these active adapters precomputed. The base weights are not touched; it costs a copy of each merged weight.

        Args:
            names: active adapters; None for all that are active.
            safe_merge: refuse when a merged weight would hold values that are not finite.

        Raises:
            ArgumentError: a name is no string. Nothing has changed.
            UnknownAdapterError: there is no such adapter. Nothing has changed.
            NotActiveError: one of them is not active, and the model is not attached with ``merge_activates=True``. Nothing has changed.
            NotMergeableError: a weight is sharded, computed or quantised, or `safe_merge` refuses. Nothing has changed.
        """
        self._run("merge_adapter", self._prepare_merge_adapter(names, safe_merge=safe_merge))

    @exclusive
    def unmerge_adapter(self) -> None:
        """Drop the precomputed parts. The base weights were never touched, so this is exact."""
        self._run("unmerge_adapter", self._prepare_unmerge_adapter())

    @exclusive
    def enable_adapters(self) -> None:
        """Release `disable_adapters()`. Adapters stay disabled while a `disable_adapter()` context holds."""
        self._again_or("enable_adapters", "enable_adapters", self._prepare_enable_adapters)

    @exclusive
    def disable_adapters(self) -> None:
        """Apply no adapter until `enable_adapters()`: the model computes as the base does, bit for bit."""
        self._again_or("disable_adapters", "disable_adapters", self._prepare_disable_adapters)

    @exclusive
    def set_requires_grad(self, names: Names, requires_grad: bool = True) -> None:
        """Make adapters trainable or frozen. They stay so whatever is activated, disabled or deleted.

        Raises:
            ArgumentError: a name is no string, or the flag no bool. Nothing has changed.
            UnknownAdapterError: there is no such adapter. Nothing has changed.
        """
        self._run("set_requires_grad", self._prepare_set_requires_grad(names, requires_grad))

    @exclusive
    def restore(self, snapshot: Snapshot) -> None:
        """Bring back what a snapshot holds, as one event. Adapters that were added later stay, inactive.

        Raises:
            ArgumentError: it is no `Snapshot`. Nothing has changed.
            SnapshotError: an adapter that it names as active, merged or frozen is gone. Nothing has changed.
            EventRefusedError: a step is refused. Nothing has changed.
        """
        self._run("restore", self._prepare_restore(snapshot))

    @exclusive
    def unload(self) -> nn.Module:
        """Delete all adapters, as one event; return the model, which is as it was before the first.

        Raises:
            EventRefusedError: a module is covered by another class. Nothing has changed.
        """
        plain = self._plain()
        self._run("unload", self._prepare_unload())
        return plain

    @exclusive
    def merge_and_unload(self, progressbar: bool = False, safe_merge: bool = False, adapter_names: Names | None = None) -> nn.Module:
        """Write the merged values into the base weights and delete all adapters, as one event; return the model.

        Base parameters keep their identity. Where the ends of a tied weight come to differ, the changed end gets a new `Parameter`.

        Args:
            progressbar: show one, if ``rich`` is installed.
            safe_merge: refuse when a merged weight would hold values that are not finite.
            adapter_names: which adapters to merge, in this order; None for those that are active. Those that are active keep their weights;
                the activation's policy holds.

        Raises:
            ArgumentError: a name is no string. Nothing has changed.
            EventRefusedError: or one of its classes, as for `set_adapter`, `merge_adapter` and `delete_adapter`. Nothing has changed.
        """
        plain = self._plain()
        self._run("merge_and_unload", self._prepare_merge_and_unload(progressbar, safe_merge, adapter_names))
        return plain

    def _plain(self) -> nn.Module:
        """What is left when all adapters are unloaded."""
        return self.model

    @exclusive
    def repair(self) -> tuple[Finding, ...]:
        """Make torch look as the state says again; merged parts are computed anew. Return what `check` had found."""
        found = tuple(self._findings())
        moved = [finding.where for finding in found if not finding.mendable]
        if moved:
            raise errors.AttachError(
                f"repair cannot mend {moved}: modules were exchanged, their forward replaced, base parameters overwritten or adapters "
                "taken out of them; nothing has changed. Put the modules back, or start again from the base."
            )
        with Transaction(self._journal) as transaction:
            self._collect_all(transaction)
            entry = JournalEntry(self._next_number(), "repair", (), tuple(self._facts.modules) if found else (), not found)
            transaction.commit(entry)
        self._tell(entry)
        return found

    def detach(self) -> None:
        """Let go of a model that has no adapter. There is nothing left to let go of then; with adapters it is refused.

        Raises:
            AttachError: adapters are present. Nothing has changed.
        """
        if self._facts.adapters:
            raise errors.AttachError(
                f"detach was called while the adapters {list(self._facts.adapters)} are present, which only their state can drive; "
                "nothing has changed. Call unload() to give them up, or merge_and_unload() to keep what they do."
            )

    # --------------------------------------------------------------------------------------------------------------- contexts

    def disable_adapter(self) -> StateContext:
        """Return a context in which no adapter is applied. Contexts count: adapters are back when the last one has been left."""
        return StateContext("disable_adapter", lambda _: self._enter_disable(), lambda _: self._leave_disable())

    def use_adapter(self, names: Names, weights: Sequence[float] | None = None, on_overlap: Policy | None = None) -> StateContext:
        """Return a context in which exactly these adapters are active. Leaving it restores what was active and merged, where still there.

        Args:
            names: as for `set_adapter`.
            weights: as for `set_adapter`.
            on_overlap: as for `set_adapter`.

        Raises:
            EventRefusedError: on entering, as for `set_adapter`. Nothing has changed.
        """
        return StateContext("use_adapter", lambda context: self._enter_use(context, names, weights, on_overlap), self._leave_use)

    def hold(self) -> Hold:
        """Return a context during which no event happens: those of other threads wait, those of the same thread are refused."""
        return Hold(self)

    @exclusive
    def _enter_disable(self) -> None:
        self._again_or("disable_adapter", "enter disable_adapter", self._prepare_disable_adapter)

    @exclusive
    def _leave_disable(self) -> None:
        self._again_or("disable_adapter", "leave disable_adapter", lambda: Prepared((Event("enable_adapters", holder="context"),)))

    @exclusive
    def _enter_use(self, context: StateContext, names: Names, weights: Sequence[float] | None, on_overlap: Policy | None) -> None:
        context.kept = self._facts
        key = key_of("set_adapter", names, weights, on_overlap)
        self._again_or("use_adapter", key, lambda: self._prepare_use_adapter(names, weights, on_overlap))

    @exclusive
    def _leave_use(self, context: StateContext) -> None:
        before: Facts = context.kept
        active = tuple(name for name in before.active if name in self._facts.adapters)
        merged = tuple(name for name in before.merged if name in self._facts.adapters)
        key = None if merged else key_of("leave use_adapter", active, tuple(before.weights.items()), before.on_overlap)
        self._again_or("use_adapter", key, lambda: Prepared(self._activation(active, before.weights, before.on_overlap, merged)))

    # -------------------------------------------------------------------------------------------------------------- explaining

    def explain(self, event: str, *args: Any, **kwargs: Any) -> Explanation:
        """Say what an event would do, without doing it. Changes nothing, draws no random number and is not journalled.

        Args:
            event: the name of an event's method, such as ``"set_adapter"``, or of a context's, for entering it.
            *args: as for that method.
            **kwargs: as for that method.

        Raises:
            ArgumentError: there is no such event, or an argument is missing, unknown or of the wrong type. Nothing has changed.
            AttachError: the state was detached from its model.
        """
        self._refuse_detached("explain")
        prepare = getattr(self, f"_prepare_{event}", None) if isinstance(event, str) else None
        if prepare is None:
            known = sorted(name.removeprefix("_prepare_") for name in dir(self) if name.startswith("_prepare_"))
            raise errors.ArgumentError(f"explain was given {event!r}; one of {known} is expected; nothing has changed")
        key = key_of(event, *args) if event == "set_adapter" and not kwargs else None
        with self._lock:
            met = self._memory.find(key, self._facts)
            found = met.plan if met is not None else plan(self.charts, self._facts, _prepared(prepare, event, args, kwargs).events)
            if met is None and key is not None:
                self._memory.keep(key, found, None)
        return Explanation(found.accepted, found.refusals, found)

    # ---------------------------------------------------------------------------------------------------- preparing: no writes

    def _prepare_add_adapter(self, name: str, config: AdapterConfig, on_overlap: Policy = "error") -> Prepared:
        if not isinstance(name, str):
            raise errors.ArgumentError(f"add_adapter was given {name!r} as a name; a str is expected; nothing has changed")
        if not isinstance(config, AdapterConfig):
            raise errors.ArgumentError(
                f"add_adapter was given {errors.type_of(config)} as a config; a LoraConfig, or another value with inference_mode, "
                "problems() and place(), is expected; nothing has changed"
            )
        refuse_strange_policy("add_adapter", on_overlap)
        self._refuse_foreign()
        trainable = () if self._facts.adapters else tuple(n for n, p in self.model.named_parameters() if p.requires_grad)
        found = prospect(self.model, config, self._modules, trainable)
        wanted = "frozen" if config.inference_mode else "trainable"
        event = Event("add_adapter", (name,), wanted, on_overlap=on_overlap, proposal=found.proposal, reports=found.reports)
        return Prepared((event,), found)

    def _prepare_set_adapter(self, names: Names, weights: Sequence[float] | None = None, on_overlap: Policy | None = None) -> Prepared:
        named = names_of("set_adapter", names)
        refuse_strange_policy("set_adapter", on_overlap, carried=True)
        return Prepared((Event("set_adapter", named, weights=weights_of("set_adapter", weights), on_overlap=on_overlap),))

    def _prepare_use_adapter(self, names: Names, weights: Sequence[float] | None = None, on_overlap: Policy | None = None) -> Prepared:
        named, given = names_of("use_adapter", names), weights_of("use_adapter", weights)
        refuse_strange_policy("use_adapter", on_overlap, carried=True)
        return self._prepare_set_adapter(named, given, on_overlap)

    def _prepare_disable_adapter(self) -> Prepared:
        return Prepared((Event("disable_adapters", holder="context"),))

    def _prepare_delete_adapter(self, name: str) -> Prepared:
        if not isinstance(name, str):
            raise errors.ArgumentError(f"delete_adapter was given {name!r}; the name of one adapter is expected; nothing has changed")
        return Prepared((self._delete_event((name,)), *self._fallback((name,))))

    def _fallback(self, gone: tuple[str, ...]) -> tuple[Event, ...]:
        """What activates another adapter when the last active ones go, if the options ask for that."""
        facts = self._facts
        left = [name for name in facts.adapters if name not in gone]
        falls = self._options.fallback_on_delete and facts.active and left and all(name in gone for name in facts.active)
        return (Event("set_adapter", (left[0],)),) if falls else ()

    def _prepare_merge_adapter(self, names: Names | None = None, *, safe_merge: bool = False) -> Prepared:
        refuse_no_flag("merge_adapter", "safe_merge", safe_merge)
        named = self._facts.active if names is None else names_of("merge_adapter", names)
        coming = tuple(name for name in named if name in self._facts.adapters and name not in self._facts.active)
        if coming and self._options.merge_activates:
            merged = tuple(dict.fromkeys(self._facts.merged + named))
            return Prepared(self._activation(self._facts.active + coming, self._facts.weights, self._facts.on_overlap, merged))
        event, caches = self._merge_event(named, self._facts, safe=safe_merge)
        return Prepared((event,), caches=caches)

    def _prepare_unmerge_adapter(self) -> Prepared:
        return Prepared((Event("unmerge_adapter"),))

    def _prepare_enable_adapters(self) -> Prepared:
        return Prepared((Event("enable_adapters"),))

    def _prepare_disable_adapters(self) -> Prepared:
        return Prepared((Event("disable_adapters"),))

    def _prepare_set_requires_grad(self, names: Names, requires_grad: bool = True) -> Prepared:
        refuse_no_flag("set_requires_grad", "requires_grad", requires_grad)
        return Prepared((_grad_event(names_of("set_requires_grad", names), requires_grad),))

    def _prepare_restore(self, snapshot: Snapshot) -> Prepared:
        if not isinstance(snapshot, Snapshot):
            raise errors.ArgumentError(f"restore was given {errors.type_of(snapshot)}; a Snapshot is expected; nothing has changed")
        frozen = tuple(name for name in snapshot.adapters if name not in snapshot.trainable)
        missing = [name for name in dict.fromkeys(snapshot.active + snapshot.merged + frozen) if name not in self._facts.adapters]
        if missing:
            raise errors.SnapshotError(missing)
        weights = dict(zip(snapshot.active, snapshot.weights, strict=True))
        events = [*self._activation(snapshot.active, weights, snapshot.on_overlap, snapshot.merged)]
        there = self._facts.adapters
        thawing = tuple(n for n in snapshot.trainable if n in there and there[n].trainability != "trainable")
        freezing = tuple(n for n in frozen if there[n].trainability != "frozen")
        events += [_grad_event(names, flag) for names, flag in ((thawing, True), (freezing, False)) if names]
        if snapshot.enabled and self._facts.disabled_by_call:
            events.append(Event("enable_adapters"))
        if not snapshot.enabled and self._facts.enabled:
            events.append(Event("disable_adapters"))
        return Prepared(tuple(events))

    def _prepare_unload(self) -> Prepared:
        return Prepared((Event("unmerge_adapter"), self._delete_event(self.adapters)), leaves=True)

    def _prepare_merge_and_unload(
        self, progressbar: bool = False, safe_merge: bool = False, adapter_names: Names | None = None
    ) -> Prepared:
        refuse_no_flag("merge_and_unload", "progressbar", progressbar)
        refuse_no_flag("merge_and_unload", "safe_merge", safe_merge)
        named = self._facts.active if adapter_names is None else names_of("merge_and_unload", adapter_names)
        activate = self._activation(named, self._facts.weights, self._facts.on_overlap)
        merge, _ = self._merge_event(named, plan(self.charts, self._facts, activate).after, safe=safe_merge)
        events = (*activate, merge, Event("unmerge_adapter"), self._delete_event(self.adapters))
        return Prepared(events, unloads=_shown if progressbar else iter, leaves=True)

    def _activation(
        self, active: tuple[str, ...], weights: Mapping[str, float], on_overlap: Policy | None, merged: tuple[str, ...] = ()
    ) -> tuple[Event, ...]:
        """The events that bring back an activation, and what was merged in it."""
        given = tuple(weights.get(name, 1.0) for name in active)
        activate = Event("set_adapter", active, weights=given if any(weight != 1 for weight in given) else None, on_overlap=on_overlap)
        if not merged:
            return (activate,)
        return activate, self._merge_event(merged, plan(self.charts, self._facts, (activate,)).after)[0]

    def _merge_event(self, names: tuple[str, ...], facts: Facts, *, safe: bool = False) -> tuple[Event, dict[str, Cache]]:
        """The event that merges `names` in the state `facts`, with what the modules report about it; with `safe`, what it computed."""
        reports: dict[str, str] = {}
        caches: dict[str, Cache] = {}
        for path in facts.paths_of(names):
            module = self._modules[path]
            bindings: dict[str, Binding] = module.__dict__[BINDINGS]
            context = facts.modules[path].context
            merged = shares_of(context, {*names, *context.merged})
            reason = why_not_mergeable(module, bindings, [share.name for share in merged])
            if reason is None and safe:
                caches[path] = make_cache(module, bindings, merged, path)
                reason = why_not_finite(caches[path])
            if reason:
                reports[path] = reason
        return Event("merge_adapter", names, reports={"mergeable": reports}), caches

    def _delete_event(self, names: tuple[str, ...]) -> Event:
        """The event that deletes `names`, with the modules that could not be unwrapped."""
        modules = self._modules
        covered = {path: reason for path in self._facts.paths_of(names) if (reason := why_covered(modules[path]))}
        return Event("delete_adapter", names, reports={"outermost_class_is_ours": covered})

    # ---------------------------------------------------------------------------------------------------------- the one path

    def _run(self, name: str, prepared: Prepared, key: Hashable = None) -> None:
        """Plan, let the engine move, commit, tell the observers. An event with a key is kept in memory."""
        found = self._judged(prepared.events, name)
        keeps = key is not None and not found.before.merged and not found.after.merged  # no tensors are kept
        after = self._memory.same(found.after) if keeps else found.after
        entry = self._entry(name, found)
        batch: Batch | None = None
        with Transaction(self._journal, draws=prepared.prospect is not None) as transaction:
            if not entry.is_noop or prepared.leaves:
                modules = self._collect(transaction, found, prepared)
                batch = transaction.batch() if keeps else None
                self._compiles.watch(transaction, self.model, found.before, found.after, modules)
            transaction.attribute(self, "_facts", after)
            transaction.commit(entry)
        if found.before.adapters.keys() != after.adapters.keys():
            self._memory.forget()
        elif keeps:
            self._memory.keep(key, _ending_in(found, after), batch)
        self._tell(entry)

    def _again_or(self, name: str, key: Hashable, prepare: Callable[[], Prepared]) -> None:
        """Do an event from memory, or prepare and run it."""
        if not self._run_again(name, key):
            self._run(name, prepare(), key)

    def _run_again(self, name: str, key: Hashable) -> bool:
        """Do an event from memory; return whether it was there."""
        known = self._memory.find(key, self._facts) if key is not None else None
        if known is None or known.batch is None:
            return False
        found = known.plan
        entry = JournalEntry(self._next_number(), name, tuple([step.event for step in found.steps]), known.changed, False)
        with Transaction(self._journal) as transaction:
            transaction.again(known.batch)
            transaction.attribute(self, "_facts", found.after)
            self._compiles.watch(transaction, self.model, known.before, found.after, self._modules)
            transaction.commit(entry)
        if self._observers:
            self._tell(entry)
        return True

    def _judged(self, events: Sequence[Event], method: str = "") -> Plan:
        """The plan of events that are accepted, taken by the engine too; raise what refuses them, in the name of the method."""
        found = plan(self.charts, self._facts, events)
        if not found.accepted:
            step = found.steps[-1]
            offered = sum(len(move.subjects) for move in step.moves if move.chart == self.charts.activation.name)
            raise found.error(step.event, found.refusals, offered, self._opening(step.event, found.refusals), method)
        self._engine.run(found)
        return found

    def _opening(self, event: Event, refusals: Sequence[Refusal]) -> str:
        """The first line of an error, where users of another library match on one."""
        return ""

    def _entry(self, name: str, found: Plan) -> JournalEntry:
        """What the journal will say of a plan."""
        events = tuple(step.event for step in found.steps)
        return JournalEntry(self._next_number(), name, events, found.changed, found.after == found.before)

    def _collect(self, transaction: Transaction, found: Plan, prepared: Prepared) -> Mapping[str, nn.Module]:
        """Collect everything that the plan writes; return the wrapped modules of both states. What can fail, or warn, does so here."""
        modules, added = self._modules, {}
        if prepared.prospect is not None:
            sites = prepared.prospect.sites
            made = bind({id(here[0].module): here for here in sites.values()}, autocast=self._options.autocast_adapter_dtype)
            added = {path: made[id(here[0].module)] for path, here in sites.items()}
            modules = {**modules, **{path: here[0].module for path, here in sites.items()}}
            for text in prepared.prospect.warnings:
                warnings.warn(text, stacklevel=5)
        if prepared.unloads is not None:
            values = merged_values(found.steps[0].after, modules, prepared.unloads)
            write_values(transaction, self.model, modules, values, found.before.base_trainable)
        before, after = found.before, found.after
        coming = found.steps[0].event.adapters[0] if added else ""
        change = Change(before, after, found.cohorts, modules, self._options.grad_follows, coming, added, prepared.caches, self._notice)
        collect(transaction, self.model, change)
        if not before.adapters and after.adapters:
            transaction.item(self.model.__dict__, LINK, Link(self))
            for method in BARRED if hasattr(self.model, "_hf_peft_config_loaded") else ():
                transaction.item(self.model.__dict__, method, Barred(method))
        if before.adapters and not after.adapters:
            for key in (LINK, *BARRED):
                transaction.drop(self.model.__dict__, key)
        if before.modules.keys() != after.modules.keys():
            transaction.attribute(self, "_modules", {path: module for path, module in modules.items() if path in after.modules})
        return modules

    def _collect_all(self, transaction: Transaction) -> None:
        """Collect the whole projection again, whatever torch looks like now."""
        rewire_all(transaction, self.model, self._facts, self._modules, self._options.grad_follows, self._notice)

    def _tell(self, entry: JournalEntry) -> None:
        """Call every observer; raise together what they raised. The event is complete."""
        raised: list[BaseException] = []
        for observer in tuple(self._observers):
            try:
                observer(entry)
            except Exception as error:  # whatever an observer raises is reported, after the others have run
                raised.append(error)
        if raised:
            raise errors.ObserverError(entry.name, raised) from raised[0]

    def _next_number(self) -> int:
        return self._journal[-1].number + 1 if self._journal else 1

    def _why_not_now(self) -> str:
        """Say why the same thread may not start an event: it is inside another one, or inside `hold()`. Empty when it may.

        That an event is running is read off the call stack: a flag could stay behind when an interrupt comes just before it is cleared.
        """
        if self._holding == threading.get_ident():
            return "hold() is in force in this thread; leave it first"
        frame: FrameType | None = sys._getframe(1) if self._running is not None else None
        while frame is not None:
            frame = frame.f_back
            if frame is not None and frame is self._running:
                return "another event is still under way in this thread (this one was started by an observer, a config or a guard of it)"
        return ""

    def _refuse_detached(self, name: str) -> None:
        """Refuse what is asked of a state that has let go of its model: another one may drive it by now."""
        if self._detached:
            raise errors.AttachError(
                f"{name} is refused: this state was detached from its {type(self.model).__name__}; nothing has changed. "
                "attach(model) gives the one that drives it."
            )

    def _refuse_foreign(self) -> None:
        """Refuse a first adapter on a model that another state drives."""
        if self._facts.adapters:
            return
        link = link_of(self.model)
        reason = "another state drives it; use attach(model) to get that one" if link is not None else why_foreign(self.model)
        if reason:
            raise errors.AttachError(f"add_adapter on {type(self.model).__name__} is refused: {reason}; nothing has changed")

    # ---------------------------------------------------------------------------------------------------- attaching, and copies

    @classmethod
    def _attached(cls, model: nn.Module, link: Link | None, given: Mapping[str, Any], *, repair: bool) -> AdapterState:
        """Make the state of a model that has none yet; a copy of an attached model brings what its original was."""
        record = link.record if link is not None else None
        if record is None and (reason := why_foreign(model)):
            raise errors.AttachError(f"attach to {type(model).__name__} is refused: {reason}; nothing has changed")
        kept = record.options if record is not None else {}
        state = cls(model, Options(**{**cls._defaults(model), **kept, **given}))
        if record is None or link is None:
            state._begin(repair=repair)
            return state
        state._adopt(record.facts, link)
        link.state = state
        if state.options.grad_follows != record.options["grad_follows"]:
            state.repair()
        return state

    @classmethod
    def _defaults(cls, model: nn.Module) -> dict[str, Any]:
        """The options of a model that is attached without any."""
        return {"charts": cls.CHARTS, "grad_follows": "trainability", "autocast_adapter_dtype": True}

    def _begin(self, *, repair: bool) -> None:
        """Take over a model for the first time. Nothing is written to one without adapters."""

    def __deepcopy__(self, memo: dict[int, Any]) -> AdapterState:
        return _revived(type(self), copy.deepcopy(self.model, memo), self._options)

    def __reduce__(self) -> tuple[Callable[..., AdapterState], tuple[type[AdapterState], nn.Module, Options]]:
        return _revived, (type(self), self.model, self._options)

    def _adopt(self, facts: Facts, link: Link) -> None:
        """Become the state of a copy of an attached model."""
        modules = dict(self.model.named_modules(remove_duplicate=False))
        missing = [path for path in facts.modules if BINDINGS not in getattr(modules.get(path), "__dict__", {})]
        if missing:
            raise errors.AttachError(f"the copy has lost the adapters at {missing}; nothing has changed")
        self._modules = {path: modules[path] for path in facts.modules}
        self._facts = facts
        notices = (live for module in self._modules.values() for live in module.__dict__[WIRING].live if type(live) is MergedNotice)
        self._notice = next(notices, MergedNotice(merged_and_trainable(facts)))
        for module in self._modules.values():  # the tensors of a copy have identities and versions of their own
            cache = module.__dict__[WIRING].cache
            if cache is not None:
                cache.stamp = stamp_of(module, module.__dict__[BINDINGS], cache.shares)


class Hold:
    """A context during which no event happens. See `AdapterState.hold`."""

    def __init__(self, state: AdapterState) -> None:
        self._state = state

    def __enter__(self) -> None:
        state = self._state
        state._lock.acquire()
        try:
            if reason := state._why_not_now():
                raise errors.EventInProgressError(Event("hold"), [Refusal("no_event_under_way", "", reason)])
            state._holding = threading.get_ident()
        except BaseException:
            state._lock.release()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._state._holding = None
        self._state._lock.release()


def _prepared(prepare: Callable[..., Prepared], event: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Prepared:
    """Prepare an event that somebody asks about, with arguments that may not be its own."""
    try:
        inspect.signature(prepare).bind(*args, **kwargs)
    except TypeError as error:
        raise errors.ArgumentError(f"explain of {event}: {error}; nothing has changed") from None
    return prepare(*args, **kwargs)


def _ending_in(found: Plan, after: Facts) -> Plan:
    """The plan, ending in the object that stands for the facts which it leaves."""
    if found.after is after:
        return found
    *first, last = found.steps
    return attrs.evolve(found, steps=(*first, attrs.evolve(last, after=after)))


def _revived(kind: type[AdapterState], model: nn.Module, options: Options) -> AdapterState:
    """The state of a copied or unpickled model: the one that it is attached to already, or one of its own."""
    link = link_of(model)
    if link is None:
        return kind(model, options)
    return kind._attached(model, link, {}, repair=False) if link.state is None else link.state


def _grad_event(names: tuple[str, ...], requires_grad: bool) -> Event:
    """The event that makes `names` trainable or frozen."""
    return Event("set_requires_grad", names, "trainable" if requires_grad else "frozen")


def _shown(paths: Iterable[str]) -> Iterable[str]:
    """Pass on `paths` with a progress bar."""
    try:
        from rich.progress import track
    except ImportError:
        warnings.warn("progressbar=True needs the package rich, which is not installed; merging goes on without one", stacklevel=2)
        return paths
    return track(list(paths), description="merging")
