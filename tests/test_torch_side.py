"""What torch and its users do to a model with adapters, and what happens then."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

import adapterstate
from adapterstate import CHARTS, AdapterOverlapError, LoraConfig, Refusal, guard


def net() -> nn.Sequential:
    """Two layers, the same for every call."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))


def lora(*targets: str, **fields: Any) -> LoraConfig:
    """LoRA whose initial weights change the output."""
    return LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False, **fields)


@guard("only one adapter is active at a time", AdapterOverlapError)
def one_at_a_time(_: object, event: Any) -> list[Refusal]:
    """Methods such as prompt learning allow one active adapter."""
    return [Refusal("one_at_a_time", "", "one name is expected", event.adapters)] if len(event.adapters) > 1 else []


def test_a_model_with_charts_of_its_own() -> None:
    """A model attached with derived charts refuses what they refuse, and a table without a row refuses too."""
    model = net()
    charts = CHARTS.with_guard("set_adapter", one_at_a_time)
    charts = charts.with_chart(charts.activation.without("set_adapter", source="merged"))
    state = adapterstate.attach(model, charts=charts)
    for name in "ab":
        state.add_adapter(name, lora("0", "1"))
    state.set_adapter("b")
    with pytest.raises(AdapterOverlapError, match="one name is expected"):
        state.set_adapter(["a", "b"])
    state.merge_adapter()
    with pytest.raises(adapterstate.EventRefusedError, match="no row for set_adapter from 'merged'"):
        state.set_adapter("a")
    assert state.merged_adapters == ("b",)
    state.unmerge_adapter()
    state.set_adapter("a")
    assert state.active_adapters == ("a",)


def test_data_parallel_is_refused() -> None:
    """Replicas of DataParallel would compute with the first device's adapters, so making one is refused with the remedy."""
    model = net()
    adapterstate.attach(model).add_adapter("a", lora("0"))
    with pytest.raises(NotImplementedError, match="DistributedDataParallel"):
        model[0]._replicate_for_data_parallel()


def test_a_class_on_top_is_not_torn_out() -> None:
    """The last delete is refused while a parametrization sits on top of the generated class; other events are not."""
    model = net()
    state = adapterstate.attach(model)
    state.add_adapter("a", lora("0"))
    weight_norm(model[0])
    state.set_adapter([])
    for event in (lambda: state.delete_adapter("a"), state.unload):
        with pytest.raises(adapterstate.CoveredClassError, match="nothing has changed"):
            event()
    assert state.adapters == ("a",)


def test_script_modules_and_closed_modules_are_refused() -> None:
    """A module whose class or attributes cannot be changed is refused before anything is written."""

    class Closed(nn.Linear):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "adapters":
                raise AttributeError("closed")
            super().__setattr__(name, value)

    for module in (Closed(8, 8), torch.jit.ScriptModule()):
        model = nn.Sequential(nn.Linear(8, 8), module)
        state = adapterstate.attach(model)
        before = [type(m) for m in model.modules()]
        with pytest.raises(adapterstate.EventRefusedError, match="nothing has changed"):
            state.add_adapter("a", LoraConfig(modules_to_save=["1"], target_modules=["0"]))
        assert [type(m) for m in model.modules()] == before


def test_an_adapters_parameter_is_not_assigned_to_the_base() -> None:
    """Assigning what a read returned to the base name is refused, since it would be lost with the adapter."""
    model = net()
    state = adapterstate.attach(model)
    state.add_adapter("a", LoraConfig(modules_to_save=["0"]))
    base = model[0]._parameters["weight"]
    with pytest.raises(TypeError, match="disable_adapter"):
        model[0].weight = model[0].weight
    assert model[0]._parameters["weight"] is base
    with state.disable_adapter():
        model[0].weight = model[0].weight
    assert model[0]._parameters["weight"] is base
    assert state.check() == ()


def test_structural_calls_belong_inside_disable_adapter() -> None:
    """Tying weights while a copy is active ties to the adapter's copy; inside disable_adapter it ties to the base."""
    model = net()
    state = adapterstate.attach(model)
    state.add_adapter("a", LoraConfig(modules_to_save=["0"]))
    base = model[0]._parameters["weight"]
    model[1].weight = model[0].weight
    assert [finding.where for finding in state.check()] == ["1.weight"]
    with state.disable_adapter():
        model[1].weight = model[0].weight
    assert model[1].weight is base


