"""Adaption prompts: PEFT activates one by swapping modules of the base, and an attached model swaps them by the state."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import AdaptionPromptConfig, get_peft_model

from adapterstate import AdapterState, NotMergeableError, SingleActiveError, attach
from adapterstate.peft import audit

from .test_methods import IDS, llama

pytestmark = pytest.mark.skipif(
    tuple(map(int, peft.__version__.split(".")[:2])) < (0, 21), reason="older releases of PEFT swap to every adapter that they add"
)


def config(layers: int = 1, **options: Any) -> AdaptionPromptConfig:
    """Prompts on the last layers."""
    return AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=2, adapter_layers=layers, **options)


def made() -> Any:
    """Prompts on one layer, and others on two, that change the output each in its own way."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = get_peft_model(llama(), config(), adapter_name="one")
        model.add_adapter("two", config(2))
    for name, gate in (("two", 2.0), ("one", 1.0)):
        model.set_adapter(name)
        with torch.no_grad():
            for path, parameter in model.named_parameters():
                if path.endswith("adaption_gate"):
                    parameter.fill_(gate)
    return model.eval()


def output(model: Any) -> torch.Tensor:
    """What the model makes of a batch."""
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def expected() -> dict[str, torch.Tensor]:
    """What plain PEFT computes with each, and the base without."""
    model, found = made(), {"": output(llama())}
    for name in ("one", "two"):
        model.set_adapter(name)
        found[name] = output(model)
    return found


def adapted(model: Any) -> list[str]:
    """Where prompts are in place."""
    return [path for path, module in model.named_modules() if hasattr(type(module), "forward") and "adaption_gate" in module._parameters]


def test_switching_disabling_and_none() -> None:
    """Each activation computes as plain PEFT does; disabled, or with none active, no module of an adapter is in place."""
    wanted = expected()
    assert not any(torch.equal(wanted[one], wanted[two]) for one, two in (("", "one"), ("one", "two"), ("", "two")))
    model = made()
    state = attach(model)
    assert state.active_adapters == ("one",)
    for name in ("two", "one", "two"):
        for door in (model.set_adapter, model.base_model.set_adapter):
            door(name)
            assert torch.equal(output(model), wanted[name])
            assert state.check() == audit(model) == ()
    with model.disable_adapter():
        assert torch.equal(output(model), wanted[""])
        assert adapted(model) == []
        model.set_adapter("one")
        assert adapted(model) == []
    assert torch.equal(output(model), wanted["one"])
    model.base_model.disable_adapter_layers()
    assert not state.enabled
    model.base_model.enable_adapter_layers()
    state.set_adapter([])
    assert torch.equal(output(model), wanted[""])
    assert adapted(model) == []
    assert state.check() == ()
    state.set_adapter("two")
    assert torch.equal(output(model), wanted["two"])


def test_what_has_no_meaning_is_refused() -> None:
    """Several at once, merging and weights: nothing has changed."""
    model = made()
    state = attach(model)
    facts, before = state.facts, output(model)
    with pytest.raises(SingleActiveError, match="one at a time"):
        state.set_adapter(["one", "two"])
    with pytest.raises(NotMergeableError, match="an adaption prompt is not merged"):
        state.merge_adapter()
    with pytest.raises(NotMergeableError, match="cannot have the weight"):
        state.set_adapter("one", weights=[0.5])
    with pytest.raises(ValueError, match="nope"):
        model.set_adapter("nope")
    assert state.facts is facts
    assert torch.equal(output(model), before)


