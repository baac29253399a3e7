"""What a diagram shows, whoever prints it: nodes, arrows and the words on them. Renderers read this and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from adapterstate.errors import ArgumentError, type_of


def plain(text: str) -> str:
    """Text on one line: a label is one phrase, however its author broke it."""
    return " ".join(text.split())


@attrs.frozen
class Words:
    """What an arrow says.

    Attributes:
        event: what happens.
        case: in which case, in words; empty when in every one.
        demands: what the guards demand, in words.
    """

    event: str
    case: str = ""
    demands: tuple[str, ...] = ()


@attrs.frozen
class Node:
    """A box.

    Attributes:
        name: unique in its group.
        title: what stands in it.
        kind: selects the colours; see `adapterstate.diagrams.palette`.
        border: selects those of the border, when they are not those of `kind`.
        notes: lines below the title.
        stays: the arrows that lead from the box to itself. They are written into it, since loops crowd a picture.
        lit: whether this is what is the case now.
        initial: whether a life starts here.
        final: whether a life ends here.
    """

    name: str
    title: str
    kind: str = ""
    border: str = ""
    notes: tuple[str, ...] = ()
    stays: tuple[Words, ...] = ()
    lit: bool = False
    initial: bool = False
    final: bool = False


@attrs.frozen
class Arrow:
    """From one box to another of its group."""

    source: str
    target: str
    words: Words


@attrs.frozen
class Group:
    """Boxes that belong together; an untitled one has no frame."""

    name: str
    title: str = ""
    nodes: tuple[Node, ...] = ()
    arrows: tuple[Arrow, ...] = ()


@attrs.frozen
class Picture:
    """A diagram."""

    title: str
    groups: tuple[Group, ...]

    @property
    def places(self) -> Iterator[tuple[Group, Node]]:
        """Every box with its group."""
        return ((group, node) for group in self.groups for node in group.nodes)


def refuse_no_picture(given: object) -> None:
    """Refuse what a renderer cannot print.

    Raises:
        ArgumentError: it is no `Picture`.
    """
    if not isinstance(given, Picture):
        raise ArgumentError(f"{type_of(given)} was given; a Picture is expected, such as chart_picture(CHARTS.activation) makes")
