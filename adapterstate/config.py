"""`LoraConfig`: what an adapter is, with PEFT's names and defaults.

A config is a value: the lists and dicts it is given are copied, so that changing them afterwards changes nothing, and it can be pickled.
Making one with wrong values does not raise: `problems` lists all of them, and `add_adapter` refuses them together.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar

import attrs
from torch import nn

from adapterstate.config_checks import problems_of
from adapterstate.errors import ArgumentError
from adapterstate.modules.method import Placement
from adapterstate.targets import place

_C = TypeVar("_C")
_V = TypeVar("_V")

PEFT_ONLY = (
    "alora_invocation_tokens arrow_config auto_mapping base_model_name_or_path corda_config eva_config fan_in_fan_out kasa_config "
    "layer_replication loftq_config lora_bias lora_ga_config megatron_config megatron_core monteclora_config peft_type peft_version "
    "qalora_group_size revision runtime_config target_parameters task_type use_bdlora use_dora use_qalora velora_config"
)
"""Fields that PEFT's `LoraConfig` has and this one has not, separated by spaces."""


class FrozenMapping(Mapping[str, _V]):
    """A mapping that cannot be changed, and unlike `types.MappingProxyType` can be pickled and deep-copied."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, _V]) -> None:
        self._items = dict(items)

    def __getitem__(self, key: str) -> _V:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)


def _frozen(given: Any) -> Any:
    """Copy what can be changed later. Values of other types, wrong ones included, are left for `problems` to name."""
    if isinstance(given, Mapping):
        return FrozenMapping({key: _frozen(value) for key, value in given.items()})
    if isinstance(given, set | frozenset):
        # without an order of its own: one that is the same in every process
        return tuple(sorted(given, key=lambda item: (str(type(item)), item if isinstance(item, str | int) else str(item))))
    return tuple(given) if isinstance(given, list | tuple) else given


def _names(given: str | Collection[str] | None) -> str | tuple[str, ...] | None:
    frozen: str | tuple[str, ...] | None = _frozen(given)
    return frozen


def _list(given: Collection[str] | None) -> tuple[str, ...] | None:
    frozen: tuple[str, ...] | None = _frozen(given)
    return frozen


def _layers(given: int | Collection[int] | None) -> int | tuple[int, ...] | None:
    frozen: int | tuple[int, ...] | None = _frozen(given)
    return frozen


def _ranks(given: Mapping[str, int] | None) -> Mapping[str, int]:
    frozen: Mapping[str, int] = _frozen({} if given is None else given)
    return frozen


def _alphas(given: Mapping[str, float] | None) -> Mapping[str, float]:
    frozen: Mapping[str, float] = _frozen({} if given is None else given)
    return frozen


def _tokens(given: Collection[int] | Mapping[str, Collection[int]] | None) -> tuple[int, ...] | Mapping[str, tuple[int, ...]] | None:
    frozen: tuple[int, ...] | Mapping[str, tuple[int, ...]] | None = _frozen(given)
    return frozen


def _known_fields_only(cls: type[_C]) -> type[_C]:
    """Make the class say which fields it has when it is given one that it has not."""
    made = cls.__init__
    known = _field_names(cls)

    @functools.wraps(made)
    def __init__(self: _C, *args: Any, **given: Any) -> None:
        unknown = [name for name in given if name not in known]
        if unknown:
            raise ArgumentError(" ".join(_unknown_text(cls.__name__, name, known) for name in unknown) + f" Fields: {', '.join(known)}.")
        made(self, *args, **given)

    cls.__init__ = __init__  # type: ignore[assignment,method-assign]
    return cls


def _field_names(cls: type[Any]) -> tuple[str, ...]:
    """Return the names of the fields of an attrs class, in the order in which they are declared."""
    return tuple(field.name for field in attrs.fields(cls))


def _unknown_text(cls: str, name: str, known: tuple[str, ...]) -> str:
    """Say that there is no such field, and what may have been meant."""
    if name in PEFT_ONLY.split():
        return f"{cls} has no field {name!r}: PEFT has it, but it is not supported here; leave it out."
    close = difflib.get_close_matches(name, known, n=1)
    return f"{cls} has no field {name!r}" + (f"; did you mean {close[0]!r}?" if close else ".")


@_known_fields_only
@attrs.frozen(kw_only=True)
class LoraConfig:
    """Say what an adapter is: LoRA on some modules, whole copies of others, rows of embeddings, or any of these together.

    Names, meanings and defaults are those of PEFT's `LoraConfig`. Names are matched on whole parts of a module's path: ``"q_proj"`` is
    ``layers.0.q_proj`` and not ``layers.0.xq_proj``.

    Args:
        r: rank of the two matrices of LoRA.
        target_modules: where LoRA goes: names, a regular expression that matches a whole path, or ``"all-linear"`` for every linear layer
            but the output head. The head is what the model's ``get_output_embeddings()`` returns; without that method, or where it
            returns None, every linear layer is taken.
        exclude_modules: where it does not: names, or a regular expression.
        lora_alpha: what LoRA adds is scaled by ``lora_alpha / r``.
        lora_dropout: probability of dropping an input of LoRA while training, in ``[0, 1)``.
        bias: only ``"none"``.
        use_rslora: scale by ``lora_alpha / sqrt(r)``.
        modules_to_save: names of modules that the adapter replaces as a whole.
        init_lora_weights: True to start as the base model, ``"gaussian"`` likewise with a normal distribution, False to start elsewhere.
        layers_to_transform: indices of the layers that names in `target_modules` are limited to.
        layers_pattern: what the list of layers is called, as a regular expression or several; by default the first numbered part counts.
        rank_pattern: end of a path, as a regular expression -> the rank there. The first that matches counts.
        alpha_pattern: likewise for `lora_alpha`.
        trainable_token_indices: rows of the input embedding that are trained, or name of an embedding -> its rows.
        ensure_weight_tying: a copy in `modules_to_save` of a weight that other modules share takes its place in all of them.
        inference_mode: start frozen.

    Raises:
        ArgumentError: for a field that there is not.
    """

    r: int = 8
    target_modules: str | tuple[str, ...] | None = attrs.field(default=None, converter=_names)
    exclude_modules: str | tuple[str, ...] | None = attrs.field(default=None, converter=_names)
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    bias: str = "none"
    use_rslora: bool = False
    modules_to_save: tuple[str, ...] | None = attrs.field(default=None, converter=_list)
    init_lora_weights: bool | str = True
    layers_to_transform: int | tuple[int, ...] | None = attrs.field(default=None, converter=_layers)
    layers_pattern: str | tuple[str, ...] | None = attrs.field(default=None, converter=_names)
    rank_pattern: Mapping[str, int] = attrs.field(default=None, converter=_ranks)
    alpha_pattern: Mapping[str, float] = attrs.field(default=None, converter=_alphas)
    trainable_token_indices: tuple[int, ...] | Mapping[str, tuple[int, ...]] | None = attrs.field(default=None, converter=_tokens)
    ensure_weight_tying: bool = False
    inference_mode: bool = False

    def problems(self) -> tuple[str, ...]:
        """List what is wrong with the values, whatever the model: one sentence each, in the order of the fields."""
        return problems_of(attrs.asdict(self, recurse=False))

    def place(self, model: nn.Module) -> Placement:
        """Decide where the adapter goes in `model`. Nothing is written; what does not fit is listed in the result."""
        return place(self, model)
