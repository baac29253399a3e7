"""Every one of PEFT's own ways to change or read the state leads to it, and moves everything or nothing."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import peft
import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file, save_file

from adapterstate import AdapterOverlapError, AttachError, attach

from .models import CONFIGS, KASA, Full, Net, X, attached, differences, flags, healthy_model, look, lora, peft_model


def active_everywhere(model: Any, *names: str) -> bool:
    """Whether PEFT's own fields say that these are active, wherever they have weights."""
    inner = model.base_model.model
    return all(
        [name for name in layer.active_adapters if name in layer._get_available_adapters()]
        == [name for name in names if name in layer._get_available_adapters()]
        for layer in (inner.lin0, inner.lin1, inner.head1, inner.emb)
    )


def test_a_fresh_model_keeps_its_state_and_output() -> None:
    """Attaching changes no flag, no value and no output."""
    model = healthy_model()
    before = model(X).detach()
    accepting = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    state = attach(model)
    assert torch.equal(model(X), before)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == accepting
    assert (state.adapters, state.active_adapters, state.enabled) == (("e", "b"), ("e",), True)
    assert state.check() == ()
    assert attach(model) is state
    assert type(model).__name__ == "PeftModel"
    assert isinstance(model, peft.PeftModel)
    model = peft_model("e")
    written = flags(model)
    attach(model)
    assert [key for key in differences(written, flags(model)) if not key.endswith(" class")] == []


def test_flags_follow_what_attach_is_told() -> None:
    """With ``grad_follows="trainability"`` an inactive adapter of a PEFT model accepts gradients as soon as the model is attached."""
    model = healthy_model("ed")
    state = attach(model, grad_follows="trainability")
    assert state.check() == ()
    assert all(parameter.requires_grad for name, parameter in model.named_parameters() if ".d." in name)


@pytest.mark.parametrize("door", ["model", "tuner", "layer", "wrapper", "token wrapper", "state", "every layer"])
def test_every_way_to_switch(door: str) -> None:
    """LoRA, copies and rows move together, whichever of PEFT's objects is asked."""
    model, state = attached()
    inner = model.base_model.model
    switch = {
        "model": model.set_adapter,
        "tuner": model.base_model.set_adapter,
        "layer": inner.lin0.set_adapter,
        "wrapper": inner.head1.set_adapter,
        "token wrapper": inner.emb.set_adapter,
        "state": state.set_adapter,
        "every layer": lambda names: [m.set_adapter(names) for m in list(model.modules()) if hasattr(m, "_active_adapter")],
    }[door]
    plain = peft_model()
    plain.set_adapter("b")
    switch("b")
    assert state.active_adapters == ("b",)
    assert active_everywhere(model, "b")
    assert model.active_adapter == "b"
    assert model.active_adapters == ["b"]
    assert torch.equal(model(X), plain(X))


def inner(model: Any) -> Any:
    """The model below PEFT's objects."""
    return model.base_model.model


ALIKE: dict[str, tuple[Any, Any]] = {
    "freeze model": (lambda m: m.set_requires_grad("e", False), lambda s: s.set_requires_grad("e", False)),
    "freeze tuner": (lambda m: m.base_model.set_requires_grad("e", False), lambda s: s.set_requires_grad("e", False)),
    "freeze layer": (lambda m: inner(m).lin0.set_requires_grad("e", False), lambda s: s.set_requires_grad("e", False)),
    "freeze wrapper": (lambda m: inner(m).head1.set_requires_grad("e", False), lambda s: s.set_requires_grad("e", False)),
    "delete several": (lambda m: inner(m).lin1.delete_adapter(["b", "d"]), lambda s: (s.delete_adapter("b"), s.delete_adapter("d"))),
    "delete tuner": (lambda m: m.base_model.delete_adapter("b"), lambda s: s.delete_adapter("b")),
    "delete layer": (lambda m: inner(m).lin1.delete_adapter("b"), lambda s: s.delete_adapter("b")),
    "delete wrapper": (lambda m: inner(m).head1.delete_adapter("b", None), lambda s: s.delete_adapter("b")),
    "delete rows": (lambda m: inner(m).emb.delete_adapter("b", None), lambda s: s.delete_adapter("b")),
    "disable tuner": (lambda m: m.base_model.disable_adapter_layers(), lambda s: s.disable_adapters()),
    "disable layer": (lambda m: inner(m).lin0.enable_adapters(False), lambda s: s.disable_adapters()),
    "disable wrapper": (lambda m: inner(m).head1.enable_adapters(False), lambda s: s.disable_adapters()),
    "merge tuner": (lambda m: m.base_model.merge_adapter(["d"]), lambda s: s.merge_adapter("d")),
    "merge layer": (lambda m: inner(m).lin0.merge(adapter_names=["d"]), lambda s: s.merge_adapter("d")),
    "unmerge layer": (lambda m: (m.merge_adapter(), inner(m).lin0.unmerge()), lambda s: (s.merge_adapter(), s.unmerge_adapter())),
    "frozen switch tuner": (
        lambda m: m.base_model.set_adapter("b", inference_mode=True),
        lambda s: (s.set_adapter("b"), s.set_requires_grad("b", False)),
    ),
    "frozen switch layer": (
        lambda m: inner(m).lin0.set_adapter("b", inference_mode=True),
        lambda s: (s.set_adapter("b"), s.set_requires_grad("b", False)),
    ),
}
"""What PEFT's objects are asked, and what the state is asked for the same."""


