"""X-LoRA: PEFT mixes LoRAs that it has loaded with the model; an attached model has the whole of them as one adapter."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, XLoraConfig, get_peft_model
from peft.tuners import LoraModel, XLoraModel
from peft.tuners.xlora.layer import XLoraLayer
from torch import nn

from adapterstate import AttachError, EventRefusedError, NotMergeableError, UnknownAdapterError, attach
from adapterstate.peft import audit

from .models import flags
from .test_methods import IDS, llama

OLD = not hasattr(XLoraLayer, "adapters_disabled")
"""Whether PEFT applies the LoRAs at full strength when it is told to disable them."""


pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT uses what transformers has deprecated, and misses what configs may leave out


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two LoRAs: one on the queries, the other on queries and values."""
    folder = tmp_path_factory.mktemp("loras")
    for number, targets in enumerate((["q_proj"], ["q_proj", "v_proj"])):
        base = llama()
        torch.manual_seed(5 + number)
        config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=targets, init_lora_weights=False)
        get_peft_model(base, config).save_pretrained(folder / str(number))
    return folder


def mixture(saved: Path, names: str = "01", **options: Any) -> Any:
    """A mixture of both, as PEFT makes it."""
    base = llama()
    torch.manual_seed(9)
    adapters = {name: str(saved / str(number)) for number, name in enumerate(names)}
    config = XLoraConfig(task_type="CAUSAL_LM", hidden_size=16, xlora_depth=1, adapters=adapters, **options)
    return get_peft_model(base, config).eval()


def output(model: Any) -> torch.Tensor:
    """What the model makes of a batch."""
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def accepting(model: nn.Module) -> set[str]:
    """The parameters that accept gradients."""
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def dense(saved: Path, model: Any) -> torch.Tensor:
    """What X-LoRA computes, without PEFT.

    The base, whose layers add every LoRA, scaled for each token by the softmax of a linear map of the base's last hidden state.
    """
    base = llama()
    classifier = model.base_model.internal_xlora_classifier.layers[0]
    with torch.no_grad():
        hidden = base(input_ids=IDS, output_hidden_states=True).hidden_states[-1]
        scalings = torch.softmax(hidden @ classifier.weight.T + classifier.bias, dim=-1)
        for path, module in list(base.named_modules()):
            deltas = []
            for number in range(2):
                weights = peft.utils.load_peft_weights(str(saved / str(number)), device="cpu")
                key = f"base_model.model.{path}.lora_{{}}.weight"
                if key.format("A") in weights:
                    deltas.append((number, weights[key.format("B")] @ weights[key.format("A")] * 8 / 2))  # lora_alpha is 8, r is 2
            if deltas:

                def add(_: nn.Module, args: Any, result: torch.Tensor, deltas: Any = deltas) -> torch.Tensor:
                    return result + sum(scalings[:, :, number, None] * (args[0] @ delta.T) for number, delta in deltas)

                module.register_forward_hook(add)
    return output(base)


@pytest.mark.parametrize("trainable", [False, True])
def test_computing_is_no_event(saved: Path, trainable: bool) -> None:
    """An attached mixture computes what X-LoRA is; that PEFT switches the LoRAs for it is no event and moves no flag."""
    model = mixture(saved, use_trainable_adapters=trainable)
    before = accepting(model)
    state = attach(model)
    assert list(state.adapters) == ["default"]
    assert state.active_adapters == ("default",)
    assert accepting(model) == before
    assert any(".lora_" in name for name in before) is trainable
    torch.testing.assert_close(output(model), dense(saved, model))
    assert (output(model) - output(llama())).abs().max() > 0.01
    model.generate(input_ids=IDS, max_new_tokens=2)
    assert accepting(model) == before
    assert state.check() == ()
    assert len(state.journal) == 0


