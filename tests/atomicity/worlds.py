"""A small tied model with adapters, everything that rule 1 says an event must leave alone, and every event."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
from torch import nn

from adapterstate import AdapterState, LoraConfig, attach
from adapterstate.modules.slots import Slot

TOKENS = torch.arange(6).reshape(2, 3)

IGNORED = ("ignore:.*was called without `with`", "ignore:leaving .* was refused")
"""Warnings that contexts give when entering or leaving them was interrupted."""


class Net(nn.Module):
    """Two layers between an embedding and a head that is tied to it, and a block that `modules_to_save` copies.

    With `fresh`, the layers are of a class of their own, which has never been wrapped before.
    """

    def __init__(self, *, fresh: bool) -> None:
        super().__init__()
        linear = type("Linear", (nn.Linear,), {}) if fresh else nn.Linear
        self.embed = nn.Embedding(6, 2)
        self.first = linear(2, 2)
        self.second = linear(2, 2)
        self.head = nn.Linear(2, 6, bias=False)
        self.score = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
        self.head.weight = self.embed.weight
        self.second.bias.requires_grad_(False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.second(self.first(self.embed(tokens)).tanh())
        return torch.cat([self.head(hidden), self.score(hidden)], dim=-1)


FIRST = LoraConfig(r=1, target_modules=["first", "second"], trainable_token_indices={"embed": [1, 2]})
SECOND = LoraConfig(r=2, target_modules=["first"], modules_to_save=["score"], trainable_token_indices={"embed": [3]})
THIRD = LoraConfig(r=1, target_modules=["second"], modules_to_save=["score"], trainable_token_indices={"embed": [5]})


class World:
    """A model and its state; `contexts` keeps the contexts that an event has made."""

    def __init__(self, adapters: int) -> None:
        gc.collect()  # states that are gone must not be looked through by `attach`
        torch.manual_seed(0)
        self.model = Net(fresh=not adapters).eval()
        self.state: AdapterState = attach(self.model)
        self.contexts: list[Any] = []
        for name, config in (("a", FIRST), ("b", SECOND))[:adapters]:
            self.state.add_adapter(name, config)
        with torch.no_grad():
            for module in self.model.modules():
                for parameter in module._parameters.values() if isinstance(module, Slot) else ():
                    if parameter is not None:
                        parameter += torch.randn_like(parameter)

    def enter(self, context: Any) -> None:
        self.contexts.append(context)
        context.__enter__()

    def leave(self) -> None:
        self.contexts[-1].__exit__(None, None, None)


@attrs.frozen
class Case:
    """An event: how many adapters there are before it, what comes before it, and itself."""

    adapters: int
    prepare: Callable[[World], Any]
    act: Callable[[World], Any]

    def begin(self) -> World:
        """Make a world in which the event can happen."""
        world = World(self.adapters)
        self.prepare(world)
        return world


def _both(world: World) -> None:
    world.state.set_adapter(["a", "b"])


def _merged(world: World) -> None:
    _both(world)
    world.state.merge_adapter(["a"])


def _disabled(world: World) -> None:
    _merged(world)
    world.state.disable_adapters()


def _broken(world: World) -> None:
    """Torch says otherwise than the state, in flags and in a wiring."""
    _merged(world)
    for parameter in world.model.parameters():
        parameter.requires_grad_(not parameter.requires_grad)
    names = [name for name in world.model.first.__dict__ if "wiring" in name]
    world.model.first.__dict__[names[0]] = world.model.second.__dict__[names[0]]


def _used(world: World) -> None:
    _merged(world)
    world.enter(world.state.use_adapter("b"))


def _left(world: World) -> None:
    _merged(world)
    world.enter(world.state.disable_adapter())


def _snapped(world: World) -> None:
    _disabled(world)
    world.contexts.append(world.state.snapshot())
    world.state.enable_adapters()
    world.state.set_adapter("b")
    world.state.set_requires_grad("a", False)


def _three(world: World) -> None:
    """Two copies of one block that carry a policy, and rows."""
    world.state.add_adapter("c", THIRD, on_overlap="sum")


def _summed(world: World) -> None:
    _three(world)
    world.state.set_adapter(["a", "b", "c"], weights=[1.0, 0.5, 2.0], on_overlap="sum")


def _summed_and_merged(world: World) -> None:
    _summed(world)
    world.state.merge_adapter(["a", "c"])


def _seen(world: World) -> None:
    """Switched there and back before, so that the next switch is done from memory."""
    for _ in range(3):
        world.state.set_adapter(["a", "b"])
        world.state.set_adapter("b")
    world.state.set_adapter(["a", "b"])


def _one(world: World) -> None:
    world.state.delete_adapter("b")


CASES: dict[str, Case] = {
    "first add": Case(0, lambda w: None, lambda w: w.state.add_adapter("c", THIRD)),
    "later add": Case(2, _both, lambda w: w.state.add_adapter("c", THIRD)),
    "set": Case(2, _both, lambda w: w.state.set_adapter(["b", "a"])),
    "set none": Case(2, _merged, lambda w: w.state.set_adapter([])),
    "set with a policy": Case(2, _three, lambda w: w.state.set_adapter(["c", "b", "a"], weights=[1, 0.5, 1], on_overlap="override")),
    "weights alone": Case(2, _summed_and_merged, lambda w: w.state.set_adapter(["a", "b", "c"], on_overlap="sum")),
    "merge with a policy": Case(2, _summed, lambda w: w.state.merge_adapter(["b", "c"])),
    "merge_and_unload with a policy": Case(2, _summed_and_merged, lambda w: w.state.merge_and_unload()),
    "set from memory": Case(2, _seen, lambda w: w.state.set_adapter("b")),
    "merge": Case(2, _both, lambda w: w.state.merge_adapter()),
    "partial merge": Case(2, _both, lambda w: w.state.merge_adapter(["a"])),
    "safe merge": Case(2, _both, lambda w: w.state.merge_adapter(safe_merge=True)),
    "unmerge": Case(2, _merged, lambda w: w.state.unmerge_adapter()),
    "disable": Case(2, _merged, lambda w: w.state.disable_adapters()),
    "enable": Case(2, _disabled, lambda w: w.state.enable_adapters()),
    "enter disable_adapter": Case(2, _merged, lambda w: w.enter(w.state.disable_adapter())),
    "leave disable_adapter": Case(2, _left, lambda w: w.leave()),
    "enter use_adapter": Case(2, _merged, lambda w: w.enter(w.state.use_adapter("b"))),
    "leave use_adapter": Case(2, _used, lambda w: w.leave()),
    "freeze": Case(2, _merged, lambda w: w.state.set_requires_grad(["a", "b"], False)),
    "delete": Case(2, _both, lambda w: w.state.delete_adapter("a")),
    "last delete": Case(2, _one, lambda w: w.state.delete_adapter("a")),
    "restore": Case(2, _snapped, lambda w: w.state.restore(w.contexts[0])),
    "unload": Case(2, _merged, lambda w: w.state.unload()),
    "merge_and_unload": Case(2, _both, lambda w: w.state.merge_and_unload()),
    "repair": Case(2, _broken, lambda w: w.state.repair()),
}


@attrs.frozen(eq=False)
class Look:
    """Everything that rule 1 names. It keeps the parameters alive, so that an identity is never given out twice."""

    seen: dict[str, Any]
    held: tuple[Any, ...]


def look(world: World) -> Look:
    """Take down everything that rule 1 names, without changing it."""
    model, state = world.model, world.state
    generator = torch.get_rng_state()
    with torch.no_grad():
        output = model(TOKENS)
    parameters = list(model.named_parameters(remove_duplicate=False))
    modules = list(model.named_modules(remove_duplicate=False))
    values = model.state_dict()
    seen = {
        "facts": state.facts,
        "state_dict keys": list(values),
        "state_dict values": [value.clone() for value in values.values()],
        "parameters": [(name, id(parameter), parameter.requires_grad) for name, parameter in parameters],
        "types": [(path, type(module)) for path, module in modules],
        "output": [output],
        "generator": [generator],
        "module __dict__ keys": [(path, sorted(module.__dict__)) for path, module in modules],
        "children and parameters": [
            (path, list(module._modules), list(module._parameters), list(module._buffers)) for path, module in modules
        ],
        "journal": len(state.journal),
        "driven modules": [(path, id(module)) for path, module in state._modules.items()],
    }
    return Look(seen, (parameters, modules))


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, list) and left and isinstance(left[0], torch.Tensor):
        return len(left) == len(right) and all(torch.equal(one, other) for one, other in zip(left, right, strict=True))
    return bool(left == right)


def differences(left: Look, right: Look) -> list[str]:
    """Name what differs between two looks at one world."""
    return [name for name in left.seen if not _equal(left.seen[name], right.seen[name])]


def result(before: Look, after: Look) -> Look:
    """What an event has led to, in a form that can be compared between worlds: identities are names from before, or numbers."""
    names: dict[int, Any] = {}
    for name, identity, _ in before.seen["parameters"]:
        names.setdefault(identity, name)
    paths = {id(module): path for path, module in after.held[1]}
    bases = {kind: path for path, kind in reversed(before.seen["types"])}
    seen = dict(after.seen)
    seen["parameters"] = [(name, names.setdefault(identity, len(names)), flag) for name, identity, flag in after.seen["parameters"]]
    seen["driven modules"] = [(path, paths.get(identity)) for path, identity in after.seen["driven modules"]]
    seen["types"] = [(path, kind.__name__, bases.get(kind)) for path, kind in after.seen["types"]]
    return Look(seen, ())


def complete(case: Case) -> Look:
    """The result of the event when nothing interrupts it."""
    world = case.begin()
    before = look(world)
    case.act(world)
    found = result(before, look(world))
    del world
    gc.collect()
    gc.freeze()  # what was imported on the way need not be looked through each time
    return found


def another_event_works(world: World) -> None:
    """Two events that every world accepts still happen."""
    world.state.add_adapter("later", LoraConfig(r=1, target_modules=["second"]))
    world.state.set_adapter("later")
    assert world.state.active_adapters == ("later",)
    assert world.state.check() == ()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """One thread, a generator of its own, and a collector that only looks at what is made in here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        gc.unfreeze()
        torch.set_num_threads(threads)
