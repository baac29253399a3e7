"""Print what the standard exploration counts and how long it takes, as a Markdown table.

python benchmarks/explore_table.py
"""

from __future__ import annotations

import platform
import sys
import time

from adapterstate.explore import STANDARD, explore


def main() -> int:
    began, busy = time.perf_counter(), time.process_time()
    found = explore(STANDARD)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    where = f"Python {platform.python_version()}, {platform.machine()}, one core"
    print(f"{where}: {seconds:.1f} s of wall clock, {busy:.1f} s of processor time.\n")
    _print(found.TITLES, found.lines)
    coverage = found.coverage
    _print(coverage.ROW_TITLES, coverage.row_lines)
    _print(coverage.REFUSAL_TITLES, coverage.refusal_lines)
    print("\n\n".join(found.notes))
    return 0 if found.holds else 1


def _print(titles: tuple[str, ...], lines: list[tuple[str, ...]]) -> None:
    for line in (titles, ["---"] * len(titles), *lines):
        print(f"| {' | '.join(line)} |")
    print()


if __name__ == "__main__":
    sys.exit(main())
