"""Speed against PEFT and against bare loops, side by side in one process, as ratios with the targets beside them.

    python benchmarks/speed.py [--quick] [--output FILE]

Each ratio is the median of interleaved rounds: in every round each contender runs once, so that a busy machine slows all of them. The parts
of the table run one after the other, each in a process of its own, since a process that has done much is slower. Times are wall clock on
one thread. Layers are `Linear(16, 16)` and adapters are LoRA of rank 2 unless the line says otherwise.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import peft
import torch
import torch.nn.functional as F
from torch import nn

import adapterstate
from adapterstate import LoraConfig

warnings.filterwarnings("ignore")
torch.set_num_threads(1)

LAYERS = 224
TARGETS = r".*layers\.\d+"


class Model(nn.Module):
    """Equal layers, and as many modules beside them as wanted."""

    def __init__(self, layers: int, beside: int = 0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(layers))
        self.beside = nn.ModuleList(nn.Identity() for _ in range(beside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def ours(
    layers: int, adapters: int, *, beside: int = 0, targets: str = TARGETS, follows: Any = "trainability"
) -> adapterstate.AdapterState:
    """A model with adapters."""
    state = adapterstate.attach(Model(layers, beside).eval(), grad_follows=follows)
    for i in range(adapters):
        state.add_adapter(f"x{i}", LoraConfig(r=2, target_modules=targets))
    return state


def theirs(layers: int, adapters: int, *, targets: str = TARGETS) -> Any:
    """The same in PEFT."""
    config = peft.LoraConfig(r=2, target_modules=targets)
    model = peft.get_peft_model(Model(layers).eval(), config, adapter_name="x0")
    for i in range(1, adapters):
        model.add_adapter(f"x{i}", peft.LoraConfig(r=2, target_modules=targets))
    return model


def toggled(switch: Callable[[str], object]) -> Callable[[], None]:
    """Switch to the other of two adapters, each time."""
    turn = [0]

    def run() -> None:
        turn[0] ^= 1
        switch("x1" if turn[0] else "x0")

    return run


def interleaved(rounds: int, *contenders: tuple[Callable[[], object], int]) -> list[float]:
    """Median seconds of one call of each contender, which runs as often as given in each round."""
    taken: list[list[float]] = [[] for _ in contenders]
    for call, _ in contenders:
        for _ in range(4):  # whatever is worked out once is worked out before
            call()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for (call, count), times in zip(contenders, taken, strict=True):
                start = time.perf_counter()
                for _ in range(count):
                    call()
                times.append((time.perf_counter() - start) / count)
    finally:
        gc.enable()
    return [statistics.median(times) for times in taken]


def added_and_deleted(rounds: int, *contenders: tuple[Any, Any]) -> list[tuple[float, float]]:
    """Median seconds of one add and of one delete of each contender: a state or model, and the config that is added."""
    taken: list[tuple[list[float], list[float]]] = [([], []) for _ in contenders]
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for (model, config), times in zip(contenders, taken, strict=True):
                for event, spent in (
                    (partial(model.add_adapter, "new", config), times[0]),
                    (partial(model.delete_adapter, "new"), times[1]),
                ):
                    start = time.perf_counter()
                    event()
                    spent.append(time.perf_counter() - start)
    finally:
        gc.enable()
    return [(statistics.median(adds), statistics.median(deletes)) for adds, deletes in taken]


def bare_loop(state: adapterstate.AdapterState) -> Callable[[], None]:
    """What a switch has to write, worked out beforehand: one key per module, and the flags of the parameters."""
    turns: list[tuple[list[Any], list[Any]]] = []
    wiring = "_adapterstate_wiring"
    modules = [module for module in state.model.modules() if wiring in module.__dict__]
    for name in ("x0", "x1", "x0"):
        before = [module.__dict__[wiring] for module in modules]
        flags = {id(p): (p, p.requires_grad) for p in state.model.parameters()}
        state.set_adapter(name)
        items = [(m.__dict__, m.__dict__[wiring]) for m, old in zip(modules, before, strict=True) if m.__dict__[wiring] is not old]
        turns.append((items, [(p, p.requires_grad) for p, old in flags.values() if p.requires_grad is not old]))
    forth, back = turns[1], turns[2]
    turn = [0]

    def run() -> None:
        turn[0] ^= 1
        items, flags = forth if turn[0] else back
        for holder, value in items:
            holder[wiring] = value
        for parameter, accepts in flags:
            parameter.requires_grad = accepts

    return run


Line = tuple[str, str, float, str, bool]
"""What is measured, both times, the ratio, the target, whether it is met."""


def against(what: str, mine: float, other: float, target: float, note: str = "PEFT") -> Line:
    """A line that says how many times faster than another."""
    ratio = other / mine
    return what, f"{mine * 1e3:.4g} ms; {note} {other * 1e3:.4g} ms", ratio, f"at least {target:g}x", ratio >= target


def within(what: str, mine: float, other: float, target: float, note: str) -> Line:
    """A line that says how much slower than another."""
    ratio = mine / other
    return what, f"{mine * 1e3:.4g} ms; {note} {other * 1e3:.4g} ms", ratio, f"at most {target:g}x", ratio <= target


# ------------------------------------------------------------------------------------------------------------------- switching


def switching(quick: bool) -> Iterator[Line]:
    """All layers, one layer, many adapters, unrelated modules."""
    for adapters, first, second in ((2, 150, 60), (8, 400, 150)) if quick else ((2, 150, 60), (8, 400, 150), (128, 4000, 2500)):
        model = theirs(LAYERS, adapters)
        for follows, target in (("trainability", first), ("activation", second)):
            state = ours(LAYERS, adapters, follows=follows)
            mine, other = interleaved(9, (toggled(state.set_adapter), 50), (toggled(model.set_adapter), 1))
            yield against(f"switch, {LAYERS} layers, {adapters} adapters, {follows}", mine, other, target)
        del model
    state = ours(LAYERS, 2, follows="activation")
    mine, loop = interleaved(15, (toggled(state.set_adapter), 50), (bare_loop(ours(LAYERS, 2, follows="activation")), 50))
    yield within("switch with flags, against the precomputed loop", mine, loop, 1.3, "loop")
    large, small = ours(896, 2), ours(LAYERS, 2)
    mine, other = interleaved(15, (toggled(large.set_adapter), 20), (toggled(small.set_adapter), 80))
    yield within("switch, 896 layers, per layer against 224", mine / 896, other / LAYERS, 1.1, "224:")
    one = r".*layers\.0"
    for adapters, target in ((2, 1500),) if quick else ((2, 1500), (128, 50_000)):
        state, model = ours(LAYERS, adapters, targets=one), theirs(LAYERS, adapters)
        mine, other = interleaved(9, (toggled(state.set_adapter), 500), (toggled(model.set_adapter), 1))
        yield against(f"switch, only one of {LAYERS} layers differs, {adapters} adapters", mine, other, target)
        del model
    many, few = ours(8, 1000, targets=one), ours(8, 2, targets=one)
    mine, other = interleaved(25, (toggled(many.set_adapter), 500), (toggled(few.set_adapter), 500))
    yield within("switch, 1,000 adapters present against 2", mine, other, 1.1, "2:")
    more, less = ours(LAYERS, 2, beside=4000), ours(LAYERS, 2)
    mine, other = interleaved(25, (toggled(more.set_adapter), 100), (toggled(less.set_adapter), 100))
    yield within("switch, 4,000 unrelated modules more", mine, other, 1.05, "without:")
    wide = ours(LAYERS, 2, targets=one)
    wide.add_adapter("always", LoraConfig(r=2, target_modules=TARGETS))
    narrow = ours(1, 2, targets=one)
    narrow.add_adapter("always", LoraConfig(r=2, target_modules=TARGETS))
    mine, other = interleaved(
        25, (toggled(lambda n: wide.set_adapter(["always", n])), 300), (toggled(lambda n: narrow.set_adapter(["always", n])), 300)
    )
    yield within("switch of one layer, 223 others keep an active adapter", mine, other, 1.05, "without:")


# ---------------------------------------------------------------------------------------------------------------- other events


def events(quick: bool) -> Iterator[Line]:
    """Adding, deleting, disabling, looking, asking."""
    rounds = 5 if quick else 9
    state, model, large = ours(LAYERS, 2), theirs(LAYERS, 2), ours(896, 2)
    config = LoraConfig(r=2, target_modules=TARGETS)
    mine, other, wide = added_and_deleted(
        2 * rounds, (state, config), (model, peft.LoraConfig(r=2, target_modules=TARGETS)), (large, config)
    )
    yield against(f"add_adapter, {LAYERS} layers", mine[0], other[0], 25)
    yield against(f"delete_adapter, {LAYERS} layers", mine[1], other[1], 20)
    yield within("add_adapter, 896 layers, per layer against 224", wide[0] / 896, mine[0] / LAYERS, 1.2, "224:")
    yield within("delete_adapter, 896 layers, per layer against 224", wide[1] / 896, mine[1] / LAYERS, 1.2, "224:")
    many, few = added_and_deleted(15, (ours(8, 999), config), (ours(8, 1), config))
    yield within("add_adapter, the 1,000th against the 2nd", many[0], few[0], 1.2, "2nd:")

    def disabled(each: Any) -> Callable[[], None]:
        def run() -> None:
            with each.disable_adapter():
                pass

        return run

    mine, other = interleaved(rounds, (disabled(state), 50), (disabled(model), 1))
    yield against("disable_adapter(), enter and leave, 2 adapters", mine, other, 200)
    status, check, other = interleaved(rounds, (state.status, 10), (state.check, 10), (model.get_model_status, 2))
    yield against(f"status(), {LAYERS} layers", status, other, 20, "get_model_status")
    yield against(f"check(), {LAYERS} layers", check, other, 20, "get_model_status")
    explain = toggled(lambda name: state.explain("set_adapter", name))
    mine, other = interleaved(15, (explain, 50), (toggled(state.set_adapter), 50))
    yield within("explain against the event", mine, other, 1.0, "event:")
    attached = theirs(LAYERS, 8)
    plain = theirs(LAYERS, 8)
    adapterstate.attach(attached)
    mine, other = interleaved(rounds, (toggled(attached.set_adapter), 50), (toggled(plain.set_adapter), 1))
    yield against(f"set_adapter of an attached PeftModel, {LAYERS} layers, 8 adapters", mine, other, 100)


# --------------------------------------------------------------------------------------------------------------------- forward


class HandWritten(nn.Module):
    """LoRA as one would write it for one layer."""

    def __init__(self, base: nn.Linear, count: int) -> None:
        super().__init__()
        self.base = base
        self.a = nn.ParameterList(torch.randn(2, base.in_features) for _ in range(count))
        self.b = nn.ParameterList(torch.randn(base.out_features, 2) for _ in range(count))
        self.scale = 4.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.base(x)
        for a, b in zip(self.a, self.b, strict=True):
            result = result + F.linear(F.linear(x, a), b) * self.scale
        return result


def forward(quick: bool) -> Iterator[Line]:
    """Against a hand-written wrapper, the plain module, and PEFT's token rows."""
    with torch.no_grad():
        for size in (16, 256) if quick else (16, 64, 256, 1024):
            for live in (1, 2):
                model = nn.Sequential(nn.Linear(size, size)).eval()
                state = adapterstate.attach(model)
                for i in range(live):
                    state.add_adapter(f"x{i}", LoraConfig(r=2, target_modules=["0"]))
                state.set_adapter([f"x{i}" for i in range(live)])
                layer, hand, plain, x = (
                    model[0],
                    HandWritten(nn.Linear(size, size), live).eval(),
                    nn.Linear(size, size),
                    torch.randn(8, size),
                )
                count = max(20, 20_000 // size)
                mine, other = interleaved(25, (partial(layer, x), count), (partial(hand, x), count))
                yield within(f"forward, {live} live on {size}x{size}, against hand-written", mine, other, 1.0, "hand:")
                if live == 1:
                    state.disable_adapters()
                    off, base = interleaved(41, (partial(layer, x), count), (partial(plain, x), count))
                    yield within(f"forward, disabled on {size}x{size}, against the plain module", off, base, 1.03, "plain:")
                    state.enable_adapters()
                    state.merge_adapter()
                    merged, base = interleaved(41, (partial(layer, x), count), (partial(plain, x), count))
                    yield within(f"forward, merged on {size}x{size}, against the plain module", merged, base, 1.03, "plain:")
        rows = list(range(8))
        vocabulary = 16_000 if quick else 128_000
        base = nn.Embedding(vocabulary, 512)
        model = nn.Sequential(base)
        theirs_model = peft.get_peft_model(
            nn.Sequential(nn.Embedding(vocabulary, 512)), peft.TrainableTokensConfig(target_modules=["0"], token_indices=rows), "x0"
        )
        state = adapterstate.attach(model)
        state.add_adapter("x0", LoraConfig(trainable_token_indices={"0": rows}))
        tokens, plain_table = torch.randint(0, vocabulary, (512,)), nn.Embedding(vocabulary, 512)
        mine, other, lookup = interleaved(
            9, (lambda: model(tokens), 20), (lambda: theirs_model(tokens), 1), (lambda: plain_table(tokens), 20)
        )
        yield against(f"forward, 8 token rows of {vocabulary:,} x 512, 512 tokens", mine, other, 1000)
        yield within("the same, against the plain embedding", mine, lookup, 2.0, "plain:")


# ---------------------------------------------------------------------------------------------------------- memory and imports


def memory(_: bool) -> Iterator[Line]:
    """Python objects, and the time that importing takes."""
    ours(4, 3)  # whatever is made once
    state = adapterstate.attach(Model(LAYERS).eval())
    sizes = []
    gc.collect()
    tracemalloc.start()
    for i in range(3):
        state.add_adapter(f"x{i}", LoraConfig(r=2, target_modules=TARGETS))
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0] / LAYERS)
    tracemalloc.stop()
    slot = sizes[2] - sizes[1]
    yield "memory of one slot, Python objects", f"{slot:.0f} bytes", slot, "under 700 bytes", slot < 700
    wrapped = sizes[0] - slot
    yield "memory of wrapping one module", f"{wrapped:.0f} bytes", wrapped, "under 1,024 bytes", wrapped < 1024
    code = "import gc, time, torch; gc.disable(); t = time.process_time(); import adapterstate; print(time.process_time() - t)"
    with tempfile.TemporaryDirectory() as folder:  # with bytecode, which installing a package leaves beside it
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"} | {
            "PYTHONPYCACHEPREFIX": folder
        }
        times = [
            float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout)
            for _ in range(8)
        ]
    added = statistics.median(times[1:]) * 1e3
    yield "import of adapterstate after torch, processor time", f"{added:.0f} ms", added, "under 60 ms", added < 60


