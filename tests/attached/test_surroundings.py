"""What is around an attached model: hooks on its layers, modules that contain it, copies of its parts, what is left after it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from adapterstate import AdapterState, ArgumentError, AttachError, EventRefusedError, NotMergeableError, attach
from adapterstate import LoraConfig as OwnLoraConfig
from adapterstate.peft import audit

from .models import Net, X, attached, differences, healthy_model, look, lora, peft_model
from .test_methods import answer, llama
from .test_transformers import own_mixin

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT uses what transformers has deprecated

STATES: dict[str, Callable[[AdapterState], Any]] = {
    "merged": lambda state: state.merge_adapter(),
    "merged in part": lambda state: (state.set_adapter(["e", "d"]), state.merge_adapter("e")),
    "weighted": lambda state: state.set_adapter("e", weights=[0.5]),
    "combined": lambda state: state.set_adapter(["e", "b"], on_overlap="sum"),
}


def output(model: nn.Module) -> torch.Tensor:
    """What the model makes of a batch."""
    with torch.no_grad():
        found: torch.Tensor = model(X)
    return found


def base() -> nn.Module:
    """The base without PEFT."""
    torch.manual_seed(0)
    return Net()


def hook(model: nn.Module) -> None:
    """Let accelerate put a hook around every module, as it does to spread a model over devices."""
    hooks = pytest.importorskip("accelerate.hooks")
    for module in model.modules():
        hooks.add_hook_to_module(module, hooks.ModelHook())


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("when", ["before attach", "after attach", "after the switch"])
def test_hooks_of_accelerate(name: str, when: str) -> None:
    """They hold the forward that a layer's class had; what computes in its place runs all the same, and no longer than it should."""
    plain, other = attached("ebd")
    before = output(plain)
    STATES[name](other)
    wanted = output(plain)
    if when == "before attach":
        model = healthy_model("ebd")
        hook(model)
        state = attach(model)
    else:
        model, state = attached("ebd")
    if when == "after attach":
        hook(model)
    STATES[name](state)
    if when == "after the switch":
        hook(model)
    torch.testing.assert_close(output(model), wanted)
    assert state.check() == ()
    with model.disable_adapter():
        assert torch.equal(output(model), output(base()))
    state.unmerge_adapter()
    state.set_adapter("e")
    torch.testing.assert_close(output(model), before)
    STATES[name](state)
    torch.testing.assert_close(output(model), wanted)
    assert state.check() == ()


def test_a_forward_of_its_own() -> None:
    """Where a layer's forward was replaced past all classes, what PEFT's forward cannot compute is refused; nothing has changed."""
    model, state = attached("eb")
    layer = model.base_model.model.lin0
    inner = layer.forward
    layer.forward = lambda *args, **kwargs: inner(*args, **kwargs)
    before = look(model, state)
    for refused in (state.merge_adapter, lambda: state.set_adapter("e", weights=[0.5]), state.merge_and_unload):
        with pytest.raises(NotMergeableError, match="its forward was replaced on the layer itself"):
            refused()
        assert differences(before, look(model, state)) == []
    head = model.base_model.model.head1
    own = head.forward
    head.forward = lambda *args, **kwargs: own(*args, **kwargs)
    with pytest.raises(EventRefusedError, match="cannot be combined: its forward was replaced"):
        state.set_adapter(["e", "b"], on_overlap="sum")
    state.set_adapter("b")
    state.disable_adapters()
    torch.testing.assert_close(output(model), output(base()))
    del layer.forward, head.forward
    state.enable_adapters()
    state.set_adapter("e")
    state.merge_adapter()
    layer.forward = lambda *args, **kwargs: inner(*args, **kwargs)
    assert [finding.where for finding in state.check()] == ["base_model.model.lin0"]


def test_offloaded_weights() -> None:
    """A weight that is not there is not merged."""
    model, state = attached("d")
    model.base_model.model.lin2.base_layer.to("meta")
    with pytest.raises(NotMergeableError, match="offloaded"):
        state.merge_adapter()
    with pytest.raises(NotMergeableError, match="offloaded"):
        state.merge_and_unload()


