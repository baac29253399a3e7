"""Tests of the pure machine: charts, guards, planner, engine."""
