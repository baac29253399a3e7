"""`PeftState`: the state of a model that PEFT has put adapters into. Every event goes the one path, and ends in PEFT's own fields."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import attrs
import torch
from peft import inject_adapter_in_model
from peft.tuners.mixed import MixedModel
from torch import nn

from adapterstate import errors
from adapterstate.changes import may_accept_otherwise
from adapterstate.commit import Transaction
from adapterstate.link import LINK, Link, Options
from adapterstate.machine.arguments import names_of, refuse_strange_policy
from adapterstate.machine.charts import Charts
from adapterstate.machine.plan import Plan
from adapterstate.machine.records import Context, Event, Facts, Policy, Proposal, Refusal
from adapterstate.memory import key_of
from adapterstate.peft import texts
from adapterstate.peft.apart import ApartHost
from adapterstate.peft.charts import ALONE_CHARTS, MADE_WITH_THE_MODEL, MIXTURE_CHARTS, PEFT_CHARTS
from adapterstate.peft.doors import DOOR, ORPHAN, STAND_IN, class_with_doors, has_doors, stands_in
from adapterstate.peft.hosts import CopyHost, Host, TokenHost, why_not_exact
from adapterstate.peft.methods import rewrites_base, runs_alone, why_not_additive
from adapterstate.peft.reading import read, slots_of
from adapterstate.peft.stand_ins import (
    Forward,
    StandIn,
    beyond_peft,
    changed_values,
    combined_values,
    merged_base,
    needs_stand_in,
    own_forward,
    plain_class,
    stamp_of,
    stand_in,
    why_not_reached,
    why_not_weighted,
)
from adapterstate.peft.survey import hosts_of, in_copies
from adapterstate.peft.tuners import configs_of, forget, hand_on_training, mixture_of, swapper_of, tuner_of
from adapterstate.projection import Shares, requires_grad, shares_of
from adapterstate.records import Finding
from adapterstate.state import AdapterState, Names, Prepared, exclusive
from adapterstate.unloading import write_values


class PeftState(AdapterState):
    """The state of a `PeftModel`, a `PeftMixedModel`, or another model that carries PEFT's layers. Made by `attach`.

    PEFT's own methods on the model, its tuner and its layers lead here; those whose names begin with ``peft_`` are what they call.
    """

    CHARTS: ClassVar[Charts] = PEFT_CHARTS

    def __init__(self, model: nn.Module, options: Options) -> None:
        super().__init__(model, options)
        self._hosts: dict[str, Host] = {}
        self._link = Link(self, model=model)

    # ---------------------------------------------------------------------------------------------------------------- attaching

    @classmethod
    def _defaults(cls, model: nn.Module) -> dict[str, Any]:
        return {
            "charts": _charts_of(model),
            "grad_follows": "activation",
            "autocast_adapter_dtype": True,
            "fallback_on_delete": True,
            "merge_activates": True,
        }

    def _begin(self, *, repair: bool) -> None:
        """Read what PEFT's flags say, put the doors in, and make the flags those of the state."""
        self._refuse_to_drive()
        reading = read(self.model)
        stuck = [finding for finding in reading.findings if not finding.mendable]
        repair = repair or reading.is_decided
        if reading.findings and (stuck or not repair):
            said = "\n".join(f"  {finding}" for finding in reading.findings)
            recipe = "" if stuck else " attach(model, repair=True) sets it to the nearest legal state."
            raise errors.AttachError(
                f"attach to {type(self.model).__name__} is refused: its flags break rules; nothing has changed.{recipe}\n{said}"
            )
        merged = [host for host in reading.hosts.values() if host.merged()]
        with Transaction(deque()) as transaction:
            if merged:
                bases = {id(p): p for host in merged for p in host.module.parameters()}
                transaction.foreign(self.model, values=bases.values())
                for host in merged:
                    host.unmerge()
            self._hosts = dict(reading.hosts)
            self._modules = {path: host.module for path, host in self._hosts.items()}
            self._facts = reading.facts
            self._put_doors(transaction, self._hosts)
            for part in (*self._roots(), *self._inner_tuner()):
                transaction.change_class(part, class_with_doors(plain_class(part)))
                transaction.item(part.__dict__, DOOR, self._link)
            transaction.item(self.model.__dict__, LINK, self._link)
            self._write_all(transaction)
            transaction.commit(object())
        if reading.findings:
            warnings.warn("attach has repaired what broke rules:\n" + "\n".join(f"  {f}" for f in reading.findings), stacklevel=4)

    def _refuse_to_drive(self) -> None:
        """Raise an `AttachError` for what no state can be read of."""
        kind = type(self.model).__name__
        copied = next((path for path, module in self.model.named_modules() if STAND_IN in module.__dict__), None)
        if copied is not None:
            raise errors.AttachError(f"attach to {kind} is refused: {ORPHAN.format(copied)}")
        for path, wrapper in in_copies(hosts_of(self.model)).items():
            raise errors.AttachError(
                f"attach to {kind} is refused: PEFT has put the layer {path!r} into {wrapper!r}, of which adapters train copies; "
                "nothing has changed. Choose modules_to_save in which no adapter has layers."
            )

    def _roots(self) -> list[nn.Module]:
        """The objects above the layers, whose fields name what is active."""
        tuner = tuner_of(self.model) or swapper_of(self.model)
        return [self.model] if tuner is None or tuner is self.model else [self.model, tuner]

    def _inner_tuner(self) -> list[nn.Module]:
        """What a mixture has to hold its LoRAs. Its fields name those, but it has doors as the mixture has."""
        mixture = mixture_of(self.model)
        return [] if mixture is None else [mixture.lora_model]

    def _put_doors(self, transaction: Transaction, hosts: Mapping[str, Host]) -> None:
        for part in _parts(hosts.values()):
            if not has_doors(part):
                transaction.change_class(part, class_with_doors(plain_class(part)))
                transaction.item(part.__dict__, DOOR, self._link)

    def _adopt(self, facts: Facts, link: Link) -> None:
        self._link = link
        self._hosts = hosts_of(self.model)
        missing = [path for path in facts.modules if path not in self._hosts]
        if missing:
            raise errors.AttachError(f"the copy has lost the adapters at {missing}; nothing has changed")
        self._modules = {path: host.module for path, host in self._hosts.items()}
        self._facts = facts
        for host in self._hosts.values():  # the tensors of a copy have identities and versions of their own
            known: StandIn | None = host.module.__dict__.get(STAND_IN)
            if known is not None and known.merged is not None:
                host.module.__dict__[STAND_IN] = attrs.evolve(known, stamp=stamp_of(host, known.view.cached))

    @exclusive
    def detach(self) -> None:
        """Give back the model as PEFT knows it: its own classes and methods, with the flags that it has now.

        Afterwards this state refuses whatever it is asked; `attach` gives another one.

        Raises:
            AttachError: something is in force that PEFT cannot express: adapters merged, weighted or combined by a policy, prompts not
                applied, or adapters disabled by a context. Nothing has changed.
        """
        facts = self._facts
        if any(beyond_peft(host, facts.context_of(path), enabled=True) for path, host in self._hosts.items()):
            what = f"{list(self._facts.merged)} are merged" if self._facts.merged else "weights or a policy are in force"
            raise errors.AttachError(f"detach is refused while {what}, which PEFT cannot express; nothing has changed. Undo that first.")
        apart = [(host, facts.context_of(path)) for path, host in self._hosts.items() if isinstance(host, ApartHost)]
        skipped = next((host.what for host, context in apart if host.beyond_peft(context, enabled=facts.enabled)), "")
        if skipped:
            raise errors.AttachError(
                f"detach is refused while {skipped} is not applied, which PEFT cannot express; nothing has changed. Undo that first."
            )
        if self._facts.disabled_by_contexts:
            raise errors.AttachError("detach is refused inside disable_adapter(); nothing has changed. Leave the context first.")
        with Transaction(deque()) as transaction:
            self._take_doors(transaction)
            if "_adapters_disabled" in self.model.__dict__:  # which PEFT says in its context only
                transaction.item(self.model.__dict__, "_adapters_disabled", False)
            for name, value in (("_facts", Facts()), ("_modules", {}), ("_hosts", {})):
                transaction.attribute(self, name, value)
            transaction.commit(object())
        self._memory.forget()

    def _take_doors(self, transaction: Transaction) -> None:
        for part in [*self._roots(), *self._inner_tuner(), *_parts(self._hosts.values())]:
            transaction.change_class(part, plain_class(part))
            transaction.drop(part.__dict__, DOOR)
            transaction.drop(part.__dict__, STAND_IN)
        transaction.drop(self.model.__dict__, LINK)
        transaction.attribute(self._link, "state", None)
        transaction.attribute(self._link, "model", None)
        transaction.attribute(self, "_detached", True)

    # ------------------------------------------------------------------------------------------------------- what the doors call

    @exclusive
    def peft_set_adapter(self, names: Names, inference_mode: bool = False) -> None:
        """`set_adapter`, as PEFT's objects are asked for it; with `inference_mode`, what is activated is frozen too."""

        def prepare() -> Prepared:
            events = self._prepare_set_adapter(names).events
            return Prepared((*events, Event("set_requires_grad", events[0].adapters, "frozen")) if inference_mode else events)

        merged = bool(self._facts.merged)
        self._again_or("set_adapter", None if inference_mode else key_of("set_adapter", names, None, None), prepare)
        if merged:
            warnings.warn(texts.MERGED_SWITCH, stacklevel=5)

    @exclusive
    def peft_merge_adapter(self, names: Sequence[str] | None, safe_merge: bool) -> None:
        """`merge_adapter`, as PEFT's objects are asked for it."""
        if isinstance(names, str):
            raise TypeError(f"adapter_names should be a list of strings, got {names!r}.")
        before = self._facts.merged
        self._run("merge_adapter", self._prepare_merge_adapter(names, safe_merge=safe_merge))
        if before:
            more = [name for name in self._facts.merged if name not in before]
            warnings.warn(texts.merging_more(before, more) if more else texts.ALL_MERGED, stacklevel=5)

    @exclusive
    def peft_unmerge_adapter(self) -> None:
        """`unmerge_adapter`, as PEFT's objects are asked for it."""
        if not self._facts.merged:
            warnings.warn(texts.NOTHING_TO_UNMERGE, stacklevel=5)
        self._run("unmerge_adapter", self._prepare_unmerge_adapter())

    @exclusive
    def peft_disable_adapters(self) -> None:
        """`disable_adapters`, as PEFT's objects are asked for it."""
        for name in self._facts.active:
            bias = getattr(configs_of(self.model)[name], "bias", "none")
            if bias != "none":
                warnings.warn(
                    f"Careful, disabling adapter layers with bias configured to be '{bias}' does not produce the same output as the base "
                    "model would without adaption.",
                    stacklevel=5,
                )
        self._run("disable_adapters", self._prepare_disable_adapters())

    @exclusive
    def peft_delete_adapter(self, names: Names) -> None:
        """`delete_adapter`, of one adapter or several."""
        self._run("delete_adapter", self._deletion(names_of("delete_adapter", names)))

    @exclusive
    def peft_build(self, door: str, name: str, build: Callable[[], Any], config: Any = None, *, is_trainable: bool = False) -> Any:
        """Let PEFT build an adapter, as one event: if PEFT, or a guard, refuses it, everything that PEFT has written is put back."""
        return self._build(door, name, build, config, asked=is_trainable)

    def _build(
        self, door: str, name: str, build: Callable[[], Any], config: Any, *, asked: bool = False, on_overlap: Policy = "error"
    ) -> Any:
        known = name in self._facts.adapters
        if not known or door != "load_adapter":
            self._judged((Event("add_adapter", (name,), proposal=Proposal(config)),))
        overwritten = [host.module for host in self._hosts.values()] if known else []
        values = [p for module in ([self.model] if rewrites_base(config) else overwritten) for p in module.parameters()]
        with Transaction(self._journal, draws=True) as transaction:
            transaction.foreign(self.model, beside=[config] if hasattr(config, "__dict__") else [], values=values)
            self._link.builder = threading.get_ident()
            try:
                result = build()
            finally:
                self._link.builder = None
            hosts = hosts_of(self.model)
            events = tuple(self._arrivals(hosts, on_overlap, asked=asked))
            found = self._judged(events)
            entry = self._entry(door, found)
            self._write(transaction, found, hosts=hosts)
            transaction.attribute(self, "_facts", found.after)
            transaction.commit(entry)
        self._memory.forget()
        self._tell(entry)
        return result

    def _arrivals(self, hosts: Mapping[str, Host], on_overlap: Policy, *, asked: bool) -> Iterator[Event]:
        """The events that PEFT's building amounts to: one for each config that was not there before."""
        apart = self._not_apart(hosts)
        for name, config in configs_of(self.model).items():
            if name not in self._facts.adapters:
                slots = {path: here[name] for path, here in slots_of(hosts, {name: config}).items() if name in here}
                wanted = "frozen" if getattr(config, "inference_mode", False) else "trainable"
                reports = {"layers_apart": apart, **({} if slots else {"targets_match": {"": texts.matches_nothing(config)}})}
                yield Event("add_adapter", (name,), wanted, on_overlap=on_overlap, proposal=Proposal(config, slots), reports=reports)
                if asked and wanted == "trainable":
                    yield Event("set_requires_grad", (name,), "trainable")

    def _not_apart(self, hosts: Mapping[str, Host]) -> dict[str, str]:
        """Where what PEFT has built touches the layers of the adapters that were there, with what it does."""
        found = {path: f"PEFT puts a layer into {wrapper!r}, of which adapters train copies" for path, wrapper in in_copies(hosts).items()}
        present = {path: set(host.present) for path, host in hosts.items()}
        for name, adapter in self._facts.adapters.items():
            here = {path for path, names in present.items() if name in names}
            for path in here ^ set(adapter.modules):
                found.setdefault(path, f"PEFT gives {name!r} weights here" if path in here else f"PEFT takes the weights of {name!r} away")
        return found

    def peft_refuse_injecting(self) -> None:
        """Refuse what PEFT has begun to inject past the state, and take back the config that it has put in for that.

        During an event, such a config is one that the event itself is about, whichever thread is looking.

        Raises:
            AttachError: there is a config of an adapter that the state does not know.
        """
        configs = configs_of(self.model)
        strange = [name for name in configs if name not in self._facts.adapters]
        if strange and self._running is None:
            for name in strange:
                del configs[name]
            raise errors.AttachError(
                f"injecting {strange} into an attached {plain_class(self.model).__name__} is refused: it would go past its state; nothing "
                "has changed. Call add_adapter(name, config) of adapterstate.attach(model)."
            )

    def peft_active_config(self) -> Any:
        """The config of the first active adapter; of the first present one, where none is active."""
        configs = configs_of(self.model)
        for name in (*self._facts.active, *configs):
            if name in configs:
                return configs[name]
        from peft import PeftConfig

        return PeftConfig(peft_type=getattr(self.model, "peft_type", None))

    @property
    def skips_prompt(self) -> bool:
        """Whether there is a prompt that must be left out now."""
        return "prompt_encoder" in self._hosts and not (self._facts.enabled and self._facts.active)

    @contextlib.contextmanager
    def peft_showing(self, swapper: nn.Module, name: str) -> Iterator[None]:
        """A context in which the modules of adapter `name` stand in the model, for PEFT to save or load; it is no event."""
        host = next(host for host in self._hosts.values() if host.module is swapper)
        places = [*host.swaps(Context({}, (name,)), enabled=True)]
        before = [(held, key, held[key]) for held, key, _ in places]
        try:
            for held, key, module in places:
                held[key] = module
            yield
        finally:
            for held, key, module in before:
                held[key] = module

    def peft_rebuild(self, layer: nn.Module) -> None:
        """Build what computes in place of `layer` anew, after its tensors have moved."""
        for path, host in self._hosts.items():
            if host.module is layer:
                fresh = stand_in(host, self._facts.context_of(path), enabled=self._facts.enabled)
                with Transaction(deque()) as transaction:
                    transaction.item(layer.__dict__, STAND_IN, fresh)
                    transaction.commit(object())

    # ------------------------------------------------------------------------------------------------------------ the public face

    @exclusive
    def add_adapter(self, name: str, config: Any, on_overlap: Policy = "error") -> None:
        """Add an adapter of a PEFT config through the model's own `add_adapter`, if it has one, and let it carry a policy.

        Raises:
            EventRefusedError: the name is refused. Nothing has changed.
            Exception: whatever PEFT raises; everything that it had written is put back.
        """
        refuse_strange_policy("add_adapter", on_overlap)
        own: Any = getattr(self.model, "add_adapter", None)
        if own is None:
            build = partial(_inject, config, self.model, name)
        elif tuner_of(self.model) or swapper_of(self.model) or "prompt_encoder" in self._hosts:
            build = partial(own, name, config)
        else:
            build = partial(own, config, name)
        self._build("add_adapter", name, build, config, on_overlap=on_overlap)

    def _plain(self) -> nn.Module:
        """The model below PEFT's objects."""
        tuner: Any = tuner_of(self.model) or swapper_of(self.model)
        if tuner is not None:
            model: nn.Module = tuner.model
            return model
        base = self.model._modules.get("base_model")
        return base if base is not None and "prompt_encoder" in self._hosts else self.model

    # ------------------------------------------------------------------------------------------------------------------ preparing

    def _judged(self, events: Sequence[Event], method: str = "") -> Plan:
        try:
            return super()._judged(events, method)
        except errors.NotMergeableError as error:
            raise texts.as_peft_raises(error) from error.__cause__

    def _opening(self, event: Event, refusals: Sequence[Refusal]) -> str:
        return texts.opening(event, refusals, self._hosts, tuple(configs_of(self.model)), tuner_of(self.model))

    def _prepare_set_adapter(self, names: Names, weights: Any = None, on_overlap: Any = None) -> Prepared:
        prepared = super()._prepare_set_adapter(names, weights, on_overlap)
        event = prepared.events[0]
        reports = self._unweighable(event)
        return Prepared((attrs.evolve(event, reports={"contributions_add": reports}),)) if reports else prepared

    def _unweighable(self, event: Event) -> dict[str, str]:
        """Where a weight other than 1 has no meaning, and where copies could not be combined."""
        found: dict[str, str] = {}
        for path, record in self._facts.modules.items() if len(event.adapters) > 1 else ():
            host, names = self._hosts[path], [name for name in event.adapters if name in record.context.present]
            if len(names) > 1 and isinstance(host, CopyHost | TokenHost) and (reason := why_not_reached(host.module)):
                found[path] = f"{names} cannot be combined: {reason}"
        for name, weight in zip(event.adapters, event.weights or (), strict=False):
            for path in self._facts.adapters[name].modules if weight != 1 and name in self._facts.adapters else ():
                host = self._hosts[path]
                reason = why_not_reached(host.module)
                if isinstance(host, CopyHost | TokenHost) and not reason:
                    continue
                reason = reason or why_not_additive(self._facts.adapters[name].config) or why_not_weighted(host, name)
                if isinstance(host, ApartHost):
                    reason = f"{host.what} has no weight"
                if reason:
                    found[path] = f"{name!r} cannot have the weight {weight}: {reason}"
        return found

    def _prepare_delete_adapter(self, name: str) -> Prepared:
        if not isinstance(name, str):
            raise errors.ArgumentError(f"delete_adapter was given {name!r}; the name of one adapter is expected; nothing has changed")
        return self._deletion((name,))

    def _deletion(self, gone: tuple[str, ...]) -> Prepared:
        event = self._delete_event(gone)
        if mixture_of(self.model) is not None and any(name in self._facts.adapters for name in gone):
            event = attrs.evolve(event, reports={"made_with_the_model": {"": MADE_WITH_THE_MODEL}})
        return Prepared((event, *self._fallback(gone)))

    def _delete_event(self, names: tuple[str, ...]) -> Event:
        return Event("delete_adapter", names)

    def _merge_event(self, names: tuple[str, ...], facts: Facts, *, safe: bool = False) -> tuple[Event, dict[str, Any]]:
        objection = self._objection()
        if objection is not None:
            return Event("merge_adapter", names, reports={"mergeable": dict.fromkeys(facts.paths_of(names), objection)}), {}
        broken: dict[str, str] = {}
        apart: dict[str, str] = {}
        computed: dict[str, Any] = {}
        for path in facts.paths_of(names):
            host, context = self._hosts[path], facts.modules[path].context
            merged = {name for name in context.active if name in names or name in context.merged}
            if isinstance(host, ApartHost):
                broken[path] = f"{host.what} is not merged into a weight"
                continue
            if reason := why_not_reached(host.module) or _why_not_at_hand(host):
                broken[path] = reason
                continue
            if isinstance(host, CopyHost | TokenHost):
                continue
            strange = next((reason for name in context.active if (reason := why_not_additive(facts.adapters[name].config))), "")
            if merged != set(context.active) and strange:
                apart[path] = f"{sorted(merged)} cannot be merged apart from {sorted(set(context.active) - merged)}: {strange}"
                continue
            reason = why_not_exact(host, {name: facts.adapters[name].config for name in merged})
            reason = reason or self._why_not_merged(host, context, merged, computed, safe=safe)
            if reason:
                broken[path] = reason
        return Event("merge_adapter", names, reports={"mergeable": broken, "contributions_add": apart}), computed

    def _objection(self) -> texts.Objection | None:
        """What PEFT's tuner has against any merge."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self._warn_of_merging()
            except Exception as error:  # whatever PEFT objects with is the reason
                return texts.Objection(str(error), error)
        return None

    def _warn_of_merging(self) -> None:
        """Let PEFT's tuner warn, or object."""
        tuner: Any = tuner_of(self.model)
        if tuner is not None and not isinstance(tuner, MixedModel):  # which does not ask itself either
            tuner._check_merge_allowed()

    def _why_not_merged(self, host: Host, context: Context, merged: set[str], computed: dict[str, Any], *, safe: bool) -> str:
        """Try the merge on a copy; say what PEFT, or `safe`, has against it."""
        try:
            found = merged_base(host, shares_of(context, merged))
        except MemoryError:
            raise
        except Exception as error:  # whatever PEFT objects with is the reason
            return texts.Objection(f"PEFT cannot merge {type(host.module).__name__}: {error}", error)
        if safe and not all(bool(torch.isfinite(p).all()) for p in found.parameters() if p.is_floating_point()):
            return f"the merged weight would hold values that are not finite. {_safe_objection(host, shares_of(context, merged))}"
        computed[host.path] = found
        return ""

    # ------------------------------------------------------------------------------------------------------------------- writing

    def _collect(self, transaction: Transaction, found: Plan, prepared: Prepared) -> Mapping[str, nn.Module]:
        before, after = found.before, found.after
        if any(not set(step.after.merged) <= set(step.before.merged) for step in found.steps):
            self._warn_of_merging()
        if prepared.leaves:
            self._unload(transaction, found, prepared)
            return self._modules
        gone = [name for name in before.adapters if name not in after.adapters]
        if gone:
            transaction.foreign(self.model)
            self._delete(gone)
            if before.active and after.active and all(name in gone for name in before.active):
                warnings.warn(texts.deleted(before.active[0], after.active[0]), stacklevel=6)
        self._write(transaction, found, merged=prepared.caches)
        return self._modules

    def _delete(self, gone: Sequence[str]) -> None:
        """Let PEFT delete the weights of adapters; what it would switch is kept from it."""
        configs = configs_of(self.model)
        self._link.builder = threading.get_ident()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for name in gone:
                    for host in [host for host in self._hosts.values() if name in host.present]:  # ends of a tie share what is deleted
                        host.delete(name)
                    configs.pop(name, None)
                    forget(tuner_of(self.model), name)
                    hand_on_training(tuner_of(self.model), name, configs)
        finally:
            self._link.builder = None

    def _unload(self, transaction: Transaction, found: Plan, prepared: Prepared) -> None:
        """Collect what takes PEFT's layers out of the model, with the merged values if there are any to be written."""
        facts = found.steps[0].after
        plain = self._plain()
        if prepared.unloads is not None:
            values: dict[str, Mapping[str, torch.Tensor]] = {}
            modules: dict[str, nn.Module] = {}
            shown = list(prepared.unloads([path for path, record in facts.modules.items() if record.context.active]))
            for number, (module, named) in enumerate(self._values(facts, shown)):
                modules[str(number)], values[str(number)] = module, named
            write_values(transaction, plain, modules, values, ())
        below = {
            id(part): host.innermost() if part is host.module else part.get_base_layer()
            for host in self._hosts.values()
            for part in host.parts
        }
        for parent in [*plain.modules()]:
            for name, child in parent._modules.items():
                if id(child) in below and id(parent) not in below:
                    transaction.item(parent._modules, name, below[id(child)])
        for host in self._hosts.values():
            self._swap(transaction, host, Context({}, ()), enabled=True)
        transaction.drop(plain.__dict__, "peft_config")
        if LOADED_FLAG in plain.__dict__:
            transaction.item(plain.__dict__, LOADED_FLAG, False)
        self._take_doors(transaction)
        transaction.attribute(self, "_modules", {})
        transaction.attribute(self, "_hosts", {})

    def _values(self, facts: Facts, paths: Sequence[str]) -> Iterator[tuple[nn.Module, Mapping[str, torch.Tensor]]]:
        """The merged values of the base modules: module, and what its tensors become."""
        for path in paths:
            host, context = self._hosts[path], facts.modules[path].context
            shares = shares_of(context, context.active)
            if isinstance(host, CopyHost | TokenHost):
                yield from combined_values(host, shares).items()
            elif not isinstance(host, ApartHost):
                yield from changed_values(host.innermost(), merged_base(host, shares)).items()

    def _write(
        self, transaction: Transaction, found: Plan, hosts: Mapping[str, Host] | None = None, merged: Mapping[str, Any] | None = None
    ) -> None:
        """Collect the difference of the projections, as PEFT's fields; `merged` holds bases that have been merged already."""
        merged = merged or {}
        before, after = found.before, found.after
        here = self._hosts if hosts is None else dict(hosts)
        if hosts is not None:
            self._put_doors(transaction, here)
            transaction.attribute(self, "_hosts", here)
            transaction.attribute(self, "_modules", {path: host.module for path, host in here.items()})
        everywhere = before.enabled is not after.enabled or hosts is not None
        switched = before.active != after.active
        for path, host in here.items():
            old, new = before.modules.get(path), after.modules.get(path)
            if everywhere or old is not new:
                self._write_host(transaction, host, after, merged.get(path))
            elif switched:
                self._write_fields(transaction, host, after)
        follows = self._options.grad_follows
        names = after.adapters if hosts is not None else may_accept_otherwise(before, after, follows)
        self._write_flags(transaction, after, here, names)
        self._write_roots(transaction, after)

    def _collect_all(self, transaction: Transaction) -> None:
        self._write_all(transaction)

    def _write_all(self, transaction: Transaction) -> None:
        """Collect the whole projection; what is merged is merged anew."""
        facts = self._facts
        for host in self._hosts.values():
            self._write_host(transaction, host, facts, afresh=True)
        self._write_flags(transaction, facts, self._hosts, facts.adapters)
        self._write_roots(transaction, facts)

    def _write_fields(self, transaction: Transaction, host: Host, facts: Facts) -> None:
        """Collect the fields of one layer."""
        for thing, name, value in host.fields(facts, facts.context_of(host.path)):
            if getattr(thing, name, _NOTHING) != value:
                transaction.item(thing.__dict__, name, value)

    def _write_host(
        self, transaction: Transaction, host: Host, facts: Facts, merged: nn.Module | None = None, *, afresh: bool = False
    ) -> None:
        """Collect the fields of one layer, and what computes in its place.

        Args:
            transaction: where to.
            host: the layer.
            facts: the state.
            merged: its base with what is merged, if that is known.
            afresh: whether nothing of what computed in its place before is kept.
        """
        self._write_fields(transaction, host, facts)
        if isinstance(host, ApartHost):
            self._swap(transaction, host, facts.context_of(host.path), enabled=facts.enabled)
            return
        layer: nn.Module = host.module
        known: StandIn | None = None if afresh else layer.__dict__.get(STAND_IN)
        found = stand_in(host, facts.context_of(host.path), enabled=facts.enabled, known=known, merged=merged)
        if found is not None:
            transaction.item(layer.__dict__, STAND_IN, found)
            if key := own_forward(layer):
                transaction.item(layer.__dict__, key, Forward(layer))
        else:
            transaction.drop(layer.__dict__, STAND_IN)
        if (found is not None) is not stands_in(layer):
            transaction.change_class(layer, class_with_doors(plain_class(layer), standing_in=found is not None))
        for inner in host.stack[1:]:  # what computed in place of a layer before another one was put around it
            if stands_in(inner):
                transaction.drop(inner.__dict__, STAND_IN)
                transaction.change_class(inner, class_with_doors(plain_class(inner)))

    def _swap(self, transaction: Transaction, host: Host, context: Context, *, enabled: bool) -> None:
        """Collect what is held where; of several values for one place, the last counts."""
        wanted = {(id(held), key): (held, key, value) for held, key, value in host.swaps(context, enabled=enabled)}
        for held, key, value in wanted.values():
            if held.get(key, _NOTHING) is not value:
                transaction.item(held, key, value)

    def _write_flags(self, transaction: Transaction, facts: Facts, hosts: Mapping[str, Host], names: Iterable[str]) -> None:
        """Collect `requires_grad` of these adapters' parameters."""
        for name in names:
            accepts = requires_grad(facts, name, self._options.grad_follows)
            for path in facts.adapters[name].modules:
                for held, key in hosts[path].places(name):
                    transaction.accept_gradients(held, key, accepts)

    def _write_roots(self, transaction: Transaction, facts: Facts) -> None:
        """Collect the fields of PEFT's objects above the layers."""
        active = facts.active[0] if len(facts.active) == 1 else list(facts.active)
        if self.model.__dict__.get(LOADED_FLAG, _NOTHING) not in (_NOTHING, bool(facts.adapters)):
            transaction.item(self.model.__dict__, LOADED_FLAG, bool(facts.adapters))
        for part in self._roots():
            if part.__dict__.get("active_adapter", _NOTHING) not in (_NOTHING, active):
                transaction.item(part.__dict__, "active_adapter", active)
            if part.__dict__.get("_adapters_disabled", _NOTHING) not in (_NOTHING, not facts.enabled):
                transaction.item(part.__dict__, "_adapters_disabled", not facts.enabled)

    # ------------------------------------------------------------------------------------------------------------------- checking

    def _findings(self) -> Iterator[Finding]:
        """Name every field that is not as the state says."""
        facts = self._facts
        here = dict(self.model.named_modules(remove_duplicate=False))
        for path, host in self._hosts.items():
            if isinstance(host, ApartHost):
                wanted = {
                    (id(held), key): (held, key, value) for held, key, value in host.swaps(facts.context_of(path), enabled=facts.enabled)
                }
                if any(held.get(key) != value for held, key, value in wanted.values()):
                    yield Finding(path, "modules in place", str(list(facts.active)), "others")
                yield from _other_fields(host, facts)
                continue
            if here.get(path) is not host.module:
                found = type(here[path]).__name__ if path in here else "nothing"
                yield Finding(path, "PEFT's layer here", "the same object", found, mendable=False)
                continue
            context = facts.context_of(path)
            if set(host.present) != set(context.present):
                yield Finding(path, "adapters with weights here", str(sorted(context.present)), str(list(host.present)), mendable=False)
                continue
            yield from _other_fields(host, facts)
            layer: Any = host.module
            if needs_stand_in(host, context, enabled=facts.enabled) is not stands_in(layer):
                yield Finding(path, "what computes here", "as the state says", type(layer).__name__)
            elif stands_in(layer) and (reason := why_not_reached(layer)):
                yield Finding(path, "what runs when the layer is called", "what computes in its place", reason, mendable=False)
            elif stands_in(layer) and own_forward(layer) and not _reaches(layer):
                yield Finding(path, "what runs when the layer is called", "what computes in its place", "PEFT's forward")
            elif stands_in(layer) and layer.__dict__[STAND_IN].is_stale(host):
                yield Finding(path, "the merged weight", "computed from the present tensors", "stale: one of them has changed since")
        for name, adapter in facts.adapters.items():
            want = requires_grad(facts, name, self._options.grad_follows)
            for path in adapter.modules:
                for parameter in self._hosts[path].parameters(name) if path in self._hosts and name in self._hosts[path].present else ():
                    if parameter.requires_grad is not want:
                        yield Finding(f"{path} ({name})", "requires_grad", str(want), str(parameter.requires_grad))


