"""What the harness finds in releases of PEFT, unaided: each release in an environment of its own, with a transformers of its time.

    python benchmarks/peft_versions.py [--versions 0.17.1 0.19.1 0.20.0 0.21.2] [--seconds 240] [--output FILE]

Of each release, the harness looks for a sequence of events that breaks a rule; what it finds is then tolerated, and it looks for the next,
until it finds nothing or the time is over. The sequences are the shortest that it came to. The first line of each release also says what it
finds in that release attached to this package's state, with nothing tolerated; attaching is meant for the newest release and two before it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NEWEST = "0.21.2"


def main() -> int:
    """Make the environments, run this file in each, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--versions", nargs="+", default=["0.17.1", "0.19.1", "0.20.0", NEWEST], metavar="VERSION")
    parser.add_argument("--seconds", type=int, default=240, help="for each release")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the table to FILE")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        print(json.dumps(look(given.seconds)))
        return 0
    command = " ".join(["python benchmarks/peft_versions.py", *sys.argv[1:]])
    lines = ["# What the harness finds in PEFT", "", f"`{command}`, {datetime.date.today()}"]
    for version in given.versions:
        found = in_its_own_environment(version, given.seconds)
        lines += ["", *table(found)]
        print("\n".join(lines[-len(table(found)) :]), flush=True)
    if given.output:
        given.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


def in_its_own_environment(version: str, seconds: int) -> dict[str, Any]:
    """Install one release of PEFT and look."""
    early = tuple(map(int, version.split(".")[:2])) < (0, 18)
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        pip = [str(python), "-m", "pip", "install", "-q"]
        subprocess.run([*pip, "torch==2.13.0", "numpy"], check=True)
        subprocess.run([*pip, f"peft=={version}", "transformers<5" if early else "transformers", "hypothesis", str(ROOT)], check=True)
        code = [str(python), str(Path(__file__).resolve()), "--inside", "--seconds", str(seconds)]
        done = subprocess.run(code, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise SystemExit(f"PEFT {version}: {done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def look(seconds: int) -> dict[str, Any]:
    """Collect distinct findings in the installed release, until there are no more or the time is over."""
    import peft
    import transformers
    from hypothesis import settings

    from adapterstate.testing import DEFAULT_SETTINGS, Broken, check_adapter_system
    from adapterstate.testing.peft import PeftSystem

    start, found = time.monotonic(), []
    how = settings(DEFAULT_SETTINGS, database=None)
    ended = "time is over"
    while time.monotonic() - start < seconds:
        try:
            check_adapter_system(lambda: PeftSystem(attached=False), settings=how, deviations=[each["finding"] for each in found])
        except Broken as broken:
            found.append({"finding": broken.finding, "text": str(broken)})
        else:
            ended = "nothing more is found"
            break
    try:
        report = check_adapter_system(PeftSystem, settings=how)
        attached = f"nothing in {report.examples} sequences"
    except Broken as broken:
        attached = str(broken)
    return {
        "peft": peft.__version__,
        "transformers": transformers.__version__,
        "found": found,
        "ended": ended,
        "seconds": round(time.monotonic() - start),
        "attached": attached,
    }


def table(found: dict[str, Any]) -> list[str]:
    """The findings of one release as Markdown."""
    lines = [
        f"## PEFT {found['peft']} with transformers {found['transformers']}",
        "",
        f"{len(found['found'])} distinct findings in {found['seconds']} s ({found['ended']}). "
        f"Attached: {found['attached'].splitlines()[0]}.",
    ]
    for number, each in enumerate(found["found"], 1):
        lines += ["", f"### {number}. `{each['finding']}`", "", "```text", each["text"], "```"]
    return lines


if __name__ == "__main__":
    sys.exit(main())