@pytest.mark.parametrize("case", ALIKE)
def test_every_other_way_in(case: str) -> None:
    """Freezing, deleting, disabling and merging reach every module, whichever of PEFT's objects is asked."""
    through, at = ALIKE[case]
    (model, state), (other, asked) = attached("ebd"), attached("ebd")
    for each in (state, asked):
        each.set_adapter(["e", "d"])
    before = state.snapshot()
    through(model)
    at(asked)
    assert state.snapshot() == asked.snapshot()
    assert (state.snapshot() == before) is (case == "unmerge layer")
    assert state.check() == ()
    assert torch.equal(model(X), other(X))
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in other.parameters()]


def test_disabled_layers_are_enabled_by_any_of_them() -> None:
    """`enable_adapters(True)` of one layer enables all, as disabling has disabled all."""
    model, state = attached()
    state.disable_adapters()
    inner(model).head1.enable_adapters(True)
    assert state.enabled
    assert state.check() == ()


def test_names_to_merge_are_a_list() -> None:
    """One string is refused with PEFT's own error."""
    plain, (model, state) = peft_model(), attached()
    with pytest.raises((TypeError, ValueError)) as expected:
        plain.merge_adapter("e")
    with pytest.raises(TypeError) as raised:
        model.merge_adapter("e")
    assert str(raised.value) == str(expected.value)
    assert state.merged_adapters == ()


def test_an_adapter_for_each_sample() -> None:
    """A batch that names an adapter for each sample is computed by PEFT, whatever is in force; a weight is none of its business."""
    plain = peft_model("d").eval()
    plain.add_adapter("f", lora(target_modules=["lin1", "lin2"]))
    model = copy.deepcopy(plain)
    state = attach(model)
    state.set_adapter("d", weights=[0.5])
    assert torch.equal(model(X, adapter_names=["f", "d"]), plain(X, adapter_names=["f", "d"]))
    assert not torch.equal(model(X), plain(X))


def test_several_at_once() -> None:
    """Adapters with the same rows are refused together, in PEFT's words; those that share nothing are active together everywhere."""
    model, state = attached("ecd")
    with pytest.raises(AdapterOverlapError, match=r"^Only one adapter can be set at a time for TrainableTokensWrapper"):
        model.base_model.set_adapter(["e", "c"])
    assert state.active_adapters == ("e",)
    model.base_model.set_adapter(["e", "d"])
    assert state.active_adapters == ("e", "d")
    assert active_everywhere(model, "e", "d")


