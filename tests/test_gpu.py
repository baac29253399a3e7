"""On a GPU: where tensors are made, what moves with the model, what is put back. Skipped where there is none."""

from __future__ import annotations

import copy
from typing import Any

import hypothesis
import peft
import pytest
import torch
from attached.models import Full, Net, X
from torch import nn

import adapterstate
from adapterstate import LoraConfig
from adapterstate.testing import DEFAULT_SETTINGS, check_adapter_system
from adapterstate.testing.ours import StateSystem

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

GPU = "cuda"

CONFIGS = {
    "a": LoraConfig(r=2, target_modules=["lin0", "lin1"], init_lora_weights=False, trainable_token_indices={"emb": [1, 2]}),
    "b": LoraConfig(r=3, target_modules=["lin1"], init_lora_weights=False, modules_to_save=["head1"], trainable_token_indices={"emb": [3]}),
}


def build(device: str, dtype: torch.dtype = torch.float32, **options: Any) -> tuple[Net, adapterstate.AdapterState]:
    """A model with two adapters, made where it is."""
    torch.manual_seed(0)
    model = Net().to(device, dtype).eval()
    state = adapterstate.attach(model, **options)
    for name, config in CONFIGS.items():
        state.add_adapter(name, config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if ".adapters." in key:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model, state


def everything(state: adapterstate.AdapterState, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The output in each of some states."""
    found = {}
    for names in (["a"], ["b"], ["a", "b"], []) * 2:  # the second time from memory
        state.set_adapter(names)
        found[str(names)] = state.model(x).detach()
    state.set_adapter(["a", "b"], weights=[0.5, -1.0])
    found["weighted"] = state.model(x).detach()
    state.merge_adapter("a")
    found["half merged"] = state.model(x).detach()
    state.unmerge_adapter()
    with state.disable_adapter():
        found["disabled"] = state.model(x).detach()
    return found


def close(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    """Assert that outputs are the same but for rounding."""
    for key in one:
        torch.testing.assert_close(one[key].cpu(), two[key].cpu(), atol=1e-5, rtol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


def test_adapters_are_made_where_their_modules_are() -> None:
    """All of an adapter is on the device, and the output is what the same values give on the CPU."""
    model, state = build(GPU)
    assert {parameter.device.type for parameter in model.parameters()} == {GPU}
    twin, other = build("cpu")
    twin.load_state_dict(model.state_dict())
    close(everything(state, X.to(GPU)), everything(other, X))
    assert state.check() == ()


@pytest.mark.parametrize("merged", [False, True])
def test_moving_the_model(merged: bool) -> None:
    """There and back, also while something is merged: what is kept moves with the model, and unmerging gives back every bit."""
    model, state = build("cpu")
    before = everything(state, X)
    values = {key: value.clone() for key, value in model.state_dict().items()}
    state.set_adapter("a")
    if merged:
        state.merge_adapter()
    model.to(GPU)
    torch.testing.assert_close(model(X.to(GPU)).cpu(), before["['a']"], atol=1e-5, rtol=1e-4)
    if merged:
        state.unmerge_adapter()
    close(before, everything(state, X.to(GPU)))
    assert state.check() == ()
    model.cpu()
    assert all(torch.equal(value, values[key]) for key, value in model.state_dict().items())
    after = everything(state, X)
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_merging_and_unmerging(dtype: torch.dtype) -> None:
    """What is merged is what the product gives in twice the precision, rounded; unmerging gives back every bit."""
    model, state = build(GPU, dtype)
    live = model(X.to(GPU))
    values = {key: value.clone() for key, value in model.state_dict().items()}
    a, b = (values[f"lin0.adapters.a.{key}"].double() for key in ("lora_A", "lora_B"))
    expected = (values["lin0.weight"].double() + b @ a * (8 / 2)).to(dtype)
    state.merge_adapter()
    torch.testing.assert_close(model.lin0.weight, expected)
    torch.testing.assert_close(model(X.to(GPU)), live, atol=0.1 if dtype == torch.bfloat16 else 0.02, rtol=0.05)
    state.unmerge_adapter()
    assert torch.equal(model(X.to(GPU)), live)
    assert all(torch.equal(value, values[key]) for key, value in model.state_dict().items())


def test_a_failed_add_puts_the_generator_back() -> None:
    """Numbers that were drawn on the device for an adapter that did not come are drawn again for the next one."""
    model, state = build(GPU)
    keys, journal = list(model.state_dict()), state._journal
    torch.cuda.manual_seed(5)
    before = torch.cuda.get_rng_state()
    state._journal = Full(journal)
    with pytest.raises(MemoryError, match="no"):
        state.add_adapter("c", CONFIGS["a"])
    state._journal = journal
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert list(model.state_dict()) == keys
    state.add_adapter("c", CONFIGS["a"])
    assert not torch.equal(torch.cuda.get_rng_state(), before)


def test_training_and_autocast() -> None:
    """Gradients reach the active adapter alone, also in half precision, and are those of the CPU."""
    model, state = build(GPU)
    twin, other = build("cpu")
    twin.load_state_dict(model.state_dict())
    for each in (state, other):
        each.set_adapter(["a"])
    model(X.to(GPU)).square().sum().backward()
    twin(X).square().sum().backward()
    there = dict(twin.named_parameters())
    for key, parameter in model.named_parameters():
        assert (parameter.grad is None) == (there[key].grad is None)
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad.cpu(), there[key].grad, atol=1e-4, rtol=1e-3)
    model.zero_grad()
    with torch.autocast(GPU, dtype=torch.bfloat16):
        out = model(X.to(GPU))
        assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    reached = {key for key, parameter in model.named_parameters() if parameter.grad is not None and parameter.grad.abs().sum() > 0}
    assert {key.rsplit(".", 1)[-1] for key in reached} == {"lora_A", "lora_B", "trainable_tokens"}
    assert all(".adapters.a." in key for key in reached)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # by what torch imports to compile
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")
def test_compiled_once_for_equal_shapes() -> None:
    """Switching between adapters of equal shapes compiles nothing anew, and computes what eager mode does."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)).to(GPU)
    state = adapterstate.attach(model)
    for name in "abcdefghijkl":
        state.add_adapter(name, LoraConfig(r=2, target_modules=["0", "1"], init_lora_weights=False))
    x = torch.randn(3, 16, device=GPU)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(model)
    with torch.no_grad():
        for name in "abcdefghijkl" * 2:
            state.set_adapter(name)
            torch.testing.assert_close(compiled(x), model(x), atol=1e-4, rtol=1e-3)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


class OnGpu(StateSystem):
    """The shipped system, on the device."""

    def __init__(self, grad_follows: Any = "trainability") -> None:
        with torch.device(GPU):
            super().__init__(grad_follows)
        self.x = StateSystem.x.to(GPU)


@pytest.mark.parametrize("follows", ["trainability", "activation"])
def test_the_harness_finds_nothing(follows: str) -> None:
    """Every rule holds there, generators of the device included."""
    how = hypothesis.settings(DEFAULT_SETTINGS, max_examples=40, derandomize=True, database=None)
    assert check_adapter_system(lambda: OnGpu(follows), settings=how).examples >= 40


def test_an_attached_peft_model() -> None:
    """PEFT's layers on the device: switching, disabling, merging bit for bit, adding, moving away and back."""

    def config(**options: Any) -> Any:
        return peft.LoraConfig(r=2, target_modules=["lin0", "lin1"], init_lora_weights=False, **options)

    torch.manual_seed(0)
    model = peft.get_peft_model(Net().to(GPU), config(modules_to_save=["head1"], trainable_token_indices={"emb": [1]}), adapter_name="e")
    state = adapterstate.attach(model.eval())
    model.add_adapter("d", config(trainable_token_indices={"emb": [2, 3]}))
    assert {parameter.device.type for parameter in model.parameters()} == {GPU}
    x = X.to(GPU)
    twin = copy.deepcopy(model).cpu()
    found = {}
    for names in (["e"], ["d"], ["e", "d"]) * 2:
        model.set_adapter(names) if len(names) == 1 else state.set_adapter(names)
        adapterstate.attach(twin).set_adapter(names)
        found[str(names)] = model(x).detach()
        torch.testing.assert_close(found[str(names)].cpu(), twin(X).detach(), atol=1e-5, rtol=1e-4)
    state.merge_adapter("e")
    torch.testing.assert_close(model(x), found["['e', 'd']"], atol=1e-4, rtol=1e-3)
    state.unmerge_adapter()
    assert torch.equal(model(x), found["['e', 'd']"])
    model.cpu().to(GPU)
    assert torch.equal(model(x), found["['e', 'd']"])
    with model.disable_adapter():
        assert not torch.equal(model(x), found["['e', 'd']"])
    assert state.check() == ()
