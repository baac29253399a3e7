"""Placing a config in a model: the tuner, the whole copies and the token rows, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from adapterstate.modules.method import Placement
from adapterstate.targets.findings import combined
from adapterstate.targets.saved import place_saved, saved_targets
from adapterstate.targets.tokens import place_tokens
from adapterstate.targets.tree import below, survey
from adapterstate.targets.tuned import place_tuner

if TYPE_CHECKING:
    from adapterstate.config import LoraConfig


def place(config: LoraConfig, model: nn.Module) -> Placement:
    """Decide where `config` goes in `model`, without writing anything.

    Every part of the config is placed, so that all of its problems are known at once. A module with several paths counts once. A site comes
    after the one whose tensors it shares.

    Args:
        config: a config without `problems()`.
        model: the whole model, with or without other adapters.
    """
    tree = survey(model)
    saved = saved_targets(config, tree)
    covered = {module for target in saved for module in below(target)}
    placement = combined((place_tuner(config, tree, covered), place_saved(config, tree, saved), place_tokens(config, tree)))
    if config.ensure_weight_tying and not any(site.shares for site in placement.sites):
        text = "ensure_weight_tying is True, but no weight that this adapter replaces is shared with another module"
        return combined((placement, Placement(warnings=(text,))))
    return placement
