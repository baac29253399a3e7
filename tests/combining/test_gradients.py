"""Gradients reach every adapter that takes part, and are those of finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor
from torch.func import functional_call

from adapterstate import AdapterOverlapError

from .oracle import TOKENS, Adapter, World, build
from .worlds import Case, cases

EVERYTHING = {
    "a": Adapter(lora=("lin", "head"), saved=("norm", "cell", "block"), rows=(1, 3), policy="sum"),
    "b": Adapter(lora=("block.0",), saved=("lin", "norm"), rows=(3, 4), policy="sum"),
    "c": Adapter(saved=("emb", "cell"), ties=True, policy="sum"),
}


def parameters_of(world: World, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The parameters of these adapters, by name in the model."""
    return {
        key: parameter.detach().clone().requires_grad_()
        for key, parameter in world.model.named_parameters()
        if any(f".adapters.{name}." in key for name in names)
    }


def checked(world: World, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Compare gradients with finite differences in float64; return the analytic gradients."""
    own = parameters_of(world, names)

    def computed(*values: Tensor) -> Any:
        return functional_call(world.model, dict(zip(own, values, strict=True)), (TOKENS,))

    assert torch.autograd.gradcheck(computed, tuple(own.values()), fast_mode=True)
    gradients = torch.autograd.grad(computed(*own.values()).pow(2).sum(), tuple(own.values()), allow_unused=True)
    return {key: torch.zeros(()) if found is None else found for key, found in zip(own, gradients, strict=True)}


@pytest.mark.parametrize("weights", [None, (1.0, 0.5, -1.0)])
@pytest.mark.parametrize("tied", [False, True])
def test_sum_reaches_every_copy(weights: tuple[float, ...] | None, tied: bool) -> None:
    """Summed copies, rows and tuners all get gradients, those of finite differences; the base gets none."""
    adapters = {
        name: adapter if tied else Adapter(adapter.lora, adapter.saved, adapter.rows, False, "sum") for name, adapter in EVERYTHING.items()
    }
    world = build(adapters, tied=tied, dtype=torch.float64)
    world.state.set_adapter(["a", "b", "c"], weights=weights)
    found = checked(world, ("a", "b", "c"))
    assert [key for key, gradient in found.items() if not gradient.any()] == []
    world.model(TOKENS).pow(2).sum().backward()
    bases = [key for key, parameter in world.model.named_parameters() if ".adapters." not in key and parameter.grad is not None]
    assert bases == []


def test_override_reaches_the_winner() -> None:
    """Where a copy is overridden completely it gets no gradient, the later one does."""
    adapters = {"a": Adapter(saved=("norm",), policy="override"), "b": Adapter(saved=("norm",), policy="override")}
    world = build(adapters, tied=False, dtype=torch.float64)
    world.state.set_adapter(["a", "b"])
    found = checked(world, ("a", "b"))
    assert {key: bool(gradient.any()) for key, gradient in found.items()} == {
        f"norm.adapters.{name}.{parameter}": name == "b" for name in "ab" for parameter in ("weight", "bias")
    }


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(cases((torch.float64,)))
def test_finite_differences(case: Case) -> None:
    """For drawn kinds, policies, weights, ties and merged subsets: what is live has the gradients of finite differences."""
    world = build(case.adapters, tied=case.tied, dtype=case.dtype)
    try:
        world.state.set_adapter(case.names, weights=case.weights, on_overlap=case.policy)
    except AdapterOverlapError:
        return
    checked(world, case.names)
    for name in case.merges:
        world.state.merge_adapter(name)
    live = tuple(name for name in case.names if name not in case.merges)
    if live and world.model(TOKENS).requires_grad:
        checked(world, live)


def test_a_training_step_moves_every_summed_copy() -> None:
    """A stock optimiser over `model.parameters()` changes all of them and no base value."""
    world = build(EVERYTHING, tied=True, dtype=torch.float32)
    world.state.set_adapter(["a", "b", "c"])
    bases = {key: value.clone() for key, value in world.state.base_state_dict().items()}
    before = {key: parameter.detach().clone() for key, parameter in world.model.named_parameters() if ".adapters." in key}
    optimiser = torch.optim.SGD([p for p in world.model.parameters() if p.requires_grad], lr=0.1)
    world.model(TOKENS).pow(2).sum().backward()
    optimiser.step()
    now = dict(world.model.named_parameters())
    assert [key for key, value in before.items() if torch.equal(value, now[key])] == []
    assert all(torch.equal(value, bases[key]) for key, value in world.state.base_state_dict().items())
