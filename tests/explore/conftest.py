"""What several files of this folder look at."""

from __future__ import annotations

import pytest

from adapterstate.explore import QUICK, Exploration, explore


@pytest.fixture(scope="session")
def quick() -> Exploration:
    """The quick worlds, explored once."""
    return explore(QUICK)