def test_refusals_change_nothing_and_open_with_pefts_words() -> None:
    """Unknown names, overlaps, merged deletions, names that are there: PEFT's error types and texts, and nothing half done."""
    model, state = attached()
    model.merge_adapter()
    before = look(model, state)
    cases: list[tuple[Any, str]] = [
        (lambda: model.set_adapter("nope"), "^Adapter nope not found."),
        (lambda: model.base_model.set_adapter(["e", "nope"]), "^Adapter nope not found."),
        (lambda: model.base_model.set_adapter(["e", "b"]), "^Only one adapter can be set at a time for ModulesToSaveWrapper"),
        (lambda: model.delete_adapter("nope"), "^Adapter nope does not exist"),
        (lambda: model.delete_adapter("e"), r"^Cannot delete adapter\(s\) \['e'\] while they are merged. Please unmerge them first."),
        (lambda: model.add_adapter("e", lora()), "^Adapter with name 'e' already exists."),
        (lambda: model.base_model.model.lin0.set_adapter("nope"), "^Adapter nope not found."),
    ]
    for event, text in cases:
        with pytest.raises(ValueError, match=text) as refused:
            event()
        assert "nothing has changed" in str(refused.value)
        assert differences(before, look(model, state)) == []


def test_add_adapter_leaves_the_active_one_alone() -> None:
    """A later adapter, also on modules that were never wrapped, stays inactive; the first on an empty model activates itself."""
    model, state = attached("e")
    before = model(X).detach()
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    model.add_adapter("b", lora(**CONFIGS["b"]))
    assert state.active_adapters == ("e",)
    assert torch.equal(model(X), before)
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == trainable
    assert state.check() == ()
    state.delete_adapter("b")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state.delete_adapter("e")
    assert state.adapters == ()
    torch.manual_seed(0)
    assert torch.equal(model(X), Net()(X))
    model.add_adapter("b", lora(**CONFIGS["b"]))
    assert state.active_adapters == ("b",)
    assert active_everywhere(model, "b")
    assert state.check() == ()


def test_delete_falls_back_to_the_same_adapter_everywhere() -> None:
    """PEFT's documented fallback, consistent: LoRA, copies and rows; a frozen one stays frozen; the option turns it off."""
    model, state = attached("ebd")
    state.set_requires_grad("b", False)
    model.set_adapter("d")
    with pytest.warns(UserWarning, match="Adapter d was active which is now deleted. Setting active adapter to e"):
        model.delete_adapter("d")
    assert active_everywhere(model, "e")
    with pytest.warns(UserWarning, match="Setting active adapter to b"):
        model.delete_adapter("e")
    assert active_everywhere(model, "b")
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert state.check() == ()
    assert {name for module in model.modules() for name in getattr(module, "_adapters", ())} == {"b"}  # as PEFT's wrappers count them
    model, state = attached("eb", fallback_on_delete=False)
    model.delete_adapter("e")
    assert state.active_adapters == ()
    torch.manual_seed(0)
    assert torch.equal(model(X), Net()(X))


def test_disabling_counts_and_freezes_nothing() -> None:
    """Contexts nest, a frozen adapter stays frozen, the base's output comes back bit for bit, and all of it is undone on leaving."""
    model, state = attached()
    state.set_requires_grad("e", False)
    torch.manual_seed(0)
    base = Net()(X)
    before = look(model, state)
    with model.disable_adapter():
        assert torch.equal(model(X), base)
        with model.disable_adapter():
            pass
        assert torch.equal(model(X), base)
        assert model.get_model_status().enabled is False
    now = look(model, state)
    assert differences({**before, "journal": 0}, {**now, "journal": 0}) == []
    model.base_model.disable_adapter_layers()
    assert torch.equal(model(X), base)
    model.base_model.enable_adapter_layers()
    assert torch.equal(model(X), before["output"])


def test_freezing_survives_everything() -> None:
    """Switching, disabling, deleting others, adding and merging never thaw; set_requires_grad does, also while inactive."""
    model, state = attached("ebd")
    model.set_requires_grad("e", False)
    for event in (
        lambda: model.set_adapter("b"),
        lambda: model.set_adapter("e"),
        lambda: model.delete_adapter("d"),
        lambda: model.add_adapter("c", lora(**CONFIGS["c"])),
        lambda: model.merge_adapter(),
        lambda: model.unmerge_adapter(),
    ):
        event()
        assert not any(p.requires_grad for n, p in model.named_parameters() if ".e." in n or n.endswith(".e"))
    model.set_requires_grad("b", True)
    assert all(p.requires_grad for n, p in model.named_parameters() if ".b." in n or n.endswith(".b"))
    assert state.check() == ()


