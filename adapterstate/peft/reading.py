"""Reading PEFT's flags: what state a model is in, and which rules its flags break. Changes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import attrs
from torch import nn

from adapterstate.errors import ArgumentError, AttachError
from adapterstate.machine.plan import state_of
from adapterstate.machine.records import AdapterFacts, Context, Facts, ModuleFacts, SlotFacts
from adapterstate.peft.hosts import Host
from adapterstate.peft.methods import kind_of, runs_alone
from adapterstate.peft.survey import hosts_of
from adapterstate.peft.tuners import carries_peft, configs_of, mixture_of, tuner_of
from adapterstate.records import Finding

LOADED = ", although it was loaded, or made, to be frozen"
"""End of a finding that what PEFT says of `is_trainable` and `inference_mode` decides: PEFT does not freeze all of it in every case."""


@attrs.frozen(eq=False)
class Reading:
    """What PEFT's flags say.

    Attributes:
        facts: the nearest legal state.
        findings: where the flags differ from it, each with the rule that they break.
        hosts: PEFT's layers and wrappers, by path.
    """

    facts: Facts
    findings: tuple[Finding, ...]
    hosts: Mapping[str, Host]

    @property
    def is_decided(self) -> bool:
        """Whether PEFT's own documentation says what every flag that differs has to be."""
        return all(finding.what.endswith(LOADED) for finding in self.findings)


def audit(model: nn.Module) -> tuple[Finding, ...]:
    """As `adapterstate.peft.audit`."""
    if not isinstance(model, nn.Module) or not carries_peft(model):
        raise ArgumentError(f"audit was given a {type(model).__name__}; a model with PEFT's layers is expected; nothing has changed")
    try:
        configs_of(model)
    except AttachError as error:
        raise ArgumentError(f"audit: {error}") from None
    return read(model).findings


def read(model: nn.Module) -> Reading:
    """Read the state that the flags of `model` come nearest to."""
    hosts, configs = hosts_of(model), configs_of(model)
    names = list(configs)
    slots = slots_of(hosts, configs)
    findings: list[Finding] = [*_leftovers(hosts, names)]
    active = _active(model, hosts, names, findings)
    active = _alone(model, active, findings)
    active = _without_overlaps(active, slots, findings)
    enabled = _enabled(hosts, findings)
    modules: dict[str, ModuleFacts] = {}
    for path, host in hosts.items():
        present = slots[path]
        here = tuple(name for name in active if name in present)
        if present:
            context = Context(present, here)
            modules[path] = ModuleFacts(state_of(context), context)
        findings += _same_everywhere(path, host, here)
        if host.merged():
            what = "merge_is_exact: merged by PEFT, in place; call unmerge_adapter() first"
            findings.append(Finding(path, what, "nothing merged", str(list(host.merged()))))
    adapters = {}
    for name in names:
        paths = tuple(path for path, here in slots.items() if name in here)
        trainability, asked = _trainability(name, configs[name], [hosts[path] for path in paths], name in active and enabled, findings)
        adapters[name] = AdapterFacts(trainability, paths, configs[name], asked)
    enablement = "enabled" if enabled else "disabled"
    facts = Facts(adapters, active, enablement=enablement, disabled_by_call=not enabled, modules=modules)
    return Reading(facts, tuple(findings), hosts)


def slots_of(hosts: Mapping[str, Host], configs: Mapping[str, object]) -> dict[str, dict[str, SlotFacts]]:
    """What every adapter is on every host, in the order of the configs."""
    shared: dict[tuple[str, str], SlotFacts] = {}
    found: dict[str, dict[str, SlotFacts]] = {}
    for path, host in hosts.items():
        here = set(host.present)
        found[path] = {}
        for name, config in configs.items():
            if name in here:
                slot = host.slot(name, kind_of(config))
                # modules on which adapters only tune share their records, so that they can share their context
                found[path][name] = slot if slot.replaces else shared.setdefault((name, slot.kinds[0]), slot)
    return found


