"""Everything that can be seen of a system at one moment, and what differs between two such looks."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import torch

from adapterstate.testing.report import Difference
from adapterstate.testing.system import Fingerprint, ModuleView, Observation


@attrs.frozen(eq=False)
class Look:
    """What was seen: None for what was not looked at, or is not shown."""

    observation: Observation
    output: torch.Tensor | None = None
    fingerprint: Fingerprint | None = None


NOTHING = ModuleView(())


def observed_differences(expected: Observation, observed: Observation) -> Iterator[Difference]:
    """What differs between two observations. Only active adapters have an order; a module that is left out has no adapter."""
    for path in sorted({*expected.modules, *observed.modules}):
        want, have = expected.modules.get(path, NOTHING), observed.modules.get(path, NOTHING)
        if set(want.present) != set(have.present) or len(want.present) != len(have.present):
            yield Difference("present", path, _list(want.present), _list(have.present))
        if tuple(want.active) != tuple(have.active):
            yield Difference("active", path, _list(want.active), _list(have.active))
        if set(want.merged) != set(have.merged):
            yield Difference("merged", path, _list(want.merged), _list(have.merged))
    if expected.enabled != observed.enabled:
        yield Difference("enabled", "", str(expected.enabled), str(observed.enabled))
    for name in sorted({*expected.grads, *observed.grads}):
        if expected.grads.get(name) != observed.grads.get(name):
            yield Difference("grads", repr(name), str(expected.grads.get(name)), str(observed.grads.get(name)))


def output_difference(expected: torch.Tensor, observed: torch.Tensor, tolerance: float = 0.0) -> Difference | None:
    """How two outputs differ; equal bit for bit is demanded without a tolerance, which is absolute and relative to the largest value."""
    if expected.shape != observed.shape or expected.dtype != observed.dtype:
        return Difference("output", "", f"{tuple(expected.shape)} {expected.dtype}", f"{tuple(observed.shape)} {observed.dtype}")
    if torch.equal(expected, observed):
        return None
    # single values may be what is left of much larger ones, and then have their rounding errors
    allowed = tolerance * (1 + float(expected.abs().max()))
    if tolerance and float((expected - observed).abs().max()) <= allowed:
        return None
    place = int((expected - observed).abs().nan_to_num(nan=torch.inf).argmax())
    most = float((expected - observed).abs().max())
    wanted, found = _told_apart(float(expected.flatten()[place]), float(observed.flatten()[place]))
    return Difference("output", "", f"{wanted} at its position {place}", f"{found}; outputs differ by up to {most:.2g}")


def _told_apart(one: float, two: float) -> tuple[str, str]:
    """Two numbers with as many digits as it takes to tell them apart; all that there are where they are equal."""
    texts = [(f"{one:.{digits}g}", f"{two:.{digits}g}") for digits in range(7, 18)]
    return next((pair for pair in texts if pair[0] != pair[1]), texts[-1])


def print_differences(expected: Fingerprint, observed: Fingerprint) -> Iterator[Difference]:
    """What differs between two fingerprints: facts, then which tensors there are, then which values they have."""
    for name in sorted({*expected.facts, *observed.facts}):
        want, have = expected.facts.get(name), observed.facts.get(name)
        if want != have:
            yield Difference("fingerprint", name, *_apart(want, have))
    for name in sorted({*expected.tensors, *observed.tensors}):
        one, two = expected.tensors.get(name), observed.tensors.get(name)
        if one is not two:
            said = "absent" if one is None else "the same tensor", "absent" if two is None else "another one"
            yield Difference("fingerprint", name, *said)
        elif not same_bits(expected.values[name], observed.values[name]):
            yield Difference("fingerprint", name, "the same values", "other values")


def look_differences(before: Look, after: Look) -> Iterator[Difference]:
    """What differs between two looks at what should not have changed."""
    yield from observed_differences(before.observation, after.observation)
    if before.output is not None and after.output is not None:
        difference = output_difference(before.output, after.output)
        if difference:
            yield difference
    if before.fingerprint is not None and after.fingerprint is not None:
        yield from print_differences(before.fingerprint, after.fingerprint)


def same_bits(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Whether two tensors are equal, values that are no number included."""
    return one.shape == two.shape and one.dtype == two.dtype and torch.equal(one.nan_to_num(), two.nan_to_num())


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "none"


def _apart(want: object, have: object) -> tuple[str, str]:
    """Two unequal facts as text; of mappings and lists only what differs, shortened."""
    if isinstance(want, dict) and isinstance(have, dict):
        keys = [key for key in {**want, **have} if want.get(key) != have.get(key)]
        want, have = {key: want.get(key) for key in keys[:2]}, {key: have.get(key) for key in keys[:2]}
    elif isinstance(want, list) and isinstance(have, list) and sorted(want) != sorted(have):
        want, have = [item for item in want if item not in have], [item for item in have if item not in want]
    return _short(want), _short(have)


def _short(fact: object) -> str:
    text = str(fact)
    return text if len(text) <= 60 else f"{text[:57]}..."
