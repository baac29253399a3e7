"""`check` finds whatever somebody else did to the modules, says where and what, and finds nothing on a model that was left alone."""

from __future__ import annotations

import types
from collections.abc import Callable

import pytest
import torch
from torch import nn

import adapterstate
from adapterstate import AdapterState, LoraConfig

WIRING, BINDINGS = "_adapterstate_wiring", "_adapterstate_bindings"


def build() -> tuple[nn.Sequential, AdapterState]:
    """Two layers with LoRA `a` and `b`, `a` with a copy of a third, rows of an embedding in `b`; both are active."""
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    state = adapterstate.attach(model)
    state.add_adapter("a", LoraConfig(r=2, target_modules=["1", "2"], modules_to_save=["3"], init_lora_weights=False))
    state.add_adapter("b", LoraConfig(r=2, target_modules=["1", "2"], trainable_token_indices={"0": [1, 2]}, init_lora_weights=False))
    state.set_adapter(["a", "b"])
    return model, state


def exchange(model: nn.Sequential, _: AdapterState) -> None:
    model[1] = nn.Linear(4, 4)


def take_out(model: nn.Sequential, _: AdapterState) -> None:
    del model[3]


def give_back_the_class(model: nn.Sequential, _: AdapterState) -> None:
    object.__setattr__(model[1], "__class__", nn.Linear)


def forget_a_binding(model: nn.Sequential, _: AdapterState) -> None:
    del model[1].__dict__[BINDINGS]["a"]


def reorder_the_bindings(model: nn.Sequential, _: AdapterState) -> None:
    bindings = model[1].__dict__[BINDINGS]
    bindings["a"] = bindings.pop("a")


def drop_a_slot(model: nn.Sequential, _: AdapterState) -> None:
    del model[1].adapters._modules["b"]


def lose_all_slots(model: nn.Sequential, _: AdapterState) -> None:
    del model[1]._modules["adapters"]


def swap_slots(model: nn.Sequential, _: AdapterState) -> None:
    slots = model[1].adapters._modules
    slots["a"], slots["b"] = slots["b"], slots["a"]


def switch_one_module_off(model: nn.Sequential, state: AdapterState) -> None:
    with state.disable_adapter():
        base = model[1].__dict__[WIRING]
    model[1].__dict__[WIRING] = base


def run_in_another_order(model: nn.Sequential, _: AdapterState) -> None:
    wiring = model[2].__dict__[WIRING]
    wiring.live = wiring.live[::-1]


def read_the_rows_of_nobody(model: nn.Sequential, state: AdapterState) -> None:
    replaced = model[0].__dict__[WIRING].reads
    state.set_adapter("a")
    model[0].__dict__[WIRING].reads = replaced


def wire_as_with_a_weight(model: nn.Sequential, state: AdapterState) -> None:
    state.set_adapter(["a", "b"], weights=[0.5, 1.0])
    weighted = model[2].__dict__[WIRING]
    state.set_adapter(["a", "b"])
    model[2].__dict__[WIRING] = weighted


def change_what_is_merged(model: nn.Sequential, state: AdapterState) -> None:
    state.merge_adapter()
    with torch.no_grad():
        model[1]._parameters["weight"].add_(1)  # type: ignore[union-attr]


def lose_the_merged_weight(model: nn.Sequential, state: AdapterState) -> None:
    state.merge_adapter()
    model[1].__dict__[WIRING].cache = None


def freeze_a_parameter(model: nn.Sequential, _: AdapterState) -> None:
    model[2].adapters.b.lora_A.requires_grad_(False)


def thaw_the_base(model: nn.Sequential, _: AdapterState) -> None:
    model[2]._parameters["weight"].requires_grad_(True)  # type: ignore[union-attr]


def thaw_a_tied_weight(model: nn.Sequential, _: AdapterState) -> None:
    model.append(nn.Linear(4, 4, bias=False))
    model[4].weight = model[2]._parameters["weight"].requires_grad_(True)  # type: ignore[union-attr]


def run_fewer_with_weights(model: nn.Sequential, state: AdapterState) -> None:
    state.set_adapter(["a", "b"], weights=[0.5, 0.5])
    wiring = model[2].__dict__[WIRING]
    wiring.live = wiring.live[:1]


def thaw_beside_the_adapters(model: nn.Sequential, _: AdapterState) -> None:
    model.append(nn.Linear(4, 4))


