"""What the values of a `LoraConfig` may be: a table of tests by field, and the rules between fields. Nothing here knows the model."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TypeGuard

Test = Callable[[object], bool]
ALL_LINEAR = "all-linear"


def is_all_linear(targets: object) -> bool:
    """Whether `targets` is the word for every linear layer, in any case, as in PEFT."""
    return isinstance(targets, str) and targets.lower() == ALL_LINEAR


def _is_int(value: object) -> TypeGuard[int]:
    # True is an int to Python, and would be a rank of 1
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return _is_int(value) and value > 0


def _is_index(value: object) -> bool:
    return _is_int(value) and value >= 0


def _is_positive(value: object) -> bool:
    return (_is_int(value) or isinstance(value, float)) and math.isfinite(value) and value > 0


def _is_probability(value: object) -> bool:
    return (_is_int(value) or isinstance(value, float)) and 0 <= value < 1


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value != ""


def _is_initialisation(value: object) -> bool:
    return isinstance(value, bool) or value == "gaussian"


_SCALARS: Mapping[str, tuple[Test, str]] = {
    "r": (_is_count, "a positive integer"),
    "lora_alpha": (_is_positive, "a finite positive number"),
    "lora_dropout": (_is_probability, "a number in [0, 1)"),
    "bias": (lambda value: value == "none", "'none', the only supported value,"),
    "use_rslora": (_is_bool, "True or False"),
    "init_lora_weights": (_is_initialisation, "True, False or 'gaussian'"),
    "ensure_weight_tying": (_is_bool, "True or False"),
    "inference_mode": (_is_bool, "True or False"),
}
"""Fields with one value: the test that it has to pass, and what is expected."""

_LISTS: Mapping[str, tuple[Test, str, bool, str]] = {
    "target_modules": (_is_name, "a non-empty string", True, "a list of names, a regular expression or 'all-linear'"),
    "exclude_modules": (_is_name, "a non-empty string", True, "a list of names or a regular expression"),
    "modules_to_save": (_is_name, "a non-empty string", False, "a list of names"),
    "layers_to_transform": (_is_index, "a non-negative integer", True, "a non-negative integer or a list of them"),
    "layers_pattern": (_is_name, "a non-empty string", True, "a string or a list of strings"),
}
"""Fields with a list or None: the test of an entry, what an entry has to be, whether one alone will do, and what the whole has to be."""

_MAPPINGS: Mapping[str, tuple[Test, str]] = {
    "rank_pattern": (_is_count, "a positive integer"),
    "alpha_pattern": (_is_positive, "a finite positive number"),
}
"""Fields that map regular expressions to values: the test of a value, and what is expected."""


def problems_of(fields: Mapping[str, object]) -> tuple[str, ...]:
    """List everything that is wrong with the values of a config, in the order of its fields; rules between fields come last."""
    found: list[str] = []
    for field, value in fields.items():
        if field in _SCALARS:
            found += _scalar(field, value)
        elif field in _LISTS:
            found += _list(field, value)
        elif field in _MAPPINGS:
            found += _mapping(field, value)
        else:
            found += _tokens(field, value)
    return (*found, *_between(fields))


def _text(label: str, value: object, expected: str) -> str:
    return f"{label} is {value!r}; {expected} is expected"


def _scalar(field: str, value: object) -> Iterator[str]:
    test, expected = _SCALARS[field]
    if not test(value):
        yield _text(field, value, expected)


def _list(field: str, value: object) -> Iterator[str]:
    test, entry, alone, whole = _LISTS[field]
    if isinstance(value, tuple):
        yield from (_text(f"{field}[{k}]", item, entry) for k, item in enumerate(value) if not test(item))
        if field == "layers_pattern":
            yield from (text for k, item in enumerate(value) for text in _part(f"{field}[{k}]", item))
    elif value is not None and not (alone and test(value)):
        yield _text(field, value, whole)
    elif not is_all_linear(value):
        yield from _part(field, value) if field == "layers_pattern" else _expression(field, value)


def _mapping(field: str, value: object) -> Iterator[str]:
    test, expected = _MAPPINGS[field]
    if not isinstance(value, Mapping):
        yield _text(field, value, "a dict of regular expressions")
        return
    for key, item in value.items():
        if not _is_name(key):
            yield _text(f"a key of {field}", key, "a non-empty string")
        yield from _part(f"a key of {field}", key)
        if not test(item):
            yield _text(f"{field}[{key!r}]", item, expected)


def _expression(label: str, value: object, around: str = "{}") -> Iterator[str]:
    """Say what is wrong with a regular expression; other types are somebody else's to name."""
    if isinstance(value, str):
        try:
            re.compile(value)
            re.compile(around.format(value))
        except re.error as error:
            yield f"{label} is {value!r}; a valid regular expression is expected ({error})"


def _part(label: str, value: object) -> Iterator[str]:
    """Likewise for one that is put into a larger one, which not all can be: flags such as ``(?i)`` have to come first."""
    return _expression(label, value, r"(?:.*\.)?(?:{})")


def _tokens(field: str, value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, indices in value.items():
            if not _is_name(name):
                yield _text(f"a key of {field}", name, "the name of an embedding")
            yield from _indices(f"{field}[{name!r}]", indices)
    elif value is not None:
        yield from _indices(field, value)


def _indices(label: str, value: object) -> Iterator[str]:
    if not isinstance(value, tuple) or not value:
        yield _text(label, value, "a non-empty list of token indices")
        return
    seen: set[object] = set()
    for k, index in enumerate(value):
        if not _is_index(index):
            yield _text(f"{label}[{k}]", index, "a non-negative integer")
        elif index in seen:
            yield f"{label}[{k}] is {index!r} again; each index is expected once"
        else:
            seen.add(index)


def _is_nothing(value: object) -> bool:
    return value is None or (isinstance(value, tuple | Mapping) and not value)


def _between(fields: Mapping[str, object]) -> Iterator[str]:
    if all(_is_nothing(fields[field]) for field in ("target_modules", "modules_to_save", "trainable_token_indices")):
        yield "there is no target; at least one of target_modules, modules_to_save and trainable_token_indices is expected"
    limits = [field for field in ("layers_to_transform", "layers_pattern") if fields[field] is not None]
    if isinstance(fields["target_modules"], str):
        yield from (f"{field} is given, but target_modules is a string; a list of names is expected with it" for field in limits)
    elif "layers_pattern" in limits and fields["layers_to_transform"] is None:
        yield "layers_pattern is given, but layers_to_transform is not; the indices of the layers are expected with it"