def _leftovers(hosts: Mapping[str, Host], names: Sequence[str]) -> Iterator[Finding]:
    """Weights of adapters that the model does not know any more."""
    for path, host in hosts.items():
        for name in host.present:
            if name not in names:
                yield Finding(path, "leave_no_trace: weights of a deleted adapter", "none", repr(name), mendable=False)


def _active(model: nn.Module, hosts: Mapping[str, Host], names: Sequence[str], findings: list[Finding]) -> tuple[str, ...]:
    """The active adapters, as the model itself says."""
    if mixture_of(model) is not None:  # whose tuner names the LoRAs in it
        return tuple(names)
    tuner = tuner_of(model)
    says = getattr(tuner if tuner is not None else model, "active_adapters", None)
    if says is None or callable(says):  # layers without a PeftModel around them: injected ones, or those of a transformers model
        said = next((host.active() for host in hosts.values() if host.active()), ())
    else:
        said = tuple([says] if isinstance(says, str) else says or ())
    unknown = [name for name in said if name not in names]
    if unknown:
        findings.append(Finding("", "bad_input_is_an_error: names that no adapter has are active", str(list(names)), str(unknown)))
    return tuple(dict.fromkeys(name for name in said if name in names))


def _alone(model: nn.Module, active: tuple[str, ...], findings: list[Finding]) -> tuple[str, ...]:
    """The active adapters; the first of them where the method runs with one at a time."""
    if len(active) < 2 or not runs_alone(model):
        return active
    what = "single_active: this PEFT method runs with one adapter at a time, and raises or leaves out the others"
    findings.append(Finding("", what, "one of them", str(list(active))))
    return active[:1]


def _without_overlaps(active: tuple[str, ...], slots: Mapping[str, Mapping[str, SlotFacts]], findings: list[Finding]) -> tuple[str, ...]:
    """The active adapters without those that overlap with an earlier one."""
    gone: set[str] = set()
    for path, here in slots.items():
        for one, two in itertools.combinations([name for name in active if name in here], 2):
            shared = [rows for _, _, rows in here[one].overlaps(here[two])]
            if shared:
                gone.add(two)
                findings.append(
                    Finding(path, f"no_overlap: {one!r} and {two!r} replace the same {shared[0]}", "one of them", "both active")
                )
    return tuple(name for name in active if name not in gone)


def _enabled(hosts: Mapping[str, Host], findings: list[Finding]) -> bool:
    """Whether adapters are applied; said to be where layers disagree."""
    flags = [(path, flag) for path, host in hosts.items() for flag in host.said_disabled()]
    disabled = [path for path, flag in flags if flag]
    if disabled and len(disabled) < len(flags):
        findings += [
            Finding(path, "same_everywhere: adapters are disabled here, and enabled elsewhere", "enabled", "disabled")
            for path in dict.fromkeys(disabled)
        ]
        return True
    return not disabled


def _same_everywhere(path: str, host: Host, here: tuple[str, ...]) -> Iterator[Finding]:
    """Compare what is active on one host with the model's."""
    said = next((said for said in host.said_active() if said != here), here)
    if said != here:
        yield Finding(path, "same_everywhere: the active adapters", str(list(here)), str(list(said)))


def _trainability(name: str, config: object, hosts: Sequence[Host], in_force: bool, findings: list[Finding]) -> tuple[str, bool]:
    """Whether an adapter is trainable, and whether it accepts gradients although it is inactive."""
    flags = [(host.path, parameter.requires_grad) for host in hosts for parameter in host.parameters(name)]
    accepting = [flag for _, flag in flags]
    if any(accepting) and not all(accepting):
        frozen = getattr(config, "inference_mode", False)
        want = in_force and not frozen
        odd = next(path for path, flag in flags if flag is not want)
        what = f"same_everywhere: some of the parameters of {name!r} require grad, some do not"
        findings.append(Finding(odd, what + LOADED if frozen else what, str(want), f"{sum(accepting)} of {len(accepting)}"))
        return ("frozen" if frozen else "trainable"), False
    if in_force:
        return ("trainable" if not accepting or all(accepting) else "frozen"), False
    asked = bool(accepting) and all(accepting)
    return ("frozen" if getattr(config, "inference_mode", False) and not asked else "trainable"), asked
