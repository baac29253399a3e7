"""What a read of a base tensor returns in its place: replaced rows, combined where adapters overlap, or a tensor computed beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.compiler import is_dynamo_compiling

from adapterstate.projection import Share

if TYPE_CHECKING:
    from adapterstate.modules.wiring import Part


class Term:
    """What one part of one adapter puts into a table of rows.

    Attributes:
        part: the method and its tensors.
        share: the weight of its adapter, and whether it sums.
        place: where its rows are in the table; None when they are all of it, in order.
        shared: which of its rows are added to what earlier terms put there: None for none, a tuple of indices, or ``...`` for all.
        is_plain: whether its rows are put in as they are.
    """

    __slots__ = ("_factor", "_is_unit", "_place", "_shared", "is_plain", "part", "place", "share", "shared")

    _place: torch.Tensor | None
    _shared: torch.Tensor | None
    _factor: torch.Tensor

    def __init__(self, part: Part, share: Share, place: Sequence[int] | None, shared: Sequence[int], rows: int | None) -> None:
        self.part = part
        self.share = share
        self.place = None if place is None else tuple(place)
        self.shared = None if not shared else ... if len(shared) == rows else tuple(shared)
        self._is_unit = share.weight == 1
        self.is_plain = self._is_unit and self.shared is None

    def refresh(self, device: torch.device) -> None:
        """Put the indices and the weight where the base tensor is."""
        with torch.inference_mode(False):
            self._place = None if self.place is None else torch.tensor(self.place, dtype=torch.long, device=device)
            self._shared = torch.tensor(self.shared, dtype=torch.long, device=device) if isinstance(self.shared, tuple) else None
            self._factor = torch.full((), self.share.weight, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)

    def replacement(self, name: str, base: torch.Tensor) -> torch.Tensor:
        """The rows that its adapter has for the base tensor `name`."""
        return self.part.method.replacement(name, base, self.part.tensors)  # type: ignore[union-attr]

    def put(self, rows: torch.Tensor, value: torch.Tensor | None, table: torch.Tensor | None) -> torch.Tensor:
        """Return `value` with this term in it.

        Args:
            rows: what its adapter has, in the dtype of the table.
            value: what earlier terms left; None where nothing of it would be kept.
            table: the base's own values; None where nothing depends on them.
        """
        place = self._place
        if self.is_plain:
            return rows if place is None or value is None else value.index_copy(0, place, rows)
        assert value is not None
        assert table is not None
        original, before = (table, value) if place is None else (table.index_select(0, place), value.index_select(0, place))
        change = rows - original
        if is_dynamo_compiling():
            change = change * self._factor  # a float would be a constant of the compiled code
        elif not self._is_unit:
            change = change * self.share.weight
        if self.shared is ...:
            own = before + change
        else:
            own = rows if self._is_unit else original + change
            if self._shared is not None:
                own = own.index_copy(0, self._shared, before.index_select(0, self._shared) + change.index_select(0, self._shared))
        return own if place is None else value.index_copy(0, place, own)


class Replaced:
    """A read that puts the rows of replacing parts in place of the base's, at every read, so that gradients reach them.

    On rows that one part replaces, its rows stand as they are (or, with a weight ``w``, as ``original + w * (row - original)``). On rows
    that several replace, the differences are summed, or the later one stands. Sums are made in at least float32 and rounded once.

    Attributes:
        name: of the base tensor.
        terms: what is put in, in activation order. What a later one covers completely is left out.
        rows: indices of the replaced rows; None when all are.
    """

    __slots__ = ("_needs_table", "is_plain", "name", "rows", "terms", "union")

    def __init__(self, name: str, parts: Sequence[tuple[Part, Share]], base: torch.Tensor) -> None:
        self.name = name
        found = [part.method.replaces()[name] for part, _ in parts]  # type: ignore[union-attr]
        self.union = None if None in found else tuple(dict.fromkeys(row for rows in found for row in rows or ()))
        self.terms = _terms(parts, found, self.union, base)
        self.is_plain = all(term.is_plain for term in self.terms)
        self._needs_table = not (self.is_plain and self.terms[0].place is None)
        self.rows: torch.Tensor | None = None
        self.refresh(base.device)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts that are read, in activation order."""
        return tuple(term.part for term in self.terms)

    def refresh(self, device: torch.device) -> None:
        """Put what is fixed where the base tensor is."""
        self.rows = None if self.union is None else torch.tensor(self.union, dtype=torch.long, device=device)
        for term in self.terms:
            term.refresh(device)

    def values(self, base: torch.Tensor) -> torch.Tensor:
        """Return what stands in the replaced rows, in the dtype of `base`: ``(len(rows), ...)``, or all of it."""
        dtype = base.dtype if self.is_plain else torch.promote_types(base.dtype, torch.float32)
        table: torch.Tensor | None = None
        if self._needs_table:
            table = (base if self.rows is None else base.index_select(0, self.rows)).to(dtype)
        value = table
        for term in self.terms:
            value = term.put(term.replacement(self.name, base).to(dtype), value, table)
        assert value is not None
        return value.to(base.dtype)

    def __call__(self, base: torch.Tensor) -> torch.Tensor:
        """Return the whole tensor."""
        return self.values(base) if self.rows is None else base.index_copy(0, self.rows, self.values(base))


def _terms(
    parts: Sequence[tuple[Part, Share]], found: Sequence[tuple[int, ...] | None], union: tuple[int, ...] | None, base: torch.Tensor
) -> tuple[Term, ...]:
    """Work out once where each part's rows go, and which of them meet earlier ones."""
    if len(parts) == 1:
        return (Term(parts[0][0], _share(parts[0][1], base), None, (), None),)
    count = len(union) if union is not None else base.shape[0] if base.dim() else 1
    positions = {row: k for k, row in enumerate(union)} if union is not None else None
    put: set[int] = set()
    terms: list[Term] = []
    for (part, given), rows in zip(parts, found, strict=True):
        share = _share(given, base)
        here = range(count) if rows is None else rows if positions is None else [positions[row] for row in rows]
        shared = [k for k, row in enumerate(here) if row in put] if share.sums and put else []
        covers = rows is None or list(here) == list(range(count))
        if covers and not shared:
            terms, put = [], set()
        terms.append(Term(part, share, None if covers else list(here), shared, len(here)))
        put.update(here)
    return tuple(terms)


def _share(given: Share, base: torch.Tensor) -> Share:
    """What is left of a share where there is no arithmetic, as on the indices that some modules keep in a buffer."""
    return given if base.is_floating_point() or base.is_complex() else Share(given.name)


class Cached:
    """A read that returns a tensor computed beforehand."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __call__(self, _: torch.Tensor) -> torch.Tensor:
        return self.tensor
