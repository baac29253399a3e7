"""Where `trainable_token_indices` puts rows: on an embedding, and on every other module that shares its weight."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs
import torch
from torch import nn

from adapterstate.modules.method import Placement, Site
from adapterstate.modules.tokens import NAME, TrainableTokens
from adapterstate.targets.findings import Problems
from adapterstate.targets.matching import ends_with
from adapterstate.targets.tree import Tree, class_name

if TYPE_CHECKING:
    from adapterstate.config import LoraConfig


@attrs.frozen(eq=False)
class Target:
    """A module of which rows are to be trained."""

    module: nn.Module
    rows: tuple[int, ...]


def place_tokens(config: LoraConfig, tree: Tree) -> Placement:
    """Place the rows. One weight gets them once, at the first embedding that was named; its other ends refer to that one."""
    problems = Problems()
    by_weight: dict[int, list[Target]] = {}
    for target in _targets(config, tree, problems):
        weight = target.module._parameters.get("weight")
        if weight is None:
            problems.say(tree.path(target.module), f"{_cannot(target.module)}, and this one has no weight of its own")
        else:
            by_weight.setdefault(id(weight), []).append(target)
    sites = [site for targets in by_weight.values() for site in _rows_of_one_weight(tree, targets, problems)]
    return Placement(tuple(sites), problems.texts())


def _targets(config: LoraConfig, tree: Tree, problems: Problems) -> Iterator[Target]:
    """Yield what the field means, in the order of the model; names that mean nothing become problems."""
    wanted = config.trainable_token_indices
    if isinstance(wanted, tuple):
        module = _input_embedding(tree, problems)
        if module is not None:
            yield Target(module, wanted)
    elif wanted is not None:
        everywhere = [path for paths in tree.paths.values() for path in paths]
        for name in wanted:
            if not any(ends_with(path, name) for path in everywhere):
                problems.say("", f"trainable_token_indices: {name!r} matches no module")
        for module, paths in tree.paths.items():
            for name, rows in wanted.items():
                if any(ends_with(path, name) for path in paths):
                    yield Target(module, rows)


def _input_embedding(tree: Tree, problems: Problems) -> nn.Module | None:
    """Return the model's input embedding, as the model says, or the only embedding that there is."""
    ask = getattr(tree.root, "get_input_embeddings", None)
    try:
        said = ask() if callable(ask) else None
    except NotImplementedError:  # transformers' way of saying that there is none
        said = None
    if said is not None:
        if isinstance(said, nn.Module) and said in tree.paths:
            return said
        problems.say("", "trainable_token_indices: get_input_embeddings() returns something that is not a module of the model")
        return None
    found = [module for module in tree.paths if isinstance(module, nn.Embedding)]
    if len(found) == 1:
        return found[0]
    names = f": {', '.join(tree.path(module) for module in found)}" if found else ""
    problems.say("", f"trainable_token_indices is a list, and the model has {len(found)} embeddings{names}; name one in a dict")
    return None


def _rows_of_one_weight(tree: Tree, targets: list[Target], problems: Problems) -> Iterator[Site]:
    """Yield the sites of targets that share one weight, unless something is wrong with them."""
    owner = next((target for target in targets if isinstance(target.module, nn.Embedding)), None)
    if owner is None:
        for target in targets:
            problems.say(tree.path(target.module), _cannot(target.module))
        return
    path, weight = tree.path(owner.module), owner.module._parameters["weight"]
    assert weight is not None  # place_tokens has looked
    different = [target for target in targets if target.rows != owner.rows]
    outside = [row for row in owner.rows if row >= weight.shape[0]]
    for target in different:
        where = tree.path(target.module)
        problems.say(where, f"rows {list(target.rows)} here, but rows {list(owner.rows)} of the same weight at {path}; name the rows once")
    if outside:
        problems.say(path, f"token indices {outside} are out of range; num_embeddings is {weight.shape[0]}")
    if not different and not outside:
        yield Site(path, owner.module, TrainableTokens(owner.rows))
        yield from _other_ends(tree, owner, weight)


def _other_ends(tree: Tree, owner: Target, weight: torch.Tensor) -> Iterator[Site]:
    for end in tree.elsewhere(weight, owner.module):
        method = TrainableTokens(owner.rows, make=False, name=end.name)
        yield Site(tree.path(end.module), end.module, method, {NAME: (owner.module, NAME)})


def _cannot(module: nn.Module) -> str:
    return f"trainable_token_indices: this is {class_name(module)}; an Embedding, or what shares the weight of a named one, is expected"
