"""The harness finds nothing in correct systems, whatever they show of themselves."""

from __future__ import annotations

import hypothesis
import pytest

from adapterstate.testing import DEFAULT_SETTINGS, AdapterConformance, AdapterSystem, Options, check_adapter_system
from adapterstate.testing.conformance import Maker
from adapterstate.testing.ours import StateSystem

from .toy import Toy

FEW = hypothesis.settings(DEFAULT_SETTINGS, max_examples=60, derandomize=True)


def by_activation() -> AdapterSystem:
    return StateSystem(grad_follows="activation")


class Bare(Toy):
    """Shows neither tensors nor a fingerprint, and can do only what every system must."""

    unsupported = ("merge_adapter", "disable_adapters", "disable_adapter", "use_adapter", "set_requires_grad", "weights", "on_overlap")
    unsupported += ("several", "none", "duplicates", "odd_names", "strings", "no_trace")
    tensors = fingerprint = None  # type: ignore[assignment]


class WithFallback(Toy):
    """Activates the first of those that are left, and says so."""

    options = Options(fallback="first")

    def delete_adapter(self, name: str, /) -> None:
        active = list(self.active)
        super().delete_adapter(name)
        if active == [name] and self.configs:
            self.set_adapter([next(iter(self.configs))])


@pytest.mark.parametrize("make_system", [StateSystem, by_activation, Toy, Bare, WithFallback])
def test_nothing_is_found(make_system: Maker) -> None:
    """No rule is broken by our own implementation, by the toy, or by systems that can do less or choose otherwise."""
    report = check_adapter_system(make_system, settings=FEW)
    assert report.examples >= 60
    assert bool(report.skipped) == (make_system is Bare)


class TestOurs(AdapterConformance):
    """Our own implementation passes every scenario."""

    @pytest.fixture
    def make_system(self) -> Maker:
        return StateSystem


class TestToy(AdapterConformance):
    """The toy passes every scenario."""

    @pytest.fixture
    def make_system(self) -> Maker:
        return Toy


class TestBare(AdapterConformance):
    """A system that can do little passes the scenarios that it can show, and skips the others."""

    @pytest.fixture
    def make_system(self) -> Maker:
        return Bare
