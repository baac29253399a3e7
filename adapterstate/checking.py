"""``python -m adapterstate check``: the harness, from the command line."""

from __future__ import annotations

import argparse
import importlib.util
import sys

from adapterstate.diagrams.finding import found
from adapterstate.errors import ArgumentError
from adapterstate.usage import positive

DESCRIPTION = (
    "Try your implementation of adapters: FACTORY makes a fresh system (see docs/testing.md), and random sequences of events are sent to "
    "it until one breaks a rule. That sequence is then shortened and printed as code, with the rule and what was expected."
)
EPILOG = (
    "Exit code: 0 if no rule was broken, 1 if one was, 2 if the factory cannot be used or a package is missing.  "
    "Example:  python -m adapterstate check adapterstate.testing.ours:StateSystem"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("factory", metavar="MODULE:FACTORY", help="what makes a fresh system, such as mypackage.systems:make_system")
    parser.add_argument("--examples", type=positive, default=200, metavar="N", help="how many sequences to try (200)")
    parser.add_argument("--deviation", action="append", default=[], metavar="FINDING", help="a known finding to tolerate; may be repeated")


def run(given: argparse.Namespace) -> int:
    """Try the system; print what was found."""
    if importlib.util.find_spec("hypothesis") is None:
        print("check needs hypothesis, which comes with the extra 'testing':  pip install 'adapterstate[testing]'", file=sys.stderr)
        return 2
    import hypothesis

    from adapterstate.testing import DEFAULT_SETTINGS, check_adapter_system

    try:
        factory = found(given.factory)
        if not callable(factory):
            raise ArgumentError(f"{given.factory!r} is no function or class that makes a system")
        system = factory()
        print(f"trying {type(system).__name__} with {given.examples} sequences of events", flush=True)
        how = hypothesis.settings(DEFAULT_SETTINGS, max_examples=given.examples, database=None)
        report = check_adapter_system(factory, settings=how, deviations=given.deviation)
    except AssertionError as broken:
        print(broken)
        return 1
    except ArgumentError as error:
        print(f"check {given.factory}: {error}", file=sys.stderr)
        return 2
    except Exception as error:  # the module, the factory and the system's declarations are the user's
        print(f"check {given.factory}: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print(report)
    return 0