def test_a_module_that_was_exchanged_is_named() -> None:
    """`check` names a module that is no longer at its path, and `repair` refuses to guess."""
    model = net()
    state = adapterstate.attach(model)
    state.add_adapter("a", lora("0"))
    model[0] = nn.Linear(8, 8)
    assert "0" in {finding.where for finding in state.check()}
    with pytest.raises(adapterstate.AttachError, match="nothing has changed"):
        state.repair()


def gradients_of_a(*, recomputed: bool, switched: bool) -> list[torch.Tensor]:
    """The gradients of adapter `a` after a forward with it, perhaps with a switch to `b` before the backward."""
    model = net()
    state = adapterstate.attach(model)
    for name in "ab":
        state.add_adapter(name, lora("0", "1"))
    x = torch.ones(3, 8)
    loss = (checkpoint(model, x, use_reentrant=False) if recomputed else model(x)).square().sum()
    if switched:
        state.set_adapter("b")
    loss.backward()
    assert all(p.grad is None for key, p in model.named_parameters() if ".adapters.b." in key)
    return [p.grad for key, p in model.named_parameters() if ".adapters.a." in key and p.grad is not None]


def test_a_switch_between_forward_and_backward() -> None:
    """Without recomputation a switch costs nothing; with it, backward recomputes with the wrong adapter and the gradients are wrong."""
    right = gradients_of_a(recomputed=False, switched=False)
    assert len(right) == 4
    for one, two in zip(gradients_of_a(recomputed=False, switched=True), right, strict=True):
        torch.testing.assert_close(one, two)
    for one, two in zip(gradients_of_a(recomputed=True, switched=False), right, strict=True):
        torch.testing.assert_close(one, two)
    wrong = gradients_of_a(recomputed=True, switched=True)
    assert not all(torch.allclose(one, two) for one, two in zip(wrong, right, strict=True))


def test_moving_a_merged_model() -> None:
    """The merged weight moves with its module and is not stale afterwards; unmerging is exact in the new dtype."""
    model = net()
    state = adapterstate.attach(model)
    state.add_adapter("a", lora("0", "1"))
    x = torch.randn(3, 8)
    unmerged = model(x)
    model.eval()
    state.merge_adapter()
    model.double()
    assert state.check() == ()
    torch.testing.assert_close(model(x.double()).float(), unmerged)
    state.unmerge_adapter()
    torch.testing.assert_close(model(x.double()).float(), unmerged)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_bases_get_float32_adapters(dtype: torch.dtype) -> None:
    """LoRA is kept in float32 beside a half-precision base unless told otherwise; the output has the base's dtype."""
    for autocast, expected in ((True, torch.float32), (False, dtype)):
        model = net().to(dtype)
        adapterstate.attach(model, autocast_adapter_dtype=autocast).add_adapter("a", lora("0"))
        assert model[0].adapters._modules["a"].lora_A.dtype is expected
        assert model(torch.randn(3, 8, dtype=dtype)).dtype is dtype


def test_a_merge_that_is_not_finite_is_refused() -> None:
    """safe_merge refuses a result that is not finite before anything changes; without it the merge goes through."""
    model = net().eval()
    state = adapterstate.attach(model)
    state.add_adapter("a", lora("0", "1"))
    with torch.no_grad():
        model[1].adapters._modules["a"].lora_B[0, 0] = float("inf")
    for event in (state.merge_adapter, state.merge_and_unload):
        with pytest.raises(adapterstate.NotMergeableError, match=r"1 \(?.*not finite|not finite"):
            event(safe_merge=True)
        assert state.merged_adapters == ()
    state.merge_adapter()
    assert state.merged_adapters == ("a",)


def test_a_computed_weight_is_not_merged() -> None:
    """LoRA runs on a parametrized layer, but a weight that is computed cannot be kept merged."""
    model = nn.Sequential(weight_norm(nn.Linear(8, 8)))
    base = model(torch.ones(1, 8))
    state = adapterstate.attach(model)
    state.add_adapter("a", LoraConfig(r=2, target_modules=r"0", init_lora_weights=False))
    assert not torch.allclose(model(torch.ones(1, 8)), base)
    with pytest.raises(adapterstate.NotMergeableError, match="parametrization"):
        state.merge_adapter()
