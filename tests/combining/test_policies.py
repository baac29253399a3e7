"""Policies and weights as events: judged, refused with reasons, part of the activation, and kept by everything that keeps one."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import adapterstate
from adapterstate import AdapterOverlapError, AdapterWeightsError, ArgumentError, LoraConfig, NotSummableError, attach

from .oracle import TOKENS, Adapter, World, build, dense, output
from .test_oracle import OUTPUT, close

TOKENS_AND_COPY = {
    "a": Adapter(saved=("norm",), rows=(1, 3)),
    "b": Adapter(saved=("norm",), rows=(3, 4)),
    "c": Adapter(lora=("lin",), rows=(0,)),
    "d": Adapter(saved=("head",)),
}


def world_of(**policies: str) -> World:
    """The four adapters, with these policies."""
    adapters = {name: Adapter(a.lora, a.saved, a.rows, a.ties, policies.get(name, "error")) for name, a in TOKENS_AND_COPY.items()}
    return build(adapters, tied=True, dtype=torch.float64)


def exactly(world: World, *active: tuple[str, float, str]) -> None:
    """The output is that of these adapters, weights and policies."""
    close(world.model(TOKENS), output(dense(world, active)), OUTPUT[torch.float64])


def test_the_default_is_a_refusal_with_every_reason() -> None:
    """The refusal names each module, both adapters and the rows, and says how to combine them; nothing has changed."""
    world = world_of()
    facts, before = world.state.facts, world.model(TOKENS)
    with pytest.raises(AdapterOverlapError) as refused:
        world.state.set_adapter(["a", "b", "d"])
    assert [(no.where, no.adapters, no.reason) for no in refused.value.refusals if "weight" in no.reason] == [
        ("norm", ("a", "b"), "'a' and 'b' both replace rows 0-3 of weight (4,)"),
        ("emb", ("a", "b"), "'a' and 'b' both replace row 3 of weight (6, 4)"),
        ("head", ("a", "b"), "'a' and 'b' both replace row 3 of weight (6, 4)"),
        ("head", ("a", "d"), "'a' and 'd' both replace rows 1, 3 of weight (6, 4)"),
        ("head", ("b", "d"), "'b' and 'd' both replace rows 3-4 of weight (6, 4)"),
    ]
    assert "nothing has changed" in str(refused.value)
    assert 'on_overlap="sum"' in str(refused.value)
    assert world.state.facts is facts
    assert torch.equal(world.model(TOKENS), before)
    world.state.set_adapter(["a", "c"])  # disjoint rows need no policy


def test_a_policy_named_on_the_event() -> None:
    """It takes the place of what the adapters carry, until the next set_adapter."""
    world = world_of()
    world.state.set_adapter(["a", "b"], on_overlap="sum")
    exactly(world, ("a", 1, "sum"), ("b", 1, "sum"))
    world.state.set_adapter(["a", "b"], on_overlap="override")
    exactly(world, ("a", 1, "override"), ("b", 1, "override"))
    world.state.set_adapter(["b", "a"], on_overlap="override")
    exactly(world, ("b", 1, "override"), ("a", 1, "override"))
    with pytest.raises(AdapterOverlapError):
        world.state.set_adapter(["a", "b"])
    assert world.state.on_overlap == "override"
    exactly(world, ("b", 1, "override"), ("a", 1, "override"))


def test_a_policy_that_is_carried() -> None:
    """Two that carry the same need none on the event; two that carry different ones do; "error" on the event is as strict as without."""
    world = world_of(a="sum", b="sum", d="override")
    world.state.set_adapter(["a", "b"])
    assert world.state.on_overlap is None
    exactly(world, ("a", 1, "sum"), ("b", 1, "sum"))
    with pytest.raises(AdapterOverlapError, match="by the policies 'sum' and 'override'"):
        world.state.set_adapter(["a", "d"])
    with pytest.raises(AdapterOverlapError):
        world.state.set_adapter(["a", "b"], on_overlap="error")
    world.state.set_adapter(["a", "d"], on_overlap="override")
    exactly(world, ("a", 1, "override"), ("d", 1, "override"))


def test_rows_are_compared_and_not_modules() -> None:
    """On rows that do not overlap the trained row stands, bit for bit, also beside a sum."""
    world = world_of(a="sum", b="sum")
    world.state.set_adapter(["a", "b"])
    read: Any = world.model.emb.weight
    for name, row in (("a", 1), ("b", 4)):
        rows = TOKENS_AND_COPY[name].rows
        assert torch.equal(read[row], world.slot("emb", name)["trainable_tokens"][rows.index(row)])
    assert torch.equal(read[0], world.base("emb", "weight")[0])


def test_weights_alone_are_an_event() -> None:
    """A change of weights or policy alone is judged, journalled as a change, and never a no-op; the same again is one."""
    world = world_of(a="sum", b="sum")
    state = world.state
    state.set_adapter(["a", "b"])
    for arguments in ({"weights": [0.5, 2.0]}, {"weights": [0.5, 1.0]}, {}, {"on_overlap": "override"}):
        state.set_adapter(["a", "b"], **arguments)  # type: ignore[arg-type]
        assert not state.journal[-1].is_noop
        assert set(state.journal[-1].changed) <= {"emb", "norm", "head"}
        assert state.journal[-1].changed
    state.set_adapter(["a", "b"], on_overlap="override")
    assert state.journal[-1].is_noop
    with pytest.raises(AdapterOverlapError):
        state.set_adapter(["a", "b"], weights=[1, 1], on_overlap="error")


def test_weights_of_every_kind() -> None:
    """Tuners, sums, overrides and a single copy; zero, one and negative."""
    world = world_of()
    world.state.set_adapter(["c"], weights=[-2])
    exactly(world, ("c", -2, "error"))
    world.state.set_adapter("d", weights=(0.25,))
    exactly(world, ("d", 0.25, "error"))
    world.state.set_adapter(["a", "c"], weights=[0.0, 0.5])
    exactly(world, ("a", 0, "error"), ("c", 0.5, "error"))
    world.state.set_adapter(["a", "b", "d"], weights=[0.5, 1, -1], on_overlap="override")
    exactly(world, ("a", 0.5, "override"), ("b", 1, "override"), ("d", -1, "override"))
    assert world.state.weights == {"a": 0.5, "b": 1.0, "d": -1.0}


@pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0, 1.0], [], [1.0, float("nan")], [float("inf"), 1.0], [10**400, 1]])
def test_bad_weights_are_refused(weights: list[float]) -> None:
    """Wrong length, NaN and infinite weights; nothing has changed."""
    world = world_of()
    facts = world.state.facts
    with pytest.raises(AdapterWeightsError, match="nothing has changed"):
        world.state.set_adapter(["a", "c"], weights=weights)
    assert world.state.facts is facts


@pytest.mark.parametrize("weights", ["ab", 0.5, [1.0, None], [True, 1.0], [torch.ones(()), 1.0], [1j, 1]])
def test_weights_that_are_no_numbers(weights: Any) -> None:
    """An argument of the wrong type says so, and nothing has changed."""
    world = world_of()
    facts = world.state.facts
    with pytest.raises(ArgumentError, match="nothing has changed"):
        world.state.set_adapter(["a", "c"], weights=weights)
    assert world.state.facts is facts


@pytest.mark.parametrize("policy", ["average", "", 3, ["sum"]])
def test_policies_that_there_are_not(policy: Any) -> None:
    """A policy that there is not is an error on both events, and nothing has changed."""
    world = world_of()
    facts = world.state.facts
    with pytest.raises(ArgumentError, match="nothing has changed"):
        world.state.set_adapter(["a", "b"], on_overlap=policy)
    with pytest.raises(ArgumentError, match="nothing has changed"):
        world.state.add_adapter("e", LoraConfig(r=1, target_modules=["lin"]), on_overlap=policy)
    assert world.state.facts is facts


def test_the_activation_survives_other_events() -> None:
    """Weights and policy stay through disabling, freezing, merging, adding and deleting others; a deleted adapter's weight goes."""
    world = world_of()
    state = world.state
    state.set_adapter(["a", "b", "c"], weights=[0.5, 2.0, -1.0], on_overlap="sum")
    state.set_requires_grad("a", False)
    with state.disable_adapter():
        state.add_adapter("e", LoraConfig(r=1, target_modules=["lin"]))
    state.merge_adapter("b")
    state.unmerge_adapter()
    state.delete_adapter("d")
    exactly(world, ("a", 0.5, "sum"), ("b", 2.0, "sum"), ("c", -1.0, "sum"))
    state.delete_adapter("c")
    assert (state.weights, state.on_overlap) == ({"a": 0.5, "b": 2.0}, "sum")
    exactly(world, ("a", 0.5, "sum"), ("b", 2.0, "sum"))


