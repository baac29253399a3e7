"""Reading flags that break rules: by name of the rule and place, changing nothing; attach refuses them, or repairs them and says what."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import peft
import pytest
import torch
from torch import nn

import adapterstate
from adapterstate import ArgumentError, AttachError, attach
from adapterstate.peft import audit

from .models import Net, X, attached, differences, flags, healthy_model, look, lora


def half_switched(model: Any) -> None:
    """What PEFT 0.21.2 leaves behind a refused set_adapter: a copy is active, LoRA is not."""
    model.base_model.model.head1.set_adapter("b")


def unknown_active(model: Any) -> None:
    """What PEFT leaves after `base_model.set_adapter` of a name that no adapter has."""
    for layer in (model.base_model.model.lin0, model.base_model.model.lin1):
        layer.set_adapter("typo")
    model.base_model.active_adapter = "typo"


def half_disabled(model: Any) -> None:
    """One layer is disabled."""
    model.base_model.model.lin1.enable_adapters(False)


def half_frozen(model: Any) -> None:
    """One parameter of the active adapter is frozen."""
    model.base_model.model.lin1.lora_A["e"].weight.requires_grad_(False)


def merged(model: Any) -> None:
    """PEFT has merged in place."""
    model.merge_adapter()


def partly_merged(model: Any) -> None:
    """PEFT has merged one layer in place."""
    model.base_model.model.lin0.merge()


def overlapping(model: Any) -> None:
    """Two adapters that replace the same weight are active."""
    everywhere(model, ["e", "b"])


def everywhere(model: Any, names: list[str]) -> None:
    """Write names into all of PEFT's fields that say what is active, past its checks."""
    for module in model.modules():
        if "_active_adapter" in module.__dict__:
            module._active_adapter = list(names)
    model.base_model.active_adapter = list(names)