def test_inference_mode_freezes_what_it_activates() -> None:
    """`set_adapter(name, inference_mode=True)` activates and freezes, as one event."""
    model, state = attached()
    model.set_adapter("b", inference_mode=True)
    assert (state.active_adapters, state.trainable("b")) == (("b",), False)
    assert len(state.journal) == 1
    state.set_requires_grad("b", True)
    for name in "ebebe":
        model.set_adapter(name)
    model.set_adapter("b", inference_mode=True)  # not what is known of the plain switch
    assert not state.trainable("b")
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_reading_doors_answer_from_the_state() -> None:
    """Status, active config and whether anything is in force are those of the state, also where PEFT calls legal states irregular."""
    model, _ = attached("ebd")
    model.set_adapter("d")
    status = model.get_model_status()
    assert (status.enabled, status.active_adapters, status.merged_adapters) == (True, ["d"], [])
    assert model.active_peft_config is model.peft_config["d"]
    assert model.has_active_enabled_adapter
    model.base_model.set_adapter([])
    assert not model.has_active_enabled_adapter
    assert model.active_peft_config is model.peft_config["e"]
    assert model.get_model_status().active_adapters == []
    assert [layer.name for layer in model.get_layer_status()] == [layer.name for layer in peft_model("ebd").get_layer_status()]
    model.set_adapter("e")
    model.merge_adapter()
    assert model.get_model_status().merged_adapters == ["e"]
    assert model.get_model_status().enabled is True
    with model.disable_adapter():
        assert not model.has_active_enabled_adapter
    model.unmerge_adapter()
    model.set_adapter("d")
    for name in list(model.peft_config):
        model.delete_adapter(name)
    assert model.get_model_status().available_adapters == []
    assert model.active_peft_config.peft_type == "LORA"


def test_the_callers_list_is_not_shared() -> None:
    """Changing a list after it was given changes no state."""
    model, state = attached("ed")
    names = ["e"]
    model.base_model.set_adapter(names)
    names.append("d")
    assert state.active_adapters == ("e",)
    assert model.base_model.active_adapters == ["e"]
    assert model.base_model.model.lin2.active_adapters == ["e"]


def test_weighted_adapters_are_added_through_the_state() -> None:
    """`add_weighted_adapter` is an add like any other: inactive, known to the state, and undone when it fails."""
    torch.manual_seed(0)
    model = get_peft_model(Net(), lora(), adapter_name="e").eval()
    model.add_adapter("b", lora())
    state = attach(model)
    before = model(X).detach()
    model.base_model.add_weighted_adapter(["e", "b"], [0.5, 0.5], "both", combination_type="cat")
    assert state.adapters == ("e", "b", "both")
    assert state.active_adapters == ("e",)
    assert torch.equal(model(X), before)
    look_before = look(model, state)
    with pytest.raises(ValueError, match=r"nope|combination"):
        model.base_model.add_weighted_adapter(["e", "b"], [0.5, 0.5], "bad", combination_type="nope")
    assert differences(look_before, look(model, state)) == []
    model.set_adapter("both")
    assert state.active_adapters == ("both",)


def test_a_failed_add_is_undone_completely() -> None:
    """Whatever PEFT had inserted when it failed is gone: parameters, wrappers, configs, flags; the next add works."""
    model, state = attached("e")
    before = look(model, state)

    bad = lora(target_modules=["lin0", "lin1", "emb", "head2"])
    with pytest.raises(ValueError, match="is not supported"):
        model.add_adapter("bad", bad)
    assert differences(before, look(model, state)) == []
    with pytest.raises(ValueError, match="not found"):
        model.add_adapter("bad", lora(target_modules=["no_such_module"]))
    assert differences(before, look(model, state)) == []
    with pytest.raises(IndexError):
        model.add_adapter("bad", lora(target_modules=["lin2"], trainable_token_indices={"emb": [99]}))
    assert differences(before, look(model, state)) == []
    model.add_adapter("bad", lora(target_modules=["lin2"]))
    assert state.adapters == ("e", "bad")
    assert state.check() == ()


def test_a_failed_add_leaves_the_config_as_it_was_given() -> None:
    """PEFT writes what "all-linear" stands for into the config; when the add fails after that, the config says "all-linear" again."""
    model, _ = attached("e")
    config = lora(target_modules="all-linear", trainable_token_indices={"emb": [99]})
    with pytest.raises(IndexError):
        model.add_adapter("bad", config)
    assert config.target_modules == "all-linear"


