"""``python -m adapterstate audit``: the flags of a saved adapter, loaded onto its base."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

DESCRIPTION = (
    "Load a saved PEFT adapter (a directory with adapter_config.json) onto its base model, and say which rules its flags break: layers "
    "that disagree about what is active, adapters merged in place, parameters of one adapter of which some are frozen. Nothing is "
    "downloaded: the base model has to be a directory too."
)
EPILOG = "Exit code: 0 if no rule is broken, 1 if one is, 2 if the adapter or its base cannot be loaded."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("directory", type=Path, metavar="DIRECTORY", help="where PEFT's save_pretrained() has put the adapter")
    parser.add_argument("--base", type=Path, metavar="DIRECTORY", help="the base model; by default where the adapter's config says")


def run(given: argparse.Namespace) -> int:
    """Load, audit, print."""
    try:
        model = _load(given.directory, given.base)
    except (OSError, ValueError, KeyError, ImportError) as error:
        print(f"{given.directory}: {error}", file=sys.stderr)
        return 2
    from adapterstate.peft import audit

    found = audit(model)
    for finding in found:
        print(finding)
    layers = sum(hasattr(module, "_active_adapter") for module in model.modules())
    print(f"{len(found)} places break a rule" if found else f"no rule is broken: {layers} layers, active {list(model.active_adapters)}")
    return 1 if found else 0


def _load(directory: Path, base: Path | None) -> Any:
    """The adapter on its base, from directories alone."""
    try:
        from peft import PeftModel
        from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification
    except ImportError as error:
        raise ImportError(f"{error.name} is not installed; it comes with the extra 'peft':  pip install 'adapterstate[peft]'") from error
    config = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
    where = base or Path(str(config.get("base_model_name_or_path")))
    if not where.is_dir():
        raise OSError(f"its base model {str(where)!r} is not a directory; give it with --base")
    kinds = {"CAUSAL_LM": AutoModelForCausalLM, "SEQ_2_SEQ_LM": AutoModelForSeq2SeqLM, "SEQ_CLS": AutoModelForSequenceClassification}
    model = kinds.get(str(config.get("task_type")), AutoModel).from_pretrained(where, local_files_only=True)
    return PeftModel.from_pretrained(model, str(directory))
