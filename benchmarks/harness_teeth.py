"""Measure the harness: how many of 20 seeds find each deliberate fault, and that the correct systems pass many sequences.

    python benchmarks/harness_teeth.py [--seeds 20] [--only NAME ...] [--examples 1000] [--seed 0] [--output FILE]

Each seed runs `check_adapter_system` with its default settings, without shrinking. Run from anywhere.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import hypothesis
import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

from harness.broken import FAULTS  # noqa: E402 - found by the line above
from harness.toy import Toy  # noqa: E402

from adapterstate.testing import DEFAULT_SETTINGS, AdapterStateMachine, check_adapter_system  # noqa: E402
from adapterstate.testing.ours import StateSystem  # noqa: E402
from adapterstate.testing.peft import PeftSystem  # noqa: E402

QUICK = hypothesis.settings(DEFAULT_SETTINGS, phases=[hypothesis.Phase.generate])


def attempt(system: Any, seed: int) -> tuple[str, int, float]:
    """One run: what was found (empty for nothing), how many sequences it took, and seconds."""
    made: list[int] = []
    failed: list[int] = []

    class Machine(AdapterStateMachine):
        def __init__(self) -> None:
            made.append(0)
            super().__init__()

        def teardown(self) -> None:
            try:
                super().teardown()
            finally:
                if self.trial.broken and not failed:
                    failed.append(len(made))

    start = time.perf_counter()
    try:
        check_adapter_system(system, settings=QUICK, seed=seed, machine=Machine)
    except AssertionError as broken:
        found = re.search(r"\[(.+?)\]", str(broken))
        return (found[1] if found else "?"), (failed or [len(made)])[0], time.perf_counter() - start
    return "", len(made), time.perf_counter() - start


CORRECT = {system.__name__: system for system in (Toy, StateSystem, PeftSystem)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--examples", type=int, default=1000, help="how many sequences each correct system must pass")
    parser.add_argument("--seed", type=int, default=0, help="of the sequences that the correct systems must pass")
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--correct-only", choices=sorted(CORRECT), help="try no fault, and this correct system alone")
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    lines = ["| fault | what it is | found | median examples | median seconds | most often as |", "|---|---|---|---|---|---|"]
    missed = 0
    names = [] if args.correct_only else list(args.only or FAULTS)
    for name in names:
        runs = [attempt(FAULTS[name], seed) for seed in range(args.seeds)]
        hits = [run for run in runs if run[0]]
        often = statistics.mode(run[0] for run in hits) if hits else ""
        examples = f"{statistics.median(run[1] for run in hits):g}" if hits else ""
        seconds = f"{statistics.median(run[2] for run in runs):.2f}"
        missed += len(hits) < 0.95 * args.seeds
        said = (FAULTS[name].__doc__ or "").strip()
        lines.append(f"| {name} | {said} | {len(hits)} of {args.seeds} | {examples} | {seconds} | {often} |")
        print(lines[-1], flush=True)
    passed = []
    systems = [CORRECT[args.correct_only]] if args.correct_only else list(CORRECT.values())
    for system in systems if args.examples else ():
        start = time.perf_counter()
        report = check_adapter_system(system, settings=hypothesis.settings(DEFAULT_SETTINGS, max_examples=args.examples), seed=args.seed)
        events = sum(report.events.values())
        passed.append(
            f"`{system.__name__}`, correct, seed {args.seed}: nothing found in {report.examples:,} sequences ({events:,} events), "
            f"{time.perf_counter() - start:.0f} s."
        )
        print(passed[-1], flush=True)
    faults = len(names)
    print(f"{faults - missed} of {faults} faults found in at least 95% of the seeds")
    if args.output:
        args.output.write_text("\n".join([*lines, "", *passed]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
