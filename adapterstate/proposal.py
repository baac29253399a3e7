"""What an `add_adapter` would do, asked of the config and the modules before anything is made or written.

Whatever is wrong becomes a report under the name of the guard that refuses it, so that the guards stay free of torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs
from torch import nn

from adapterstate.machine.records import Footprint, Proposal, SlotFacts
from adapterstate.modules.keeping import placement_of, problems_of, refuse_strange_names, refuse_strange_site
from adapterstate.modules.method import AdapterConfig, Placement, Site, base_tensor, is_auxiliary, is_tuner
from adapterstate.modules.slots import first_paths
from adapterstate.modules.wrapping import is_wrapped, why_not_called, why_not_swappable

Reports = dict[str, dict[str, str]]


@attrs.frozen(eq=False)
class Prospect:
    """An adapter that might be added.

    Attributes:
        proposal: for the machine.
        reports: name of a guard -> path -> what is wrong there.
        sites: path of a module -> the adapter's sites on it. Modules whose tensors others share come first.
        warnings: texts to warn with once the adapter is there.
    """

    proposal: Proposal
    reports: Reports
    sites: Mapping[str, Sequence[Site]] = attrs.field(factory=dict)
    warnings: tuple[str, ...] = ()


def prospect(model: nn.Module, config: AdapterConfig, wrapped: Mapping[str, nn.Module], base_trainable: tuple[str, ...]) -> Prospect:
    """Ask `config` where it goes in `model`, and the modules there whether they agree. Writes nothing.

    Args:
        model: the whole model.
        config: where and what.
        wrapped: path -> module for those that hold an adapter already; a module keeps the path under which it was first wrapped.
        base_trainable: names of the base parameters that require grad.

    Raises:
        ProtocolError: the config, or a method that it places, does not keep to its protocol.
    """
    problems = problems_of(config)
    if problems:
        return Prospect(Proposal(config, {}, base_trainable), {"config_is_supported": {"": "; ".join(problems)}})
    placement = placement_of(config, model)
    sites = _by_path(model, config, placement, wrapped)
    reports: Reports = {
        "targets_match": dict(placement.target_problems),
        "forward_is_called": dict(placement.uncalled),
        "swappable": {},
        "no_self_overlap": {},
    }
    slots: dict[str, SlotFacts] = {}
    shared: dict[tuple[str, ...], SlotFacts] = {}
    for path, here in sites.items():
        slots[path] = _slot(path, here, reports["no_self_overlap"], shared)
        _question(path, here, wrapped, reports, tunes=slots[path].tunes)
    if not sites and not placement.target_problems and not placement.uncalled:
        reports["targets_match"][""] = "the config places the adapter nowhere"
    return Prospect(Proposal(config, slots, base_trainable), reports, sites, placement.warnings)


def _by_path(model: nn.Module, config: AdapterConfig, placement: Placement, wrapped: Mapping[str, nn.Module]) -> dict[str, list[Site]]:
    """The sites by the one path that names their module: the one it was wrapped under, else its first."""
    paths = {id(module): path for path, module in wrapped.items()}
    if any(id(getattr(site, "module", None)) not in paths for site in placement.sites):
        paths = {id(module): path for path, module in first_paths(model)} | paths
    sites: dict[str, list[Site]] = {}
    for site in placement.sites:
        refuse_strange_site(config, site, paths)
        sites.setdefault(paths[id(site.module)], []).append(site)
    return sites


def _slot(path: str, sites: Sequence[Site], overlaps: dict[str, str], shared: dict[tuple[str, ...], SlotFacts]) -> SlotFacts:
    """What the adapter would be at `path`. Modules that it only tunes share one record, so that they can share their context."""
    kinds = (sites[0].method.kind,) if len(sites) == 1 else tuple(dict.fromkeys([site.method.kind for site in sites]))
    replacing = [(site, site.method) for site in sites if is_auxiliary(site.method)]
    if not replacing and kinds in shared:
        return shared[kinds]
    replaces: dict[str, Footprint] = {}
    for site, method in replacing:
        found = method.replaces()
        refuse_strange_names(method, found, _held(site.module), site.path)
        for name, rows in found.items():
            shape = tuple(base_tensor(site.module, name).shape)
            footprint = Footprint(None if rows is None else frozenset(rows), shape, why_fixed(site.module, name))
            old = replaces.get(name)
            common = footprint.shared_rows(old) if old else ""
            if common:
                overlaps[path] = f"the adapter itself would replace {common} of {name} {footprint.shape} twice, as {' and '.join(kinds)}"
            replaces[name] = footprint if old is None else _union(old, footprint)
    tunes = any(is_tuner(site.method) for site in sites)
    slot = SlotFacts(kinds, tunes, replaces)
    return slot if replaces else shared.setdefault(kinds, slot)


def _held(module: nn.Module) -> Iterator[str]:
    """Names of the parameters and buffers that a module holds."""
    return (name for registry in (module._parameters, module._buffers) for name, tensor in registry.items() if tensor is not None)


def _union(one: Footprint, two: Footprint) -> Footprint:
    """The rows that either replaces."""
    return attrs.evolve(one, rows=None if one.rows is None or two.rows is None else one.rows | two.rows)


def why_fixed(module: nn.Module, name: str) -> str:
    """Say why copies of a base tensor can neither be summed nor weighted; empty when they can.

    What is in the ``state_dict`` and no parameter is taken for something that training updates, as running statistics are. A buffer that is
    not in there is a constant that the module makes itself.
    """
    tensor = base_tensor(module, name)
    if name in module._buffers:
        return "" if name in module._non_persistent_buffers_set else "a buffer, which training may update"
    return "" if tensor.is_floating_point() or tensor.is_complex() else f"stored as {tensor.dtype}, in which there are no differences"


def _question(path: str, sites: Sequence[Site], wrapped: Mapping[str, nn.Module], reports: Reports, *, tunes: bool) -> None:
    """Ask one module whether its class can be exchanged, and whether a tuner on it would run."""
    module = sites[0].module
    if path in wrapped and wrapped[path] is not module:
        reports["swappable"][path] = "another module stands at this path since it was wrapped; see check()"
    elif path not in wrapped:
        reason = "another state drives it" if is_wrapped(module) else why_not_swappable(module)
        if reason:
            reports["swappable"][path] = reason
    uncalled = why_not_called(module)
    if tunes and uncalled:
        reports["forward_is_called"][path] = uncalled