def register_an_adapters_parameter(model: nn.Sequential, _: AdapterState) -> None:
    model.append(nn.Linear(4, 4, bias=False))
    model[4].weight = model[1].adapters.a.lora_A


def bring_a_module_of_another(model: nn.Sequential, _: AdapterState) -> None:
    model.append(build()[0][1])
    model[4].requires_grad_(False)


def replace_a_forward(model: nn.Sequential, _: AdapterState) -> None:
    model[1].forward = types.MethodType(nn.Linear.forward, model[1])  # type: ignore[method-assign]


DAMAGES: dict[Callable[[nn.Sequential, AdapterState], None], list[tuple[str, str, bool]]] = {
    exchange: [
        ("1", "the module that was wrapped here", False),
        *[(f"1.{n}", "requires_grad of a base parameter", True) for n in ("weight", "bias")],
    ],
    take_out: [("3", "the module that was wrapped here", False)],
    give_back_the_class: [("1", "class of a wrapped module", False)],
    forget_a_binding: [("1", "adapters with weights here", False)],
    reorder_the_bindings: [("1", "adapters with weights here", True)],
    drop_a_slot: [("1", "registered slots", True)],
    lose_all_slots: [("1", "registered slots", True)],
    swap_slots: [("1", "registered slots", True)],
    switch_one_module_off: [("1", "tuners that run in forward", True), ("1", "how adapters take part", True)],
    run_in_another_order: [("2", "tuners that run in forward", True)],
    read_the_rows_of_nobody: [("0", "adapters whose rows are read", True)],
    wire_as_with_a_weight: [("2", "tuners that run in forward", True), ("2", "how adapters take part", True)],
    change_what_is_merged: [("1", "the merged weight", True)],
    lose_the_merged_weight: [("1", "adapters in the merged weight", True)],
    freeze_a_parameter: [("2.adapters.b.lora_A", "requires_grad", True)],
    thaw_the_base: [("2.weight", "requires_grad of a base parameter", True)],
    thaw_a_tied_weight: [("2.weight", "requires_grad of a base parameter", True)],
    run_fewer_with_weights: [("2", "tuners that run in forward", True)],
    thaw_beside_the_adapters: [(f"4.{name}", "requires_grad of a base parameter", True) for name in ("weight", "bias")],
    register_an_adapters_parameter: [("4.weight", "a base parameter", False)],
    replace_a_forward: [("1", "what runs when the module is called", False)],
    bring_a_module_of_another: [("4", "a module with adapters that the state does not know", False)],
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_is_wrong_is_named(damage: Callable[[nn.Sequential, AdapterState], None]) -> None:
    """Each damage is found where it was done, and said to be mendable when `repair` can mend it: then it does."""
    model, state = build()
    assert state.check() == ()
    damage(model, state)
    found = [(finding.where, finding.what, finding.mendable) for finding in state.check()]
    assert sorted(found) == sorted(DAMAGES[damage])
    if all(mendable for _, _, mendable in found):
        assert state.repair() != ()
        assert state.check() == ()
    else:
        with pytest.raises(adapterstate.AttachError, match="repair cannot mend"):
            state.repair()
        assert sorted((finding.where, finding.what, finding.mendable) for finding in state.check()) == sorted(found)


def test_a_forward_that_hides_nothing_is_healthy() -> None:
    """A forward may be replaced where only copies are read, and by a hook that calls the one that it has replaced."""
    model, state = build()
    plain = model(torch.tensor([0, 1]))
    model[3].forward = types.MethodType(nn.Linear.forward, model[3])  # type: ignore[method-assign]
    model[1]._old_forward = model[1].forward
    model[1].forward = lambda *args: model[1]._old_forward(*args)  # type: ignore[method-assign,operator]
    assert torch.equal(model(torch.tensor([0, 1])), plain)
    assert state.check() == ()


def test_a_model_left_alone_is_healthy() -> None:
    """In whatever state it is, in training or not, with several paths to one module, nothing is found."""
    model, state = build()
    model.append(model[1])
    assert state.check() == ()
    for name, arguments in (
        ("set_adapter", (["b", "a"], [2.0, 0.5])),
        ("merge_adapter", (["a"],)),
        ("disable_adapters", ()),
        ("set_requires_grad", ("a", False)),
        ("unmerge_adapter", ()),
        ("enable_adapters", ()),
        ("delete_adapter", ("a",)),
        ("set_adapter", ([],)),
        ("unload", ()),
    ):
        getattr(state, name)(*arguments)
        assert state.check() == (), name
    model.requires_grad_(True)
    assert state.check() == ()
