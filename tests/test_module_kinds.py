"""Modules that are unlike a plain linear layer, and a kind of adapter made through the public protocol alone."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import pytest
import torch
from torch import nn

import adapterstate
from adapterstate import AdapterConfig, LoraConfig, Placement, ProtocolError, Site, Tuner


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def values(module: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all tensors by name."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same(one: Mapping[str, torch.Tensor], two: Mapping[str, torch.Tensor]) -> bool:
    """Whether both hold bitwise equal tensors under the same names."""
    return list(one) == list(two) and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    "targets", [["linear1"], ["linear1", "linear2"], ["out_proj"]], ids=["linear1", "both linears", "projection of attention"]
)
@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype:UserWarning")
def test_the_fast_path_of_an_encoder_does_not_lose_adapters(targets: list[str]) -> None:
    """In eval mode under no_grad, where torch would take its fused path, an encoder computes as it does in grad mode; then as before."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 2).eval(), torch.randn(3, 5, 16)
    with torch.no_grad():
        base = model(x)
    state = adapterstate.attach(model)
    config = LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    if targets == ["out_proj"]:
        with pytest.raises(adapterstate.ForwardNotCalledError):
            state.add_adapter("a", config)
    else:
        state.add_adapter("a", config)
        with torch.no_grad():
            fused = model(x)
        torch.testing.assert_close(fused, model(x).detach())
        assert not torch.allclose(fused, base, atol=1e-4)
        state.delete_adapter("a")
    with torch.no_grad():
        assert torch.equal(model(x), base)


def test_running_statistics_of_a_copy_move_alone() -> None:
    """Training a whole copy of a BatchNorm updates the copy's statistics; the base's stay, and each is used in its turn."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    plain = copy.deepcopy(model)
    state = adapterstate.attach(model)
    state.add_adapter("a", LoraConfig(modules_to_save=["1"]))
    base, x = values_of(state), torch.randn(8, 4)
    for _ in range(3):
        torch.testing.assert_close(model(x), plain(x))
    assert same(values_of(state), base)
    assert torch.equal(model[1].running_mean, plain[1].running_mean)
    assert torch.equal(model[1].running_var, plain[1].running_var)
    assert int(model[1].num_batches_tracked) == 3
    torch.testing.assert_close(model.eval()(x), plain.eval()(x))
    state.disable_adapters()
    assert int(model[1].num_batches_tracked) == 0
    assert torch.equal(model[1].running_mean, base["1.running_mean"])
    state.delete_adapter("a")
    assert same(values(model), base)


def values_of(state: adapterstate.AdapterState) -> dict[str, torch.Tensor]:
    """A copy of the base model's tensors by name."""
    return {name: tensor.detach().clone() for name, tensor in state.base_state_dict().items()}


def test_a_saved_lstm_computes_as_a_plain_one() -> None:
    """An LSTM replaced as a whole equals a plain LSTM with the adapter's weights, in value and gradient."""
    model = nn.Sequential(nn.LSTM(4, 5, num_layers=2, batch_first=True))
    base, x = copy.deepcopy(model), torch.randn(3, 6, 4)
    state = adapterstate.attach(model)
    state.add_adapter("a", LoraConfig(modules_to_save=["0"]))
    plain = nn.LSTM(4, 5, num_layers=2, batch_first=True)
    mine = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(mine) == len(list(plain.parameters())) == 8
    with torch.no_grad():
        for name, parameter in mine.items():
            parameter.copy_(plain.get_parameter(name.rpartition(".")[2]))
    got, expected = model(x), plain(x)
    torch.testing.assert_close(got, expected)
    got[0].sum().backward()
    expected[0].sum().backward()
    for name, parameter in mine.items():
        torch.testing.assert_close(parameter.grad, plain.get_parameter(name.rpartition(".")[2]).grad)
    state.disable_adapters()
    assert torch.equal(model(x)[0], base(x)[0])