def test_contexts_and_snapshots_bring_it_back() -> None:
    """use_adapter and restore bring back names, weights, policy and what was merged; use_adapter takes weights and a policy of its own."""
    world = world_of()
    state = world.state
    state.set_adapter(["a", "b"], weights=[0.5, 2.0], on_overlap="sum")
    state.merge_adapter("a")
    facts, kept = state.facts, state.snapshot()
    with state.use_adapter(["b", "d"], weights=[1.0, 0.5], on_overlap="override"):
        exactly(world, ("b", 1.0, "override"), ("d", 0.5, "override"))
    assert (state.facts.active, state.facts.merged, state.weights, state.on_overlap) == (("a", "b"), ("a",), {"a": 0.5, "b": 2.0}, "sum")
    assert state.facts == facts
    state.set_adapter("c")
    state.restore(pickle.loads(pickle.dumps(kept)))
    assert state.facts == facts
    exactly(world, ("a", 0.5, "sum"), ("b", 2.0, "sum"))


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "save"])
@pytest.mark.parametrize("merged", [False, True])
def test_copies_carry_it(way: str, merged: bool) -> None:
    """A copy of the model computes with the same weights and policy, and its state says so."""
    world = world_of()
    world.state.set_adapter(["a", "b", "c"], weights=[0.5, 2.0, 3.0], on_overlap="sum")
    if merged:
        world.state.merge_adapter(["a", "c"])
    expected = world.model(TOKENS)
    if way == "deepcopy":
        model = copy.deepcopy(world.model)
    elif way == "pickle":
        model = pickle.loads(pickle.dumps(world.model))
    else:
        file = io.BytesIO()
        torch.save(world.model, file)
        file.seek(0)
        model = torch.load(file, weights_only=False)
    state = attach(model)
    assert (state.weights, state.on_overlap) == ({"a": 0.5, "b": 2.0, "c": 3.0}, "sum")
    assert torch.equal(model(TOKENS), expected)
    assert state.check() == ()
    state.set_adapter(["a", "b", "c"], on_overlap="override")
    world.state.set_adapter(["a", "b", "c"], on_overlap="override")
    assert torch.equal(model(TOKENS), world.model(TOKENS))


