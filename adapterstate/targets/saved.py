"""Where `modules_to_save` puts whole copies.

A target is expanded to the modules below it that hold parameters or buffers. What is tied inside one target stays tied inside its copy;
ties that reach beyond it are kept only with `ensure_weight_tying`, at every end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from adapterstate.modules.copies import ModulesToSave
from adapterstate.modules.method import Placement, Site
from adapterstate.targets.findings import Problems
from adapterstate.targets.matching import ends_with
from adapterstate.targets.tree import Tree, below, tensors_of

if TYPE_CHECKING:
    from adapterstate.config import LoraConfig

Owners = dict[tuple[int, int | None], tuple[nn.Module, str]]
"""Identity of a base tensor, and of the target inside which it counts (None: the whole model) -> where its one copy is."""


def saved_targets(config: LoraConfig, tree: Tree) -> tuple[nn.Module, ...]:
    """Return the modules that `modules_to_save` means, without those that are below another one of them."""
    names = config.modules_to_save
    if not names:
        return ()
    meant = [m for m, paths in tree.paths.items() if any(ends_with(path, name) for path in paths for name in names)]
    inner = {module for target in meant for module in below(target) if module is not target}
    return tuple(target for target in meant if target not in inner)


def place_saved(config: LoraConfig, tree: Tree, targets: tuple[nn.Module, ...]) -> Placement:
    """Place copies on the modules below `targets` that hold something, and, if ties are to be kept, on the other ends of ties."""
    problems = _problems(config, tree, targets)
    owners: Owners = {}
    sites: dict[nn.Module, Site] = {}
    for target in targets:
        for module in below(target):
            if module not in sites and tensors_of(module):
                sites[module] = _copied(tree, module, target, config.ensure_weight_tying, owners)
    ends = _other_ends(tree, owners, set(sites)) if config.ensure_weight_tying else ()
    return Placement((*sites.values(), *ends), problems.texts())


def _problems(config: LoraConfig, tree: Tree, targets: tuple[nn.Module, ...]) -> Problems:
    problems = Problems()
    everywhere = [path for paths in tree.paths.values() for path in paths]
    for name in config.modules_to_save or ():
        if not any(ends_with(path, name) for path in everywhere):
            problems.say("", f"modules_to_save: {name!r} matches no module")
    for target in targets:
        if not any(tensors_of(module) for module in below(target)):
            problems.say(tree.path(target), "modules_to_save: there are no parameters or buffers here or below, so nothing to save")
    return problems


def _copied(tree: Tree, module: nn.Module, target: nn.Module, everywhere: bool, owners: Owners) -> Site:
    """Make the site of one module, which copies what no other module of the same copy holds already, and refers to the rest."""
    own: list[str] = []
    shares: dict[str, tuple[nn.Module, str]] = {}
    held = tensors_of(module)
    for name, tensor in held.items():
        key = _key(tensor, target, everywhere)
        if key in owners:
            shares[name] = owners[key]
        else:
            owners[key] = (module, name)
            own.append(name)
    return Site(tree.path(module), module, ModulesToSave(tuple(own), tuple(held)), shares)


def _key(tensor: torch.Tensor, target: nn.Module, everywhere: bool) -> tuple[int, int | None]:
    # only parameters are tied across a model; two buffers that are one tensor are, as far as anyone can say, an accident
    return id(tensor), None if everywhere and isinstance(tensor, nn.Parameter) else id(target)


def _other_ends(tree: Tree, owners: Owners, copied: set[nn.Module]) -> tuple[Site, ...]:
    """Make sites for the modules outside the targets that hold a copied parameter too: the copy takes its place there."""
    shares: dict[nn.Module, dict[str, tuple[nn.Module, str]]] = {}
    for (tensor, _), owner in owners.items():
        for end in tree.ends.get(tensor, ()):
            if end.module not in copied:
                shares.setdefault(end.module, {})[end.name] = owner
    return tuple(Site(tree.path(module), module, ModulesToSave((), tuple(names)), names) for module, names in shares.items())