@pytest.mark.parametrize("rewrites", [{"init_lora_weights": "olora"}, *KASA], ids=lambda options: next(iter(options)))
def test_a_failed_add_puts_base_values_back(rewrites: dict[str, Any]) -> None:
    """Where PEFT takes a part of the base weight into a new adapter, and the add then fails, the base weight is whole again."""
    torch.manual_seed(0)
    model = get_peft_model(Net(), lora(**rewrites)).eval()
    state = attach(model)
    before = look(model, state)
    with pytest.raises(IndexError):
        model.add_adapter("bad", lora(**rewrites, trainable_token_indices={"emb": [99]}))
    assert differences(before, look(model, state)) == []


def test_deleting_spares_a_module_of_the_same_name() -> None:
    """Nothing of a base model that is a mapping of modules is taken for what is kept of an adapter."""

    class Mapping(torch.nn.ModuleDict):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self["two"](self["one"](x))
            return found

    model = get_peft_model(Mapping({name: torch.nn.Linear(4, 4) for name in ("one", "two")}), lora(target_modules=["one"]), "one")
    model.add_adapter("two", lora(target_modules=["one"]))
    attach(model).delete_adapter("two")
    assert list(inner(model)) == ["one", "two"]


def test_a_failed_delete_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """When PEFT fails to delete the last of an adapter's weights, those that it has deleted are back."""
    model, state = attached("ebd")
    before = look(model, state)

    def fail(*_: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(peft.tuners.lora.Linear, "delete_adapter", fail)
    with pytest.raises(RuntimeError, match="no"):
        model.delete_adapter("b")
    assert differences(before, look(model, state)) == []
    monkeypatch.undo()
    model.delete_adapter("b")
    assert state.adapters == ("e", "d")
    assert state.check() == ()


def test_a_policy_given_to_add_adapter_is_carried() -> None:
    """Adapters that the state has added with a policy are active together without one on `set_adapter`."""
    _, state = attached("d")
    for name in ("one", "two"):
        state.add_adapter(name, lora(target_modules=["lin1"], modules_to_save=["head1"]), on_overlap="sum")
    state.set_adapter(["one", "two"])
    assert state.active_adapters == ("one", "two")
    with pytest.raises(AdapterOverlapError):
        state.set_adapter(["one", "two"], on_overlap="error")
    assert state.check() == ()


def test_disabling_with_a_bias_warns() -> None:
    """PEFT's warning that trained biases of the base stay."""
    model = get_peft_model(Net(), lora(bias="lora_only"))
    attach(model)
    with pytest.warns(UserWarning, match="bias configured to be 'lora_only' does not produce the same output"):
        model.base_model.disable_adapter_layers()


def test_injecting() -> None:
    """`inject_adapter` of the tuner is an add: later adapters stay inactive, and the state knows them."""
    model, state = attached("e")
    before = model(X).detach()
    model.peft_config["b"] = lora(**CONFIGS["b"])
    model.base_model.inject_adapter(inner(model), "b")
    assert (state.adapters, state.active_adapters) == (("e", "b"), ("e",))
    assert torch.equal(model(X), before)
    assert state.check() == ()


def test_loading_over_an_adapter(tmp_path: Any) -> None:
    """Loading over an adapter that is there exchanges its values alone; when the load fails halfway, they are as before."""
    peft_model("eb", seed=1).save_pretrained(tmp_path, selected_adapters=["b"])
    saved = tmp_path / "b" / "adapter_model.safetensors"
    values = load_file(saved)
    model, state = attached("eb")
    before = look(model, state)
    last = list(values)[-1]
    save_file({**values, last: torch.zeros(1, 1)}, saved)
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.load_adapter(str(tmp_path / "b"), "b")
    assert differences(before, look(model, state)) == []
    save_file(values, saved)
    model.load_adapter(str(tmp_path / "b"), "b")
    assert state.active_adapters == ("e",)
    assert torch.equal(model(X), before["output"])
    assert torch.equal(inner(model).lin2.lora_A["b"].weight, values["base_model.model.lin2.lora_A.weight"])
    assert state.check() == ()


def test_loading(tmp_path: Any) -> None:
    """A loaded adapter stays inactive; frozen or, with is_trainable, accepting gradients while inactive; a failed load leaves nothing."""
    source = peft_model("eb", seed=1)
    source.save_pretrained(tmp_path, selected_adapters=["b"])
    model, state = attached("e")
    before = look(model, state)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "adapter_config.json").write_text((tmp_path / "b" / "adapter_config.json").read_text())
    (tmp_path / "broken" / "adapter_model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(Exception):  # noqa: B017 - whatever the loader raises
        model.load_adapter(str(tmp_path / "broken"), "b")
    assert differences(before, look(model, state)) == []
    model.load_adapter(str(tmp_path / "b"), "b")
    assert (state.adapters, state.active_adapters, state.trainable("b")) == (("e", "b"), ("e",), False)
    model.set_adapter("b")
    source.set_adapter("b")
    own = dict(model.named_parameters())
    for name, parameter in source.named_parameters():
        if ".b." in name or name.endswith(".b"):
            assert torch.equal(own[name], parameter)
    model.load_adapter(str(tmp_path / "b"), "again", is_trainable=True)
    assert state.trainable("again")
    assert all(p.requires_grad for n, p in model.named_parameters() if ".again." in n or n.endswith(".again"))
    assert state.check() == ()


def test_detaching_gives_back_the_untouched_model() -> None:
    """Classes, `__dict__`s and behaviour are PEFT's own again; what PEFT cannot express is refused with its name."""
    model = healthy_model()
    types = [(name, type(module)) for name, module in model.named_modules()]
    state = attach(model)
    state.set_adapter(["e", "b"], on_overlap="sum")
    with pytest.raises(AttachError, match="policy"):
        state.detach()
    state.set_adapter("e")
    state.merge_adapter()
    with pytest.raises(AttachError, match="merged"):
        state.detach()
    state.unmerge_adapter()
    state.detach()
    assert [(name, type(module)) for name, module in model.named_modules()] == types
    assert [key for module in model.modules() for key in module.__dict__ if "adapterstate" in key] == []
    model.set_adapter("b")
    assert state.adapters == ()
    again = attach(model)
    assert again is not state
    assert again.active_adapters == ("b",)


@pytest.mark.parametrize("way", ["detach", "unload", "merge_and_unload"])
def test_a_state_that_has_let_go_drives_nothing(way: str) -> None:
    """After `detach` and `unload` every event of the old state is refused: the model may be driven by another one by then."""
    model, old = attached()
    for _ in range(3):  # what is done from memory, too
        for name in "be":
            old.set_adapter(name)
    plain = getattr(old, way)()
    if way == "detach":
        plain, again = model, attach(model)
    before = flags(model), plain(X).detach()
    events: list[Any] = [
        lambda: old.set_adapter("b"),
        lambda: old.set_adapter([]),
        lambda: old.add_adapter("c", lora(**CONFIGS["c"])),
        lambda: old.merge_adapter(),
        lambda: old.disable_adapters(),
        lambda: old.disable_adapter().__enter__(),
        lambda: old.detach(),
        lambda: old.unload(),
        lambda: old.repair(),
        lambda: old.explain("set_adapter", "e"),
        lambda: old.status(),
        lambda: old.check(),
    ]
    for event in events:
        with pytest.raises(AttachError, match=r"attach\(model\).*nothing has changed|nothing has changed.*attach\(model\)"):
            event()
    assert differences(before[0], flags(model)) == []
    assert torch.equal(plain(X), before[1])
    assert (old.adapters, old.enabled) == ((), True)
    if way == "detach":
        assert (again.active_adapters, again.check()) == (("e",), ())


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (lambda state: state.set_adapter("e", weights=[0.5]), "weights or a policy"),
        (lambda state: state.set_adapter(["e", "b"], on_overlap="sum"), "weights or a policy"),
        (lambda state: state.merge_adapter(), "are merged"),
        (lambda state: state.disable_adapter().__enter__(), "inside disable_adapter"),
    ],
    ids=["weight", "policy", "merge", "context"],
)
@pytest.mark.parametrize("disabled", [False, True])
def test_detaching_loses_nothing_silently(act: Any, reason: str, disabled: bool) -> None:
    """What PEFT cannot express is named and kept, also while nothing of it computes, because the adapters are disabled."""
    model, state = attached()
    act(state)
    if disabled:
        state.disable_adapters()
    before = look(model, state)
    with pytest.raises(AttachError, match=f"{reason}.*nothing has changed"):
        state.detach()
    assert differences(before, look(model, state)) == []
    assert attach(model) is state


