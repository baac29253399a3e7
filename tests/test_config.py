"""`LoraConfig`: PEFT's names and defaults, frozen values, and every wrong value named."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
from typing import Any

import attrs
import pytest

from adapterstate.config import PEFT_ONLY, LoraConfig
from adapterstate.errors import ArgumentError
from adapterstate.modules.method import AdapterConfig

TARGET: dict[str, Any] = {"target_modules": ["q"]}


def test_defaults():
    """The defaults are PEFT's."""
    assert attrs.asdict(LoraConfig(), recurse=False) == {
        "r": 8,
        "target_modules": None,
        "exclude_modules": None,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "modules_to_save": None,
        "init_lora_weights": True,
        "layers_to_transform": None,
        "layers_pattern": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "trainable_token_indices": None,
        "ensure_weight_tying": False,
        "inference_mode": False,
    }


def test_it_is_an_adapter_config():
    """A LoraConfig has what `add_adapter` asks of any config."""
    assert isinstance(LoraConfig(), AdapterConfig)


@pytest.mark.parametrize(
    "good",
    [
        {"target_modules": ["q", "v"]},
        {"target_modules": {"q", "v"}},
        {"target_modules": r".*\.(q|v)_proj"},
        {"target_modules": "all-linear"},
        {"target_modules": "All-Linear"},
        {"target_modules": "all-linear", "exclude_modules": r".*head"},
        {"target_modules": ["q"], "exclude_modules": ["layers.0.q"]},
        {"target_modules": ["q"], "lora_alpha": 0.5, "lora_dropout": 0},
        {"target_modules": ["q"], "init_lora_weights": "gaussian", "use_rslora": True},
        {"target_modules": ["q"], "init_lora_weights": False, "inference_mode": True},
        {"target_modules": ["q"], "layers_to_transform": 0},
        {"target_modules": ["q"], "layers_to_transform": [0, 2], "layers_pattern": "layers"},
        {"target_modules": ["q"], "layers_to_transform": [0], "layers_pattern": ["h", "layers"]},
        {"target_modules": ["q"], "rank_pattern": {"layers.0.q": 4}, "alpha_pattern": {"^q$": 1.5}},
        {"target_modules": ["q"], "rank_pattern": None, "alpha_pattern": None},
        {"modules_to_save": ["head"]},
        {"modules_to_save": ["embed"], "ensure_weight_tying": True},
        {"trainable_token_indices": [0, 5]},
        {"trainable_token_indices": {"embed": [5, 0]}},
    ],
    ids=str,
)
def test_good_values(good):
    """Supported values have no problems; an adapter may be auxiliary only."""
    assert LoraConfig(**good).problems() == ()


