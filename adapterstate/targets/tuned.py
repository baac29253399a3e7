"""Where `target_modules` puts LoRA."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

import attrs
from torch import nn

from adapterstate.config_checks import is_all_linear
from adapterstate.modules.lora import lora_for
from adapterstate.modules.method import Placement, Site
from adapterstate.targets.findings import Problems
from adapterstate.targets.matching import excluded_by, layer_of, matches_end, patterns_of, targeted_by, value_at, wanted_layers
from adapterstate.targets.tree import Tree, class_name

if TYPE_CHECKING:
    from adapterstate.config import LoraConfig

_T = TypeVar("_T")
SUPPORTED = "Linear, Embedding without max_norm, Conv1d to Conv3d and transformers' Conv1D, all with real and initialised weights"


@attrs.frozen(eq=False)
class Match:
    """What the patterns meant.

    Attributes:
        modules: the modules that get LoRA.
        unmatched: patterns of `target_modules` that meant no module at all.
        lost: whether a module was meant, and then excluded or replaced as a whole.
    """

    modules: tuple[nn.Module, ...]
    unmatched: tuple[str, ...]
    lost: bool


def place_tuner(config: LoraConfig, tree: Tree, covered: Collection[nn.Module]) -> Placement:
    """Place LoRA on what `target_modules` means; `covered` are the modules that `modules_to_save` replaces, which win."""
    if not config.target_modules:
        return Placement()
    match = _matched(config, tree, covered)
    if not match.modules:
        return Placement(target_problems={"": _nothing_text(config, match)})
    return _wrapped(config, tree, match.modules, covered, tuple(_warnings(config, tree, match)))


def uncalled_modules(tree: Tree) -> set[nn.Module]:
    """Return the modules whose `forward` is never called: their parent hands their weights to a function."""
    attention = (module for module in tree.paths if isinstance(module, nn.MultiheadAttention))
    return {child for module in attention if (child := module._modules.get("out_proj")) is not None}


def _matched(config: LoraConfig, tree: Tree, covered: Collection[nn.Module]) -> Match:
    meant = _all_linear(tree) if is_all_linear(config.target_modules) else _named(config, tree)
    kept = tuple(m for m in meant if m not in covered and not (config.exclude_modules and _is_excluded(config, tree, m)))
    hit = {pattern for patterns in meant.values() for pattern in patterns}
    unmatched = () if is_all_linear(config.target_modules) else tuple(p for p in patterns_of(config.target_modules) if p not in hit)
    return Match(kept, unmatched, lost=len(kept) < len(meant))


def _is_excluded(config: LoraConfig, tree: Tree, module: nn.Module) -> bool:
    """Whether `exclude_modules` means the module at any of its paths."""
    return any(excluded_by(config, path) for path in tree.paths[module])


def _named(config: LoraConfig, tree: Tree) -> dict[nn.Module, set[str]]:
    """Return the modules that the patterns mean at any of their paths, and which patterns that were. The model itself has no name."""
    found: dict[nn.Module, set[str]] = {}
    targeted = targeted_by(config)
    for module, paths in tree.paths.items():
        for path in paths:
            patterns = targeted(path) if path else ()
            if patterns:
                found.setdefault(module, set()).update(patterns)
    return found


def _all_linear(tree: Tree) -> dict[nn.Module, set[str]]:
    """Return every linear layer whose forward is called, without the output head."""
    head, left_out = output_head(tree.root), {tree.root, *uncalled_modules(tree)}
    return {m: set() for m in tree.paths if isinstance(m, _linear_classes()) and m is not head and m not in left_out}


def output_head(model: nn.Module) -> object:
    """Return what the model says is its output head, or None."""
    ask = getattr(model, "get_output_embeddings", None)
    try:
        return ask() if callable(ask) else None
    except NotImplementedError:
        return None


def _linear_classes() -> tuple[type[nn.Module], ...]:
    # where transformers has not been imported no module can be its Conv1D, and importing it takes seconds
    conv1d = getattr(sys.modules.get("transformers.pytorch_utils"), "Conv1D", None)
    return (nn.Linear,) if conv1d is None else (nn.Linear, conv1d)


def _nothing_text(config: LoraConfig, match: Match) -> str:
    given = f"target_modules={_shown(config.target_modules)}"
    if match.lost:
        return f"{given} matches only modules that exclude_modules or modules_to_save take away"
    if is_all_linear(config.target_modules):
        return f"{given} matches nothing: the model has no linear layer beside its output head"
    limits = {"layers_to_transform": config.layers_to_transform, "layers_pattern": config.layers_pattern}
    given += "".join(f" with {field}={_shown(value)}" for field, value in limits.items() if value is not None)
    expected = "a regular expression for a whole path" if isinstance(config.target_modules, str) else "the last parts of a module's path"
    return f"{given} matches no module; {expected} is expected"


def _shown(value: object) -> str:
    """Show a tuple as the list that the user wrote."""
    return repr(list(value) if isinstance(value, tuple) else value)


def _warnings(config: LoraConfig, tree: Tree, match: Match) -> Iterator[str]:
    """Say which parts of the config had no effect."""
    if match.unmatched:
        yield f"target_modules: {_shown(match.unmatched)} matches no module"
    everywhere = (path for paths in tree.paths.values() for path in paths if path)
    if unused := _unmet(patterns_of(config.exclude_modules), everywhere, lambda path: excluded_by(config, path)):
        yield f"exclude_modules: {_shown(unused)} matches no module"
    targeted = [path for module in match.modules for path in tree.paths[module]]
    if empty := _unmet(wanted_layers(config), targeted, lambda path: (layer_of(config, path),)):
        yield f"layers_to_transform: {_shown(empty)} holds no targeted module"
    for field, patterns in (("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern)):
        idle = tuple(pattern for pattern in patterns if not any(matches_end(path, pattern) for path in targeted))
        if idle:
            yield f"{field}: {_shown(idle)} matches no targeted module"


def _unmet(wanted: tuple[_T, ...], paths: Iterable[str], meets: Callable[[str], Iterable[_T | None]]) -> tuple[_T, ...]:
    """Return those of `wanted` that no path meets."""
    met = {one for path in paths for one in meets(path)} if wanted else set()
    return tuple(one for one in wanted if one not in met)


def _wrapped(
    config: LoraConfig, tree: Tree, modules: tuple[nn.Module, ...], covered: Collection[nn.Module], warnings: tuple[str, ...]
) -> Placement:
    sites: list[Site] = []
    problems, uncalled, silent = Problems(), Problems(), uncalled_modules(tree)
    for module in modules:
        paths = tree.paths[module]
        path = paths[0]
        method = lora_for(
            module,
            r=value_at(config.rank_pattern, paths, config.r),
            lora_alpha=value_at(config.alpha_pattern, paths, config.lora_alpha),
            lora_dropout=config.lora_dropout,
            use_rslora=config.use_rslora,
            init_lora_weights=config.init_lora_weights,
        )
        if method is None:
            problems.say(path, f"LoRA cannot wrap {class_name(module)}; supported are {SUPPORTED}")
        elif module in silent:
            uncalled.say(path, "MultiheadAttention never calls this module's forward, so LoRA here would never run")
        elif config.ensure_weight_tying and (tied := _tied_paths(tree, module, covered)):
            problems.say(path, f"its weight is shared with {tied}; ensure_weight_tying is supported for modules_to_save, not for LoRA")
        else:
            sites.append(Site(path, module, method))
    return Placement(tuple(sites), problems.texts(), uncalled.texts(), warnings)


def _tied_paths(tree: Tree, module: nn.Module, covered: Collection[nn.Module]) -> str:
    """Name the other modules that share a parameter with `module`; empty where a whole copy at one of them takes care of the tie."""
    others = {end.module for tensor in module._parameters.values() if tensor is not None for end in tree.elsewhere(tensor, module)}
    return "" if any(other in covered for other in others) else ", ".join(sorted(tree.path(other) for other in others))
