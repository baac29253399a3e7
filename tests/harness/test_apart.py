"""The harness shares nothing with what it tries, and asks for pytest only where a pytest class is used."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from adapterstate import testing

FOLDER = Path(testing.__file__).parent
SYSTEMS = {"ours", "peft"}
"""The files that know an implementation; the others know only the protocol."""


def imports(tree: ast.AST) -> set[str]:
    """Names of all modules that a tree imports, wherever in it."""
    found = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return found | {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_knows_no_implementation(path: Path) -> None:
    """Outside the shipped systems, nothing of this package is imported but the harness itself."""
    own = {name for name in imports(ast.parse(path.read_text(encoding="utf-8"))) if name.startswith("adapterstate")}
    assert path.stem in SYSTEMS or all(name.startswith("adapterstate.testing") for name in own)
    assert path.stem in SYSTEMS or not own & {"adapterstate.testing.ours", "adapterstate.testing.peft"}


def test_the_reference_knows_no_torch() -> None:
    """The reference is plain Python over frozen records."""
    roots = {name.split(".")[0] for name in imports(ast.parse((FOLDER / "reference.py").read_text(encoding="utf-8")))}
    assert roots <= {"attrs", "adapterstate", *sys.stdlib_module_names}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_pytest_is_imported_lazily(path: Path) -> None:
    """The package pytest is imported by the one class that needs it, when a test of it runs; what hypothesis imports is its own affair."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_once = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    assert "pytest" not in imports(at_once)
    assert path.stem == "conformance" or "pytest" not in imports(tree)
