"""What running PEFT's own tests over attached models has found, each case written afresh."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import peft
import pytest
import torch
from packaging.version import Version
from peft import LoraConfig, get_peft_model
from torch import nn

from adapterstate import AttachError, NotMergeableError, SingleActiveError, attach
from adapterstate.peft import audit

from .models import Net, X, attached, differences, look, lora

pytestmark = [
    # what PEFT and transformers themselves warn of while a model is made
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*`ensure_weight_tying` is not set to True:UserWarning"),
]

IDS = torch.tensor([[5, 6, 7], [8, 9, 10]])


def llama(**options: Any) -> Any:
    """A very small language model."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    shape = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, use_cache=False, **options)).eval()


def shadow() -> Any:
    """Two parallel networks, one of which runs."""
    model: Any = get_peft_model(llama(), peft.ShadowConfig(task_type="CAUSAL_LM", r=2), adapter_name="one")
    model.add_adapter("two", peft.ShadowConfig(task_type="CAUSAL_LM", r=2))
    return model


newer = pytest.mark.skipif(not hasattr(peft, "ShadowConfig"), reason="this PEFT has no SHADOW")


def trains(model: Any, name: str) -> set[bool]:
    """Whether the parameters of an adapter require grad, those that its tuner keeps beside the layers included."""
    return {parameter.requires_grad for path, parameter in model.named_parameters() if name in path.split(".")}


# ------------------------------------------------------------------------------------------------------ networks beside the layers


