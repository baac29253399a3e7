"""Who imports whom: the machine knows no torch, imports run one way, and one file knows `transitions`."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapterstate import machine

MACHINE = Path(machine.__file__).parent
PACKAGE = MACHINE.parent
FILES = sorted(MACHINE.rglob("*.py"))

MAY_IMPORT = {
    "errors": set[str](),
    "records": set[str](),
    "arguments": {"errors", "records"},
    "guards": {"errors", "records"},
    "charts": {"errors", "records", "guards"},
    "plan": {"errors", "records", "guards", "charts"},
    "engine": {"errors", "records", "guards", "charts", "plan"},
}
"""errors, records <- guards <- charts <- plan <- engine"""


def imported(node: ast.AST) -> Iterator[str]:
    """Names of all modules that a tree imports, whole; what only type checkers read is left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            for other in child.orelse:
                yield from imported(other)
        elif isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        else:
            yield from imported(child)


def imports_of(path: Path) -> set[str]:
    return set(imported(ast.parse(path.read_text(encoding="utf-8"))))


def own(path: Path) -> set[str]:
    """The files of this package that `path` imports, by the name of the file."""
    found = set()
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "adapterstate":
            found.add(parts[2] if parts[1:2] == ["machine"] and len(parts) > 2 else ".".join(parts[1:2]))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_torch(path: Path) -> None:
    """Nothing under machine/ imports anything but the standard library, attrs and, in the engine, transitions."""
    roots = {name.split(".")[0] for name in imports_of(path)} - set(sys.stdlib_module_names)
    assert roots <= {"attrs", "adapterstate"} | ({"transitions"} if path.stem == "engine" else set())


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_imports_run_one_way(name: str) -> None:
    """Each file imports only those before it: errors and records, then guards, charts, plan, engine."""
    path = PACKAGE / "errors.py" if name == "errors" else MACHINE / f"{name}.py"
    assert own(path) <= MAY_IMPORT[name]


def test_every_file_has_its_place() -> None:
    """A new file under machine/ must be given its place in the order."""
    assert {path.stem for path in FILES} == {"__init__", *MAY_IMPORT} - {"errors"}


def test_the_folder_itself_imports_nothing() -> None:
    """Importing the folder brings in none of its files."""
    assert own(MACHINE / "__init__.py") == set()


def test_only_the_engine_imports_transitions() -> None:
    """One file of the package imports `transitions`."""
    users = [
        path.relative_to(PACKAGE).as_posix()
        for path in sorted(PACKAGE.rglob("*.py"))
        if any(n.split(".")[0] == "transitions" for n in imports_of(path))
    ]
    assert users == ["machine/engine.py"]


def test_the_machine_runs_without_torch() -> None:
    """The machine can be imported and asked without torch being imported, whatever the package's public face imports."""
    code = f"""
import sys, types
face = types.ModuleType("adapterstate")
face.__path__ = [{str(PACKAGE)!r}]
sys.modules["adapterstate"] = face
from adapterstate.machine.charts import CHARTS
from adapterstate.machine.engine import Engine
from adapterstate.machine.plan import plan
from adapterstate.machine.records import Event, Facts
Engine(CHARTS).run(plan(CHARTS, Facts(), [Event("disable_adapters")]))
assert not [name for name in sys.modules if name.split(".")[0] in ("torch", "numpy", "peft")]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
