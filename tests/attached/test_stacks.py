"""Layers in layers: of two methods that PEFT mixes, the second wraps the layer of the first. Both are one wrapped module."""

from __future__ import annotations

import copy
import itertools
import warnings
from typing import Any

import peft
import pytest
import torch
from torch import nn

from adapterstate import AdapterState, AttachError, NotMergeableError, attach
from adapterstate.peft import audit

from .models import Net, X, differences, look, lora

OTHERS: dict[str, Any] = {
    "LOHA": lambda: peft.LoHaConfig(target_modules=["lin0", "lin2"], r=2, alpha=3, init_weights=False),
    "LOKR": lambda: peft.LoKrConfig(target_modules=["lin0", "lin2"], r=2, alpha=3, init_weights=False),
}


def mixed(other: str = "LOHA", *, late: bool = True) -> tuple[Any, AdapterState]:
    """LoRA on lin0 and lin1, and another method on lin0 and lin2; attached before the second is added, or after."""
    torch.manual_seed(0)
    model: Any = peft.get_peft_model(Net(), lora(), adapter_name="e", mixed=True).eval()
    state = attach(model) if late else None
    model.add_adapter("w", OTHERS[other]())
    return model.eval(), state or attach(model)


def dense(model: Any, **weights: float) -> torch.Tensor:
    """The output from explicit weights: the base's, plus PEFT's own delta of each adapter times its weight."""
    inner, hidden = model.base_model.model, model.base_model.model.emb(X)
    for name in ("lin0", "lin1", "lin2"):
        layer = getattr(inner, name)
        base = layer.get_base_layer()
        weight = base._parameters["weight"].detach().clone()
        while isinstance(layer, peft.tuners.tuners_utils.BaseTunerLayer):
            for adapter, share in weights.items():
                if any(adapter in getattr(layer, kept) for kept in layer.adapter_layer_names):
                    weight += share * layer.get_delta_weight(adapter).detach()
            layer = layer._modules["base_layer"]
        hidden = nn.functional.linear(hidden, weight, base._parameters["bias"])
    found: torch.Tensor = inner.head2(inner.head1(hidden))
    return found


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("other", OTHERS)
def test_every_subset_merges_as_it_computes(other: str, late: bool) -> None:
    """Of each activation, each part merged: the output is the normal form, `check` finds nothing, unmerging is bit for bit exact."""
    model, state = mixed(other, late=late)
    assert state.check() == ()
    for active in (("e",), ("w",), ("e", "w"), ("w", "e")):
        state.set_adapter(list(active))
        before, expected = model(X).detach(), dense(model, **dict.fromkeys(active, 1.0))
        torch.testing.assert_close(before, expected)
        for merged in (part for size in (1, 2) for part in itertools.combinations(active, size)):
            state.merge_adapter(list(merged))
            assert set(state.merged_adapters) == set(merged)
            torch.testing.assert_close(model(X), expected)
            assert state.check() == ()
            state.unmerge_adapter()
            assert torch.equal(model(X), before)


def test_a_layer_put_around_another_is_the_same_module() -> None:
    """A second method's adapter, added while the first one's is merged, changes nothing that is computed, and finds its base."""
    torch.manual_seed(0)
    model: Any = peft.get_peft_model(Net(), lora(), adapter_name="e", mixed=True).eval()
    state = attach(model)
    state.merge_adapter()
    before = model(X).detach()
    model.add_adapter("w", OTHERS["LOHA"]())
    model.eval()
    assert torch.equal(model(X), before)
    assert state.merged_adapters == ("e",)
    assert state.check() == ()
    state.set_adapter(["e", "w"], weights=[0.5, 2.0])
    torch.testing.assert_close(model(X), dense(model, e=0.5, w=2.0))
    state.merge_adapter(["w"])
    torch.testing.assert_close(model(X), dense(model, e=0.5, w=2.0))
    with model.disable_adapter():
        torch.testing.assert_close(model(X), dense(model))
    state.unmerge_adapter()
    state.delete_adapter("e")
    torch.testing.assert_close(model(X), dense(model, w=2.0))
    torch.testing.assert_close(copy.deepcopy(model)(X), dense(model, w=2.0))


def test_leaving_stacks() -> None:
    """merge_and_unload writes what was computed; unload gives back the base bit for bit."""
    model, state = mixed()
    state.set_adapter(["e", "w"])
    base, expected, again = dense(model), dense(model, e=1, w=1), copy.deepcopy(model)
    plain = model.merge_and_unload()
    assert [type(module) for module in plain.modules()] == [type(module) for module in Net().modules()]
    torch.testing.assert_close(plain(X), expected)
    assert torch.equal(attach(again).unload()(X), base)


def test_what_multiplies_is_merged_whole_only() -> None:
    """OFT around LoRA rotates what LoRA adds: merged together they give what they compute, apart they are refused."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = peft.get_peft_model(Net(), lora(), adapter_name="e", mixed=True).eval()
        state = attach(model)
        model.add_adapter("w", peft.OFTConfig(target_modules=["lin0"], oft_block_size=2, init_weights=False))
    model.eval()
    state.set_adapter(["e", "w"])
    expected = model(X).detach()
    before = look(model, state)
    for part in (["e"], ["w"]):
        with pytest.raises(NotMergeableError, match=r"lin0.*depends on the other adapters"):
            state.merge_adapter(part)
        assert differences(before, look(model, state)) == []
    state.merge_adapter()
    torch.testing.assert_close(model(X), expected)
    assert state.check() == ()
    torch.testing.assert_close(model.merge_and_unload()(X), expected)


def test_flags_inside_a_stack_are_read() -> None:
    """An inner layer that disagrees with the model is named, refused and repaired; what PEFT has merged in it is taken out."""
    for spoil, rule in (
        (lambda inner: setattr(inner, "_active_adapter", ["w"]), "same_everywhere"),
        (lambda inner: inner.enable_adapters(False), "same_everywhere"),
        (lambda inner: inner.merge(), "merge_is_exact"),
    ):
        model, state = mixed()
        state.detach()
        expected = model(X).detach()
        spoil(model.base_model.model.lin0.base_layer)
        found = audit(model)
        assert {finding.where for finding in found} == {"base_model.model.lin0"}
        assert found[0].what.startswith(rule)
        with pytest.raises(AttachError, match=rule):
            attach(model)
        with pytest.warns(UserWarning, match=rule):
            assert attach(model, repair=True).check() == ()
        torch.testing.assert_close(model(X), expected)
