"""A small model, and what it computes with adapters on it, worked out naively: dense weights row by row, one sample at a time.

Nothing in here uses the package's reads, forwards, planner or projection. It takes the base values and the adapters' own tensors, and the
formulas of the rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from adapterstate import AdapterState, LoraConfig, attach

ROWS, WIDTH = 6, 4
TOKENS = torch.tensor([[0, 1, 2], [3, 4, 5], [5, 1, 0]])
SCALE = 1.5
"""``lora_alpha / r`` of every LoRA in here."""


class Net(nn.Module):
    """An embedding, a layer, a norm, a recurrent cell, a small block, and a head that may share the embedding's weight."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.emb = nn.Embedding(ROWS, WIDTH)
        self.lin = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.cell = nn.RNNCell(WIDTH, WIDTH)
        self.block = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH, bias=False))
        self.head = nn.Linear(WIDTH, ROWS, bias=False)
        if tied:
            self.head.weight = self.emb.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits for each row of tokens."""
        hidden = self.norm(self.lin(self.emb(tokens)))
        state = torch.zeros(len(tokens), WIDTH, dtype=hidden.dtype)
        for step in hidden.unbind(1):
            state = self.cell(step, state)
        logits: Tensor = self.head(self.block(state))
        return logits


WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "emb": ("weight",),
    "lin": ("weight", "bias"),
    "norm": ("weight", "bias"),
    "cell": ("weight_ih", "weight_hh", "bias_ih", "bias_hh"),
    "block.0": ("weight", "bias"),
    "block.2": ("weight",),
    "head": ("weight",),
}
"""Every module that owns parameters."""
TUNABLE = ("emb", "lin", "block.0", "block.2", "head")
SAVABLE = ("emb", "lin", "norm", "cell", "block", "head")


@attrs.frozen
class Adapter:
    """What an adapter is, apart from the package: targets of LoRA, saved modules, trained rows of the embedding, its policy."""

    lora: tuple[str, ...] = ()
    saved: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()
    ties: bool = False
    policy: str = "error"

    def config(self) -> LoraConfig:
        """As the package wants it."""
        return LoraConfig(
            r=2,
            lora_alpha=2 * SCALE,
            target_modules=list(self.lora) or None,
            modules_to_save=list(self.saved) or None,
            trainable_token_indices={"emb": list(self.rows)} if self.rows else None,
            ensure_weight_tying=self.ties,
        )

    def copies(self, *, tied: bool) -> dict[tuple[str, str], tuple[str, str]]:
        """(module, parameter) that a whole copy replaces -> where that copy is kept."""
        found = {}
        for path, names in WEIGHTS.items():
            if path in self.saved or path.split(".")[0] in self.saved:
                found.update({(path, name): (path, name) for name in names})
        if tied and self.ties and ({"emb", "head"} & set(self.saved)):
            home = ("emb", "weight") if "emb" in self.saved else ("head", "weight")
            found[("emb", "weight")] = found[("head", "weight")] = home
        return found

    def tuned(self) -> tuple[str, ...]:
        """Modules with LoRA: a module that is saved is not tuned by the same adapter."""
        return tuple(path for path in self.lora if path not in self.saved and path.split(".")[0] not in self.saved)

    def row_ends(self, *, tied: bool) -> tuple[str, ...]:
        """Modules at which the trained rows act."""
        return (("emb", "head") if tied else ("emb",)) if self.rows else ()


@attrs.define(eq=False)
class World:
    """A model with adapters; the first one is active from the start."""

    model: Net
    state: AdapterState
    adapters: Mapping[str, Adapter]
    tied: bool

    def slot(self, path: str, name: str) -> Mapping[str, Tensor]:
        """The tensors of an adapter on a module."""
        module: Any = self.model.get_submodule(path)
        tensors: Mapping[str, Tensor] = module.adapters._modules[name]._parameters
        return tensors

    def base(self, path: str, name: str) -> Tensor:
        """A parameter of the base itself."""
        found = self.model.get_submodule(path)._parameters[name]
        assert found is not None
        return found.detach()


def build(adapters: Mapping[str, Adapter], *, tied: bool, dtype: torch.dtype, seed: int = 0) -> World:
    """A model whose adapters all change the output."""
    torch.manual_seed(seed)
    model = Net(tied=tied).to(dtype).eval()
    state = attach(model)
    for name, adapter in adapters.items():
        state.add_adapter(name, adapter.config(), on_overlap=adapter.policy)  # type: ignore[arg-type]
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if ".adapters." in key:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return World(model, state, adapters, tied)


def overlap(one: Adapter, two: Adapter, *, tied: bool) -> set[str]:
    """Modules at which the two replace the same row of the same parameter."""
    found = {path for path, _ in one.copies(tied=tied) if path in {path for path, _ in two.copies(tied=tied)}}
    for a, b in ((one, two), (two, one)):
        found |= {path for path in a.row_ends(tied=tied) if (path, "weight") in b.copies(tied=tied)}
    if set(one.rows) & set(two.rows):
        found |= set(one.row_ends(tied=tied))
    return found


Weighed = Sequence[tuple[str, float, str]]
"""The active adapters in order, each with its weight and the policy in force for it."""


def replaced(world: World, path: str, name: str, active: Weighed) -> Tensor:
    """What stands in place of a parameter of the base, in float64, row by row."""
    original = world.base(path, name).double()
    result = original.clone()
    for row in range(len(original)):
        found = []
        for adapter, weight, policy in active:
            what = world.adapters[adapter]
            if (path, name) in what.copies(tied=world.tied):
                home, key = what.copies(tied=world.tied)[path, name]
                found.append((world.slot(home, adapter)[key][row], weight, policy))
            if name == "weight" and path in what.row_ends(tied=world.tied) and row in what.rows:
                found.append((world.slot("emb", adapter)["trainable_tokens"][what.rows.index(row)], weight, policy))
        if len(found) > 1 and found[0][2] != "sum":
            found = found[-1:]
        for value, weight, _ in found:
            result[row] += weight * (value.detach().double() - original[row])
    return result


def delta(world: World, path: str, active: Weighed) -> Tensor:
    """What LoRA adds to the weight of a module, in float64."""
    total = torch.zeros_like(world.base(path, "weight"), dtype=torch.float64)
    for adapter, weight, _ in active:
        if path in world.adapters[adapter].tuned():
            own = {key: tensor.detach().double() for key, tensor in world.slot(path, adapter).items()}
            if path == "emb":
                total += weight * SCALE * own["lora_embedding_A"].T @ own["lora_embedding_B"].T
            else:
                total += weight * SCALE * own["lora_B"] @ own["lora_A"]
    return total


def dense(world: World, active: Weighed) -> dict[str, Tensor]:
    """Every effective weight."""
    found = {f"{path}.{name}": replaced(world, path, name, active) for path, names in WEIGHTS.items() for name in names}
    for path in TUNABLE:
        found[f"{path}.weight"] += delta(world, path, active)
    return found


def output(weights: Mapping[str, Tensor]) -> Tensor:
    """The logits, one sample and one token at a time."""
    w = weights
    rows = []
    for sample in TOKENS.tolist():
        state = torch.zeros(WIDTH, dtype=torch.float64)
        for token in sample:
            hidden = w["lin.weight"] @ w["emb.weight"][token] + w["lin.bias"]
            centred = hidden - hidden.mean()
            normed = centred / (centred.pow(2).mean() + 1e-5).sqrt() * w["norm.weight"] + w["norm.bias"]
            state = torch.tanh(w["cell.weight_ih"] @ normed + w["cell.bias_ih"] + w["cell.weight_hh"] @ state + w["cell.bias_hh"])
        hidden = w["block.2.weight"] @ torch.tanh(w["block.0.weight"] @ state + w["block.0.bias"])
        rows.append(w["head.weight"] @ hidden)
    return torch.stack(rows)
