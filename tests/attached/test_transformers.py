"""Transformers models: with PEFT's layers and no PeftModel around them, in a PeftModel that a Trainer trains, and without any PEFT."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model

import adapterstate
from adapterstate import AttachError, SingleActiveError, attach

transformers = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing.*` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),  # of a base without a name, before PEFT 0.21
]

own_mixin = pytest.mark.skipif(
    tuple(map(int, peft.__version__.split(".")[:2])) < (0, 20),
    reason="transformers' own adapter methods demand a newer PEFT",
)

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


def tiny(seed: int = 0) -> Any:
    """A small causal language model with a tied head."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    return transformers.LlamaForCausalLM(config).eval()


def lora(**options: Any) -> LoraConfig:
    """A LoRA whose delta is not zero."""
    return LoraConfig(**{"r": 2, "init_lora_weights": False, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **options})


def logits(model: Any) -> torch.Tensor:
    """What the model makes of a batch."""
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


@own_mixin
def test_layers_without_a_peft_model() -> None:
    """The mixin's own methods lead to the state; a later adapter stays inactive, as its docstring says."""
    model = tiny()
    base = logits(model)
    model.add_adapter(lora(), "one")
    state = attach(model)
    one = logits(model)
    model.add_adapter(lora(), "two")
    assert state.adapters == ("one", "two")
    assert model.active_adapters() == ["one"]
    assert torch.equal(logits(model), one)
    model.set_adapter("two")
    assert state.active_adapters == ("two",)
    model.disable_adapters()
    assert torch.equal(logits(model), base)
    model.enable_adapters()
    model.set_adapter(["one", "two"])
    assert state.active_adapters == ("one", "two")
    state.merge_adapter("one")
    assert state.check() == ()
    state.unmerge_adapter()
    with pytest.raises(ValueError, match=r"^Adapter nope not found"):
        model.set_adapter("nope")
    model.delete_adapter("one")
    assert state.active_adapters == ("two",)
    assert type(state.unload()) is transformers.LlamaForCausalLM
    assert torch.equal(logits(model), base)


@own_mixin
def test_loading_into_layers_without_a_peft_model(tmp_path: Any) -> None:
    """`load_adapter` of transformers leaves an adapter inactive, and trainable where it is asked to; the name may be left out."""
    get_peft_model(tiny(), lora()).save_pretrained(tmp_path)
    model = tiny()
    model.add_adapter(lora(), "one")
    state = attach(model)
    model.load_adapter(str(tmp_path), is_trainable=True)
    model.load_adapter(str(tmp_path), "frozen")
    assert (state.adapters, state.active_adapters) == (("one", "default", "frozen"), ("one",))
    assert (state.trainable("default"), state.trainable("frozen")) == (True, False)
    assert all(p.requires_grad for name, p in model.named_parameters() if ".default." in name)
    assert state.check() == ()
    with pytest.raises(ValueError, match="'default' already exists") as refused:
        model.add_adapter(lora())
    assert "nothing has changed" in str(refused.value)


@own_mixin
def test_a_model_without_peft_is_plain_torch() -> None:
    """Without PEFT's layers the model is driven as any other, its own `add_adapter` is refused meanwhile, and nothing is left behind."""
    model = tiny()
    keys = list(model.__dict__)
    state = attach(model)
    state.add_adapter("one", adapterstate.LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(AttachError, match="Add the adapter through the state"):
        model.add_adapter(lora(), "two")
    with pytest.raises(AttachError, match="nothing has changed"):
        copy.deepcopy(model).add_adapter(lora(), "two")
    state.delete_adapter("one")
    assert list(model.__dict__) == keys
    model.add_adapter(lora(), "two")
    assert attach(model).active_adapters == ("two",)


def test_a_trainer_trains_two_adapters_in_turn(tmp_path: Any) -> None:
    """The stock Trainer on an attached model trains the active adapter, and nothing else, one after the other."""
    pytest.importorskip("accelerate")
    model = get_peft_model(tiny(), lora(), adapter_name="one")
    model.add_adapter("two", lora())
    state = attach(model)
    data = [{"input_ids": ids, "labels": ids} for ids in torch.randint(1, 40, (8, 6))]
    for name, other in (("one", "two"), ("two", "one")):
        model.set_adapter(name)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=2,
            per_device_train_batch_size=4,
            learning_rate=0.1,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            transformers.Trainer(model=model, args=arguments, train_dataset=data).train()
        changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
        assert changed
        assert all(f".{name}." in key for key in changed)
        assert not any(f".{other}." in key for key in changed)
        assert state.active_adapters == (name,)
        assert state.check() == ()


def test_generate_and_checkpointing() -> None:
    """`generate` and gradient checkpointing work as on PEFT's own model."""
    plain = get_peft_model(tiny(), lora(), adapter_name="one").eval()
    model = copy.deepcopy(plain)
    attach(model)
    kwargs = {"input_ids": IDS, "max_new_tokens": 4, "do_sample": False}
    assert torch.equal(model.generate(**kwargs), plain.generate(**kwargs))
    grads = []
    for each in (plain, model):
        each.train()
        each.gradient_checkpointing_enable()
        each(input_ids=IDS, labels=IDS).loss.backward()
        grads.append({key: p.grad for key, p in each.named_parameters() if p.requires_grad})
    assert list(grads[0]) == list(grads[1])
    assert all(torch.equal(grads[0][key], grads[1][key]) for key in grads[0])


def test_prompts_run_one_at_a_time() -> None:
    """Prompt learning: switching, disabling, deleting; several at once are refused with the reason."""

    def config() -> PromptTuningConfig:
        return PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)

    torch.manual_seed(0)
    base = logits(tiny())
    model = get_peft_model(tiny(), config(), adapter_name="one").eval()
    state = attach(model)
    model.add_adapter("two", config())
    one = logits(model)
    assert one.shape[1] == IDS.shape[1] + 3
    assert state.active_adapters == ("one",)
    with pytest.raises(SingleActiveError, match="one at a time"):
        state.set_adapter(["one", "two"])
    model.set_adapter("two")
    assert model.active_adapter == "two"
    assert not torch.equal(logits(model), one)
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
        asked = {"input_ids": IDS, "max_new_tokens": 4, "do_sample": False}
        assert torch.equal(model.generate(**asked), tiny().generate(**asked))
    assert logits(model).shape == one.shape
    for leave, enter in (
        (lambda: state.set_adapter([]), lambda: model.set_adapter("two")),
        (state.disable_adapters, state.enable_adapters),
    ):
        leave()
        assert torch.equal(logits(model), base)
        with pytest.raises(AttachError, match=r"prompt.*nothing has changed"):
            state.detach()
        enter()
    assert model.active_peft_config is model.peft_config["two"]
    with pytest.raises(adapterstate.NotMergeableError, match="prompt"):
        state.merge_adapter()
    with pytest.raises(adapterstate.DuplicateAdapterError) as refused:
        model.add_adapter("two", config())
    assert "one at a time" not in str(refused.value)
    with pytest.warns(UserWarning, match="Setting active adapter to one"):
        model.delete_adapter("two")
    assert [list(kept) for kept in (model.prompt_encoder, model.prompt_tokens, model.peft_config)] == [["one"]] * 3
    assert torch.equal(logits(model), one)
    assert state.check() == ()
    again = copy.deepcopy(model)
    with again.disable_adapter():
        assert torch.equal(logits(again), base)
        assert torch.equal(logits(model), one)
