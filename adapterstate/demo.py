"""The demo: one small transformer, two adapters that learn what it cannot do, and every step of their state.

It needs the extra ``adapterstate[demo]``. Run it with ``python -m adapterstate demo``.
"""

from __future__ import annotations

import time

import attrs
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from adapterstate.attaching import attach
from adapterstate.config import LoraConfig
from adapterstate.errors import AdapterOverlapError
from adapterstate.state import AdapterState

SEED = 0
TOKENS = 17
"""Intensities of a pixel, 0 to 16: each is a token."""
PIXELS = 64
CLASSES = 10
WIDTH = 48
HEADS = 4
BLOCKS = 2
BATCH = 64
HELD_OUT = 360
"""Digits that no training sees."""
BASE_STEPS = 500
ADAPTER_STEPS = 200


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.q = nn.Linear(WIDTH, WIDTH)
        self.k = nn.Linear(WIDTH, WIDTH)
        self.v = nn.Linear(WIDTH, WIDTH)
        self.o = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the hidden states after this block, in the same shape."""
        normed = self.norm1(hidden)
        q, k, v = (layer(normed).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        hidden = hidden + self.o(attended)
        return hidden + torch.as_tensor(self.down(F.gelu(self.up(self.norm2(hidden)))))


class DigitTransformer(nn.Module):
    """Read a digit as 64 tokens, one for each pixel, and say which it is."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(TOKENS, WIDTH)
        self.positions = nn.Parameter(0.5 * torch.randn(PIXELS, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits for a batch of rows of tokens."""
        hidden: Tensor = self.tokens(tokens) + self.positions
        for block in self.blocks:
            hidden = block(hidden)
        logits: Tensor = self.head(self.norm(hidden).mean(dim=1))
        return logits


@attrs.frozen
class Digits:
    """The data sets.

    Attributes:
        train: name of the data -> tokens to train on.
        train_labels: the digits that they show.
        test: name of the data -> tokens held out.
        test_labels: the digits that they show.
    """

    train: dict[str, Tensor]
    train_labels: Tensor
    test: dict[str, Tensor]
    test_labels: Tensor


def load() -> Digits:
    """Load scikit-learn's digits, plain, rotated and inverted, and hold some out."""
    bundled = load_digits()
    images = torch.as_tensor(bundled.images).long()
    labels = torch.as_tensor(bundled.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SEED))
    variants = {"plain": images, "rotated": images.rot90(1, (1, 2)), "inverted": TOKENS - 1 - images}
    flat = {name: variant.flatten(1)[order] for name, variant in variants.items()}
    labels = labels[order]
    return Digits(
        train={name: tokens[HELD_OUT:] for name, tokens in flat.items()},
        train_labels=labels[HELD_OUT:],
        test={name: tokens[:HELD_OUT] for name, tokens in flat.items()},
        test_labels=labels[:HELD_OUT],
    )


class Demo:
    """What the steps of the demo share: the model, the data and where to print.

    Attributes:
        console: where to print.
        digits: the data.
        model: the model, the same object from the start to the end.
        limit: optimiser steps that each training does at most; None for no limit.
    """

    def __init__(self, console: Console, limit: int | None) -> None:
        self.console = console
        self.limit = limit
        self.digits = load()
        self.model = DigitTransformer()

    def train(self, data: str, title: str, steps: int, lr: float) -> None:
        """Train whatever requires grad, with a stock optimiser.

        Args:
            data: name of the data.
            title: what the progress bar is called.
            steps: optimiser steps, if there is no lower limit.
            lr: the highest learning rate.
        """
        steps = steps if self.limit is None else min(steps, self.limit)
        tokens, labels = self.digits.train[data], self.digits.train_labels
        optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[loss]}"),
        )
        self.model.train()
        with Progress(*columns, console=self.console) as progress:
            bar = progress.add_task(title, total=steps, loss="")
            for _ in range(steps):
                picked = torch.randint(len(labels), (BATCH,))
                loss = F.cross_entropy(self.model(tokens[picked]), labels[picked])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                progress.update(bar, advance=1, loss=f"loss {loss.item():.3f}")
        self.model.eval()

    @torch.no_grad()
    def outputs(self) -> dict[str, Tensor]:
        """Return the logits for the digits held out, by name of the data."""
        self.model.eval()
        return {name: self.model(tokens) for name, tokens in self.digits.test.items()}

    def say(self, text: str = "", style: str = "") -> None:
        """Print text as it is; the terminal may wrap it."""
        self.console.print(Text(text, style=style), soft_wrap=True)

    def show(self, done: str, state: AdapterState | None, remark: str = "") -> dict[str, Tensor]:
        """Print what the model can do now and what its state is; return its outputs."""
        outputs = self.outputs()
        self.console.print()
        self.console.rule(Text(done), align="left")
        if remark:
            self.say(remark)
        table = Table(*(f"{name} digits" for name in outputs), title=f"accuracy on {HELD_OUT} digits held out", title_justify="left")
        accuracies = [(logits.argmax(1) == self.digits.test_labels).double().mean().item() for logits in outputs.values()]
        table.add_row(*(f"{accuracy:.1%}" for accuracy in accuracies))
        self.console.print(table)
        if state is not None:
            self.say(str(state.status()))
        return outputs