BROKEN: dict[str, tuple[Callable[[Any], None], str, str]] = {
    "half switched": (half_switched, "same_everywhere", "base_model.model.head1"),
    "unknown active": (unknown_active, "bad_input_is_an_error", ""),
    "half disabled": (half_disabled, "same_everywhere", "base_model.model.lin1"),
    "half frozen": (half_frozen, "same_everywhere", "base_model.model.lin1"),
    "merged": (merged, "merge_is_exact", "base_model.model.lin0"),
    "partly merged": (partly_merged, "merge_is_exact", "base_model.model.lin0"),
    "overlapping": (overlapping, "no_overlap", "base_model.model.head1"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_breaks_a_rule_is_named(case: str) -> None:
    """The rule and the place; nothing is changed by looking; attach refuses with the same words and changes nothing."""
    spoil, rule, where = BROKEN[case]
    model = healthy_model()
    assert audit(model) == ()
    spoil(model)
    before = flags(model)
    found = audit(model)
    assert any(finding.what.startswith(rule) and finding.where == where for finding in found), found
    with pytest.raises(AttachError, match=rule):
        attach(model)
    assert differences(before, flags(model)) == []


@pytest.mark.parametrize("case", BROKEN)
def test_repair_sets_the_nearest_legal_state(case: str) -> None:
    """With repair=True the model is attached in a legal state that computes, and the warning says what was changed."""
    spoil, rule, _ = BROKEN[case]
    model = healthy_model()
    healthy = model(X).detach()
    spoil(model)
    with pytest.warns(UserWarning, match=rule):
        state = attach(model, repair=True)
    assert state.check() == ()
    assert audit(model) == ()
    if case == "unknown active":
        assert state.active_adapters == ()
        state.set_adapter("e")
    assert state.active_adapters == ("e",)
    torch.testing.assert_close(model(X), healthy)


def parameters(model: Any, name: str) -> list[nn.Parameter]:
    """The parameters of an adapter."""
    return [parameter for key, parameter in model.named_parameters() if name in key.split(".")]


def accepting(model: Any, name: str) -> set[bool]:
    """Whether the parameters of an adapter accept gradients."""
    return {parameter.requires_grad for parameter in parameters(model, name)}


def test_legal_flags_are_met_as_they_are() -> None:
    """What was frozen, thawed or disabled before attaching is so afterwards, is what the state says, and survives switching."""
    model = healthy_model("ebd")
    for parameter in parameters(model, "e"):
        parameter.requires_grad_(False)  # active, and frozen
    for parameter in parameters(model, "b"):
        parameter.requires_grad_(True)  # inactive, and accepts gradients all the same
    before = flags(model)
    assert audit(model) == ()
    state = attach(model)
    assert all(" class" in difference for difference in differences(before, flags(model)))
    assert [state.trainable(name) for name in "ebd"] == [False, True, True]
    for name in "bdedb":
        state.set_adapter(name)
        assert [accepting(model, other) for other in "ebd"] == [{False}, {True}, {name == "d"}]
    assert state.check() == ()


def test_a_model_that_peft_has_disabled_stays_disabled() -> None:
    """The state says so, the output is the base model's until adapters are enabled, and then they train again."""
    model = healthy_model("ed")
    expected = model(X).detach()
    with model.disable_adapter():
        base = model(X).detach()
    model.base_model.disable_adapter_layers()
    assert audit(model) == ()
    state = attach(model)
    assert (state.enabled, state.active_adapters, state.trainable("e")) == (False, ("e",), True)
    assert torch.equal(model(X), base)
    state.enable_adapters()
    assert torch.equal(model(X), expected)
    assert not torch.equal(expected, base)
    assert accepting(model, "e") == {True}
    assert state.check() == ()


def test_an_inactive_adapter_made_for_inference_is_frozen() -> None:
    """`inference_mode` of its config is what tells it from one that is only inactive."""
    model: Any = peft.get_peft_model(Net(), lora(), adapter_name="e")
    model.add_adapter("d", lora(inference_mode=True))
    model.set_adapter("e")
    assert audit(model) == ()
    state = attach(model)
    assert [state.trainable(name) for name in "ed"] == [True, False]
    state.set_adapter("d")
    assert accepting(model, "d") == {False}
    assert state.check() == ()


def test_injected_into_a_model_of_ones_own() -> None:
    """`inject_adapter_in_model` puts PEFT's layers into any model, without a tuner around it that says what is active."""
    torch.manual_seed(0)
    model: Any = peft.inject_adapter_in_model(lora(), Net(), "e").eval()
    expected = model(X).detach()
    assert audit(model) == ()
    state = attach(model)
    assert (state.adapters, state.active_adapters) == (("e",), ("e",))
    assert torch.equal(model(X), expected)
    state.disable_adapters()
    torch.manual_seed(0)
    assert torch.equal(model(X), Net()(X))
    state.enable_adapters()
    assert torch.equal(model(X), expected)
    state.merge_adapter()
    torch.testing.assert_close(model(X), expected)
    state.unmerge_adapter()
    assert torch.equal(model(X), expected)
    assert state.check() == ()
    state.delete_adapter("e")
    torch.manual_seed(0)
    assert torch.equal(model(X), Net()(X))


def test_more_is_injected_through_the_state() -> None:
    """PEFT's own function would go past it, and is refused before anything has changed; `add_adapter` of the state does it."""
    model: Any = peft.inject_adapter_in_model(lora(), Net(), "e").eval()
    state = attach(model)
    before = look(model, state)
    warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")  # until the end of the test
    with pytest.raises(AttachError, match=r"injecting \['b'\].*nothing has changed.*add_adapter"):
        peft.inject_adapter_in_model(lora(target_modules=["lin1", "lin2"]), model, "b")
    assert differences(before, look(model, state)) == []
    with pytest.raises(ValueError, match=r"not found in the base model|No modules were targeted"):
        state.add_adapter("b", lora(target_modules=["nowhere"]))
    assert differences(before, look(model, state)) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state.add_adapter("b", lora(target_modules=["lin1", "lin2"]))
    assert (state.adapters, state.active_adapters) == (("e", "b"), ("e",))
    assert torch.equal(model(X), before["output"])
    state.set_adapter("b")
    assert not torch.equal(model(X), before["output"])
    assert state.check() == ()
    state.set_adapter("e")
    state.delete_adapter("b")
    assert (state.adapters, state.active_adapters) == (("e",), ("e",))
    assert torch.equal(model(X), before["output"])


def test_another_thread_may_look_while_an_adapter_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """What PEFT has put in so far, on behalf of the state, is not taken for something that goes past it."""
    model: Any = peft.inject_adapter_in_model(lora(), Net(), "e").eval()
    state = attach(model)
    build = peft.LoraModel._create_and_replace

    def watched(*args: Any, **kwargs: Any) -> None:
        """Build a layer while another thread looks at the model."""
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(lambda: len(list(model.named_modules()))).result() > 0
        build(*args, **kwargs)

    monkeypatch.setattr(peft.LoraModel, "_create_and_replace", watched)
    state.add_adapter("b", lora(target_modules=["lin1", "lin2"]))
    assert (state.adapters, list(model.peft_config)) == (("e", "b"), ["e", "b"])
    assert state.check() == ()


def test_an_attached_model_passes_in_every_state() -> None:
    """Flags that the state writes are legal, whatever happened, except what PEFT cannot express."""
    model, state = attached("ebd")
    for event in (
        lambda: state.set_adapter(["d", "b"]),
        lambda: state.set_requires_grad("b", False),
        lambda: state.disable_adapters(),
        lambda: state.enable_adapters(),
        lambda: state.set_adapter([]),
        lambda: state.set_requires_grad("e"),
    ):
        event()
        assert audit(model) == ()


def test_what_is_no_peft_model_is_refused() -> None:
    """A typed error that says what was given."""
    for thing in (nn.Linear(2, 2), "model"):
        with pytest.raises(ArgumentError, match="PEFT"):
            audit(thing)  # type: ignore[arg-type]


def test_check_and_repair_after_foreign_writes() -> None:
    """Fields that were written past the doors are named by `check` and mended by `repair`."""
    model, state = attached()
    before = model(X).detach()
    model.base_model.model.lin0._active_adapter = ["b"]
    model.base_model.model.lin1.lora_A["e"].weight.requires_grad_(False)
    found = state.check()
    assert {finding.where for finding in found} == {"base_model.model.lin0", "base_model.model.lin1 (e)"}
    assert state.repair() == found
    assert state.check() == ()
    assert torch.equal(model(X), before)
    assert adapterstate.attach(model) is state


def test_weights_of_an_unknown_adapter_cannot_be_repaired() -> None:
    """What no config speaks of is named, and attach refuses it, with repair=True too: it does not know what to make of it."""
    model = healthy_model()
    del model.peft_config["b"]
    found = [finding for finding in audit(model) if finding.what.startswith("leave_no_trace")]
    assert {finding.where for finding in found} == {f"base_model.model.{name}" for name in ("emb", "lin1", "lin2", "head1", "head2")}
    before = flags(model)
    for repair in (False, True):
        with pytest.raises(AttachError, match="leave_no_trace") as refused:
            attach(model, repair=repair)
        assert "repair=True" not in str(refused.value)
    assert differences(before, flags(model)) == []


def test_a_failed_repair_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """When PEFT fails to unmerge one layer, those that were unmerged before it are merged again, bit for bit."""
    model = healthy_model()
    model.merge_adapter()
    before, values = flags(model), {key: value.clone() for key, value in model.state_dict().items()}

    def fail() -> None:
        raise RuntimeError("no")

    with monkeypatch.context() as patch:
        patch.setattr(model.base_model.model.head1, "unmerge", fail, raising=False)
        patch.setattr(model.base_model.model.lin1, "unmerge", fail)
        with pytest.raises(RuntimeError, match="no"):
            attach(model, repair=True)
    assert differences(before, flags(model)) == []
    assert all(torch.equal(value, values[key]) for key, value in model.state_dict().items())


def test_what_check_finds_in_layers() -> None:
    """A layer that was exchanged or has lost an adapter is named and cannot be mended; one that no longer computes as it should can."""
    model, state = attached("ebd")
    state.set_adapter("d", weights=[0.5])
    expected = model(X).detach()
    model.base_model.model.lin2.__class__ = type(model.base_model.model.lin0)
    assert {finding.where for finding in state.check()} == {"base_model.model.lin2"}
    state.repair()
    assert state.check() == ()
    assert torch.equal(model(X), expected)
    kept = model.base_model.model.lin0
    model.base_model.model.lin0 = nn.Linear(8, 8)
    found = state.check()
    model.base_model.model.lin0 = kept
    for name in (*kept.adapter_layer_names, *kept.other_param_names):
        if "e" in getattr(kept, name):
            del getattr(kept, name)["e"]
    for now in (found, state.check()):
        assert [(finding.where, finding.mendable) for finding in now] == [("base_model.model.lin0", False)]
    with pytest.raises(AttachError, match=r"base_model\.model\.lin0.*nothing has changed"):
        state.repair()


def test_a_copy_that_has_lost_a_layer_is_refused() -> None:
    """Attaching a copy names the adapters' places that are gone."""
    model, _ = attached()
    other = copy.deepcopy(model)
    other.base_model.model.lin0 = nn.Linear(8, 8)
    with pytest.raises(AttachError, match=r"lost the adapters at \['base_model.model.lin0'\]; nothing has changed"):
        attach(other)


def test_a_part_of_an_attached_model_is_refused() -> None:
    """Only the whole is attached."""
    model, _ = attached()
    with pytest.raises(AttachError, match="nothing has changed"):
        attach(model.base_model.model)
    with pytest.raises(AttachError, match="nothing has changed"):
        attach(nn.Sequential(model))


def test_mixed_models() -> None:
    """LoRA and LoHa on one model, stacked on one layer: switching, several at once, deleting several, unloading."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = peft.get_peft_model(Net(), lora(), adapter_name="e", mixed=True).eval()
        model.add_adapter("b", peft.LoHaConfig(target_modules=["lin0", "lin2"], r=2, init_weights=False))
    twin = copy.deepcopy(model)
    state = attach(model)
    assert state.active_adapters == ("e",)
    for names in (["b"], ["e", "b"], ["e"]):
        model.set_adapter(names)
        twin.set_adapter(names)
        assert state.active_adapters == tuple(names)
        assert torch.equal(model(X), twin(X))
    empty = copy.deepcopy(model)
    empty.delete_adapter(["e", "b"])
    assert attach(empty).adapters == ()
    torch.manual_seed(0)
    assert torch.equal(empty(X), Net()(X))
    model.set_adapter(["e", "b"])
    twin.set_adapter(["e", "b"])
    torch.testing.assert_close(model.merge_and_unload()(X), twin.merge_and_unload()(X))


def test_the_command_line(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A saved adapter is loaded onto its base from directories; what cannot be loaded is an error of use."""
    from adapterstate.__main__ import main

    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
        model.save_pretrained(tmp_path / "adapter")
        assert main(["audit", str(tmp_path / "adapter")]) == 0
        assert "no rule is broken" in capsys.readouterr().out
        assert main(["audit", str(tmp_path / "adapter"), "--base", str(tmp_path / "nowhere")]) == 2
        assert "not a directory" in capsys.readouterr().err
        assert main(["audit", str(tmp_path)]) == 2


def test_the_command_line_says_what_breaks_a_rule(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each finding is a line, and the exit code is 1."""
    from adapterstate.__main__ import main

    model = healthy_model()
    half_switched(model)
    monkeypatch.setattr("adapterstate.peft.command._load", lambda directory, base: model)
    assert main(["audit", "anywhere"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"{len(audit(model))} places break a rule"
    assert any("base_model.model.head1" in line and "same_everywhere" in line for line in printed[:-1])
