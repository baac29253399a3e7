"""``torch.compile`` and ``torch.export``: switching adapters costs a graph only where shapes change."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

import adapterstate
from adapterstate import AdapterState, LoraConfig

NAMES = "abcdefghijkl"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch._dynamo.reset()


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)).eval()


def with_adapters(model: nn.Module, configs: Mapping[str, LoraConfig]) -> AdapterState:
    """Add the adapters; give their parameters values that show."""
    state = adapterstate.attach(model)
    for name, config in configs.items():
        state.add_adapter(name, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".adapters." in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return state


def graphs(state: AdapterState, x: torch.Tensor, events: Sequence[tuple[Any, ...]]) -> list[int]:
    """The number of graphs after a compiled forward in each state; each output is compared with the eager one."""
    counter = CompileCounter()
    compiled = torch.compile(state.model, backend=counter, fullgraph=True)
    found = []
    for event, *arguments in events:
        getattr(state, event)(*arguments)
        torch.testing.assert_close(compiled(x), state.model(x))
        found.append(counter.frame_count)
    return found


def of_ranks(ranks: Sequence[int]) -> AdapterState:
    """A model with one adapter of each rank."""
    return with_adapters(net(), {NAMES[i]: LoraConfig(r=rank, target_modules=["0", "2"]) for i, rank in enumerate(ranks)})


def test_adapters_of_equal_rank_share_one_graph() -> None:
    """Twelve adapters of one rank, scaled differently, compile once in all."""
    configs = {name: LoraConfig(r=2, lora_alpha=i + 1, target_modules=["0", "2"]) for i, name in enumerate(NAMES)}
    state = with_adapters(net(), configs)
    assert graphs(state, torch.randn(3, 16), [("set_adapter", name) for name in NAMES]) == [1] * 12


def test_each_number_of_live_adapters_costs_one_graph() -> None:
    """Two live, none, and merged are one graph more each; what was seen before costs nothing."""
    state = of_ranks([2, 2, 2])
    events = [("set_adapter", "a"), ("set_adapter", ["a", "b"]), ("set_adapter", ["c", "b"]), ("disable_adapters",), ("enable_adapters",)]
    assert graphs(state, torch.randn(3, 16), [*events, ("merge_adapter",), ("unmerge_adapter",)]) == [1, 2, 2, 3, 3, 4, 4]


def test_copies_share_one_graph() -> None:
    """Twelve `modules_to_save` adapters compile once in all."""
    state = with_adapters(net(), {name: LoraConfig(modules_to_save=["0"]) for name in NAMES})
    assert graphs(state, torch.randn(3, 16), [("set_adapter", name) for name in NAMES]) == [1] * 12


def test_token_rows_share_one_graph() -> None:
    """Adapters of one token row each compile once in all; two at once are one graph more."""
    model = nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 16)).eval()
    state = with_adapters(model, {name: LoraConfig(trainable_token_indices={"0": [i]}) for i, name in enumerate(NAMES)})
    events = [*(("set_adapter", name) for name in NAMES), ("set_adapter", ["a", "b"])]
    assert graphs(state, torch.arange(12), events) == [1] * 12 + [2]


@pytest.mark.parametrize("policy", ["sum", "override"])
def test_weights_cost_no_graph(policy: str) -> None:
    """Of what has a weight, each further value compiles nothing: tuners, copies and rows."""
    model = nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 16), nn.LayerNorm(16)).eval()
    config = LoraConfig(r=2, target_modules=["1"], modules_to_save=["2"], trainable_token_indices={"0": [1, 2]})
    state = with_adapters(model, {"a": config, "b": config})
    values = ([0.5, 0.25], [2.0, -1.0], [0.1, 0.3], [3.0, 0.7])
    events = [("set_adapter", ["a", "b"], weights, policy) for weights in values]
    assert graphs(state, torch.arange(12), events) == [1] * 4


def test_each_rank_costs_one_graph() -> None:
    """Eight ranks are eight graphs, as many as the limit allows, and nobody warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        events = [("set_adapter", name) for name in NAMES[:8]]
        assert graphs(of_ranks(range(2, 10)), torch.randn(3, 16), events) == list(range(1, 9))


def test_a_raised_limit_has_room_for_twelve_ranks() -> None:
    """The remedy that the warning names works: with a higher limit, twelve ranks are twelve graphs, without a warning."""
    with torch._dynamo.config.patch(recompile_limit=16), warnings.catch_warnings():
        warnings.simplefilter("error")
        events = [("set_adapter", name) for name in NAMES]
        assert graphs(of_ranks(range(2, 14)), torch.randn(3, 16), events) == list(range(1, 13))


class Net(nn.Module):
    """A model whose forward is not torch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.mark.parametrize("model", [Net, net], ids=["own", "Sequential"])
def test_the_switch_that_passes_the_limit_warns(model: Callable[[], nn.Module]) -> None:
    """Before the ninth rank the event itself warns, naming the adapter, the limit and the remedy, which works."""
    configs = {name: LoraConfig(r=i + 2, target_modules=r".*\b[02]") for i, name in enumerate(NAMES)}
    state, x, counter = with_adapters(model(), configs), torch.randn(3, 16), CompileCounter()
    compiled = torch.compile(state.model, backend=counter, fullgraph=True)
    with torch._dynamo.config.patch(recompile_limit=8):
        for name in NAMES[:8]:
            state.set_adapter(name)
            compiled(x)
        assert counter.frame_count == 8
        with pytest.warns(UserWarning, match=r"'i'.*recompile_limit = 8 is reached.*Raise torch\._dynamo\.config\.recompile_limit"):
            state.set_adapter("i")
        with torch._dynamo.config.patch(recompile_limit=16):
            torch.testing.assert_close(compiled(x), state.model(x))
    assert counter.frame_count == 9


def test_past_the_limit_a_full_graph_fails() -> None:
    """What the warning foretells is so: past the limit, torch raises with fullgraph=True."""
    state, x = of_ranks(range(2, 12)), torch.randn(3, 16)
    compiled = torch.compile(state.model, backend="eager", fullgraph=True)
    with torch._dynamo.config.patch(recompile_limit=8):
        for name in NAMES[:8]:
            state.set_adapter(name)
            compiled(x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state.set_adapter("i")
        with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
            compiled(x)


def test_an_active_adapter_is_exported() -> None:
    """An exported program computes as the model did with the adapter that was active."""
    state, x = of_ranks([2, 3]), torch.randn(3, 16)
    state.set_adapter("b")
    expected = state.model(x)
    program = torch.export.export(state.model, (x,))
    state.disable_adapters()
    torch.testing.assert_close(program.module()(x), expected)
    assert not torch.allclose(state.model(x), expected)
