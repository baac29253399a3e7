"""Configuration of the documentation; built with ``sphinx-build -n -W -b html docs OUT``."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import Any

import adapterstate

project = "adapterstate"
author = "the adapterstate authors"
release = version = installed_version("adapterstate")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser", "adapterstate.sphinx"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"adapterstate {version}"
myst_heading_anchors = 3

# Docstrings put code into single backticks, as everything else here does.
default_role = "code"

autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True

napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Source"]

# Other projects' names cannot be looked up in a build that needs no network.
OTHERS = r"(torch|nn|attrs?|collections|contextlib|os|pathlib|types|typing|typing_extensions)\..*"
# Type variables and the like have no page of their own.
PRIVATE = r"(.*\.)?_\w+"
# Annotations of public methods name these, but nobody makes or imports them: what is to be known about them is said at the methods.
UNLISTED = r"adapterstate\.(link\.Options|contexts\.StateContext|state\.Hold)"
nitpick_ignore_regex = [(r"py:.*", OTHERS), (r"py:.*", PRIVATE), (r"py:.*", UNLISTED)]


def resolve_public(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Find what annotations call by the path of its file, or by its bare name, at the one place where it is documented."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"].rpartition(".")[2]
    domain = env.get_domain("py")
    found = [name for name in domain.objects if name.rpartition(".")[2] == target]
    public = f"{adapterstate.__name__}.{target}"
    name = public if public in found else found[0] if len(found) == 1 else None
    if name is None or name == node["reftarget"]:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, contnode)


def setup(app: Any) -> None:
    """Sphinx's hook."""
    app.connect("missing-reference", resolve_public)
