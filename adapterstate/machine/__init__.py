"""The machine: charts, guards, planner and engine. Nothing in here knows torch."""
