"""What ``python -m adapterstate`` does."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from adapterstate import checking as checks
from adapterstate.diagrams import command as diagrams
from adapterstate.inspector import command as inspections
from adapterstate.peft import command as audits
from adapterstate.usage import positive

NEEDED = {"rich": "rich", "sklearn": "scikit-learn"}
"""What the demo imports -> the package that it comes from."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    Args:
        arguments: without the program's name; None for those of the process.
    """
    given, strange = _parser().parse_known_args(arguments)
    if strange:  # the usage of the command helps, that of the whole does not
        given.command.error(f"unrecognized arguments: {' '.join(strange)}")
    run: Callable[[argparse.Namespace], int] = given.run
    return run(given)


def _demo(given: argparse.Namespace) -> int:
    """Run the demo, or say what it lacks."""
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        print(
            f"The demo needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed.\n"
            "They come with the extra 'demo':  pip install 'adapterstate[demo]'  (in a clone:  pip install -e '.[demo]')",
            file=sys.stderr,
        )
        return 2
    from adapterstate import demo

    return demo.main(steps=given.steps)


def _explore(given: argparse.Namespace) -> int:
    """Explore the standard worlds and print the report."""
    from adapterstate.explore import QUICK, STANDARD, explore
    from adapterstate.explore.printing import bar, show

    try:  # before the walk, which takes its time
        file = given.json.open("w", encoding="utf-8") if given.json else None
    except OSError as error:
        print(f"--json {given.json}: {error.strerror}", file=sys.stderr)
        return 2
    with bar() as progress:
        found = explore(QUICK if given.quick else STANDARD, progress=progress)
    if file is not None:
        with file:
            file.write(json.dumps(found.to_dict(), indent=1) + "\n")
    show(found)
    return 0 if found.holds else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m adapterstate",
        description="adapterstate keeps several adapters (LoRA and the like) on one torch model in a known state.",
        epilog="Start with:  python -m adapterstate demo",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="train a small model and two adapters, and watch the state change",
        description=(
            "Train a small transformer on handwritten digits (they come with scikit-learn; nothing is downloaded), then two adapters: "
            "'rotated' learns digits turned by 90 degrees, 'inverted' learns digits whose paper is dark and whose ink is light. Then "
            "switch, combine, freeze, disable, merge and delete the adapters. "
            "After each step the accuracy on digits that no training has seen is printed, with the state "
            "of the model. It runs on the CPU and takes about a minute. Every number printed is measured during the run."
        ),
        epilog="Exit code: 0 if the model at the end is the one from before the first adapter, 1 if not, 2 if a package is missing.",
    )
    demo.add_argument(
        "--steps", type=positive, metavar="N", help="do at most N optimiser steps in each training: quicker, but the model learns less"
    )
    demo.set_defaults(run=_demo, command=demo)
    explore = commands.add_parser(
        "explore",
        help="visit every reachable state of small models and check the rules in each",
        description=(
            "Which adapters are active, enabled, trainable or merged is one declared state machine. This visits every state that small "
            "models (two to four adapters on up to three modules) can reach, tries every event in each, and checks every rule that "
            "speaks of states. No model is made and nothing is trained or downloaded. It prints how many states and transitions there "
            "are, which rows of the charts were taken, which refusals came up, what was left out and why nothing is lost by it, and, if "
            "a rule breaks, the shortest sequence of events that breaks it. It runs on one core and takes less than a minute."
        ),
        epilog="Exit code: 0 if all rules hold, 1 if there is a counterexample, 2 if the usage is wrong or FILE cannot be written.",
    )
    explore.add_argument("--quick", action="store_true", help="three adapters instead of four and fewer worlds: a few seconds")
    explore.add_argument("--json", type=Path, metavar="FILE", help="also write the counts and the outcome to FILE")
    explore.set_defaults(run=_explore, command=explore)
    for name, module, run, text in (
        ("diagram", diagrams, diagrams.diagram, "draw the charts: what may happen to a module, the model and an adapter"),
        ("inspect", inspections, inspections.run, "write a page about a model's adapters, with a simulator in it"),
        ("audit", audits, audits.run, "load a saved PEFT adapter and say which rules its flags break"),
        ("check", checks, checks.run, "try your own implementation of adapters until a rule breaks"),
    ):
        command = commands.add_parser(name, help=text, description=module.DESCRIPTION, epilog=module.EPILOG)
        module.add_arguments(command)
        command.set_defaults(run=run, command=command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
