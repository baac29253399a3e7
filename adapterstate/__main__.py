"""What ``python -m adapterstate`` does."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence

NEEDED = {"rich": "rich", "sklearn": "scikit-learn"}
"""What the demo imports -> the package that it comes from."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    Args:
        arguments: without the program's name; None for those of the process.
    """
    given = _parser().parse_args(arguments)
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
        "--steps", type=_positive, metavar="N", help="do at most N optimiser steps in each training: quicker, but the model learns less"
    )
    return parser


def _positive(text: str) -> int:
    """Read a number of steps."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
