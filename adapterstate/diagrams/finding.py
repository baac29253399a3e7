"""Finding what a user names: a chart of this package by its name, or anything by its module and its name there."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from adapterstate.errors import ArgumentError
from adapterstate.machine.charts import CHARTS, Chart, Charts

NAMED: Mapping[str, Chart | Charts] = {**{chart.name: chart for chart in CHARTS}, "all": CHARTS}
"""What has a short name."""


EXPECTED = "MODULE:NAME, such as 'mypackage.module:NAME', is expected"
"""The form of what names something in a module; with a dot in place of the colon it is understood too."""


def found(name: str) -> object:
    """Return what is named by ``"package.module:NAME"``, or by the import path ``"package.module.NAME"``.

    Raises:
        ArgumentError: nothing is there, or it cannot be imported; it says which part.
    """
    module, colon, _ = name.partition(":")
    parts = name.replace(":", ".", 1).split(".")
    if not all(part and ":" not in part for part in parts) or len(parts) < 2:
        raise ArgumentError(f"{name!r} names nothing in a module; {EXPECTED}")
    for cut in (module.count(".") + 1,) if colon else range(len(parts) - 1, 0, -1):
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
    raise ArgumentError(f"{name!r} names nothing: there is no module {(module if colon else parts[0])!r}; {EXPECTED}")


def found_chart(name: str) -> Chart | Charts:
    """Return the chart or charts of that name, or that `found` finds.

    Raises:
        ArgumentError: there is nothing of that name, or it is something else.
    """
    if name in NAMED:
        return NAMED[name]
    if "." not in name and ":" not in name:
        raise ArgumentError(f"there is no chart {name!r}; there are {', '.join(NAMED)}, or name one of your own: {EXPECTED}")
    value = found(name)
    if not isinstance(value, (Chart, Charts)):
        raise ArgumentError(f"{name} is of type {type(value).__name__}; a Chart or Charts is expected")
    return value
