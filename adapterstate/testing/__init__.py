"""Try an implementation of adapters, yours or ours, with sequences of events, and compare what it does with what the rules say.

Needs hypothesis: ``pip install "adapterstate[testing]"``.
"""

from adapterstate.testing.conformance import AdapterConformance
from adapterstate.testing.machine import DEFAULT_SETTINGS, AdapterStateMachine, check_adapter_system
from adapterstate.testing.report import Report
from adapterstate.testing.rules import RULES, Broken
from adapterstate.testing.system import (
    FEATURES,
    AdapterSystem,
    Fingerprint,
    ModuleView,
    Observation,
    Options,
    Part,
    Recipe,
    ShowsFingerprint,
    ShowsTensors,
    Slot,
    Tensors,
    fingerprint_of,
    grads_of,
)
from adapterstate.testing.trial import Trial

__all__ = [
    "DEFAULT_SETTINGS",
    "FEATURES",
    "RULES",
    "AdapterConformance",
    "AdapterStateMachine",
    "AdapterSystem",
    "Broken",
    "Fingerprint",
    "ModuleView",
    "Observation",
    "Options",
    "Part",
    "Recipe",
    "Report",
    "ShowsFingerprint",
    "ShowsTensors",
    "Slot",
    "Tensors",
    "Trial",
    "check_adapter_system",
    "fingerprint_of",
    "grads_of",
]
