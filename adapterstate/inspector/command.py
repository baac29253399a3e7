"""What ``python -m adapterstate inspect`` does."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from adapterstate.diagrams.finding import found
from adapterstate.errors import AdapterStateError, ArgumentError, type_of

if TYPE_CHECKING:
    from adapterstate import AdapterState

DESCRIPTION = (
    "Write one HTML page about the adapters of a model: which adapter is active, merged or frozen on which module, every event that would "
    "be refused now and why, the events so far to step through, the charts with the present state lit, and a simulator to click through. "
    "The page needs no network and no server: open the file in a browser. MODULE:FACTORY names a function without arguments that returns "
    "a model (a torch nn.Module, attached or not) or an AdapterState; its module is found from the current directory and imported. "
    "Without it the page is about a small example."
)
EPILOG = (
    "Exit code: 0 if the page was written, 2 if the command was used wrongly, the factory cannot be found, raises or returns something "
    "else, or FILE cannot be written.  Example:  python -m adapterstate inspect mymodels:with_two_adapters --output page.html"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("factory", nargs="?", metavar="MODULE:FACTORY", help="what returns the model or state; default: a small example")
    parser.add_argument(
        "--output", type=Path, default=Path("adapterstate.html"), metavar="FILE", help="the page (default: adapterstate.html)"
    )


def run(given: argparse.Namespace) -> int:
    """Write the page; return the exit code."""
    from adapterstate.inspector import page

    try:
        text = page(_made(given.factory))
    except AdapterStateError as error:
        print(f"inspect: {error}", file=sys.stderr)
        return 2
    try:
        given.output.write_text(text, encoding="utf-8")
    except OSError as error:
        print(f"--output {given.output}: {error.strerror}", file=sys.stderr)
        return 2
    print(f"wrote {given.output}")
    return 0


def _made(name: str | None) -> AdapterState:
    """The state that the factory of this name makes.

    Raises:
        ArgumentError: there is no such factory, it raises, or it returns something else.
    """
    from torch import nn

    from adapterstate import AdapterState, attach
    from adapterstate.inspector.example import example

    if name is None:
        return example()
    try:
        factory = found(name)
    except ArgumentError:
        raise
    except Exception as error:  # the module is the user's, and so is what it raises while it is imported
        raise ArgumentError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(factory):
        raise ArgumentError(f"{name} is of type {type(factory).__name__}; a function without arguments is expected")
    try:
        made = factory()
    except Exception as error:  # whatever a user's factory raises is theirs to read, without our traceback
        raise ArgumentError(f"{name} raised {type(error).__name__}: {error}") from error
    if isinstance(made, AdapterState):
        return made
    if isinstance(made, nn.Module):
        return attach(made)
    raise ArgumentError(f"{name} returned {type_of(made)}; an nn.Module or an AdapterState is expected")