PARTS = {part.__name__: part for part in (memory, switching, events, forward)}


def measured(part: str, *, quick: bool) -> Iterator[str]:
    """Measure one part of the table in a process of its own; yield its lines."""
    code = [sys.executable, __file__, "--part", part, *(["--quick"] if quick else [])]
    with subprocess.Popen(code, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        yield from (line.rstrip("\n") for line in running.stdout)
    if running.returncode:
        raise SystemExit(f"{part}: exit code {running.returncode}")


def main() -> int:
    """Measure everything and print one table; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and adapters")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the table to FILE")
    parser.add_argument("--part", choices=PARTS, help="print the lines of this part only")
    given = parser.parse_args()
    if given.part:
        for what, times, ratio, target, met in PARTS[given.part](given.quick):
            print(f"| {what} | {times} | {ratio:,.2f} | {target} | {'yes' if met else 'NO'} |", flush=True)
        return 0
    head = [
        "# Speed",
        "",
        f"`python benchmarks/speed.py{' --quick' if given.quick else ''}`, {datetime.date.today()}, torch {torch.__version__}, "
        f"PEFT {peft.__version__}, Python {platform.python_version()}, one thread. Ratios are medians of interleaved rounds in one "
        "process for each part, on a shared machine.",
        "",
        "| what | measured | ratio | target | met |",
        "|---|---|---|---|---|",
    ]
    print("\n".join(head))
    lines = list(head)
    for part in PARTS:
        for line in measured(part, quick=given.quick):
            print(line, flush=True)
            lines.append(line)
    if given.output:
        given.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 1 if any(line.endswith("| NO |") for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