def test_detaching_while_disabled() -> None:
    """A model that `disable_adapters` has disabled is given back as one that PEFT has disabled by itself, and PEFT enables it again."""
    model, state = attached()
    output, plain = model(X).detach(), healthy_model()
    state.disable_adapters()
    state.detach()
    plain.base_model.disable_adapter_layers()
    torch.manual_seed(0)
    assert torch.equal(model(X), Net()(X))
    assert model.has_active_enabled_adapter is plain.has_active_enabled_adapter
    assert model.get_model_status() == plain.get_model_status()
    model.base_model.enable_adapter_layers()
    assert torch.equal(model(X), output)
    assert model.has_active_enabled_adapter


def test_detaching_attention() -> None:
    """LoRA on attention, which PEFT computes by writing into the base, is given back too, with nothing of this package left in it."""
    torch.manual_seed(0)
    model = get_peft_model(torch.nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), lora(target_modules=["self_attn"])).eval()
    inputs = torch.randn(2, 3, 8)
    output = model(inputs)
    state = attach(model)
    state.set_adapter("default", weights=[0.5])
    with pytest.raises(AttachError, match="weights"):
        state.detach()
    state.set_adapter("default")
    state.detach()
    assert [key for module in model.modules() for key in module.__dict__ if "adapterstate" in key] == []
    assert torch.equal(model(inputs), output)


