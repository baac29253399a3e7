"""Warning before ``torch.compile`` would give up: each new combination of shapes compiles once more, up to a limit."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from adapterstate.commit import Transaction
from adapterstate.machine.records import Facts
from adapterstate.modules.wrapping import BINDINGS
from adapterstate.projection import view_of


class CompileWatch:
    """Looks, whenever adapters come into force in a combination of shapes that has not been seen, whether compiled code has room for it."""

    def __init__(self) -> None:
        self._configurations: dict[Any, Any] = {}
        self._shapes: dict[Any, bool] = {}

    def watch(self, transaction: Transaction, model: nn.Module, before: Facts, after: Facts, modules: Mapping[str, nn.Module]) -> None:
        """Warn if the state `after` would make ``torch.compile`` pass its limit at the next forward.

        As long as nothing at all has been compiled there is nothing to look at. What was in force at the first compile is the state that
        some later event meets.
        """
        if not _anything_compiled():
            return
        self._look(transaction, before, modules)
        if self._look(transaction, after, modules):
            _warn_at_limit(model, after.active)

    def _look(self, transaction: Transaction, facts: Facts, modules: Mapping[str, nn.Module]) -> bool:
        """Note the shapes of a state; return whether they are new."""
        # by identity, so that a thousand inactive adapters cost nothing; kept as a value, so that the identity stays theirs
        configuration = (facts.active, facts.merged, facts.enabled, id(facts.adapters), tuple(facts.weights), facts.on_overlap)
        if not facts.active or configuration in self._configurations:
            return False
        shapes = _shapes(facts, modules)
        transaction.item(self._configurations, configuration, facts.adapters)
        transaction.item(self._shapes, shapes, True)
        return shapes not in self._shapes


def _anything_compiled() -> bool:
    """Whether ``torch.compile`` has compiled any code since the start, or since it was reset."""
    convert = sys.modules.get("torch._dynamo.convert_frame")
    return convert is not None and bool(convert.input_codes.seen)


def _shapes(facts: Facts, modules: Mapping[str, nn.Module]) -> frozenset[Any]:
    """What compiled code depends on: per module, the shapes of what is live or read."""
    found = []
    for path, record in facts.modules.items():
        view = view_of(record.context, enabled=facts.enabled)
        bindings = modules[path].__dict__.get(BINDINGS, {})
        shares = [share for share in view.replacing + view.live if share.name in bindings]
        tensors = [tuple(t.shape) for share in shares for part in bindings[share.name].parts for t in part.tensors.values()]
        found.append((path, view.reads_cache, tuple(tensors), tuple((share.weight != 1, share.sums) for share in view.replacing)))
    return frozenset(found)


def _warn_at_limit(model: nn.Module, active: tuple[str, ...]) -> None:
    """Warn if some forward of the model has been compiled as often as is allowed."""
    import torch._dynamo.config as config

    limit = config.recompile_limit
    for code in _codes(model):
        if _compiles(code) >= limit:
            warnings.warn(
                f"activating {list(active)} brings shapes (ranks, numbers of rows, or sets of layers) that torch.compile has not seen, and "
                f"torch._dynamo.config.recompile_limit = {limit} is reached: the next forward would run uncompiled, or fail "
                f"with fullgraph=True. Raise torch._dynamo.config.recompile_limit, or give the adapters equal ranks, row "
                "counts and target modules.",
                stacklevel=6,
            )
            return


def _codes(model: nn.Module) -> Iterator[Any]:
    """The code of each forward in the model, once."""
    if type(model).forward.__module__.startswith("torch."):
        # torch.compile puts a frame of its own around a root whose forward is torch's; all such roots share its count
        from torch._dynamo.external_utils import wrap_inline

        yield wrap_inline(model).__code__
    for forward in {type(module).forward for module in model.modules()}:
        if hasattr(forward, "__code__"):
            yield forward.__code__


def _compiles(code: Any) -> int:
    """How often a code object has been compiled and is still cached."""
    from torch._dynamo.eval_frame import _debug_get_cache_entry_list

    return len(_debug_get_cache_entry_list(code))
