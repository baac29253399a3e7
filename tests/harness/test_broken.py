"""The harness finds every deliberate fault, in its default settings, at one fixed seed each."""

from __future__ import annotations

import hypothesis
import pytest

from adapterstate.testing import DEFAULT_SETTINGS, RULES, Broken, check_adapter_system

from .broken import FAULTS

QUICK = hypothesis.settings(DEFAULT_SETTINGS, phases=[hypothesis.Phase.generate])

QUICKEST = {
    1: (
        "FailedAddLeavesWeights FailedAddLeavesName RefusedAddDrawsNumbers NameCheckedTooLate MissingModuleIgnored "
        "BogusPolicyAccepted UnknownNameAccepted OrderLost OrderOfAdding SwitchEnables UseBringsBackDeleted SumIsOverride "
        "OverrideIsSum OverrideReversed WeightsSurvive NegativeWeightsCut MergeAll SecondMergeForgets MergedInOrderOfMerging "
        "MergeIsForward MergeIgnoresWeights MergeWritesBase UnmergeKeepsOutput UnmergeDeactivates DeleteOfMergedAccepted "
        "DisableCounts DisablingFreezes DisableDeactivates DeleteUnmerges DeleteLeavesActive DeleteUnknownAccepted UnknownFrozen "
        "OurUnknownIgnored OurRefusalDraws OurMergeMergesAll"
    ),
    2: (
        "RowWrapsAround NamesCheckedOnTheWay UseForgetsWeights NotFiniteAccepted MergeByModule FallbackPerLayer Fallback "
        "FrozenOnTheWay OurFallback"
    ),
    3: ("InferenceModeIgnored PrefixNames InactiveMergeAccepted MergeActivates EnableEndsContexts ContextReleasesCall"),
    4: ("OurSwitchEnables OurOverlapsOverride"),
    5: (
        "FirstOfNoneActive ModuleByModule StringIsLetters OverlapAccepted OnePolicyWillDo EventPolicySurvives "
        "EventPolicyForgotten PartialMergeSilences CacheBelowCopies CopyHidesTuner"
    ),
    6: ("TakenNameOverwrites SwitchAfterRefusal CarriedPolicyIgnored DeleteEnables TruthIsEnough"),
    7: ("AddUnmerges AddEnables TooManyWeightsAccepted"),
    8: ("AuxiliaryLeftBehind DisjointRowsRefused DisablingUnmerges EnablingThaws"),
    9: ("CopiesOverRowsAccepted"),
    10: ("FirstInactiveWhileDisabled NewLayersAreEnabled UseForgetsMerges OtherEndForgotten NeighboursOnly"),
}
"""Seed -> faults that it finds within some ten sequences. It saves time only: benchmarks/harness_teeth.py tries twenty seeds for each."""

SEEDS = {name: seed for seed, names in QUICKEST.items() for name in names.split()}


def test_there_are_enough() -> None:
    """At least 32 faults, each said in its docstring."""
    assert len(FAULTS) >= 32
    assert all((fault.__doc__ or "").strip() for fault in FAULTS.values())
    assert set(FAULTS) >= set(SEEDS)


@pytest.mark.parametrize("name", FAULTS)
def test_is_found(name: str) -> None:
    """The fault is found, and said to be the breaking of a rule."""
    with pytest.raises(Broken, match=r"the rule \w+ is broken") as broken:
        check_adapter_system(FAULTS[name], settings=QUICK, seed=SEEDS.get(name, 0))
    assert broken.value.finding.split("/")[0] in RULES