BAD: list[tuple[dict[str, Any], str]] = [
    ({"r": 0}, "r is 0; a positive integer is expected"),
    ({"r": -1}, "r is -1; a positive integer is expected"),
    ({"r": True}, "r is True; a positive integer is expected"),
    ({"r": 4.0}, "r is 4.0; a positive integer is expected"),
    ({"r": "8"}, "r is '8'; a positive integer is expected"),
    ({"r": None}, "r is None; a positive integer is expected"),
    ({"target_modules": ""}, "target_modules is ''; a list of names, a regular expression or 'all-linear' is expected"),
    ({"target_modules": 3}, "target_modules is 3; a list of names, a regular expression or 'all-linear' is expected"),
    ({"target_modules": {"q": 1}}, "target_modules is {'q': 1}; a list of names, a regular expression or 'all-linear' is expected"),
    ({"target_modules": ["q", 3]}, "target_modules[1] is 3; a non-empty string is expected"),
    ({"target_modules": ["q", ""]}, "target_modules[1] is ''; a non-empty string is expected"),
    ({"target_modules": "q("}, "target_modules is 'q('; a valid regular expression is expected"),
    ({"exclude_modules": 3}, "exclude_modules is 3; a list of names or a regular expression is expected"),
    ({"exclude_modules": [None]}, "exclude_modules[0] is None; a non-empty string is expected"),
    ({"exclude_modules": "["}, "exclude_modules is '['; a valid regular expression is expected"),
    ({"lora_alpha": 0}, "lora_alpha is 0; a finite positive number is expected"),
    ({"lora_alpha": -2}, "lora_alpha is -2; a finite positive number is expected"),
    ({"lora_alpha": math.inf}, "lora_alpha is inf; a finite positive number is expected"),
    ({"lora_alpha": math.nan}, "lora_alpha is nan; a finite positive number is expected"),
    ({"lora_alpha": True}, "lora_alpha is True; a finite positive number is expected"),
    ({"lora_alpha": "16"}, "lora_alpha is '16'; a finite positive number is expected"),
    ({"lora_dropout": 1}, "lora_dropout is 1; a number in [0, 1) is expected"),
    ({"lora_dropout": 1.0}, "lora_dropout is 1.0; a number in [0, 1) is expected"),
    ({"lora_dropout": -0.1}, "lora_dropout is -0.1; a number in [0, 1) is expected"),
    ({"lora_dropout": math.nan}, "lora_dropout is nan; a number in [0, 1) is expected"),
    ({"lora_dropout": False}, "lora_dropout is False; a number in [0, 1) is expected"),
    ({"lora_dropout": None}, "lora_dropout is None; a number in [0, 1) is expected"),
    ({"bias": "all"}, "bias is 'all'; 'none', the only supported value, is expected"),
    ({"bias": "lora_only"}, "bias is 'lora_only'; 'none', the only supported value, is expected"),
    ({"bias": False}, "bias is False; 'none', the only supported value, is expected"),
    ({"use_rslora": 1}, "use_rslora is 1; True or False is expected"),
    ({"use_rslora": "yes"}, "use_rslora is 'yes'; True or False is expected"),
    ({"modules_to_save": "head"}, "modules_to_save is 'head'; a list of names is expected"),
    ({"modules_to_save": 1}, "modules_to_save is 1; a list of names is expected"),
    ({"modules_to_save": ["head", 1]}, "modules_to_save[1] is 1; a non-empty string is expected"),
    ({"modules_to_save": [""]}, "modules_to_save[0] is ''; a non-empty string is expected"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'; True, False or 'gaussian' is expected"),
    ({"init_lora_weights": 1}, "init_lora_weights is 1; True, False or 'gaussian' is expected"),
    ({"init_lora_weights": None}, "init_lora_weights is None; True, False or 'gaussian' is expected"),
    ({"layers_to_transform": -1}, "layers_to_transform is -1; a non-negative integer or a list of them is expected"),
    ({"layers_to_transform": True}, "layers_to_transform is True; a non-negative integer or a list of them is expected"),
    ({"layers_to_transform": "0"}, "layers_to_transform is '0'; a non-negative integer or a list of them is expected"),
    ({"layers_to_transform": [0, -1]}, "layers_to_transform[1] is -1; a non-negative integer is expected"),
    ({"layers_to_transform": [False]}, "layers_to_transform[0] is False; a non-negative integer is expected"),
    ({"layers_to_transform": [0], "layers_pattern": 3}, "layers_pattern is 3; a string or a list of strings is expected"),
    ({"layers_to_transform": [0], "layers_pattern": [3]}, "layers_pattern[0] is 3; a non-empty string is expected"),
    ({"layers_to_transform": [0], "layers_pattern": "h("}, "layers_pattern is 'h('; a valid regular expression is expected"),
    ({"layers_to_transform": [0], "layers_pattern": ["h("]}, "layers_pattern[0] is 'h('; a valid regular expression is expected"),
    ({"layers_pattern": "h"}, "layers_pattern is given, but layers_to_transform is not; the indices of the layers are expected with it"),
    (
        {"target_modules": "q", "layers_to_transform": 0},
        "layers_to_transform is given, but target_modules is a string; a list of names is expected with it",
    ),
    (
        {"target_modules": "all-linear", "layers_to_transform": 0},
        "layers_to_transform is given, but target_modules is a string; a list of names is expected with it",
    ),
    (
        {"target_modules": "q", "layers_pattern": "h"},
        "layers_pattern is given, but target_modules is a string; a list of names is expected with it",
    ),
    ({"rank_pattern": ["q"]}, "rank_pattern is ('q',); a dict of regular expressions is expected"),
    ({"rank_pattern": {"q": 0}}, "rank_pattern['q'] is 0; a positive integer is expected"),
    ({"rank_pattern": {"q": True}}, "rank_pattern['q'] is True; a positive integer is expected"),
    ({"rank_pattern": {1: 4}}, "a key of rank_pattern is 1; a non-empty string is expected"),
    ({"rank_pattern": {"": 4}}, "a key of rank_pattern is ''; a non-empty string is expected"),
    ({"rank_pattern": {"q(": 4}}, "a key of rank_pattern is 'q('; a valid regular expression is expected"),
    ({"rank_pattern": {"(?i)q": 4}}, "a key of rank_pattern is '(?i)q'; a valid regular expression is expected"),
    ({"alpha_pattern": "q"}, "alpha_pattern is 'q'; a dict of regular expressions is expected"),
    ({"alpha_pattern": {"q": -1.0}}, "alpha_pattern['q'] is -1.0; a finite positive number is expected"),
    ({"alpha_pattern": {"q": math.nan}}, "alpha_pattern['q'] is nan; a finite positive number is expected"),
    ({"trainable_token_indices": 3}, "trainable_token_indices is 3; a non-empty list of token indices is expected"),
    ({"trainable_token_indices": []}, "trainable_token_indices is (); a non-empty list of token indices is expected"),
    ({"trainable_token_indices": "embed"}, "trainable_token_indices is 'embed'; a non-empty list of token indices is expected"),
    ({"trainable_token_indices": [1, -1]}, "trainable_token_indices[1] is -1; a non-negative integer is expected"),
    ({"trainable_token_indices": [True]}, "trainable_token_indices[0] is True; a non-negative integer is expected"),
    ({"trainable_token_indices": ["a"]}, "trainable_token_indices[0] is 'a'; a non-negative integer is expected"),
    ({"trainable_token_indices": [4, 2, 4]}, "trainable_token_indices[2] is 4 again; each index is expected once"),
    ({"trainable_token_indices": {"e": [-3]}}, "trainable_token_indices['e'][0] is -3; a non-negative integer is expected"),
    ({"trainable_token_indices": {"e": [3, 3]}}, "trainable_token_indices['e'][1] is 3 again; each index is expected once"),
    ({"trainable_token_indices": {"e": []}}, "trainable_token_indices['e'] is (); a non-empty list of token indices is expected"),
    ({"trainable_token_indices": {"e": 3}}, "trainable_token_indices['e'] is 3; a non-empty list of token indices is expected"),
    ({"trainable_token_indices": {"": [3]}}, "a key of trainable_token_indices is ''; the name of an embedding is expected"),
    ({"ensure_weight_tying": None}, "ensure_weight_tying is None; True or False is expected"),
    ({"inference_mode": "no"}, "inference_mode is 'no'; True or False is expected"),
]


@pytest.mark.parametrize(("bad", "text"), BAD, ids=[str(bad) for bad, _ in BAD])
def test_bad_values(bad, text):
    """A wrong value is exactly one problem, which says what was given and what is expected."""
    problems = LoraConfig(**{**TARGET, **bad}).problems()
    assert len(problems) == 1
    assert problems[0].startswith(text)


@pytest.mark.parametrize("empty", [{}, {"target_modules": []}, {"modules_to_save": [], "trainable_token_indices": {}}], ids=str)
def test_no_target_at_all(empty):
    """A config that puts nothing anywhere is a problem."""
    assert LoraConfig(**empty).problems() == (
        "there is no target; at least one of target_modules, modules_to_save and trainable_token_indices is expected",
    )


def test_all_problems_are_collected():
    """Every problem is listed, in the order of the fields."""
    problems = LoraConfig(r=0, lora_dropout=2, bias="all", rank_pattern={"q": 0, "v": -1}).problems()
    assert [text.split(" ")[0] for text in problems] == ["r", "lora_dropout", "bias", "rank_pattern['q']", "rank_pattern['v']", "there"]


def test_the_callers_values_are_copied():
    """Changing the lists and dicts that a config was made from changes nothing in it."""
    names, ranks, rows = ["q"], {"q": 4}, {"embed": [1]}
    config = LoraConfig(target_modules=names, rank_pattern=ranks, trainable_token_indices=rows)
    names.append("v")
    ranks["q"] = 0
    rows["embed"].append(-1)
    assert config.target_modules == ("q",)
    assert config.rank_pattern == {"q": 4}
    assert config.trainable_token_indices == {"embed": (1,)}
    assert config.problems() == ()


def test_a_config_cannot_be_changed():
    """Neither a field nor an entry of a mapping can be assigned."""
    config = LoraConfig(target_modules=["q"], rank_pattern={"q": 4})
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        config.r = 4
    with pytest.raises(TypeError):
        config.rank_pattern["q"] = 5


def test_sets_have_one_order():
    """A set becomes a sorted tuple, so that the same config is the same in every process."""
    assert LoraConfig(target_modules={"v", "k", "q"}).target_modules == ("k", "q", "v")
    assert LoraConfig(trainable_token_indices={8, 1}).trainable_token_indices == (1, 8)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda config: pickle.loads(pickle.dumps(config))])