@pytest.mark.parametrize("of_a_copy", [False, True])
def test_a_shallow_copy_is_let_go_too(of_a_copy: bool) -> None:
    """What shares the parts of a model that was given back, as `copy.copy` makes it, is PEFT's again and attaches nothing."""
    model, state = attached()
    if of_a_copy:
        model = copy.deepcopy(model)
        state = attach(model)
    shallow = copy.copy(model)
    state.detach()
    shallow.set_adapter("b")
    assert active_everywhere(model, "b")
    assert [key for module in model.modules() for key in module.__dict__ if "adapterstate" in key] == []


def test_exchanged_parameters_get_their_flags() -> None:
    """A switch that was done before sets the flags of the parameters that are there now."""
    model, state = attached("ed")
    for name in "edededed":
        model.set_adapter(name)
    model.load_state_dict({key: value.clone() for key, value in model.state_dict().items()}, assign=True)
    state.repair()
    for name in "eded":
        model.set_adapter(name)
        assert state.check() == ()


def test_lists_that_were_read_are_not_written_again() -> None:
    """Changing a list that PEFT's field holds spoils no later switch, also one that is done from memory."""
    model, state = attached("ed")
    for _ in range(3):
        state.set_adapter(["e", "d"])
        state.set_adapter("e")
    state.set_adapter(["e", "d"])
    model.base_model.active_adapters.append("x")
    model.base_model.model.lin0.active_adapters.append("x")
    state.set_adapter("e")
    state.set_adapter(["e", "d"])
    assert model.base_model.active_adapters == ["e", "d"]
    assert state.check() == ()


def test_a_switch_from_memory_that_fails_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT's fields, lists among them, and all flags are put back also when the event was not planned anew."""
    model, state = attached("ed")
    for names in (["e", "d"], ["e"]) * 3:
        state.set_adapter(names)
    before = look(model, state)

    monkeypatch.setattr("adapterstate.state.plan", None)  # the event is done from memory, or fails otherwise
    journal = state._journal
    state._journal = Full(journal)
    with pytest.raises(MemoryError, match="no"):
        state.set_adapter(["e", "d"])
    state._journal = journal
    assert differences(before, look(model, state)) == []
    assert state.check() == ()
    state.set_adapter(["e", "d"])
    assert model.base_model.active_adapters == ["e", "d"]


def test_a_policy_named_for_nothing_is_gone() -> None:
    """Merging activates one after the other; what was said of no adapters does not let two meet."""
    model, state = attached("eb")
    state.set_adapter([], on_overlap="sum")
    assert state.on_overlap is None
    model.merge_adapter(["e"])
    facts = state.facts
    with pytest.raises(AdapterOverlapError, match="nothing has changed"):
        model.merge_adapter(["b"])
    assert state.facts is facts