def test_moving_the_model_keeps_weights() -> None:
    """`.to()` of another dtype moves weighted tuners and combined rows along."""
    world = world_of()
    world.state.set_adapter(["a", "b", "c"], weights=[0.5, 2.0, -1.0], on_overlap="sum")
    exact = output(dense(world, [("a", 0.5, "sum"), ("b", 2.0, "sum"), ("c", -1.0, "sum")]))
    world.model.float()
    close(world.model(TOKENS), exact, OUTPUT[torch.float32])
    world.model.to(torch.bfloat16)
    close(world.model(TOKENS), exact, OUTPUT[torch.bfloat16])
    assert world.state.check() == ()


def test_explain_and_status_say_it() -> None:
    """`explain` takes weights and a policy and changes nothing; the status shows what is in force."""
    world = world_of()
    facts = world.state.facts
    assert not world.state.explain("set_adapter", ["a", "b"]).accepted
    assert not world.state.explain("set_adapter", ["a", "b"], weights=[1.0], on_overlap="sum").accepted
    explained = world.state.explain("set_adapter", ["a", "b"], weights=[0.5, 1.0], on_overlap="sum")
    assert explained.accepted
    assert "weights=[0.5, 1.0], on_overlap='sum'" in str(explained)
    assert world.state.facts is facts
    world.state.set_adapter(["a", "b"], weights=[0.5, 1.0], on_overlap="sum")
    assert world.state.status().summary == "adapters enabled; active: a (weight 0.5), b; on overlap: sum"


# ------------------------------------------------------------------------------------------------- kinds of modules


def two_copies(module: nn.Module, target: str = "0") -> tuple[nn.Sequential, adapterstate.AdapterState]:
    """A model with two trained copies of a module."""
    torch.manual_seed(0)
    model = nn.Sequential(module).eval()
    state = attach(model)
    for name in "ab":
        state.add_adapter(name, LoraConfig(modules_to_save=[target]))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if ".adapters." in key:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model, state


MODULES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "Conv1d": (lambda: nn.Conv1d(3, 4, 2), (2, 3, 5)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(3, 4, 2), (2, 3, 4, 4)),
    "LSTM": (lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True), (5, 2, 3)),
    "GRUCell": (lambda: nn.GRUCell(3, 4), (2, 3)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (2, 4, 3)),
    "PReLU": (lambda: nn.PReLU(3), (2, 3)),
    "Bilinear": (lambda: nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), (2, 3)),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), (2, 3, 4)),
}


