"""PEFT's functions and helpers, which reach into layers past the model's methods, over attached models."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from packaging.version import Version
from peft import inject_adapter_in_model
from peft.helpers import disable_input_dtype_casting, rescale_adapter_scale
from peft.utils.hotswap import hotswap_adapter
from torch import nn

from adapterstate import AdapterState, attach

from .models import CONFIGS, Net, X, attached, lora, shake

OLD = Version(peft.__version__) < Version("0.20")
functional = pytest.importorskip("peft.functional", reason="this PEFT has no such functions")

STATES: dict[str, Callable[[AdapterState], Any]] = {
    "active": lambda state: state.set_adapter("e"),
    "weighted": lambda state: state.set_adapter("e", weights=[0.5]),
    "beside a merged one": lambda state: (state.set_adapter(["e", "d"]), state.merge_adapter("d")),
    "combined": lambda state: state.set_adapter(["e", "b"], on_overlap="sum"),
    "merged": lambda state: (state.set_adapter(["e", "d"]), state.merge_adapter("e")),
}


def output(model: nn.Module) -> torch.Tensor:
    """What the model makes of a batch."""
    with torch.no_grad():
        found: torch.Tensor = model(X)
    return found


def injected() -> tuple[Any, AdapterState]:
    """A model of one's own, with PEFT's layers and nothing around it."""
    torch.manual_seed(0)
    model = inject_adapter_in_model(lora(**CONFIGS["e"]), Net(), "e")
    state = attach(model)
    for name in "bd":
        state.add_adapter(name, lora(**CONFIGS[name]))
    shake(model)
    return model.eval(), state


@pytest.mark.parametrize("make", [lambda: attached("ebd"), injected], ids=["PeftModel", "injected"])
def test_switching_freezing_and_deleting(make: Callable[[], tuple[Any, AdapterState]]) -> None:
    """`peft.functional` loops over the layers, each of which asks the model: it ends as if it had been asked once."""
    model, state = make()
    functional.set_adapter(model, "b")
    assert state.active_adapters == ("b",)
    functional.set_adapter(model, ["e", "d"], inference_mode=True)
    assert state.active_adapters == ("e", "d")
    assert [name for name in state.adapters if state.trainable(name)] == ["b"]
    functional.set_requires_grad(model, ["e", "b"])
    functional.set_requires_grad(model, "b", False)
    assert [name for name in state.adapters if state.trainable(name)] == ["e"]
    if OLD:  # there, PEFT goes on to look for what it has deleted
        return
    wanted = output(model)
    functional.delete_adapter(model, "b", "lora_")
    assert state.adapters == ("e", "d")
    assert torch.equal(output(model), wanted)
    functional.delete_adapter(model, "e", "lora_")
    assert (state.adapters, state.active_adapters) == (("d",), ("d",))
    assert state.check() == ()


def _rescaled(model: Any, then: Callable[[], torch.Tensor]) -> torch.Tensor:
    with rescale_adapter_scale(model, 0.5):
        return then()


def _set(model: Any, then: Callable[[], torch.Tensor]) -> torch.Tensor:
    model.get_submodule("base_model.model.lin0").set_scale("e", 3.0)
    return then()


def _scaled(model: Any, then: Callable[[], torch.Tensor]) -> torch.Tensor:
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.scale_layer(2.0)
    return then()


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("scale", [_rescaled, _set, _scaled])
def test_scales(scale: Callable[..., torch.Tensor], name: str) -> None:
    """Scales that PEFT sets hold in every state: the output is that of a model whose scales were set before."""
    model, state = attached("ebd")
    other, prepared = attached("ebd")
    STATES[name](state)
    prepared.set_adapter(state.active_adapters, on_overlap="sum")
    before = output(model)

    def expect() -> torch.Tensor:
        STATES[name](prepared)
        return output(other)

    def compute() -> torch.Tensor:
        if state.merged_adapters:
            stale = {finding.what for finding in state.check()}
            assert stale == {"the merged weight"} or (not stale and "e" not in state.merged_adapters)
            state.repair()
        assert state.check() == ()
        return output(model)

    wanted = scale(other, expect)
    found = scale(model, compute)
    torch.testing.assert_close(found, wanted)
    assert not torch.allclose(found, before, atol=1e-3)
    if scale is _rescaled:
        state.repair()
        torch.testing.assert_close(output(model), before)


def test_casting() -> None:
    """Where PEFT is told to leave inputs as they are, a layer with weights does not cast them either."""
    model, state = attached("d")
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.double()
    state.set_adapter("d", weights=[0.5])
    wanted = output(model)
    with disable_input_dtype_casting(model), pytest.raises(RuntimeError, match="same dtype"):
        output(model)
    assert torch.equal(output(model), wanted)


def _load(model: Any) -> None:
    model.load_state_dict({key: value * 2 for key, value in model.state_dict().items()})


def _set_state_dict(model: Any) -> None:
    found = functional.get_peft_model_state_dict(model, adapter_name="e")
    functional.set_peft_model_state_dict(model, {key: value * 2 for key, value in found.items()}, adapter_name="e")


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("load", [_load, _set_state_dict])
def test_loading_into_what_is_there(load: Callable[[Any], None], name: str) -> None:
    """Loaded values hold at once where nothing is merged; of what is merged, `check` says that it is stale, and `repair` renews it."""
    model, state = attached("ebd")
    other, prepared = attached("ebd")
    load(other)
    STATES[name](prepared)
    STATES[name](state)
    load(model)
    if ("d" in state.merged_adapters and load is _set_state_dict) or not state.merged_adapters:
        assert state.check() == ()
    else:
        assert {finding.what for finding in state.check()} == {"the merged weight"}
        state.repair()
        assert state.check() == ()
    torch.testing.assert_close(output(model), output(other))


def test_hotswapping(tmp_path: Path) -> None:
    """Weights that PEFT exchanges in place hold at once; while the adapter is merged, PEFT itself refuses, since it sees that."""
    model, state = attached("d")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(tmp_path)
        with torch.no_grad():
            model.get_submodule("base_model.model.lin2").lora_A["d"].weight.mul_(2)
        state.set_adapter("d", weights=[0.5])
        wanted = attached("d")
        wanted[1].set_adapter("d", weights=[0.5])
        hotswap_adapter(model, str(tmp_path / "d"), "d")
        assert torch.equal(output(model), output(wanted[0]))
        if Version(peft.__version__) < Version("0.21"):  # which does not look
            return
        state.merge_adapter()
        with pytest.raises(ValueError, match="currently merged"):
            hotswap_adapter(model, str(tmp_path / "d"), "d")
    torch.testing.assert_close(output(model), output(wanted[0]))
    assert state.check() == ()


def test_what_is_stale() -> None:
    """What was merged from a tensor that has changed since: the adapter's or the base's; whatever is switched, until it is repaired."""
    model, state = attached("eb")
    state.set_adapter(["e", "b"], on_overlap="sum")
    state.merge_adapter("e")
    assert attach(copy.deepcopy(model)).check() == ()
    with torch.no_grad():  # as training does
        for name, parameter in model.named_parameters():
            if "b" in name.split("."):
                parameter.mul_(2)
    assert state.check() == ()
    with state.disable_adapter():
        assert state.check() == ()
    model.double()
    assert state.check() == ()
    lin0, lin1 = (model.get_submodule(f"base_model.model.{name}") for name in ("lin0", "lin1"))
    with torch.no_grad():
        lin0.lora_A["e"].weight.mul_(2)
        lin1.base_layer.weight.mul_(2)
    for act in (lambda: None, state.disable_adapters, state.enable_adapters):
        act()
        assert [finding.where for finding in state.check()] == ["base_model.model.lin0", "base_model.model.lin1"]
    copied = attach(copy.deepcopy(model))
    for driven in (copied, state):
        driven.repair()
        assert driven.check() == ()
    state.unmerge_adapter()
    torch.testing.assert_close(output(copied.model), output(model))


def test_a_mixed_batch_that_fails() -> None:
    """A forward that raises leaves no hooks in the layers: PEFT's would name adapters for the samples of every later one."""
    model, state = attached("eb")
    wanted = output(model)
    with pytest.raises(TypeError, match="Mixed batching"):  # the copy of a block
        model(X, adapter_names=["e", "__base__"])
    assert torch.equal(output(model), wanted)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert state.check() == ()