def test_adding_and_deleting() -> None:
    """A later adapter leaves the active one alone; a failed one leaves nothing; deleting falls back to the first that is left."""
    wanted = expected()
    model = made()
    state = attach(model)
    model.add_adapter("three", config(2))
    assert (state.adapters, state.active_adapters) == (("one", "two", "three"), ("one",))
    assert torch.equal(output(model), wanted["one"])
    kept = dict(model.base_model.__dict__)
    with pytest.raises(ValueError, match="more adapter layers"):
        model.add_adapter("four", config(9))
    assert state.adapters == ("one", "two", "three")
    assert {key: value for key, value in model.base_model.__dict__.items() if kept[key] is not value} == {}
    assert torch.equal(output(model), wanted["one"])
    with pytest.warns(UserWarning, match="Setting active adapter to two"):
        model.delete_adapter("one")
    assert torch.equal(output(model), wanted["two"])
    with model.disable_adapter():
        state.delete_adapter("three")
        assert torch.equal(output(model), wanted[""])
    state.delete_adapter("two")
    assert torch.equal(output(model), wanted[""])
    assert state.check() == ()


def test_training_follows_the_active_one() -> None:
    """Gradients reach the active adapter's prompts alone; a frozen one stays frozen."""
    model = made()
    state = attach(model)
    for name, layers in (("two", 2), ("one", 1)):
        model.set_adapter(name)
        model(input_ids=IDS, labels=IDS).loss.backward()
        assert len([path for path, parameter in model.named_parameters() if parameter.grad is not None]) == 2 * layers
        model.zero_grad()
    state.set_requires_grad("two", False)
    model.set_adapter("two")
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_saving_loading_copying_and_unloading(tmp_path: Any) -> None:
    """An inactive adapter is saved and loaded too, and what is active stays; copies are independent; unloading leaves the base."""
    wanted = expected()
    model = made()
    state = attach(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(tmp_path)
        assert state.active_adapters == ("one",)
        assert torch.equal(output(model), wanted["one"])
        model.load_adapter(str(tmp_path / "two"), "three")
    assert state.active_adapters == ("one",)
    assert torch.equal(output(model), wanted["one"])
    again = copy.deepcopy(model)
    again.set_adapter("three")
    assert torch.equal(output(again), wanted["two"])
    assert torch.equal(output(model), wanted["one"])
    assert not attach(again).trainable("three")
    plain = state.unload()
    assert type(plain) is type(llama())
    assert adapted(plain) == []
    assert torch.equal(output(plain), wanted[""])


OFF: dict[str, Callable[[AdapterState], Any]] = {
    "none active": lambda state: state.set_adapter([]),
    "disabled": lambda state: state.disable_adapters(),
    "both": lambda state: (state.set_adapter([]), state.disable_adapters()),
}


@pytest.mark.parametrize("off", OFF)
def test_saving_and_loading_what_is_not_in_place(tmp_path: Path, off: str) -> None:
    """All adapters are saved, and others loaded, also while none is active or all are disabled; nothing is moved by it."""
    wanted = expected()
    model = made()
    state = attach(model)
    OFF[off](state)
    facts = state.facts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(tmp_path)
        assert state.facts is facts
        assert state.check() == ()
        for name in ("one", "two"):
            model.load_adapter(str(tmp_path / name), f"{name} again")
    assert state.active_adapters == facts.active
    assert state.check() == ()
    assert torch.equal(output(model), wanted[""])
    state.enable_adapters()
    for name in ("one", "two"):
        for adapter in (name, f"{name} again"):
            state.set_adapter(adapter)
            assert torch.equal(output(model), wanted[name])


def test_swapped_past_the_doors() -> None:
    """`check` names modules that stand where they should not; `repair` puts them right; `detach` gives back PEFT's own."""
    wanted = expected()
    model = made()
    state = attach(model)
    peft.tuners.AdaptionPromptModel._remove_adapted_attentions(model.base_model, "one")
    assert [finding.where for finding in state.check()] == ["base_model"]
    state.repair()
    assert torch.equal(output(model), wanted["one"])
    state.detach()
    assert type(model.base_model) is peft.tuners.AdaptionPromptModel
    model.set_adapter("two")
    assert torch.equal(output(model), wanted["two"])
