"""What a switch costs against the number of adapters, of layers, and of layers that differ; ours and PEFT's, as a plot and a table.

    python benchmarks/scaling.py [--plot docs/_static/scaling.svg] [--output FILE]

Beside the time stands the number of Python and C calls of one switch, which no busy machine disturbs: once when the event is met for the
first time, and once when it has been met before. At the end comes a profile of a switch that has been met before.
"""

from __future__ import annotations

import argparse
import cProfile
import datetime
import io
import pstats
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from speed import interleaved, ours, theirs, toggled

ADAPTERS = (2, 8, 32, 128)
LAYERS = (14, 56, 224, 896)
CHANGED = (1, 14, 56, 224)

Point = tuple[int, float, float, int, int]
"""Where on the axis; seconds of ours and of PEFT; calls of ours when met first and when met again."""


def calls_of(event: Callable[[], object]) -> int:
    """How many Python and C functions are called."""
    count = 0

    def hook(_: Any, what: str, __: Any) -> None:
        nonlocal count
        count += what in ("call", "c_call")

    sys.setprofile(hook)
    try:
        event()
    finally:
        sys.setprofile(None)
    return count


def point(at: int, layers: int, adapters: int, changed: int) -> Point:
    """Measure one model: `adapters` on `changed` of its `layers`, the switch being between the first two."""
    targets = r".*layers\.(" + "|".join(str(i) for i in range(changed)) + ")"
    state, model = ours(layers, adapters, targets=targets), theirs(layers, adapters, targets=targets)
    first = calls_of(lambda: state.set_adapter("x1"))
    switch = toggled(state.set_adapter)
    for _ in range(6):
        switch()
    again = calls_of(switch)
    mine, other = interleaved(5, (switch, 50), (toggled(model.set_adapter), 1))
    return at, mine, other, first, again


def profile() -> str:
    """Where the time of a switch of 224 layers goes that has been met before."""
    switch = toggled(ours(224, 2, follows="activation").set_adapter)
    for _ in range(6):
        switch()
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(1000):
        switch()
    profiler.disable()
    out = io.StringIO()
    stats = pstats.Stats(profiler, stream=out).strip_dirs()
    stats.sort_stats("tottime").print_stats(12)
    lines = out.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines[lines.index(next(line for line in lines if "ncalls" in line)) :] if line.strip())


def draw(file: Path, series: dict[str, list[Point]]) -> None:
    """One panel for each axis, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(series), figsize=(10, 3.4), sharey=True)
    for panel, (axis, points) in zip(panels, series.items(), strict=True):
        at = [each[0] for each in points]
        panel.loglog(at, [each[2] * 1e3 for each in points], "o-", label="PEFT", color="#b3541e")
        panel.loglog(at, [each[1] * 1e3 for each in points], "s-", label="adapterstate", color="#1e6fb3")
        panel.set_xticks(at, [str(each) for each in at])
        panel.minorticks_off()
        panel.set_xlabel(axis)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("one switch, ms")
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def main() -> int:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.add_argument("--output", type=Path, metavar="FILE")
    given = parser.parse_args()
    series = {
        "adapters present (56 layers)": [point(n, 56, n, 56) for n in ADAPTERS],
        "layers (2 adapters)": [point(n, n, 2, n) for n in LAYERS],
        "layers with adapters (of 224)": [point(n, 224, 2, n) for n in CHANGED],
    }
    lines = ["# Scaling of a switch", "", f"`{' '.join(['python benchmarks/scaling.py', *sys.argv[1:]])}`, {datetime.date.today()}"]
    for axis, points in series.items():
        lines += ["", f"| {axis} | ours, ms | PEFT, ms | ratio | calls, met first | calls, met before |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {at} | {mine * 1e3:.4g} | {other * 1e3:.4g} | {other / mine:,.0f} | {first:,} | {again:,} |"
            for at, mine, other, first, again in points
        ]
    lines += ["", "A profile of 1,000 switches of 224 layers with flags, met before:", "", "```text", profile(), "```"]
    print("\n".join(lines))
    if given.output:
        given.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if given.plot:
        draw(given.plot, series)
    return 0


if __name__ == "__main__":
    sys.exit(main())