NESTED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a LoRA in a copy": ({"modules_to_save": ["mlp"]}, {"target_modules": ["gate_proj"]}),
    "a copy of a LoRA": ({"target_modules": ["gate_proj"]}, {"modules_to_save": ["mlp"]}),
    "a copy in a copy": ({"modules_to_save": ["mlp"]}, {"modules_to_save": ["gate_proj"]}),
}


def tuned(**options: Any) -> LoraConfig:
    """A LoRA on attention."""
    return LoraConfig(**{"r": 2, "init_lora_weights": False, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **options})


@pytest.mark.parametrize("case", NESTED)
def test_layers_in_copies(case: str) -> None:
    """PEFT puts the layers of one adapter into the copies of another; that is refused, as it is by `attach` where it has been done."""
    one, two = NESTED[case]
    model = get_peft_model(llama(), tuned(**one), adapter_name="one").eval()
    state = attach(model)
    before = {"facts": state.facts, "types": [type(module) for module in model.modules()], "output": answer(model)}
    with pytest.raises(EventRefusedError, match=r"of which adapters train copies.*\[layers_apart\]"):
        model.add_adapter("two", tuned(**two))
    after = {"facts": state.facts, "types": [type(module) for module in model.modules()], "output": answer(model)}
    assert differences(before, after) == []
    assert state.check() == ()
    plain = get_peft_model(llama(), tuned(**one), adapter_name="one")
    plain.add_adapter("two", tuned(**two))
    with pytest.raises(AttachError, match="of which adapters train copies"):
        attach(plain)


def test_replicated_layers() -> None:
    """An adapter that multiplies the layers, and with them the weights of another one, is refused."""
    model = get_peft_model(llama(), tuned(), adapter_name="one").eval()
    state = attach(model)
    before = answer(model)
    with pytest.raises(EventRefusedError, match="gives 'one' weights here"):
        model.add_adapter("two", tuned(layer_replication=[(0, 1), (0, 2)]))
    assert state.check() == ()
    assert torch.equal(answer(model), before)


@pytest.mark.parametrize("leave", ["unload", "merge_and_unload"])
def test_leaving_after_the_last_adapter(leave: str) -> None:
    """Without adapters there are PEFT's empty layers still, and unloading takes them out."""
    model, state = attached("eb")
    for name in "be":
        state.delete_adapter(name)
    plain = getattr(model, leave)()
    assert [type(module) for module in plain.modules()] == [type(module) for module in Net().modules()]
    assert "peft_config" not in vars(plain)
    assert torch.equal(output(plain), output(base()))
    attach(get_peft_model(plain, lora()))


@own_mixin
@pytest.mark.filterwarnings("ignore::UserWarning")  # of PEFT, that there was a config already, and of files that name no base
def test_what_a_transformers_model_says_of_itself(tmp_path: Path) -> None:
    """A model that had adapters saves as one that has none, after the last delete and after unloading, and takes others."""
    for leave in ("delete", "unload", "merge_and_unload"):
        model = llama()
        model.add_adapter(tuned(), "one")
        state = attach(model)
        if leave == "delete":
            model.delete_adapter("one")
            model.save_pretrained(tmp_path / leave)
            model.add_adapter(tuned(), "two")
            assert state.active_adapters == ("two",)
            assert state.check() == ()
            model.save_pretrained(tmp_path / "two")
            assert (tmp_path / "two" / "adapter_model.safetensors").exists()
            continue
        getattr(state, leave)()
        model.save_pretrained(tmp_path / leave)
        assert type(llama().from_pretrained(tmp_path / leave)) is type(llama())
        model.add_adapter(tuned(), "two")
        attach(model)