def first(output: Any) -> torch.Tensor:
    """The tensor of an output."""
    found: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return found


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("policy", ["sum", "override"])
def test_any_module_type(kind: str, policy: str) -> None:
    """What a module of any type computes is what a plain one with the combined values computes."""
    make, shape = MODULES[kind]
    model, state = two_copies(make())
    plain = nn.Sequential(make()).eval()
    own = {key: value.clone() for key, value in state.base_state_dict().items()}
    values = model.state_dict()
    for key, original in own.items():
        path, name = key.rsplit(".", 1)
        a, b = (values[f"{path}.adapters.{adapter}.{name}"] for adapter in "ab")
        combined = original + 0.5 * (a - original) + 2 * (b - original) if policy == "sum" else original + 2 * (b - original)
        own[key] = combined
    plain.load_state_dict(own)
    x = torch.randn(shape)
    state.set_adapter(["a", "b"], weights=[0.5, 2.0], on_overlap=policy)  # type: ignore[arg-type]
    torch.testing.assert_close(first(model(x)), first(plain(x)), rtol=1e-4, atol=1e-5)
    state.merge_adapter()
    torch.testing.assert_close(first(model(x)), first(plain(x)), rtol=1e-4, atol=1e-5)


def test_running_statistics_have_no_sum() -> None:
    """Buffers that training updates are neither summed nor weighted; the later copy may take their place, and training updates that."""
    model, state = two_copies(nn.BatchNorm1d(3))
    facts = state.facts
    for weights, policy in ((None, "sum"), ([0.5], None)):
        with pytest.raises(NotSummableError, match=r"running_mean \(3,\).*training may update") as refused:
            state.set_adapter(["a", "b"] if policy else "a", weights=weights, on_overlap=policy)  # type: ignore[arg-type]
        assert {refusal.where for refusal in refused.value.refusals} == {"0"}
        assert "nothing has changed" in str(refused.value)
    assert state.facts is facts
    state.set_adapter(["b", "a"], on_overlap="override")
    norm: Any = model[0]
    base = norm._buffers["running_mean"].clone()
    x = torch.randn(8, 3) + 5
    expected = {name: 0.9 * norm.adapters._modules[name]._buffers["running_mean"] for name in "ab"}
    expected["a"] = expected["a"] + 0.1 * x.mean(0)
    expected["b"] = expected["b"] / 0.9
    model.train()
    model(x)
    for name in "ab":
        torch.testing.assert_close(norm.adapters._modules[name]._buffers["running_mean"], expected[name])
    assert torch.equal(norm._buffers["running_mean"], base)


def test_merged_running_statistics_are_the_copy() -> None:
    """Training in merged state updates the copy's statistics, which unmerging keeps; the base's stay."""
    model, state = two_copies(nn.BatchNorm1d(3))
    norm: Any = model[0]
    base = norm._buffers["running_mean"].clone()
    copied = norm.adapters._modules["a"]._buffers["running_mean"]
    before = copied.clone()
    state.set_requires_grad(["a", "b"], False)
    state.merge_adapter("a")
    x = torch.randn(8, 3) + 5
    model.train()
    model(x)
    torch.testing.assert_close(copied, 0.9 * before + 0.1 * x.mean(0))
    assert torch.equal(norm._buffers["running_mean"], base)
    assert state.check() == ()
    state.unmerge_adapter()
    torch.testing.assert_close(norm.running_mean, 0.9 * before + 0.1 * x.mean(0))


def test_constants_that_a_module_makes_itself() -> None:
    """Buffers that are not in the state_dict do not forbid a sum, whatever their dtype; the later copy's is read."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(4, 3)
            self.register_buffer("ids", torch.arange(4), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = x + self.table(self.ids[: x.shape[0]])  # type: ignore[index]
            return found

    model, state = two_copies(Positions())
    state.set_adapter(["a", "b"], weights=[1.0, 0.5], on_overlap="sum")
    table: Any = model[0].table
    original, a, b = table._parameters["weight"], table.adapters._modules["a"].weight, table.adapters._modules["b"].weight
    torch.testing.assert_close(model(torch.zeros(3, 3)), (original + (a - original) + 0.5 * (b - original))[:3])