def test_copies_are_equal(again):
    """A config can be copied, pickled and hashed, and its copies are equal to it."""
    config = LoraConfig(target_modules=["q"], rank_pattern={"q": 4}, trainable_token_indices={"embed": [1]})
    assert again(config) == config
    assert hash(again(config)) == hash(config)


def test_evolve():
    """A changed config is made from another one."""
    config = LoraConfig(target_modules=["q"], rank_pattern={"q": 4})
    assert attrs.evolve(config, r=2) == LoraConfig(r=2, target_modules=["q"], rank_pattern={"q": 4})


def test_the_signature_names_the_fields():
    """Help and editors see the fields, not ``**given``."""
    assert list(inspect.signature(LoraConfig).parameters) == [field.name for field in attrs.fields(LoraConfig)]


@pytest.mark.parametrize("field", PEFT_ONLY.split())
def test_fields_of_peft_that_are_not_supported(field):
    """A field that only PEFT has is a typed error which says so."""
    with pytest.raises(ArgumentError, match=f"no field '{field}': PEFT has it, but it is not supported here; leave it out"):
        LoraConfig(**TARGET, **{field: None})


def test_misspelt_field():
    """A field that nobody has is a typed error with the closest field and all fields."""
    with pytest.raises(ArgumentError, match=r"no field 'target_module'; did you mean 'target_modules'\?.* Fields: r, target_modules, "):
        LoraConfig(target_module=["q"])
    with pytest.raises(ArgumentError, match=r"no field 'xyz'\. Fields: "):
        attrs.evolve(LoraConfig(), xyz=1)
