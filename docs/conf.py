"""Configuration of the documentation; built with ``sphinx-build -n -W -b html docs OUT``."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from importlib.metadata import version as installed_version
from typing import Any

import attrs
from docutils import nodes
from sphinx import addnodes
from sphinx.util import logging

import adapterstate

project = "adapterstate"
author = "the adapterstate authors"
release = version = installed_version("adapterstate")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser", "adapterstate.sphinx"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"adapterstate {version}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_copyright = False
myst_heading_anchors = 3

# Docstrings put code into single backticks, as everything else here does.
default_role = "code"

autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
maximum_signature_line_length = 160  # longer ones get a line for each argument

napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Source"]

# Other projects' names cannot be looked up in a build that needs no network.
OTHERS = r"(torch|nn|hypothesis|attrs?|collections|contextlib|os|pathlib|types|typing|typing_extensions)\..*"
# Type variables and the like have no page of their own.
PRIVATE = r"(.*\.)?_\w+"
# Annotations of public methods name these, but nobody makes or imports them: what is to be known about them is said at the methods.
UNLISTED = r"adapterstate\.(link\.Options|contexts\.StateContext|state\.Hold)"
nitpick_ignore_regex = [(r"py:.*", OTHERS), (r"py:.*", PRIVATE), (r"py:.*", UNLISTED)]

# Packages whose public names all have to be described somewhere.
DESCRIBED = (
    "adapterstate",
    "adapterstate.diagrams",
    "adapterstate.explore",
    "adapterstate.inspector",
    "adapterstate.peft",
    "adapterstate.testing",
)


def resolve_public(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Find what annotations call by the path of its file, or by its bare name, at the one place where it is documented.

    Where several packages have a public name of that kind, the one counts from whose package the annotation is.
    """
    if node.get("refdomain") != "py" or re.fullmatch(UNLISTED, node["reftarget"]):
        return None
    target = node["reftarget"].rpartition(".")[2]
    domain = env.get_domain("py")
    found = [name for name in domain.objects if name.rpartition(".")[2] == target]
    origin = node["reftarget"] if "." in node["reftarget"] else f"{node.get('py:module') or ''}."
    near = [name for name in found if name.rpartition(".")[0] in DESCRIBED[1:] and origin.startswith(f"{name.rpartition('.')[0]}.")]
    public = f"{adapterstate.__name__}.{target}"
    name = near[0] if near else public if public in found else found[0] if len(found) == 1 else None
    if name is None or name == node["reftarget"]:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, contnode)


def readable_signature(app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None) -> Any:
    """Show defaults of records as values, and `...` where leaving an argument out is a case of its own.

    Readers do not make protocols, errors or states, so these are shown without arguments.
    """
    if signature is None:
        return None
    is_state = inspect.isclass(obj) and issubclass(obj, adapterstate.AdapterState)
    if what == "exception" or getattr(obj, "_is_protocol", False) or is_state:
        return "", None
    if inspect.isclass(obj) and attrs.has(obj):
        for field in attrs.fields(obj):
            shown = readable_default(field)
            if shown is not None:
                kept = rf"(?<=[(\s]){field.alias}(: [^=]*?)? = (NOTHING|attr_dict\[.*?\]\.default)"
                signature = re.sub(kept, rf"{field.alias}\1 = {shown}", signature)
    return re.sub(r"= _[A-Z]+\b", "= ...", signature), returns


def readable_default(field: Any) -> str | None:
    """Say the default of a field: a short value as it is, likewise what a factory makes, a function by its name, and else `...`."""
    default = field.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        default = None if default.takes_self else default.factory()
    elif default is attrs.NOTHING:
        return None
    shown = getattr(default, "__name__", None) or repr(default)
    return shown if len(shown) <= 40 else "..."


def short_values_only(app: Any, domain: str, objtype: str, content: Any) -> None:
    """Take long values of data away: a chart is fifty lines of records, and there are pictures of it."""
    for signature in content.parent.findall(addnodes.desc_signature):
        for shown in list(signature.findall(addnodes.desc_annotation)):
            if shown.astext().lstrip().startswith("=") and len(shown.astext()) > 60:
                signature.remove(shown)


def no_empty_last_line(app: Any, doctree: Any) -> None:
    """Take the empty line away that a doctest needs behind what it expects."""
    for block in doctree.findall(nodes.literal_block):
        block.rawsource = block.astext().rstrip()
        block[:] = [nodes.Text(block.rawsource)]


def every_public_name(app: Any, env: Any) -> None:
    """Warn of public names that no page describes; where warnings are errors, the build fails."""
    described = env.get_domain("py").objects
    for package in DESCRIBED:
        for name in import_module(package).__all__:
            if f"{package}.{name}" not in described:
                logging.getLogger(__name__).warning("%s.%s is public, and no page describes it", package, name)


def setup(app: Any) -> None:
    """Sphinx's hook."""
    app.connect("missing-reference", resolve_public)
    app.connect("autodoc-process-signature", readable_signature)
    app.connect("object-description-transform", short_values_only)
    app.connect("doctree-read", no_empty_last_line)
    app.connect("env-check-consistency", every_public_name)
