"""Writing merged values into the base: what `merge_and_unload` leaves. The only place where base values change."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import nn

from adapterstate.commit import Transaction
from adapterstate.machine.records import Facts
from adapterstate.modules.slots import Slot
from adapterstate.modules.wiring import normal_form
from adapterstate.modules.wrapping import BINDINGS
from adapterstate.projection import shares_of

End = tuple[nn.Module, str]
Track = Callable[[Iterable[str]], Iterable[str]]


def merged_values(facts: Facts, modules: Mapping[str, nn.Module], track: Track) -> dict[str, dict[str, torch.Tensor]]:
    """Compute the normal form of every module that an active adapter touches: path -> name of a base tensor -> its new value.

    Args:
        facts: a state in which the adapters to be merged are active.
        modules: path -> wrapped module.
        track: passes on the paths, showing progress as it likes.
    """
    values = {}
    for path in track([path for path, record in facts.modules.items() if record.context.active]):
        module = modules[path]
        context = facts.modules[path].context
        values[path] = normal_form(module, module.__dict__[BINDINGS], shares_of(context, context.active), path)
    return values


def write_values(
    transaction: Transaction,
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    values: Mapping[str, Mapping[str, torch.Tensor]],
    base_trainable: Sequence[str],
) -> None:
    """Collect the writes that put `values` into the base.

    A parameter keeps its identity. Where the ends of a tie differ, the ends that keep the old value keep the `Parameter`, and the changed
    ones get a new one; where all ends change, those that agree with the first end keep it. A transformers model whose embeddings are not
    tied any more says so in its config, or it would be tied again when it is loaded.
    """
    new = {(id(modules[path]), name): value for path, named in values.items() for name, value in named.items()}
    trainable = {id(parameter) for name, parameter in model.named_parameters() if name in set(base_trainable)}
    embeddings, apart = _embeddings(model)
    for tensor, ends in _ends(model).values():
        found = [(end, new.get((id(end[0]), end[1]))) for end in ends]
        if any(value is not None for _, value in found):
            groups = _write_ends(transaction, tensor, found, accepts=id(tensor) in trainable)
            sides = {id(ends[0][0]) in embeddings for ends in groups}
            apart = apart or len(sides) > 1
    if apart and getattr(getattr(model, "config", None), "tie_word_embeddings", False):
        transaction.attribute(model.config, "tie_word_embeddings", False)
        warnings.warn(
            "Input and output embeddings differ after merging. Setting tie_word_embeddings=False in the model's config.", stacklevel=2
        )


def _ends(model: nn.Module) -> dict[int, tuple[torch.Tensor, list[End]]]:
    """Every base tensor with the places at which it is held."""
    ends: dict[int, tuple[torch.Tensor, list[End]]] = {}
    for module in model.modules():
        if isinstance(module, Slot):
            continue
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                ends.setdefault(id(tensor), (tensor, []))[1].append((module, name))
    return ends


def _embeddings(model: nn.Module) -> tuple[set[int], bool]:
    """The ids of the modules that embed the input of a transformers model, and whether the output's have another weight."""
    found: list[dict[int, nn.Parameter]] = []
    for kind in ("get_input_embeddings", "get_output_embeddings"):
        module = None
        with contextlib.suppress(AttributeError, NotImplementedError):
            module = getattr(model, kind)()
        held = module.modules() if isinstance(module, nn.Module) else ()
        found.append({id(part): part._parameters["weight"] for part in held if part._parameters.get("weight") is not None})  # type: ignore[misc]
    first, last = (next(iter(weights.values()), None) for weights in found)
    return set(found[0]), first is not None and last is not None and first is not last


def _write_ends(
    transaction: Transaction, tensor: torch.Tensor, found: Sequence[tuple[End, torch.Tensor | None]], *, accepts: bool
) -> list[list[End]]:
    """Collect the writes for one base tensor and its ends; return the ends that stay together."""
    groups: list[tuple[torch.Tensor | None, list[End]]] = []
    for end, value in found:
        for known, ends in groups:
            if (value is None and known is None) or (value is not None and known is not None and torch.equal(value, known)):
                ends.append(end)
                break
        else:
            groups.append((value, [end]))
    groups.sort(key=lambda group: group[0] is not None)  # the ends that keep the value keep the parameter; else the first end does
    if groups[0][0] is not None:
        transaction.value(tensor, groups[0][0])
    for value, ends in groups[1:]:
        assert value is not None
        fresh = nn.Parameter(value, requires_grad=accepts) if isinstance(tensor, nn.Parameter) else value
        for module, name in ends:
            transaction.item(module._parameters if isinstance(fresh, nn.Parameter) else module._buffers, name, fresh)
    return [ends for _, ends in groups]
