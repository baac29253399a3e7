"""Every test here runs with one thread and a random generator of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .worlds import quiet


@pytest.fixture(autouse=True, scope="module")
def alone() -> Iterator[None]:
    with quiet():
        yield