def test_switching_off(saved: Path) -> None:
    """Disabled in each way there is, or with nothing active, it is the base bit for bit; on again, it computes as before."""
    model = mixture(saved)
    state = attach(model)
    wanted, base = output(model), output(llama())
    with model.disable_adapter():
        assert torch.equal(output(model), base)
        assert not any(layer.enabled for layer in model.get_layer_status())
    assert torch.equal(output(model), wanted)
    inner = model.base_model.lora_model
    for off, on in (
        (state.disable_adapters, state.enable_adapters),
        (model.base_model.disable_adapter_layers, model.base_model.enable_adapter_layers),
        (inner.disable_adapter_layers, inner.enable_adapter_layers),
    ):
        off()
        assert not state.enabled
        assert torch.equal(output(model), base)
        assert state.check() == ()
        on()
        assert state.enabled
        assert torch.equal(output(model), wanted)
    state.set_adapter([])
    assert torch.equal(output(model), base)
    assert state.check() == ()
    with state.use_adapter("default"):
        assert torch.equal(output(model), wanted)
    assert torch.equal(output(model), base)
    model.set_adapter("default")
    assert torch.equal(output(model), wanted)
    assert state.check() == ()


def test_attached_while_off(saved: Path) -> None:
    """What PEFT has disabled is disabled, and computes as the base; enabled, it computes as before."""
    model = mixture(saved)
    wanted = output(model)
    model.base_model.disable_adapter_layers()
    state = attach(model)
    assert not state.enabled
    assert torch.equal(output(model), output(llama()))
    model.base_model.enable_adapter_layers()
    assert torch.equal(output(model), wanted)


@pytest.mark.parametrize("trainable", [False, True])
def test_frozen_stays_frozen(saved: Path, trainable: bool) -> None:
    """A frozen mixture accepts no gradients, whatever is computed or switched; trainable again, what its config says does."""
    model = mixture(saved, use_trainable_adapters=trainable)
    before = accepting(model)
    state = attach(model)
    model.set_requires_grad("default", False)
    model(input_ids=IDS)
    with model.disable_adapter():
        model(input_ids=IDS)
    model.set_adapter("default")
    model.generate(input_ids=IDS, max_new_tokens=2)
    assert accepting(model) == set()
    state.set_requires_grad("default")
    assert accepting(model) == before
    model(input_ids=IDS).logits.square().sum().backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == before


def test_an_inactive_one_accepts_no_gradients(saved: Path) -> None:
    """As of every PEFT adapter: `requires_grad` follows activation."""
    model = mixture(saved)
    before = accepting(model)
    state = attach(model)
    state.set_adapter([])
    assert accepting(model) == set()
    state.set_adapter("default")
    assert accepting(model) == before


def test_its_loras_are_no_adapters(saved: Path) -> None:
    """What would take the mixture apart, or PEFT cannot do to one, is refused by every way in; nothing has changed."""
    model = mixture(saved)
    state = attach(model)
    wanted, before = output(model), flags(model)
    layer = next(module for module in model.modules() if isinstance(module, peft.tuners.lora.Linear))
    for unknown in (
        lambda: model.set_adapter("0"),
        lambda: model.base_model.set_adapter(["0"]),
        lambda: model.base_model.lora_model.set_adapter("1"),
        lambda: layer.set_adapter(["1"]),
        lambda: model.delete_adapter("0"),
        lambda: model.set_requires_grad("0"),
        lambda: model.merge_adapter(["1"]),
    ):
        with pytest.raises(UnknownAdapterError):
            unknown()
    for refused in (
        lambda: model.add_adapter("more", LoraConfig(target_modules=["k_proj"])),
        lambda: state.add_adapter("more", XLoraConfig(hidden_size=16, adapters={})),
        lambda: model.load_adapter(str(saved / "0"), "more"),
        lambda: model.base_model.lora_model.inject_adapter(model.base_model.lora_model.model, "more"),
        lambda: model.delete_adapter("default"),
    ):
        with pytest.raises(EventRefusedError, match="together with the model; unload"):
            refused()
    for merging in (model.merge_adapter, model.merge_and_unload, layer.merge):
        with pytest.raises(NotMergeableError, match="a mixture of LoRAs is not merged"):
            merging()
    with pytest.raises(NotMergeableError, match="a mixture of LoRAs has no weight"):
        state.set_adapter("default", weights=[0.5])
    assert flags(model) == before
    assert torch.equal(output(model), wanted)