def test_parts_that_are_copied() -> None:
    """A part of a merged model, copied without it, is not taken for one that PEFT has merged."""
    model, state = attached("eb")
    state.merge_adapter()
    for part in (model.base_model, model.get_base_model(), model.base_model.model.lin0):
        copied = copy.deepcopy(part)
        before = {name: value.clone() for name, value in copied.state_dict().items()}
        with pytest.raises(AttachError, match=r"copied out of an attached model|no peft_config of its own"):
            attach(copied, repair=True)
        for name in ("unmerge", "unmerge_adapter", "disable_adapter_layers"):
            if hasattr(type(copied), name):
                with pytest.raises(AttachError, match="copied out of an attached model"):
                    getattr(copied, name)()
        assert differences(before, dict(copied.state_dict())) == []
    state.unmerge_adapter()
    state.set_adapter("e", weights=[0.5])
    with pytest.raises(AttachError, match="copied out of an attached model"):
        attach(copy.deepcopy(model.base_model))
    state.set_adapter("e")
    tuner = copy.deepcopy(model.base_model)
    tuner.disable_adapter_layers()
    assert torch.equal(output(tuner), output(base()))


def test_a_module_that_contains_one() -> None:
    """The PeftModel in it is what can be attached."""

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = peft_model("e")

    with pytest.raises(AttachError, match="'inner' is a PeftModel"):
        attach(Around())
    with pytest.raises(ArgumentError, match="'inner' is a PeftModel"):
        audit(Around())


@pytest.mark.parametrize("names", [None, 3, ["e", 3]])
def test_deleting_what_is_no_name(names: Any) -> None:
    """As in all other events."""
    model, state = attached("eb")
    before = look(model, state)
    with pytest.raises(ArgumentError):
        model.delete_adapter(names)
    assert differences(before, look(model, state)) == []


def tied() -> Any:
    """A very small language model whose embeddings are tied."""
    model = llama()
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight
    return model


def test_ends_of_a_tie_forget_alike() -> None:
    """Of rows that a tied head shares with the embeddings, nothing is left at either end when their adapter is deleted."""
    model = get_peft_model(tied(), tuned(trainable_token_indices=[1, 2]), adapter_name="one")
    attach(model)
    model.add_adapter("two", tuned(trainable_token_indices=[1, 3]))
    ends = [module for module in model.modules() if hasattr(module, "token_adapter")]
    assert len(ends) == 2
    model.delete_adapter("two")
    assert [end._adapters for end in ends] == [{"one"}, {"one"}]
    model.delete_adapter("one")
    assert [end._adapters for end in ends] == [set(), set()]


@pytest.mark.filterwarnings("ignore:Model .*tie_word_embeddings=True:UserWarning")
@pytest.mark.parametrize("carried", [True, False], ids=["PEFT", "plain"])
def test_embeddings_that_come_apart(carried: bool, tmp_path: Path) -> None:
    """Merged into one end, tied embeddings are tied no more: the config says so, and what is saved is what is loaded."""
    model = tied()
    if carried:
        state = attach(get_peft_model(model, tuned(target_modules=["embed_tokens"])))
    else:
        state = attach(model)
        state.add_adapter("one", OwnLoraConfig(r=2, target_modules=["embed_tokens"], init_lora_weights=False))
    wanted = answer(state.model.eval())
    with pytest.warns(UserWarning, match="Setting tie_word_embeddings=False"):
        merged: Any = state.merge_and_unload()
    assert not merged.config.tie_word_embeddings
    torch.testing.assert_close(answer(merged), wanted)
    merged.save_pretrained(tmp_path)
    torch.testing.assert_close(answer(type(merged).from_pretrained(tmp_path).eval()), wanted)
    kept: Any = attach(get_peft_model(tied(), tuned())).merge_and_unload()
    assert kept.config.tie_word_embeddings
    apart = tied()  # by someone else
    apart.lm_head.weight = nn.Parameter(apart.lm_head.weight.detach() + 1)
    with pytest.warns(UserWarning, match="Setting tie_word_embeddings=False"):
        kept = attach(get_peft_model(apart, tuned())).merge_and_unload()
    assert not kept.config.tie_word_embeddings
