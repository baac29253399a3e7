"""What an attached model computes: as PEFT where PEFT can, by naive formulas over PEFT's own values where it cannot."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import get_peft_model

from adapterstate import NotMergeableError, NotSummableError, attach

from .models import Net, X, attached, differences, look, lora, peft_model


def dense(model: Any, *active: tuple[str, float, str]) -> torch.Tensor:
    """The output from explicit dense weights: rows, copies and LoRA of `active`, with weights and policies."""
    inner = model.base_model.model

    def combined(original: torch.Tensor, found: list[tuple[torch.Tensor, float, str]]) -> torch.Tensor:
        result = original.clone()
        for value, weight, _ in found if found and found[0][2] == "sum" else found[-1:]:
            result += weight * (value.detach() - original)
        return result

    table = inner.emb.token_adapter.base_layer._parameters["weight"].detach().clone()
    layer = inner.emb.token_adapter
    for row in range(len(table)):
        found = [
            (layer.trainable_tokens_delta[name][list(layer.token_indices[name]).index(row)], weight, policy)
            for name, weight, policy in active
            if name in layer.trainable_tokens_delta and row in layer.token_indices[name]
        ]
        table[row] = combined(table[row], found)
    hidden = table[X]
    for linear in (inner.lin0, inner.lin1, inner.lin2):
        own = linear.base_layer._parameters
        weight = own["weight"].detach().clone()
        for name, share, _ in active:
            if name in linear.lora_A:
                weight += share * 2.0 * linear.lora_B[name].weight.detach() @ linear.lora_A[name].weight.detach()
        hidden = F.linear(hidden, weight, own["bias"])
    for wrapper in (inner.head1, inner.head2):
        values = {
            key: combined(
                original.detach(),
                [(dict(wrapper.modules_to_save[n].named_parameters())[key], w, p) for n, w, p in active if n in wrapper.modules_to_save],
            )
            for key, original in wrapper.original_module.named_parameters()
        }
        if len(values) == 2:
            hidden = F.linear(hidden, values["weight"], values["bias"])
        else:
            hidden = F.linear(torch.tanh(F.linear(hidden, values["0.weight"], values["0.bias"])), values["2.weight"], values["2.bias"])
    return hidden


def bases(model: Any) -> dict[str, torch.Tensor]:
    """The base's own values."""
    adapters = ("lora_", "modules_to_save.", "delta")
    return {k: p.detach().clone() for k, p in model.named_parameters() if not any(part in k for part in adapters)}


def unchanged(model: Any, before: dict[str, torch.Tensor]) -> bool:
    """Whether every base value is bit for bit as before."""
    return all(torch.equal(value, before[key]) for key, value in bases(model).items())