class Tied(nn.Module):
    """Two linear layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
        self.two.weight = self.one.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(torch.relu(self.one(x)))


def test_ends_of_a_shared_weight_are_merged_apart() -> None:
    """LoRA on both ends of one weight merges into each separately, and the weight itself stays shared and as it was."""
    model = Tied()
    weight, before, x = model.one.weight, values(model), torch.randn(3, 6)
    base = model(x).detach()
    state = adapterstate.attach(model)
    state.add_adapter("a", LoraConfig(r=2, target_modules=["one", "two"], init_lora_weights=False))
    live = model(x).detach()
    assert not torch.allclose(live, base, atol=1e-4)
    state.set_requires_grad("a", False)
    state.merge_adapter()
    torch.testing.assert_close(model(x), live)
    assert not torch.allclose(model.one.weight, model.two.weight)
    assert model._modules["one"]._parameters["weight"] is model._modules["two"]._parameters["weight"] is weight
    assert torch.equal(weight, before["one.weight"])
    state.unload()
    assert model.one.weight is model.two.weight is weight
    assert torch.equal(model(x), base)
    assert same(values(model), before)


def test_a_module_at_two_paths_is_wrapped_once() -> None:
    """A module that stands at two paths gets one pair of matrices, which acts at both."""
    shared = nn.Linear(6, 6)
    model, x = nn.Sequential(shared, nn.ReLU(), shared), torch.randn(3, 6)
    state = adapterstate.attach(model)
    state.add_adapter("a", LoraConfig(r=2, target_modules=["0", "2"], init_lora_weights=False))
    assert list(state.facts.modules) == ["0"]
    matrices = [p for p in model.parameters() if p.requires_grad]
    assert [tuple(p.shape) for p in matrices] == [(2, 6), (6, 2)]
    a, b = matrices
    weight = shared.weight + 4 * b @ a
    expected = nn.functional.linear(torch.relu(nn.functional.linear(x, weight, shared.bias)), weight, shared.bias)
    torch.testing.assert_close(model(x), expected)
    state.delete_adapter("a")
    assert type(shared) is nn.Linear


# ---------------------------------------------------------------------------------------------------- a kind of one's own


class AddShift:
    """Adds the slot's vector to the output."""

    __slots__ = ("tensors",)

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def __call__(self, module: Any, output: Any, /, *args: Any, **kwargs: Any) -> Any:
        return output + self.tensors["shift"]

    def refresh(self, module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
        pass


@attrs.frozen
class Shift:
    """A tuner that adds a vector to what a linear layer returns."""

    start: float
    kind: str = "shift"

    def tensors(self, module: nn.Module, *, autocast: bool) -> Mapping[str, torch.Tensor]:
        return {"shift": nn.Parameter(torch.full((module.out_features,), self.start))}

    def live(self, module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> AddShift:
        return AddShift(tensors)

    def delta(self, module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        return {"bias": tensors["shift"].detach()}


@attrs.frozen
class ShiftConfig:
    """Put a `Shift` on every linear layer."""

    start: float
    inference_mode: bool = False

    def problems(self) -> tuple[str, ...]:
        return () if self.start else ("start is 0, which shifts nothing",)

    def place(self, model: nn.Module) -> Placement:
        linears = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.Linear)]
        return Placement(tuple(Site(path, module, Shift(self.start)) for path, module in linears))


def test_all_doors() -> None:
    """A kind of one's own, unknown to the package, obeys set, disable, freeze, merge and delete."""
    assert isinstance(Shift(1.0), Tuner)
    assert isinstance(ShiftConfig(1.0), AdapterConfig)
    model, x = nn.Sequential(nn.Linear(3, 4)), torch.randn(2, 3)
    before, base = values(model), model(x).detach()
    state = adapterstate.attach(model)
    state.add_adapter("up", ShiftConfig(1.0))
    state.add_adapter("down", ShiftConfig(-3.0, inference_mode=True))
    with pytest.raises(adapterstate.ConfigError, match="shifts nothing"):
        state.add_adapter("none", ShiftConfig(0.0))
    assert [state.trainable(name) for name in ("up", "down")] == [True, False]
    for names, shift in (("up", 1.0), ("down", -3.0), (["up", "down"], -2.0), ([], 0.0)):
        state.set_adapter(names)
        torch.testing.assert_close(model(x), base + shift)
    state.set_adapter(["up", "down"])
    with state.disable_adapter():
        assert torch.equal(model(x), base)
    model(x).sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {"0.adapters.up.shift"}
    state.set_requires_grad("up", False)
    state.merge_adapter("down")
    assert state.merged_adapters == ("down",)
    torch.testing.assert_close(model(x), base - 2)
    torch.testing.assert_close(model[0].bias.detach(), before["0.bias"] - 3)
    state.merge_adapter()
    torch.testing.assert_close(model[0].bias.detach(), before["0.bias"] - 2)
    torch.testing.assert_close(model(x), base - 2)
    state.unmerge_adapter()
    state.delete_adapter("down")
    torch.testing.assert_close(model(x), base + 1)
    assert "shift" in str(state.status())
    assert state.check() == ()
    state.delete_adapter("up")
    assert same(values(model), before)
    assert torch.equal(model(x), base)
    state.add_adapter("up", ShiftConfig(1.0))
    state.merge_and_unload()
    torch.testing.assert_close(model[0].bias.detach(), before["0.bias"] + 1)
    assert type(model[0]) is nn.Linear


def odd(**members: Any) -> Any:
    """A config that places a shift with these members in place of its own."""
    method = type("Odd", (Shift,), {name: member for name, member in members.items() if name != "kind"})(1.0, members.get("kind", "odd"))
    return placing(lambda model: Placement((Site("0", model[0], method),)))


def placing(place: Callable[[Any], Any], **members: Any) -> Any:
    """A config with this `place`."""
    return type("OddConfig", (ShiftConfig,), {"place": lambda _, model: place(model), **members})(1.0)


STRAY = nn.Linear(3, 4)

BAD_CONFIGS: dict[str, tuple[Any, str]] = {
    "problems: None": (placing(lambda _: Placement(), problems=lambda _: None), "OddConfig.problems(): it returned None; a tuple of texts"),
    "problems: text": (placing(lambda _: Placement(), problems=lambda _: "bad"), "OddConfig.problems(): it returned 'bad'; a tuple of"),
    "place: None": (placing(lambda _: None), "OddConfig.place(): it returned None; a Placement is expected"),
    "place: sites": (placing(lambda _: Placement(None)), "OddConfig.place(): its sites are None"),
    "place: no site": (placing(lambda _: Placement((7,))), "OddConfig.place(): one of its sites is 7; a Site is expected"),
    "place: problems": (placing(lambda _: Placement((), target_problems="no")), "OddConfig.place(): its target_problems is 'no'"),
    "place: warnings": (placing(lambda _: Placement((), warnings="no")), "OddConfig.place(): its warnings are 'no'"),
    "place: stray module": (
        placing(lambda _: Placement((Site("0", STRAY, Shift(1.0)),))),
        "OddConfig.place(): its site '0' is for a Linear that is not in the model",
    ),
    "place: no method": (
        placing(lambda model: Placement((Site("0", model[0], 3),))),
        "OddConfig.place(): its site '0' has 3 as method; a Tuner or an Auxiliary is expected",
    ),
    "kind": (odd(kind=None), "Odd.kind for 0: it is None; a non-empty text is expected"),
    "tensors: None": (odd(tensors=lambda *_, **__: None), "Odd.tensors() for 0: it returned None; a dict of names and tensors"),
    "tensors: number": (odd(tensors=lambda *_, **__: {"shift": 3}), "Odd.tensors() for 0: its 'shift' is 3; a tensor is expected"),
    "tensors: name": (odd(tensors=lambda *_, **__: {"a.b": torch.ones(4)}), "Odd.tensors() for 0: it names a tensor 'a.b'; a non-empty"),
    "live: None": (odd(live=lambda *_: None), "Odd.live() for 0: it returned None; what can be called"),
    "live: function": (odd(live=lambda *_: len), "Odd.live() for 0: it returned <built-in function len>"),
    "twice": (
        placing(lambda model: Placement((Site("0", model[0], Shift(1.0)), Site("0", model[0], Shift(2.0))))),
        "0: two methods of one adapter use the same name for a tensor: ['shift']",
    ),
    "shares": (
        placing(lambda model: Placement((Site("0", model[0], Shift(1.0), shares={"other": (STRAY, "x")}),))),
        "0: 'other' is said to be 'x' of a module that holds no such tensor",
    ),
}


@pytest.mark.parametrize("kind", BAD_CONFIGS)
@pytest.mark.parametrize("adapters", [0, 1])
def test_a_kind_that_breaks_the_protocol_is_refused(kind: str, adapters: int) -> None:
    """The error names the class at fault, what it gave, the module and what is expected; the model is as it was."""
    config, said = BAD_CONFIGS[kind]
    model, x = nn.Sequential(nn.Linear(3, 4)), torch.randn(2, 3)
    state = adapterstate.attach(model)
    if adapters:
        state.add_adapter("up", ShiftConfig(1.0))
    before, output, drawn, facts, kinds = values(model), model(x), torch.get_rng_state(), state.facts, [type(m) for m in model.modules()]
    with pytest.raises(ProtocolError) as raised:
        state.add_adapter("odd", config)
    assert str(raised.value).startswith(said)
    assert str(raised.value).endswith("; nothing has changed")
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
    assert same(values(model), before)
    assert torch.equal(model(x), output)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert (state.facts, [type(m) for m in model.modules()], state.check()) == (facts, kinds, ())


@pytest.mark.parametrize(
    ("deltas", "said"),
    [
        (None, "it returned None; a dict of names of parameters and tensors is expected"),
        ({"bias": torch.ones(3)}, "its 'bias' is a tensor of shape (3,); a tensor of the base's shape (4,) is expected"),
        ({"bias": 1.0}, "its 'bias' is 1.0; a tensor of the base's shape (4,) is expected"),
        ({"biases": torch.ones(4)}, "it names 'biases', which the module has not; names out of ['weight', 'bias'] are expected"),
    ],
)
@pytest.mark.parametrize("merge", ["merge_adapter", "merge_and_unload"])
def test_a_delta_that_does_not_fit_is_refused(deltas: Any, said: str, merge: str) -> None:
    """Merging is refused where the delta cannot be added to what the module holds; the model is as it was."""
    model, x = nn.Sequential(nn.Linear(3, 4)), torch.randn(2, 3)
    state = adapterstate.attach(model)
    state.add_adapter("odd", odd(delta=lambda *_: deltas))
    before, output, facts = values(model), model(x), state.facts
    with pytest.raises(ProtocolError) as raised:
        getattr(state, merge)()
    assert str(raised.value) == f"Odd.delta() for 0: {said}; nothing has changed"
    assert same(values(model), before)
    assert torch.equal(model(x), output)
    assert (state.facts, state.check()) == (facts, ())


@attrs.frozen
class OddCopy:
    """An auxiliary that says to replace something."""

    names: Any
    kind: str = "odd"

    def tensors(self, module: nn.Module, *, autocast: bool) -> Mapping[str, torch.Tensor]:
        return {}

    def replaces(self) -> Any:
        return self.names

    def replacement(self, name: str, base: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return base


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (None, "it returned None; a dict of names and rows is expected"),
        ({"weights": None}, "it names 'weights', which the module has not; names out of ['weight', 'bias'] are expected"),
    ],
)
def test_an_auxiliary_replaces_what_is_there(names: Any, said: str) -> None:
    """A replaced tensor that the module does not hold is refused; the model is as it was."""
    model = nn.Sequential(nn.Linear(3, 4))
    state = adapterstate.attach(model)
    with pytest.raises(ProtocolError) as raised:
        state.add_adapter("odd", placing(lambda model: Placement((Site("0", model[0], OddCopy(names)),))))
    assert str(raised.value) == f"OddCopy.replaces() for 0: {said}; nothing has changed"
    assert type(model[0]) is nn.Linear
    assert state.adapters == ()


def test_a_weight_needs_a_live_object_that_can_have_one() -> None:
    """A live object without `weighted` runs with the weight 1 only."""
    model = nn.Sequential(nn.Linear(3, 4))
    state = adapterstate.attach(model)
    state.add_adapter("up", ShiftConfig(1.0))
    with pytest.raises(ProtocolError, match=r"^Shift.live\(\) for 0: what it returned has no weighted\(\).*nothing has changed"):
        state.set_adapter("up", weights=[0.5])
    assert (state.weights, state.check()) == ({"up": 1.0}, ())
