"""Every reachable state of small models, checked against every rule that speaks of states. Needs no torch and no luck."""

from adapterstate.explore.coverage import ChartCoverage
from adapterstate.explore.exploring import explore
from adapterstate.explore.replay import Mover, replay
from adapterstate.explore.report import Counterexample, Exploration, Walk
from adapterstate.explore.rules import RULES
from adapterstate.explore.standard import QUICK, SIMULATOR, STANDARD
from adapterstate.explore.trial import Trial
from adapterstate.explore.worlds import Report, World, both, rows, tuner, whole

__all__ = [
    "QUICK",
    "RULES",
    "SIMULATOR",
    "STANDARD",
    "ChartCoverage",
    "Counterexample",
    "Exploration",
    "Mover",
    "Report",
    "Trial",
    "Walk",
    "World",
    "both",
    "explore",
    "replay",
    "rows",
    "tuner",
    "whole",
]
