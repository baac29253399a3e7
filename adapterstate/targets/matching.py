"""Which paths a config means. Strings only: no module is looked at in here.

Source: the rules are those of PEFT 0.21 (``target_modules``, ``exclude_modules``, ``layers_to_transform``, ``layers_pattern``,
``rank_pattern``), save that names in `modules_to_save` and `trainable_token_indices`, too, match whole parts of a path.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from adapterstate.config import LoraConfig

_V = TypeVar("_V")


def ends_with(path: str, name: str) -> bool:
    """Whether `name` is `path` or its last parts."""
    return path == name or path.endswith(f".{name}")


def patterns_of(targets: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the single patterns of a field, to name those that match nothing."""
    return (targets,) if isinstance(targets, str) else targets or ()


def meets(path: str, pattern: str, targets: str | tuple[str, ...] | None) -> bool:
    """Whether `path` is meant by `pattern`, which is a regular expression if the field holds one string, and else a name."""
    return re.fullmatch(pattern, path) is not None if isinstance(targets, str) else ends_with(path, pattern)


def targeted_by(config: LoraConfig) -> Callable[[str], tuple[str, ...]]:
    """Return what says which patterns of `target_modules` mean a path."""
    targets = config.target_modules
    if not isinstance(targets, str):
        return functools.partial(_named_by, config)
    matches, hit = re.compile(targets).fullmatch, (targets,)
    return lambda path: hit if matches(path) else ()


def _named_by(config: LoraConfig, path: str) -> tuple[str, ...]:
    """Return the names in `target_modules` that mean `path`. A whole path is meant in whatever layer it is, as in PEFT."""
    targets = config.target_modules
    found = tuple(pattern for pattern in targets or () if ends_with(path, pattern))
    if not found or in_layers(config, path):
        return found
    return tuple(pattern for pattern in found if pattern == path)


def excluded_by(config: LoraConfig, path: str) -> tuple[str, ...]:
    """Return the patterns of `exclude_modules` that mean `path`."""
    excluded = config.exclude_modules
    return tuple(pattern for pattern in patterns_of(excluded) if meets(path, pattern, excluded))


def wanted_layers(config: LoraConfig) -> tuple[int, ...]:
    """Return `layers_to_transform` as a tuple; empty if it limits nothing."""
    layers = config.layers_to_transform
    return (layers,) if isinstance(layers, int) else layers or ()


def in_layers(config: LoraConfig, path: str) -> bool:
    """Whether `path` is in a layer that `layers_to_transform` allows."""
    wanted = wanted_layers(config)
    return not wanted or layer_of(config, path) in wanted


def layer_of(config: LoraConfig, path: str) -> int | None:
    """Return the index of the layer that `path` is in: the first number that follows one of `layers_pattern`.

    Without patterns it is the first number below a named list that has something above it: ``model.layers.3.q_proj`` is in layer 3, and
    ``layers.3.q_proj`` in none, as in PEFT.
    """
    patterns = patterns_of(config.layers_pattern)
    expressions = [rf"(?:.*?\.)??(?:{pattern})\.(?P<layer_index>\d+)\." for pattern in patterns] or [r".*?\.[^.]*\.(?P<layer_index>\d+)\."]
    for expression in expressions:
        if found := re.match(expression, path):
            return int(found["layer_index"])
    return None


def value_at(patterns: Mapping[str, _V], paths: Iterable[str], default: _V) -> _V:
    """Return the value of the first pattern that matches the end of one of `paths`."""
    for pattern, value in patterns.items():
        if any(matches_end(path, pattern) for path in paths):
            return value
    return default


def matches_end(path: str, pattern: str) -> bool:
    """Whether the regular expression `pattern` matches `path` or its last parts."""
    return re.fullmatch(rf"(?:.*\.)?(?:{pattern})", path) is not None
