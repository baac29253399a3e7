"""Adapters, activations and merges, drawn by hypothesis rather than listed."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from hypothesis import strategies as st

from adapterstate import Policy

from .oracle import ROWS, SAVABLE, TUNABLE, Adapter, Weighed

POLICIES = ("error", "sum", "override")
WEIGHT = st.sampled_from((1.0, 0.5, -1.0, 0.0, 2.0))
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@attrs.frozen
class Case:
    """Adapters, an activation of them, and which of those are merged.

    Attributes:
        adapters: by name.
        names: the activation.
        weights: given with it, if any.
        policy: named with it, if any.
        merges: names merged, one call after the other.
        tied: whether embedding and head share their weight.
        dtype: of the base.
    """

    adapters: dict[str, Adapter]
    names: tuple[str, ...]
    weights: tuple[float, ...] | None
    policy: Policy | None
    merges: tuple[str, ...]
    tied: bool
    dtype: torch.dtype

    @property
    def active(self) -> Weighed:
        """What is in force, as the oracle wants it."""
        weights = self.weights or (1.0,) * len(self.names)
        return [(name, weight, self.policy or self.adapters[name].policy) for name, weight in zip(self.names, weights, strict=True)]


@st.composite
def _adapters(draw: Any, *, tied: bool, policies: tuple[str, ...]) -> Adapter:
    saved = draw(st.lists(st.sampled_from(SAVABLE), max_size=3, unique=True))
    rows = draw(st.lists(st.integers(0, ROWS - 1), max_size=3, unique=True))
    ties = tied and bool({"emb", "head"} & set(saved)) and draw(st.booleans())
    if "emb" in saved or (tied and "head" in saved):
        rows = []  # one adapter does not replace a row twice
    tunable = [path for path in TUNABLE if not ties or path not in ("emb", "head")]  # refused: LoRA acts at its own end only
    lora = draw(st.lists(st.sampled_from(tunable), min_size=0 if saved or rows else 1, max_size=3, unique=True))
    adapter = Adapter(tuple(lora), tuple(saved), tuple(rows), ties, draw(st.sampled_from(policies)))
    return adapter if adapter.tuned() else attrs.evolve(adapter, lora=())  # targets that match saved modules only are refused


@st.composite
def cases(draw: Any, dtypes: tuple[torch.dtype, ...] = DTYPES) -> Case:
    """A case; in most of them all adapters carry one policy, so that most activations are accepted."""
    tied = draw(st.booleans())
    policies = draw(st.sampled_from((("sum",), ("override",), ("sum",), ("override",), ("error",), POLICIES)))
    count = draw(st.integers(1, 3))
    adapters = {name: draw(_adapters(tied=tied, policies=policies)) for name in "abc"[:count]}
    names = tuple(draw(st.permutations(list(adapters))))[: draw(st.integers(1, count))]
    weights = draw(st.none() | st.lists(WEIGHT, min_size=len(names), max_size=len(names)).map(tuple))
    policy = draw(st.sampled_from((None, None, None, "sum", "override", "error")))
    merges = tuple(draw(st.lists(st.sampled_from(names), max_size=len(names), unique=True)))
    return Case(adapters, names, weights, policy, merges, tied, draw(st.sampled_from(dtypes)))
