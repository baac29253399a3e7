"""Attached PEFT models. Skipped where PEFT is not installed."""

import pytest

pytest.importorskip("peft")
