"""Merging is exact in every half precision, whatever is merged, in whatever order, and however often."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from adapterstate import NotMergeableError

from .oracle import TOKENS, Adapter, World, build, dense, output
from .test_oracle import OUTPUT, close

ADAPTERS = {
    "a": Adapter(lora=("emb", "lin", "head"), saved=("norm",), rows=(1, 3), policy="sum"),
    "b": Adapter(lora=("lin", "block.0"), saved=("norm", "cell"), rows=(3, 4), policy="sum"),
    "c": Adapter(saved=("lin", "block"), rows=(0,), policy="sum"),
}


def everything(world: World) -> list[torch.Tensor]:
    """Every base tensor, the very objects."""
    return [p for key, p in world.model.named_parameters() if ".adapters." not in key] + list(world.model.buffers())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_thousand_cycles(dtype: torch.dtype) -> None:
    """A thousand merges, unmerges, switches, disablings: every base tensor is the object and the bits from before."""
    world = build(ADAPTERS, tied=True, dtype=dtype)
    state, draw = world.state, random.Random(0)
    tensors = everything(world)
    kept = [tensor.detach().clone() for tensor in tensors]
    state.set_adapter(["a", "b", "c"])
    before = world.model(TOKENS)
    for _ in range(1000):
        names = draw.sample("abc", draw.randint(1, 3))
        state.set_adapter(names, weights=draw.choice([None, [0.5] * len(names)]), on_overlap=draw.choice([None, "override"]))
        state.merge_adapter(draw.sample(names, draw.randint(1, len(names))))
        if draw.random() < 0.3:
            with state.disable_adapter():
                state.merge_adapter()
        if draw.random() < 0.7:
            state.unmerge_adapter()
    assert all(one is two for one, two in zip(everything(world), tensors, strict=True))
    assert all(torch.equal(tensor, value) for tensor, value in zip(tensors, kept, strict=True))
    state.set_adapter(["a", "b", "c"])
    assert torch.equal(world.model(TOKENS), before)


@pytest.mark.parametrize("policy", ["sum", "override"])
@pytest.mark.parametrize("weights", [None, (0.5, 1.0, -1.0)])
def test_every_subset_in_every_order(policy: str, weights: tuple[float, ...] | None) -> None:
    """Each subset of the active adapters, merged one by one in each order, gives the normal form; so do steps back."""
    for names in itertools.permutations("abc"):
        world = build(ADAPTERS, tied=True, dtype=torch.float64)
        world.state.set_adapter(names, weights=weights, on_overlap=policy)  # type: ignore[arg-type]
        exact = output(dense(world, [(name, weight, policy) for name, weight in zip(names, weights or (1.0,) * 3, strict=True)]))
        for count in (1, 2, 3):
            for merges in itertools.permutations(names, count):
                for done, name in enumerate(merges, 1):
                    world.state.merge_adapter(name)
                    assert set(world.state.merged_adapters) == set(merges[:done])
                close(world.model(TOKENS), exact, OUTPUT[torch.float64])
                world.state.unmerge_adapter()


def test_safe_merge_is_asked_of_the_combination() -> None:
    """Two finite copies whose sum is not finite in the base's dtype are refused, before anything changes."""
    adapters = {"a": Adapter(saved=("norm",), policy="sum"), "b": Adapter(saved=("norm",), policy="sum")}
    world = build(adapters, tied=False, dtype=torch.float16)
    with torch.no_grad():
        for name in "ab":
            world.slot("norm", name)["weight"].fill_(60000.0)
    world.state.set_adapter(["a", "b"])
    facts = world.state.facts
    with pytest.raises(NotMergeableError, match=r"norm.*not finite") as refused:
        world.state.merge_adapter(safe_merge=True)
    assert [refusal.where for refusal in refused.value.refusals] == ["norm"]
    assert world.state.facts is facts
    with pytest.raises(NotMergeableError):
        world.state.merge_and_unload(safe_merge=True)
    assert world.state.facts is facts
    world.state.set_adapter(["a", "b"], weights=[0.5, 0.25])
    world.state.merge_adapter(safe_merge=True)


def test_deleting_a_live_adapter_keeps_the_merged_ones() -> None:
    """What stays merged is the normal form of what is left, its weight and policy included."""
    world = build(ADAPTERS, tied=True, dtype=torch.float64)
    world.state.set_adapter(["a", "b", "c"], weights=[0.5, 1.0, 2.0], on_overlap="override")
    world.state.merge_adapter(["a", "b"])
    world.state.delete_adapter("c")
    assert world.state.merged_adapters == ("a", "b")
    assert (world.state.weights, world.state.on_overlap) == ({"a": 0.5, "b": 1.0}, "override")
    exact = output(dense(world, [("a", 0.5, "override"), ("b", 1.0, "override")]))
    close(world.model(TOKENS), exact, OUTPUT[torch.float64])


def test_merge_and_unload_of_named_adapters_keeps_their_weights() -> None:
    """Named adapters keep the weight and policy that they are active with; others come with the weight 1."""
    for named, weighed in ((None, [("b", 0.5)]), (["c", "b"], [("c", 1.0), ("b", 0.5)])):
        world = build(ADAPTERS, tied=True, dtype=torch.float64)
        world.state.set_adapter("b", weights=[0.5], on_overlap="sum")
        exact = output(dense(world, [(name, weight, "sum") for name, weight in weighed]))
        close(world.state.merge_and_unload(adapter_names=named)(TOKENS), exact, OUTPUT[torch.float64])