def test_status(saved: Path) -> None:
    """PEFT's reading methods answer from the state."""
    model = mixture(saved)
    state = attach(model)
    assert model.active_adapters == ["default"]
    assert model.active_peft_config is model.peft_config["default"]
    assert model.has_active_enabled_adapter
    assert model.get_model_status().active_adapters == ["default"]
    state.set_adapter([])
    assert model.active_adapters == []
    assert not model.has_active_enabled_adapter


def test_copies_and_saving(saved: Path, tmp_path: Path) -> None:
    """A copy drives itself; PEFT saves what it would save of the plain model; a loaded one can be attached."""
    model = mixture(saved)
    model.save_pretrained(tmp_path / "plain")
    attach(model)
    wanted, base = output(model), output(llama())
    again = copy.deepcopy(model)
    attach(again).disable_adapters()
    assert torch.equal(output(again), base)
    assert torch.equal(output(model), wanted)
    attach(again).enable_adapters()
    assert torch.equal(output(again), wanted)
    model.save_pretrained(tmp_path)
    written = [path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain").rglob("*.safetensors")]
    assert len(written) == 3
    for path in written:
        assert (tmp_path / path).read_bytes() == (tmp_path / "plain" / path).read_bytes()
    loaded: Any = PeftModel.from_pretrained(llama(), str(tmp_path), adapters={name: str(tmp_path / name) for name in "01"})
    wanted = output(loaded.eval())
    state = attach(loaded)
    assert torch.equal(output(loaded), wanted)
    assert state.check() == ()


def test_flags_that_do_not_fit(saved: Path) -> None:
    """Where some of the LoRAs are inactive, which PEFT allows, `audit` says so, and `repair` makes the mixture whole."""
    wanted = output(mixture(saved))
    for model in (mixture(saved), mixture(saved, "ab")):  # whose LoRAs PEFT loads by number, and activates by name
        if "0" in model.base_model.xlora_config.adapters:
            model.set_adapter("1")
        assert audit(model)
        with pytest.raises(AttachError, match="same_everywhere"):
            attach(model)
        with pytest.warns(UserWarning, match="same_everywhere"):
            state = attach(model, repair=True)
        assert audit(model) == state.check() == ()
        assert torch.equal(output(model), wanted)


def test_merged_past_the_state(saved: Path) -> None:
    """PEFT merges the LoRAs at full strength, and computes the base plus all of them then; that is refused, and repaired."""
    model = mixture(saved)
    wanted = output(model)
    model.base_model.lora_model.merge_adapter()
    with pytest.raises(AttachError, match="merge_is_exact"):
        attach(model)
    with pytest.warns(UserWarning, match="merge_is_exact"):
        attach(model, repair=True)
    torch.testing.assert_close(output(model), wanted)


def test_written_past_the_state(saved: Path) -> None:
    """`check` names fields that were written by hand; `repair` puts them right."""
    model = mixture(saved)
    state = attach(model)
    wanted = output(model)
    model.base_model.disabled = True
    layer = next(module for module in model.modules() if isinstance(module, peft.tuners.lora.Linear))
    layer._active_adapter = ["1"]
    assert [finding.what for finding in state.check()] == ["the field disabled", "the field _active_adapter"]
    state.repair()
    assert state.check() == ()
    assert torch.equal(output(model), wanted)


def test_detaching_and_unloading(saved: Path) -> None:
    """`detach` gives back PEFT's own, where PEFT can express the state; `unload` the base."""
    model = mixture(saved)
    before, wanted = flags(model), output(mixture(saved))
    state = attach(model)
    state.detach()
    assert flags(model) == before
    state = attach(model)
    state.set_adapter([])
    with pytest.raises(AttachError, match="a mixture of LoRAs is not applied"):
        state.detach()
    state.set_adapter("default")
    state.disable_adapters()
    if OLD:
        with pytest.raises(AttachError, match="a mixture of LoRAs is not applied"):
            state.detach()
        state.enable_adapters()
    else:
        state.detach()
        assert torch.equal(output(model), output(llama()))
        model.base_model.enable_adapter_layers()
        assert torch.equal(output(model), wanted)
        state = attach(model)
    plain = state.unload()
    assert not any(isinstance(module, LoraModel | XLoraModel | peft.tuners.lora.LoraLayer) for module in plain.modules())
    assert torch.equal(output(plain), output(llama()))
