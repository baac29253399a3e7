"""Finding what a user names: a chart of this package by its name, or any chart by its import path."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from adapterstate.errors import ArgumentError
from adapterstate.machine.charts import CHARTS, Chart, Charts

NAMED: Mapping[str, Chart | Charts] = {**{chart.name: chart for chart in CHARTS}, "all": CHARTS}
"""What has a short name."""


def found(name: str) -> object:
    """Return what is at an import path, such as ``"package.module.CHART"``.

    Raises:
        ArgumentError: nothing is there, or it cannot be imported; it says which part.
    """
    parts = name.split(".")
    if not all(parts):
        raise ArgumentError(f"{name!r} names nothing; an import path such as 'package.module.CHART' is expected")
    for cut in range(len(parts) - 1, 0, -1):
        path = ".".join(parts[:cut])
        try:
            value: object = importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{path}.".startswith(f"{error.name}."):
                continue  # a class, perhaps: the path of its module is shorter
            raise ArgumentError(f"{path} cannot be imported: {error}") from error
        for at, part in enumerate(parts[cut:], cut):
            if not hasattr(value, part):
                raise ArgumentError(f"{name!r} names nothing: {'.'.join(parts[:at])} has no {part!r}")
            value = getattr(value, part)
        return value
    raise ArgumentError(f"{name!r} names nothing; an import path such as 'package.module.CHART' is expected")


def found_chart(name: str) -> Chart | Charts:
    """Return the chart or charts of that name or import path.

    Raises:
        ArgumentError: there is nothing of that name, or it is something else.
    """
    if name in NAMED:
        return NAMED[name]
    if "." not in name:
        raise ArgumentError(f"there is no chart {name!r}; there are {', '.join(NAMED)}, or give the import path of one")
    value = found(name)
    if not isinstance(value, (Chart, Charts)):
        raise ArgumentError(f"{name} is of type {type(value).__name__}; a Chart or Charts is expected")
    return value
