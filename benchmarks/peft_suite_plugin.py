"""A pytest plugin for PEFT's own tests: attach what PEFT makes, stand in for the models of the hub, note how each test ended.

`benchmarks/peft_suite.py` runs PEFT's tests with it and says by these variables what to do:

- ``PEFT_SUITE_ATTACH``: attach every model that PEFT makes, before the test sees it;
- ``PEFT_SUITE_RESULTS``: the file to which one line of JSON is added for each test; tests that it names already are not run;
- ``PEFT_SUITE_MODELS``: the folder for the small models;
- ``PEFT_SUITE_EVERY``: run one in so many tests.
"""

from __future__ import annotations

import functools
import json
import os
import re
import time
import types
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import peft.mapping
import peft.mapping_func
import pytest
import tokenizers
import torch
import transformers
from huggingface_hub.utils import _http
from transformers.models.auto.auto_factory import _BaseAutoModelClass

from adapterstate import attach

RESULTS = Path(os.environ["PEFT_SUITE_RESULTS"])
MODELS = Path(os.environ["PEFT_SUITE_MODELS"])
EVERY = int(os.environ.get("PEFT_SUITE_EVERY", "1"))
ATTACHED: list[Any] = []
"""What `attach` returned, kept alive while a test runs."""

SIZES = {"vocab_size": 1024, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
DECODER = {**SIZES, "intermediate_size": 37, "num_key_value_heads": 4, "max_position_embeddings": 128, "pad_token_id": 0}
ENCODER = {**SIZES, "intermediate_size": 37, "max_position_embeddings": 128, "pad_token_id": 0}
GPT = {"vocab_size": 1024, "n_embd": 32, "n_head": 4, "n_positions": 128, "bos_token_id": 1, "eos_token_id": 2}
OPT = {"vocab_size": 1024, "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 37, "num_hidden_layers": 3, "num_attention_heads": 4}
BART = {"vocab_size": 1024, "d_model": 32, "max_position_embeddings": 128}
BART |= {
    f"{side}_{what}": size for side in ("encoder", "decoder") for what, size in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 37))
}
T5 = {"vocab_size": 1024, "d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
DEBERTA = {**ENCODER, "pos_att_type": ["c2p", "p2c"], "relative_attention": True, "position_biased_input": False}
STANDING_IN: dict[str, tuple[str, dict[str, Any]]] = {
    r"(tiny-random-OPTForCausalLM|opt-125m)": ("OPTForCausalLM", {**OPT, "max_position_embeddings": 128, "pad_token_id": 1}),
    r"(tiny-random-gpt2|tiny-random-GPT2LMHeadModel|gpt2)": ("GPT2LMHeadModel", {**GPT, "n_layer": 3}),
    r"tiny-random-GPTJForCausalLM": ("GPTJForCausalLM", {**GPT, "n_layer": 2, "rotary_dim": 4}),
    r"tiny-random-LlamaForCausalLM": ("LlamaForCausalLM", DECODER),
    r"(tiny-dummy-qwen2|tiny-Qwen2ForCausalLM-2.5)": ("Qwen2ForCausalLM", DECODER),
    r"tiny-random-MistralForCausalLM": ("MistralForCausalLM", DECODER),
    r"tiny-random-Gemma3ForCausalLM": ("Gemma3ForCausalLM", {**DECODER, "head_dim": 8}),
    r"tiny-random-BloomForCausalLM": ("BloomForCausalLM", {"vocab_size": 1024, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    r"Mixtral-tiny": ("MixtralForCausalLM", {**DECODER, "num_local_experts": 4, "num_experts_per_tok": 2}),
    r"(tiny-random-t5|tiny-random-T5ForConditionalGeneration(-calibrated)?|flan-t5-small)": ("T5ForConditionalGeneration", T5),
    r"tiny-random-BartForConditionalGeneration": ("BartForConditionalGeneration", BART),
    r"tiny-random-BertModel": ("BertModel", ENCODER),
    r"tiny-random-RobertaModel": ("RobertaModel", ENCODER),
    r"tiny-random-DebertaModel": ("DebertaModel", DEBERTA),
    r"tiny-random-DebertaV2Model": ("DebertaV2Model", ENCODER),
    r"tiny-random-BertForSequenceClassification": ("BertForSequenceClassification", ENCODER),
    r"tiny-random-RobertaForSequenceClassification": ("RobertaForSequenceClassification", ENCODER),
    r"tiny-LlamaForSequenceClassification-3.2": ("LlamaForSequenceClassification", DECODER),
}
"""Name of a model on the hub, without its owner -> class and config of the one that stands in for it, with random weights."""


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A tokenizer that knows few words."""
    words = {word: number for number, word in enumerate(("<pad>", "<s>", "</s>", "<unk>", "Python", "is", "a", "the"))}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **special)


@functools.cache
def local(name: str) -> str:
    """The folder of the model that stands in for one of the hub.

    Raises:
        OSError: none does; transformers raises the same without a network, but later.
    """
    for pattern, (kind, options) in STANDING_IN.items():
        if re.fullmatch(pattern, name.split("/")[-1]):
            folder = MODELS / kind
            if not (folder / "config.json").exists():
                torch.manual_seed(0)
                cls = getattr(transformers, kind)
                config = transformers.Gemma3TextConfig if kind.startswith("Gemma3") else cls.config_class
                cls(config(**options)).save_pretrained(folder)
                tokenizer().save_pretrained(folder)
            return str(folder)
    raise OSError(f"nothing stands in for {name}")


def redirect(cls: Any) -> None:
    """Let ``cls.from_pretrained`` read from folders alone."""
    inner = cls.__dict__["from_pretrained"].__func__

    def from_pretrained(klass: Any, pretrained_model_name_or_path: Any = None, *args: Any, **options: Any) -> Any:
        name = pretrained_model_name_or_path
        if isinstance(name, str) and not Path(name).is_dir():
            name = local(name)
            options.pop("revision", None)
        return inner(klass, name, *args, **options)

    cls.from_pretrained = classmethod(from_pretrained)


def no_dataset(*_: Any, **__: Any) -> Any:
    """Stand in for ``datasets.load_dataset``."""
    raise OSError("nothing stands in for data sets")


def attaching(make: Callable[..., Any]) -> Callable[..., Any]:
    """Attach what a function makes."""

    @functools.wraps(make)
    def made(*args: Any, **options: Any) -> Any:
        model = make(*args, **options)
        ATTACHED.append(attach(model))
        return model

    return made


def attach_everything() -> None:
    """Attach what PEFT's ways of making a model return."""
    peft.get_peft_model = peft.mapping.get_peft_model = peft.mapping_func.get_peft_model = attaching(peft.get_peft_model)
    for cls in (peft.PeftModel, peft.PeftMixedModel):
        cls.from_pretrained = classmethod(attaching(cls.__dict__["from_pretrained"].__func__))


def install() -> None:
    """Put everything in place, before PEFT's tests import what they use."""
    torch.set_num_threads(1)
    # without a network, the hub's client would wait before each of several attempts
    _http.time = types.SimpleNamespace(**{**vars(time), "sleep": lambda _: None})
    for cls in (_BaseAutoModelClass, transformers.PreTrainedModel, transformers.AutoConfig, transformers.AutoTokenizer):
        redirect(cls)
    import datasets

    datasets.load_dataset = no_dataset
    if os.environ.get("PEFT_SUITE_ATTACH"):
        attach_everything()


install()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep one in so many tests, chosen by their names; leave out those that have a result."""
    done = {json.loads(line)[0] for line in RESULTS.read_text().splitlines()} if RESULTS.exists() else set()
    kept = [item for item in items if item.nodeid not in done and zlib.crc32(item.nodeid.encode()) % EVERY == 0]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Note how a test ended, and the error that ended it."""
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" or (report.when == "setup" and report.outcome != "passed"):
        error = f"{call.excinfo.typename}: {str(call.excinfo.value)[:600]}" if call.excinfo and report.failed else ""
        with RESULTS.open("a") as file:
            file.write(json.dumps([item.nodeid, report.outcome, error]) + "\n")


def pytest_runtest_teardown() -> None:
    """Let the models of the test go."""
    ATTACHED.clear()