@newer
def test_networks_beside_the_layers_follow_their_adapter() -> None:
    """What SHADOW keeps on its tuner trains and freezes with the rest of its adapter, and is deleted and put back with it."""
    model = shadow()
    state = attach(model)
    for name, other in (("one", "two"), ("two", "one")):
        model.set_adapter(name)
        assert (trains(model, name), trains(model, other)) == ({True}, {False})
        model(input_ids=IDS, labels=IDS).loss.backward()
        assert {p.grad is not None for path, p in model.named_parameters() if path.startswith(f"base_model.shadow_backbone.{name}.")} == {
            True
        }
        model.zero_grad()
    state.set_requires_grad("two", False)
    model.set_adapter("one")
    model.set_adapter("two")
    assert trains(model, "two") == {False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.delete_adapter("two")
    assert trains(model, "two") == set()
    assert trains(model, "one") == {True}
    assert state.check() == ()


@newer
def test_an_adapter_that_was_loaded_is_frozen_whole(tmp_path: Any) -> None:
    """PEFT loads an adapter frozen, and leaves its network beside the layers trainable; attached, it follows the rest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shadow().save_pretrained(tmp_path)
        model: Any = peft.PeftModel.from_pretrained(llama(), tmp_path / "one", adapter_name="one")
    assert trains(model, "one") == {True, False}
    assert [finding.where for finding in audit(model)] == ["base_model.shadow_backbone"]
    with pytest.warns(UserWarning, match="to be frozen"):
        state = attach(model)
    assert (state.trainable("one"), trains(model, "one")) == (False, {False})
    state.set_requires_grad("one")
    assert trains(model, "one") == {True}


def test_a_part_that_loading_left_trainable_is_frozen(tmp_path: Any) -> None:
    """Some of an adapter that was loaded frozen requires grad, whatever the reason: audit names it, attach freezes it and says so."""
    get_peft_model(Net(), lora(use_dora=True)).save_pretrained(tmp_path)
    model: Any = peft.PeftModel.from_pretrained(Net(), tmp_path)
    for parameter in model.base_model.model.lin1.lora_magnitude_vector.parameters():
        parameter.requires_grad_(True)
    assert [finding.where for finding in audit(model)] == ["base_model.model.lin1"]
    with pytest.warns(UserWarning, match="'default' require grad, some do not, although it was loaded"):
        state = attach(model)
    assert not state.trainable("default")
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert state.check() == ()


@newer
def test_embeddings_of_a_network_that_was_loaded_never_train(tmp_path: Any) -> None:
    """Whatever is switched: PEFT keeps them frozen, and so does an attached model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        llama().save_pretrained(tmp_path)
        model: Any = get_peft_model(llama(), peft.ShadowConfig(task_type="CAUSAL_LM", r=2, shadow_model=str(tmp_path)), adapter_name="one")
        model.add_adapter("two", peft.ShadowConfig(task_type="CAUSAL_LM", r=2))
    network = model.base_model.shadow_backbone["one"]
    before = {path: parameter.requires_grad for path, parameter in network.named_parameters()}
    assert set(before.values()) == {True, False}
    state = attach(model)
    model.set_adapter("two")
    assert not any(parameter.requires_grad for parameter in network.parameters())
    model.set_adapter("one")
    assert {path: parameter.requires_grad for path, parameter in network.named_parameters()} == before
    assert state.check() == ()


@newer
def test_check_reads_networks_beside_the_layers() -> None:
    """A parameter of such a network that was frozen past the doors is named by `check`."""
    model = shadow()
    state = attach(model)
    next(iter(model.base_model.shadow_backbone["one"].parameters())).requires_grad_(False)
    assert [finding.where for finding in state.check()] == ["base_model.shadow_backbone (one)"]
    state.repair()
    assert trains(model, "one") == {True}


# -------------------------------------------------------------------------------------------------------------- one at a time


def two_at_once(config: Any, base: Any) -> Any:
    """A plain model of a method that runs with one adapter, of which two were activated past the model."""
    model: Any = get_peft_model(base, config(), adapter_name="one")
    model.add_adapter("two", config())
    for module in model.modules():
        if "_active_adapter" in module.__dict__:
            module._active_adapter = ["one", "two"]
    model.base_model.active_adapter = ["one", "two"]
    return model


class Normed(nn.Module):
    """A layer norm and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.lin = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.lin(self.norm(x))
        return found


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ("LNTuningConfig", {"target_modules": ["norm"]}),
        ("OSFConfig", {"target_modules": ["lin"], "effective_rank": 2}),
        ("ShadowConfig", {}),
    ],
)
def test_several_at_once_of_what_runs_alone(config: str, options: dict[str, Any]) -> None:
    """Flags that say so break a rule: audit names it, attach refuses, repair keeps the first and computes as with it alone."""
    if not hasattr(peft, config):
        pytest.skip(f"this PEFT has no {config}")

    def made() -> Any:
        if config == "ShadowConfig":
            return peft.ShadowConfig(task_type="CAUSAL_LM", r=2)
        return getattr(peft, config)(**options)

    torch.manual_seed(0)
    model = two_at_once(made, llama() if config == "ShadowConfig" else Normed())
    found = audit(model)
    assert found[0].what.startswith("single_active")
    assert found[0].found == "['one', 'two']"
    with pytest.raises(AttachError, match="single_active"):
        attach(model)
    with pytest.warns(UserWarning, match="single_active"):
        state = attach(model, repair=True)
    assert state.active_adapters == ("one",)
    assert state.check() == ()
    assert audit(model) == ()
    with pytest.raises(SingleActiveError):
        model.base_model.set_adapter(["one", "two"])


# ------------------------------------------------------------------------------------------------------------- errors and words


@newer
def test_what_peft_cannot_merge_is_refused_with_its_own_error() -> None:
    """The refusal is of the class that PEFT raises too, begins with PEFT's words, and survives a pickle."""
    model = shadow()
    state = attach(model)
    facts = state.facts
    for door in (model.merge_adapter, model.merge_and_unload, state.merge_adapter):
        with pytest.raises(NotImplementedError, match=r"^ShadowPEFT cannot be merged") as raised:
            door()
        assert isinstance(raised.value, NotMergeableError)
        assert isinstance(raised.value, ValueError)
        again = pickle.loads(pickle.dumps(raised.value))
        assert (str(again), type(again)) == (str(raised.value), type(raised.value))
        assert state.facts is facts
    with pytest.raises(SingleActiveError, match=r"^ShadowPEFT requires exactly one active adapter, but got 2"):
        model.base_model.set_adapter(["one", "two"])


def test_names_that_a_mixed_model_does_not_know() -> None:
    """A mixed model says which names, and which there are."""
    model: Any = get_peft_model(Net(), lora(), adapter_name="e", mixed=True)
    attach(model)
    for door in (model.set_adapter, model.delete_adapter):
        with pytest.raises(ValueError, match=r"^Adapter\(s\) \['nope'\] not found, available adapters: \['e'\]"):
            door(["e", "nope"])


@pytest.mark.parametrize(("spoilt", "said"), [("bias", "bias"), ("weight", "weights")][Version(peft.__version__) < Version("0.21") :])
def test_a_safe_merge_says_what_would_not_be_finite(spoilt: str, said: str) -> None:
    """The weight or the bias, and the adapter, in PEFT's words; nothing has changed."""
    model: Any = get_peft_model(Net(), peft.IA3Config(target_modules=["lin0"], feedforward_modules=[]), adapter_name="e").eval()
    with torch.no_grad():
        getattr(model.base_model.model.lin0.base_layer, spoilt).fill_(float("inf"))
    state = attach(model)
    facts = state.facts
    with pytest.raises(ValueError, match=rf"NaNs detected in the merged {said}\. The adapter e seems to be broken"):
        model.merge_adapter(safe_merge=True)
    assert state.facts is facts


def test_a_safe_merge_of_a_method_that_changes_the_bias() -> None:
    """BEFT speaks of weights where its bias is not finite; so does the refusal."""
    if not hasattr(peft, "BeftConfig"):
        pytest.skip("this PEFT has no BEFT")
    model: Any = get_peft_model(Net(), peft.BeftConfig(target_modules=["lin0"]), adapter_name="one").eval()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if "one" in path.split("."):
                parameter.fill_(float("nan"))
    attach(model)
    with pytest.raises(ValueError, match=r"NaNs detected in the merged weights\. The adapter one seems to be broken"):
        model.merge_adapter(safe_merge=True)


def test_a_safe_merge_says_which_adapter_is_broken() -> None:
    """Of several, the one whose own merge is not finite."""
    model, state = attached("ed")
    model.add_adapter("w", lora(target_modules=["lin0"]))
    with torch.no_grad():
        model.base_model.model.lin0.lora_A["w"].weight.fill_(float("nan"))
    state.set_adapter(["e", "w", "d"])
    with pytest.raises(ValueError, match="The adapter w seems to be broken"):
        model.merge_adapter(safe_merge=True)
    assert state.merged_adapters == ()


def test_rows_that_overlap_are_not_merged_one_after_the_other() -> None:
    """The refusal has PEFT's words for merging too; what was merged stays."""
    model, state = attached("ec")
    model.merge_adapter(["e"])
    before = look(model, state)
    with pytest.raises(ValueError, match="Token indices of adapter c are already defined and would result in undefined merging behavior"):
        model.merge_adapter(["c"])
    assert differences(before, look(model, state)) == []


def test_merging_one_adapter_after_another_keeps_both() -> None:
    """Merging an inactive adapter activates it, beside what is merged already, as PEFT says when it warns of it."""
    model, state = attached("ed")
    model.merge_adapter(["e"])
    state.set_adapter(["e", "d"])
    expected = model(X).detach()
    state.set_adapter("e")
    model.merge_adapter(["e"])
    with pytest.warns(UserWarning, match="^Already following adapters were merged e. You are now additionally merging d."):
        model.merge_adapter(["d"])
    assert state.merged_adapters == ("e", "d")
    torch.testing.assert_close(model(X), expected)


def test_merging_into_a_tied_weight_warns() -> None:
    """As PEFT does, once, and only when something is merged."""
    model = get_peft_model(llama(tie_word_embeddings=True), LoraConfig(target_modules=["lm_head"], task_type="CAUSAL_LM"))
    state = attach(model)
    state.explain("merge_adapter")
    with pytest.warns(UserWarning, match="tie_word_embeddings=True") as caught:
        model.merge_adapter()
    assert len(caught) == 1
    model.unmerge_adapter()
    with pytest.warns(UserWarning, match="tie_word_embeddings=True"):
        model.merge_and_unload()


# -------------------------------------------------------------------------------------------------------------------- the rest


def test_allocation_of_adamss() -> None:
    """AdaMSS masks the least important parts of the active adapter, as on a model that is not attached."""
    if not hasattr(peft, "AdamssConfig"):
        pytest.skip("this PEFT has no AdaMSS")
    options = {"use_asa": True, "init_warmup": 0, "final_warmup": 4, "mask_interval": 2, "asa_target_subspaces": 2}
    masked = []
    for driven in (False, True):
        torch.manual_seed(0)
        config = peft.AdamssConfig(target_modules=["lin0", "lin1"], r=4, num_subspaces=2, **options)
        model: Any = get_peft_model(Net(), config, adapter_name="one")
        if driven:
            attach(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(3):
            model(X).square().sum().backward()
            optimizer.step()
            model.base_model.update_and_allocate(step)
            optimizer.zero_grad()
        masked.append([parameter.requires_grad for parameter in model.parameters()])
    assert masked[0] == masked[1]
    assert len(set(masked[0])) == 2
    state = attach(model)
    own = [parameter for name, parameter in model.named_parameters() if "adamss_" in name and "one" in name.split(".")]
    hidden = sum(not parameter.requires_grad for parameter in own)
    assert 0 < hidden < len(own)
    assert [finding.what for finding in state.check()] == ["requires_grad"] * hidden
    state.set_adapter([])
    state.set_adapter("one")  # a switch takes the masks off, as in PEFT
    assert all(parameter.requires_grad for parameter in own)
    assert state.check() == ()


def test_status_shows_what_was_written_past_the_doors() -> None:
    """Fields that are not the state's are reported as PEFT reports them."""
    model, _ = attached("eb")
    assert model.get_model_status().active_adapters == ["e"]
    model.base_model.model.lin1._active_adapter = ["b"]
    assert model.get_model_status().active_adapters == "irregular"
