"""PEFT's methods, and what is known of each: whether its adapters run together, add to each other, and can be driven at all."""

from __future__ import annotations

from typing import Any

import peft
from packaging.version import Version
from torch import nn

from adapterstate.peft.tuners import configs_of

ADDITIVE = frozenset(
    (
        "LORA",
        "ADALORA",
        "ADAMSS",
        "BEFT",
        "DELORA",
        "FOURIERFT",
        "GRALORA",
        "LILY",
        "LOHA",
        "LOKR",
        "MISS",
        "POLY",
        "PSOFT",
        "PVERA",
        "RANDLORA",
        "SHIRA",
        "SUPERTUNING",
        "TINYLORA",
        "UNILORA",
        "VBLORA",
        "VERA",
        "WAVEFT",
    )
)
"""PEFT's methods of which an adapter adds the same whatever else is active or merged: each may be merged or weighted by itself.

Found by experiment, which is a test. HiRA, GLoRA, FRoD, DEFT and PEANuT add too, but read the base weight, merged or not, to know what.
"""
NOT_ADDITIVE = (("use_dora", True), ("init_weights", "bat"), ("sample_at_inference", True))
"""Options of those methods, with the value with which it is not so."""
ALONE = frozenset(("ADAPTION_PROMPT", "LN_TUNING", "OSF", "SHADOW"))
"""Methods whose layers run with one adapter at a time; of several, PEFT raises, or computes only the first."""
IN_TURN = frozenset(("C3A", "OFT"))
"""Methods of which PEFT runs several adapters one on the result of the other, and merges them as if it did not."""
MERGES_DORA_APART = Version(peft.__version__) < Version("0.21")
"""Whether PEFT's merge normalises a DoRA by a weight that already holds what was merged before it, where its layers do not."""
UNLISTED = ("lora_magnitude_vector", "unilora_theta_d")
"""What PEFT's layers train, and some of its releases do not list: DoRA of convolutions and embeddings in 0.19, UniLoRA in 0.20."""


def kind_of(config: Any) -> str:
    """What a config's method is called in tables and refusals."""
    return str(getattr(config.peft_type, "value", config.peft_type)).lower()


def method_of(config: Any) -> str:
    """The name of a config's method as PEFT writes it."""
    return kind_of(config).upper()


def why_not_additive(config: Any) -> str:
    """Say why what an adapter of this config adds depends on the others; empty when it does not."""
    method = method_of(config)
    if method not in ADDITIVE:
        return f"what {method} does depends on the other adapters"
    for option, value in NOT_ADDITIVE:
        if getattr(config, option, None) == value:
            return f"with {option}={value!r}, what {method} does depends on the other adapters"
    return ""


def runs_alone(model: nn.Module) -> bool:
    """Whether the method of `model` runs with one adapter at a time."""
    prompts = isinstance(model._modules.get("prompt_encoder"), nn.ModuleDict)
    return prompts or any(method_of(config) in ALONE for config in configs_of(model).values())


def rewrites_base(config: Any) -> bool:
    """Whether PEFT initialises an adapter of this config by changing the base weights."""
    return isinstance(getattr(config, "init_lora_weights", None), str) or getattr(config, "kasa_config", None) is not None