class Attention(torch.nn.Module):
    """Attention with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.attention(x, x, x, need_weights=False)[0]
        return found


ACTIVE = [(), ("e",), ("b",), ("d",), ("e", "d"), ("d", "b")]


@pytest.mark.parametrize("names", ACTIVE)
def test_as_peft_computes(names: tuple[str, ...]) -> None:
    """Every activation that PEFT can express gives PEFT's output bit for bit, computed by PEFT's own forward."""
    plain = peft_model("ebd")
    plain.base_model.set_adapter(list(names)) if names else plain.base_model.disable_adapter_layers()
    model, state = attached("ebd")
    state.set_adapter(names)
    assert torch.equal(model(X), plain(X))
    torch.testing.assert_close(model(X), dense(model, *((name, 1, "error") for name in names)))
    for module in model.modules():
        if hasattr(module, "_active_adapter"):
            assert "_adapterstate_stand_in" not in module.__dict__
            assert type(module).forward is type(module)._adapterstate_plain.forward


@pytest.mark.parametrize("policy", ["sum", "override"])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, -1.0]])
def test_what_peft_cannot_combine(policy: Any, weights: Any) -> None:
    """Copies and overlapping rows by a policy, with weights; merged in every subset and order; the base never written."""
    for names in itertools.permutations("ebc"):
        model, state = attached("ebc")
        before = bases(model)
        state.set_adapter(names, weights=weights, on_overlap=policy)
        exact = dense(model, *((name, weight, policy) for name, weight in zip(names, weights or [1, 1, 1], strict=True)))
        torch.testing.assert_close(model(X), exact)
        for merges in [(names[0],), (names[2], names[1]), names]:
            state.merge_adapter(list(merges))
            assert set(state.merged_adapters) == set(merges)
            torch.testing.assert_close(model(X), exact)
            assert unchanged(model, before)
            with model.disable_adapter():
                torch.manual_seed(0)
                assert torch.equal(model(X), Net()(X))
                assert set(state.merged_adapters) == set(merges)
            torch.testing.assert_close(model(X), exact)
            state.unmerge_adapter()
        assert state.check() == ()


def test_disjoint_rows_need_no_policy() -> None:
    """Two adapters that train different rows of one embedding are active together."""
    torch.manual_seed(0)
    model = get_peft_model(Net(), lora(trainable_token_indices={"emb": [1, 2]}), adapter_name="e").eval()
    model.add_adapter("b", lora(trainable_token_indices={"emb": [3]}))
    attach(model).set_adapter(["e", "b"])
    layer = model.base_model.model.emb.token_adapter
    with torch.no_grad():
        layer.trainable_tokens_delta["e"].fill_(1.0)
        layer.trainable_tokens_delta["b"].fill_(2.0)
    assert torch.equal(model.base_model.model.emb(torch.tensor([1, 3])), torch.tensor([[1.0] * 8, [2.0] * 8]))
    attach(model).detach()  # PEFT computes that itself
    assert torch.equal(model.base_model.model.emb(torch.tensor([1, 3])), torch.tensor([[1.0] * 8, [2.0] * 8]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_merging_is_exact(dtype: torch.dtype) -> None:
    """Two hundred merges, unmerges and switches leave every base tensor as it was; a full merge agrees with PEFT's."""
    torch.manual_seed(0)
    model = get_peft_model(Net().to(dtype), lora(), adapter_name="e").eval()
    model.add_adapter("b", lora())
    plain = copy.deepcopy(model)
    state = attach(model)
    before = bases(model)
    live = model(X)
    model.merge_adapter()
    plain.merge_adapter()
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.1, torch.float16: 0.02}[dtype]
    torch.testing.assert_close(model(X), plain(X), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(model(X), live, rtol=tolerance, atol=tolerance)
    for i in range(200):
        model.set_adapter("be"[i % 2]) if not state.merged_adapters else model.unmerge_adapter()
        model.merge_adapter()
        model.unmerge_adapter()
    assert unchanged(model, before)
    model.set_adapter("e")
    assert torch.equal(model(X), live)


def test_merging_activates_first() -> None:
    """Merging an inactive adapter activates it, as one event; the warnings are PEFT's."""
    model, state = attached("edb")
    model.merge_adapter(["d"])
    assert (state.active_adapters, state.merged_adapters) == (("e", "d"), ("d",))
    assert len(state.journal) == 1
    torch.testing.assert_close(model(X), dense(model, ("e", 1, "error"), ("d", 1, "error")))
    with pytest.warns(UserWarning, match="Already following adapters were merged d. You are now additionally merging e"):
        model.merge_adapter(["e"])
    with pytest.warns(UserWarning, match="All adapters are already merged, nothing to do"):
        model.merge_adapter(["e"])
    with pytest.warns(UserWarning, match="Adapter cannot be set when the model is merged. Unmerging the model first"):
        model.set_adapter("d")
    assert state.merged_adapters == ()
    with pytest.warns(UserWarning, match="Already unmerged. Nothing to do"):
        model.unmerge_adapter()


@pytest.mark.parametrize("names", [("d", "b"), ("b", "d")])
def test_merging_on_top_of_what_is_merged(names: tuple[str, str]) -> None:
    """Adapters of one layer that are merged one after the other compute what they did, and what is merged first is still in it."""
    model, state = attached("ebd")
    state.set_adapter(["d", "b"], weights=[0.5, 2.0])
    exact = dense(model, ("d", 0.5, "error"), ("b", 2.0, "error"))
    for count, name in enumerate(names, 1):
        state.merge_adapter(name)
        assert set(state.merged_adapters) == set(names[:count])
        torch.testing.assert_close(model(X), exact)
    assert state.check() == ()


def test_safe_merge_refuses_before_anything_changes() -> None:
    """A result that is not finite is refused with the layer's name."""
    model, state = attached("ed")
    with torch.no_grad():
        model.base_model.model.lin1.lora_B["e"].weight[0, 0] = float("inf")
    facts = state.facts
    for merge in (model.merge_adapter, model.base_model.model.lin0.merge, model.merge_and_unload):
        with pytest.raises(NotMergeableError, match=r"lin1.*not finite"):
            merge(safe_merge=True)
        assert state.facts is facts


def test_want_of_memory_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge that runs out of memory raises just that, and leaves everything as it was."""
    from adapterstate.peft import state as module

    def fail(*_: Any) -> None:
        raise MemoryError("injected")

    model, state = attached("ed")
    before = look(model, state)
    monkeypatch.setattr(module, "merged_base", fail)
    with pytest.raises(MemoryError, match="injected"):
        model.merge_adapter()
    assert differences(before, look(model, state)) == []


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_attention_is_computed_in_the_mode_of_its_model(weight: float) -> None:
    """LoRA on attention drops out in training mode as PEFT's does, and not in eval mode; a weight scales both of its parts."""
    torch.manual_seed(0)
    plain = get_peft_model(Attention(), lora(target_modules=["attention"]), adapter_name="e")
    model = copy.deepcopy(plain)
    attach(model).set_adapter("e", weights=[weight])
    layer = plain.base_model.model.attention
    for part in (layer, layer.base_layer.out_proj):
        part.scaling["e"] *= weight
    inputs, found = torch.randn(2, 3, 8), {}
    for mode in (True, False):
        for each in (plain, model):
            each.train(mode)
            torch.manual_seed(1)
            found[each] = each(inputs)
        torch.testing.assert_close(found[model], found[plain])
        torch.manual_seed(2)
        assert torch.equal(model(inputs), found[model]) is not mode


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_attention(dtype: torch.dtype) -> None:
    """Attention that was merged in eval mode computes what it did, in its own type, and drops out as soon as the model trains."""
    torch.manual_seed(0)
    model = get_peft_model(Attention().to(dtype), lora(target_modules=["attention"]), adapter_name="e").eval()
    state = attach(model)
    inputs = torch.randn(2, 3, 8, dtype=dtype)
    live = model(inputs)
    state.merge_adapter()
    assert model(inputs).dtype == dtype
    torch.testing.assert_close(model(inputs), live, rtol=0.02, atol=0.02)
    model.train()
    assert not torch.equal(model(inputs), model(inputs))
    model.eval()
    assert torch.equal(model(inputs), model(inputs))


def test_a_merge_is_rounded_once() -> None:
    """In half precision, what two adapters add is summed in float32 and rounded to the base's type at the end."""
    torch.manual_seed(0)
    model = get_peft_model(Net().bfloat16(), lora(), adapter_name="e")
    state = attach(model)
    model.add_adapter("b", lora())
    state.set_adapter(["e", "b"])
    lin = model.base_model.model.lin0
    exact = lin.base_layer.weight.float() + sum(2.0 * lin.lora_B[name].weight @ lin.lora_A[name].weight for name in "eb")
    state.merge_adapter()
    assert torch.equal(lin.weight, exact.bfloat16())


def test_merged_values_in_inference_mode() -> None:
    """A merge inside `torch.inference_mode()` gives a model that trains outside of it."""
    model, state = attached("ed")
    with torch.inference_mode():
        model.base_model.set_adapter(["e", "d"])
        state.merge_adapter("d")
    model(X).sum().backward()
    assert model.base_model.model.lin0.lora_B["e"].weight.grad is not None


def test_gradients_reach_every_combined_copy() -> None:
    """Copies and rows that a policy combines all train; the base gets no gradient."""
    model, state = attached("ebc")
    state.set_adapter(["e", "b", "c"], weights=[1.0, 0.5, 2.0], on_overlap="sum")
    model(X).pow(2).sum().backward()
    missing = [key for key, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert missing == []
    assert all(p.grad is None for key, p in model.named_parameters() if "original_module" in key or "base_layer" in key)


def test_reads_answer_for_what_computes() -> None:
    """`.weight` of a layer or wrapper is what it computes with, combined or merged."""
    model, state = attached("eb")
    inner = model.base_model.model
    state.set_adapter(["e", "b"], on_overlap="sum")
    original, e, b = (inner.head1.original_module.weight, inner.head1.modules_to_save["e"].weight, inner.head1.modules_to_save["b"].weight)
    torch.testing.assert_close(inner.head1.weight, original + (e - original) + (b - original))
    assert inner.head1.in_features == 8
    state.merge_adapter()
    merged = inner.lin1.weight
    lin = inner.lin1
    exact = lin.base_layer.weight + sum(2.0 * lin.lora_B[n].weight @ lin.lora_A[n].weight for n in "eb")
    torch.testing.assert_close(merged, exact)
    state.unmerge_adapter()
    assert inner.lin1.weight is inner.lin1.base_layer.weight


def test_a_bias_is_read_with_what_is_merged() -> None:
    """`.bias` of a layer holds what an adapter with a bias of its own adds, while that is merged; `bias` of the base is untouched."""
    torch.manual_seed(0)
    model = get_peft_model(Net(), lora(lora_bias=True), adapter_name="e")
    state = attach(model)
    lin = model.base_model.model.lin0
    base = lin.base_layer.bias.detach().clone()
    state.merge_adapter()
    assert lin.lora_B["e"].bias.any()
    torch.testing.assert_close(lin.bias, base + 2.0 * lin.lora_B["e"].bias)
    state.unmerge_adapter()
    assert torch.equal(lin.bias, base)


def test_what_training_updates_is_not_summed() -> None:
    """Copies of a batch norm, whose running statistics training moves, may not be summed; one of them overrides the other."""
    torch.manual_seed(0)
    net = Net()
    net.head1 = torch.nn.BatchNorm1d(3)
    model = get_peft_model(net, lora(modules_to_save=["head1"]), adapter_name="e")
    state = attach(model)
    model.add_adapter("b", lora(modules_to_save=["head1"]))
    with pytest.raises(NotSummableError, match="head1"):
        state.set_adapter(["e", "b"], on_overlap="sum")
    assert state.active_adapters == ("e",)
    state.set_adapter(["e", "b"], on_overlap="override")
    assert state.active_adapters == ("e", "b")


@pytest.mark.parametrize("names", [None, ["b"], ["e", "d"]])
def test_merge_and_unload(names: Any) -> None:
    """A plain model with the dense values, each parameter the base's own; nothing of PEFT is left in it."""
    model, state = attached("ebd")
    kept = {id(p) for key, p in model.named_parameters() if "original_module" in key or "base_layer" in key}
    exact = dense(model, *((name, 1, "error") for name in names or ["e"]))
    plain = model.merge_and_unload(adapter_names=names)
    assert type(plain) is Net
    assert [type(m).__name__ for m in plain.modules()] == [type(m).__name__ for m in Net().modules()]
    torch.testing.assert_close(plain(X), exact)
    assert {id(p) for p in plain.parameters()} == kept
    assert state.adapters == ()
    assert not hasattr(plain, "peft_config")


def test_unload_is_exact() -> None:
    """The base model as it was, bit for bit, whatever was merged."""
    model, state = attached("ebc")
    state.set_adapter(["e", "b", "c"], on_overlap="sum")
    state.merge_adapter(["e", "c"])
    plain = model.unload()
    torch.manual_seed(0)
    base = Net()
    assert list(plain.state_dict()) == list(base.state_dict())
    assert all(torch.equal(value, base.state_dict()[key]) for key, value in plain.state_dict().items())
    again = get_peft_model(plain, lora(), adapter_name="e")
    assert attach(again).active_adapters == ("e",)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_a_copy_drives_itself(way: str) -> None:
    """A copy of an attached model computes the same, and its doors never move the original."""
    model, state = attached("ebc")
    state.set_adapter(["e", "b"], weights=[1.0, 0.5], on_overlap="sum")
    state.merge_adapter("b")
    expected = model(X)
    other = copy.deepcopy(model) if way == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert torch.equal(other(X), expected)
    with pytest.warns(UserWarning, match="Unmerging the model first"):
        other.set_adapter("c")
    assert state.active_adapters == ("e", "b")
    assert torch.equal(model(X), expected)
    mine = attach(other)
    assert mine.active_adapters == ("c",)
    assert mine.check() == ()
    torch.testing.assert_close(other(X), dense(other, ("c", 1, "error")))
    alone = copy.deepcopy(model.base_model.model.lin0)
    alone.set_adapter(["e"])
    assert state.active_adapters == ("e", "b")


def test_moving_the_model() -> None:
    """`.to()` takes stand-ins along."""
    model, state = attached("ebc")
    state.set_adapter(["e", "b", "c"], weights=[1.0, 0.5, 2.0], on_overlap="sum")
    state.merge_adapter(["b"])
    exact = dense(model, ("e", 1.0, "sum"), ("b", 0.5, "sum"), ("c", 2.0, "sum"))
    model.double()
    assert model(X).dtype == torch.float64
    torch.testing.assert_close(model(X).float(), exact)
    state.merge_adapter()
    model.float()
    torch.testing.assert_close(model(X), exact)
    with model.disable_adapter():
        model.double()
        torch.manual_seed(0)
        assert torch.equal(model(X), Net().double()(X))
    torch.testing.assert_close(model(X).float(), exact)


def test_a_merge_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was tried on a copy, to see whether PEFT can merge, is what is kept; also while adapters are disabled."""
    from adapterstate.peft import stand_ins, state

    model, driver = attached("ed")
    live, merged_base = model(X), stand_ins.merged_base
    asked: list[str] = []

    def counted(host: Any, *args: Any) -> Any:
        asked.append(host.path)
        return merged_base(host, *args)

    for module in (stand_ins, state):
        monkeypatch.setattr(module, "merged_base", counted)
    driver.merge_adapter()
    assert sorted(asked) == ["base_model.model.lin0", "base_model.model.lin1"]
    torch.testing.assert_close(model(X), live)
    asked.clear()
    with model.disable_adapter():
        assert not torch.allclose(model(X), live)
    torch.testing.assert_close(model(X), live)
    assert asked == []


def test_a_copy_may_be_attached_with_other_options() -> None:
    """The flags of a copy follow the options that it is attached with."""
    model, _ = attached("ed")
    state = attach(copy.deepcopy(model), grad_follows="trainability")
    assert state.check() == ()
    assert all(p.requires_grad for n, p in state.model.named_parameters() if ".d." in n)
