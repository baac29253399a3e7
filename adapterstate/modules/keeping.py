"""Whether configs and methods of users' own keep to their protocols: asked when they answer, before anything is written.

A few tests of types for each slot, and none that looks at the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from adapterstate.errors import ProtocolError, type_of
from adapterstate.modules.method import AdapterConfig, Method, Placement, Site, is_auxiliary, is_tuner


def problems_of(config: AdapterConfig) -> tuple[str, ...]:
    """Return what a config says is wrong with its values.

    Raises:
        ProtocolError: it is no tuple of texts.
    """
    found: Any = config.problems()
    if not isinstance(found, tuple | list) or not all(isinstance(text, str) for text in found):
        raise ProtocolError(f"{type(config).__name__}.problems()", f"it returned {found!r}; a tuple of texts is expected, empty for none")
    return tuple(found)


def placement_of(config: AdapterConfig, model: nn.Module) -> Placement:
    """Return where a config places an adapter.

    Raises:
        ProtocolError: it is no placement, or a field of it holds something else than it should.
    """
    found: Any = config.place(model)
    where = f"{type(config).__name__}.place()"
    if not isinstance(found, Placement):
        raise ProtocolError(where, f"it returned {_shown(found)}; a Placement is expected")
    if not isinstance(found.sites, tuple | list):
        raise ProtocolError(where, f"its sites are {_shown(found.sites)}; a tuple of Site is expected")
    for name in ("target_problems", "uncalled"):
        if not isinstance(getattr(found, name), Mapping):
            raise ProtocolError(where, f"its {name} is {_shown(getattr(found, name))}; a dict of paths and texts is expected")
    if not isinstance(found.warnings, tuple | list):
        raise ProtocolError(where, f"its warnings are {_shown(found.warnings)}; a tuple of texts is expected")
    return found


def refuse_strange_site(config: AdapterConfig, site: Any, paths: Mapping[int, str]) -> None:
    """Refuse a site whose module is not among `paths`, or whose method is none.

    Raises:
        ProtocolError: for each of these.
    """
    where = f"{type(config).__name__}.place()"
    if not isinstance(site, Site):
        raise ProtocolError(where, f"one of its sites is {_shown(site)}; a Site is expected")
    if id(site.module) not in paths:
        raise ProtocolError(
            where, f"its site {site.path!r} is for {_shown(site.module)} that is not in the model; a module of it is expected"
        )
    method: Any = site.method
    if not is_tuner(method) and not is_auxiliary(method):
        raise ProtocolError(where, f"its site {site.path!r} has {_shown(method)} as method; a Tuner or an Auxiliary is expected")
    if not isinstance(method.kind, str) or not method.kind:
        raise ProtocolError(asked(method, "kind", site.path), f"it is {method.kind!r}; a non-empty text is expected")


def refuse_strange_tensors(site: Site, made: Any) -> None:
    """Refuse tensors that cannot stand in a slot.

    Raises:
        ProtocolError: they are no mapping of names without a dot to tensors.
    """
    if not isinstance(made, Mapping):
        raise ProtocolError(
            asked(site.method, "tensors()", site.path), f"it returned {_shown(made)}; a dict of names and tensors is expected"
        )
    for name, tensor in made.items():
        if not isinstance(tensor, torch.Tensor):
            raise ProtocolError(asked(site.method, "tensors()", site.path), f"its {name!r} is {_shown(tensor)}; a tensor is expected")
        if not isinstance(name, str) or not name or "." in name:
            reason = f"it names a tensor {name!r}; a non-empty name without a dot is expected"
            raise ProtocolError(asked(site.method, "tensors()", site.path), reason)


def refuse_strange_live(method: Method, live: Any, path: str) -> None:
    """Refuse what cannot run in forward.

    Raises:
        ProtocolError: it cannot be called, or not be refreshed.
    """
    if not callable(live) or not hasattr(type(live), "refresh"):
        reason = f"it returned {_shown(live)}; what can be called, and has refresh() and weighted(), is expected"
        raise ProtocolError(asked(method, "live()", path), reason)


def refuse_strange_deltas(method: Method, deltas: Any, module: nn.Module, path: str) -> None:
    """Refuse deltas that cannot be added to what the module holds.

    Raises:
        ProtocolError: they are no mapping of names of its parameters to tensors of the same shapes.
    """
    where = asked(method, "delta()", path)
    if not isinstance(deltas, Mapping):
        raise ProtocolError(where, f"it returned {_shown(deltas)}; a dict of names of parameters and tensors is expected")
    for name, delta in deltas.items():
        base = module._parameters.get(name)
        if base is None:
            known = [key for key, parameter in module._parameters.items() if parameter is not None]
            raise ProtocolError(where, f"it names {name!r}, which the module has not; names out of {known} are expected")
        if not isinstance(delta, torch.Tensor) or delta.shape != base.shape:
            given = f"a tensor of shape {tuple(delta.shape)}" if isinstance(delta, torch.Tensor) else _shown(delta)
            raise ProtocolError(where, f"its {name!r} is {given}; a tensor of the base's shape {tuple(base.shape)} is expected")


def refuse_strange_names(method: Method, names: Any, holds: Iterable[str], path: str) -> None:
    """Refuse what an auxiliary says to replace, where the module does not hold it.

    Raises:
        ProtocolError: it is no mapping of names of the module's parameters and buffers.
    """
    where = asked(method, "replaces()", path)
    if not isinstance(names, Mapping):
        raise ProtocolError(where, f"it returned {_shown(names)}; a dict of names and rows is expected")
    known = list(holds)
    for name in names:
        if name not in known:
            raise ProtocolError(where, f"it names {name!r}, which the module has not; names out of {known} are expected")


def asked(method: Method, what: str, path: str) -> str:
    """What was asked of a method, and about which module."""
    return f"{type(method).__name__}.{what} for {path or 'the model'}"


def _shown(given: object) -> str:
    """A value in a few words: modules and tensors by their types."""
    text = repr(given)
    return text if len(text) <= 40 and not isinstance(given, nn.Module | torch.Tensor) else type_of(given)