def main(steps: int | None = None) -> int:
    """Run the demo; return 0 if at the end the model is the one from before the first adapter, else 1.

    Args:
        steps: optimiser steps that each training does at most; None for as many as the demo needs.
    """
    started = time.perf_counter()
    console = Console(highlight=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model gains nothing from more, and on a busy machine they wait for each other
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            unchanged = _run(Demo(console, steps))
    finally:
        torch.set_num_threads(threads)
    console.print(f"That took {time.perf_counter() - started:.0f} seconds.")
    return 0 if unchanged else 1


def _same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Return whether two dicts of tensors are equal, bit for bit and in the same order."""
    return list(left) == list(right) and all(torch.equal(left[name], right[name]) for name in left)


def _run(demo: Demo) -> bool:
    """Do every step; return whether the model at the end is the one from before the first adapter."""
    model = demo.model
    demo.train("plain", "base model, plain digits", BASE_STEPS, lr=4e-3)
    base = demo.show("The base model, without adapters", None, "It knows plain digits only.")
    parameters, modules = dict(model.named_parameters()), dict(model.named_modules())
    values = {name: value.clone() for name, value in model.state_dict().items()}
    trainable = {name: parameter.requires_grad for name, parameter in parameters.items()}

    state = attach(model)
    _train_adapters(demo, state)
    _refusal(demo, state)
    _frozen_disabled_merged(demo, state, base)

    for name in state.adapters:
        state.delete_adapter(name)
    after = demo.show("delete_adapter() of all", state, "The model should be the one from before the first adapter:")
    now = dict(model.named_parameters())
    findings = {
        "the outputs are those from before the first adapter, bit for bit": _same(after, base),
        "state_dict() has the same keys and values, bit for bit": _same(dict(model.state_dict()), values),
        "each parameter is the very same object": list(now) == list(parameters) and all(now[name] is parameters[name] for name in now),
        "each module is the very same object": dict(model.named_modules()) == modules,
        "requires_grad is what it was": {name: parameter.requires_grad for name, parameter in now.items()} == trainable,
        "check() has nothing to say": state.check() == (),
    }
    demo.say()
    for finding, holds in findings.items():
        demo.say(f"{holds!s:5}  {finding}", style="green" if holds else "bold red")
    unchanged = all(findings.values())
    demo.say(f"The model is unchanged: {unchanged}", style="bold")
    return unchanged


def _train_adapters(demo: Demo, state: AdapterState) -> None:
    """Add two adapters, train each, switch between them, activate both."""
    state.add_adapter("rotated", LoraConfig(r=8, lora_alpha=16, target_modules=["q", "v", "up", "down"], modules_to_save=["head"]))
    demo.show("add_adapter('rotated')", state, "The first adapter activates itself. It starts out doing what the base does.")
    demo.train("rotated", "adapter 'rotated', rotated digits", ADAPTER_STEPS, lr=1e-2)
    rotated = demo.show("'rotated' has been trained", state, "LoRA in the blocks, and its own copy of the head.")

    tokens = {"tokens": list(range(TOKENS))}
    state.add_adapter("inverted", LoraConfig(r=8, lora_alpha=16, target_modules=["q", "v", "up", "down"], trainable_token_indices=tokens))
    added = demo.show("add_adapter('inverted')", state, "A later adapter stays inactive.")
    demo.say(f"The outputs are those from before it came, bit for bit: {_same(added, rotated)}")
    state.set_adapter("inverted")
    demo.show("set_adapter('inverted')", state, "LoRA, head and embedding switch together; 'inverted' is still untrained.")
    demo.train("inverted", "adapter 'inverted', inverted digits", ADAPTER_STEPS, lr=1e-2)
    demo.show("'inverted' has been trained", state, "LoRA in the blocks, and its own rows of the embedding.")
    state.set_adapter("rotated")
    back = demo.show("set_adapter('rotated')", state)
    demo.say(f"The outputs are those of 'rotated' before the switch, bit for bit: {_same(back, rotated)}")
    state.set_adapter(["rotated", "inverted"])
    demo.show("set_adapter(['rotated', 'inverted'])", state, "Both at once, which neither was trained for.")


def _refusal(demo: Demo, state: AdapterState) -> None:
    """Ask for what has no meaning."""
    state.add_adapter("mirrored", LoraConfig(r=8, target_modules=["q", "v"], modules_to_save=["head"]))
    active, before = state.active_adapters, demo.outputs()
    try:
        state.set_adapter(["rotated", "mirrored"])
    except AdapterOverlapError as error:
        text = str(error)
    else:
        raise RuntimeError("two adapters that both replace the head were activated together")
    after = demo.show("add_adapter('mirrored'), set_adapter(['rotated', 'mirrored']): refused", state, f"AdapterOverlapError: {text}")
    demo.say(f"Active before: {active}; after: {state.active_adapters}; unchanged: {state.active_adapters == active}")
    demo.say(f"The outputs are those from before, bit for bit: {_same(after, before)}")
    with state.use_adapter(["rotated", "mirrored"], on_overlap="sum"):
        remark = "The same activation with a policy: the head is original + (rotated - original) + (mirrored - original)."
        demo.show("with use_adapter(['rotated', 'mirrored'], on_overlap='sum'):", state, remark)
        copies = [_head(demo.model, name) for name in ("rotated", "mirrored")]
        original = _head(demo.model)
        expected = original + sum(copy - original for copy in copies)
        apart = (demo.model.head.weight - expected).abs().max().item()
        demo.say(f"model.head.weight differs from that formula, computed apart, at most by {apart:.1e}")
    demo.say(f"After the context, the activation is the one from before: {state.active_adapters == active}")


def _head(model: DigitTransformer, name: str | None = None) -> Tensor:
    """Return the weight of the head: the base's own, or the copy of an adapter."""
    parameters = dict(model.head.named_parameters())
    return parameters["weight" if name is None else f"adapters.{name}.weight"].detach()


def _frozen_disabled_merged(demo: Demo, state: AdapterState, base: dict[str, Tensor]) -> None:
    """Freeze, disable, merge and unmerge."""
    state.set_requires_grad(state.adapters, False)
    count = sum(parameter.requires_grad for parameter in demo.model.parameters())
    frozen = demo.show("set_requires_grad(state.adapters, False)", state, f"Parameters of the model that require grad: {count}")
    with state.disable_adapter():
        off = demo.show("with disable_adapter():", state)
        demo.say(f"The outputs are those of the base model, bit for bit: {_same(off, base)}")
    state.merge_adapter()
    merged = demo.show("merge_adapter()", state, "Both are active still, and precomputed now.")
    apart = max((merged[name] - frozen[name]).abs().max().item() for name in merged)
    demo.say(f"The outputs differ from those before merging by rounding, at most by {apart:.1e}")
    state.unmerge_adapter()
    unmerged = demo.show("unmerge_adapter()", state)
    demo.say(f"The outputs are those from before merging, bit for bit: {_same(unmerged, frozen)}")