_NOTHING: Any = object()
LOADED_FLAG = "_hf_peft_config_loaded"
"""Whether a transformers model says of itself that it carries adapters: its saving goes by it."""


def _charts_of(model: nn.Module) -> Charts:
    """The charts that the method of `model` runs by."""
    if mixture_of(model) is not None:
        return MIXTURE_CHARTS
    return ALONE_CHARTS if runs_alone(model) else PEFT_CHARTS


def _reaches(layer: nn.Module) -> bool:
    """Whether the forward that a layer itself holds is that of the class that it has now."""
    return getattr(layer.__dict__[own_forward(layer)], "__func__", None) is type(layer).forward


def _why_not_at_hand(host: Host) -> str:
    """Say why the values of a host cannot be computed with; empty when they can."""
    offloaded = any(parameter.is_meta for parameter in host.innermost().parameters())
    return "its weight is offloaded, and not at hand" if offloaded else ""


def _other_fields(host: Host, facts: Facts) -> Iterator[Finding]:
    """Name the fields of PEFT that are not as the state says."""
    for thing, name, value in host.fields(facts, facts.context_of(host.path)):
        said = getattr(thing, name)
        if said != value:
            yield Finding(host.path, f"the field {name}", repr(value), repr(said))


def _safe_objection(host: Host, shares: Shares) -> str:
    """What PEFT's own safe merge says of these adapters: the first that is broken, and in what."""
    try:
        merged_base(host, shares, safe=True)
    except ValueError as error:
        return str(error)
    return texts.NOT_FINITE


def _inject(config: Any, model: nn.Module, name: str) -> None:
    """Let PEFT inject an adapter into a model of one's own. That there are others already is known."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
        inject_adapter_in_model(config, model, name)


def _parts(hosts: Iterable[Host]) -> Iterator[nn.Module]:
    """PEFT's objects of these hosts that have doors."""
    for host in hosts:
        yield from host.parts
