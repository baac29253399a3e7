"""Where a config goes in a model: matching, expanding, ties, and everything that is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from adapterstate.config import LoraConfig
from adapterstate.modules.copies import ModulesToSave
from adapterstate.modules.method import Placement
from adapterstate.modules.slots import CHILD, Slot, Slots
from adapterstate.modules.tokens import TrainableTokens


class Layer(nn.Module):
    """One attention-like layer."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(4, 4)
        self.v = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.act = nn.ReLU()


class Body(nn.Module):
    """An embedding and two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.layers = nn.ModuleList([Layer(), Layer()])


class Model(nn.Module):
    """A small language model; with `tied` the head shares the embedding's weight."""

    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.body = Body()
        self.head = nn.Linear(4, 10, bias=False)
        if tied:
            self.head.weight = self.body.embed.weight


class Declared(Model):
    """A model that says which its input embedding and its head are."""

    def get_input_embeddings(self) -> nn.Module:
        return self.body.embed

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def placed(model: nn.Module, **config: Any) -> Placement:
    """Place a config that has no problems of its own, in a model that must not change by it."""
    made = LoraConfig(**config)
    assert made.problems() == ()
    before = written(model)
    placement = made.place(model)
    assert written(model) == before
    return placement


def written(model: nn.Module) -> list[object]:
    """What placing could have written to: classes, attributes, children and tensors."""
    return [(type(m), list(m.__dict__), list(m._modules.items()), [*map(id, m._parameters.values())]) for m in model.modules()]


def paths(placement: Placement) -> list[str]:
    """Return the paths of a placement in which nothing is wrong."""
    assert placement.target_problems == {}
    assert placement.uncalled == {}
    return [site.path for site in placement.sites]


def saved(placement: Placement) -> dict[str, tuple[tuple[str, ...], tuple[str, ...], dict[str, tuple[nn.Module, str]]]]:
    """Path -> what is copied there, what is replaced, and what is shared, in a placement of copies."""
    assert all(isinstance(site.method, ModulesToSave) for site in placement.sites)
    assert len(set(paths(placement))) == len(placement.sites)
    return {site.path: (site.method.own, site.method.replaced, dict(site.shares)) for site in placement.sites}


# --- target_modules --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"target_modules": ["q"]}, ["body.layers.0.q", "body.layers.1.q"]),
        ({"target_modules": ["v", "q"]}, ["body.layers.0.q", "body.layers.0.v", "body.layers.1.q", "body.layers.1.v"]),
        ({"target_modules": ["0.q", "body.layers.1.v"]}, ["body.layers.0.q", "body.layers.1.v"]),
        ({"target_modules": ["head"]}, ["head"]),
        ({"target_modules": ["embed"]}, ["body.embed"]),
        ({"target_modules": r".*\.[01]\.q"}, ["body.layers.0.q", "body.layers.1.q"]),
        ({"target_modules": "head"}, ["head"]),
        ({"target_modules": ["q"], "exclude_modules": ["0.q"]}, ["body.layers.1.q"]),
        ({"target_modules": ["q"], "exclude_modules": r".*\.1\..*"}, ["body.layers.0.q"]),
        ({"target_modules": r".*\.q", "exclude_modules": ["body.layers.0.q"]}, ["body.layers.1.q"]),
        ({"target_modules": ["q"], "layers_to_transform": 1}, ["body.layers.1.q"]),
        ({"target_modules": ["q"], "layers_to_transform": [0, 1]}, ["body.layers.0.q", "body.layers.1.q"]),
        ({"target_modules": ["q"], "layers_to_transform": []}, ["body.layers.0.q", "body.layers.1.q"]),
        ({"target_modules": ["q"], "layers_to_transform": [0], "layers_pattern": "layers"}, ["body.layers.0.q"]),
        ({"target_modules": ["q"], "layers_to_transform": [0], "layers_pattern": ["h", "lay.*"]}, ["body.layers.0.q"]),
        ({"target_modules": ["q", "body.layers.0.v"], "layers_to_transform": [1]}, ["body.layers.0.v", "body.layers.1.q"]),
    ],
    ids=str,
)
def test_targets(config, expected):
    """Names match whole last parts of a path, regular expressions a whole path; exclusions and layers limit them."""
    placement = placed(Model(), **config)
    assert paths(placement) == expected
    assert placement.warnings == ()


def test_a_site_knows_its_module():
    """A site holds the module at its path, and the method that the config asks for."""
    model = Model()
    (site,) = placed(model, target_modules=["head"], r=2, lora_alpha=3, lora_dropout=0.5, use_rslora=True).sites
    assert site.module is model.head
    assert site.method.kind == "lora"
    assert (site.method.r, site.method.lora_alpha, site.method.lora_dropout, site.method.use_rslora) == (2, 3, 0.5, True)
    assert site.shares == {}


def test_names_are_not_substrings():
    """A name is not matched inside a part of a path, and a regular expression not on a part of one."""
    model = nn.Module()
    model.xq = nn.Linear(2, 2)
    assert set(placed(model, target_modules=["q"]).target_problems) == {""}
    assert set(placed(model, target_modules="q").target_problems) == {""}
    assert set(placed(model, modules_to_save=["q"]).target_problems) == {""}


@settings(deadline=None)
@given(
    parts=st.lists(st.lists(st.sampled_from(["a", "b", "ab", "0"]), min_size=1, max_size=3), min_size=1, max_size=6),
    names=st.lists(st.lists(st.sampled_from(["a", "b", "ab", "0", "."]), min_size=1, max_size=3).map("".join), min_size=1, max_size=3),
)
def test_list_matching_is_by_whole_parts(parts, names):
    """A list of names means the modules whose last parts, compared one by one, are those of a name."""
    model = nn.Module()
    for branch in parts:
        module = model
        for part in branch:
            if part not in module._modules:
                module.add_module(part, nn.Linear(1, 1))
            module = module._modules[part]
    everything = [path.split(".") for path, _ in model.named_modules() if path]
    expected = [path for path in everything if any(path[-len(name.split(".")) :] == name.split(".") for name in names)]
    assert [site.path.split(".") for site in LoraConfig(target_modules=names).place(model).sites] == expected


def test_a_module_at_two_paths_counts_once():
    """A module that is reached at two paths is matched at each of them, and gets one site with its first path."""
    model = nn.Module()
    model.a = nn.Linear(2, 2)
    model.b = model.a
    assert paths(placed(model, target_modules=["b"])) == ["a"]
    assert paths(placed(model, target_modules=["a", "b"])) == ["a"]
    assert paths(placed(model, target_modules="all-linear")) == ["a"]
    assert paths(placed(model, modules_to_save=["b"])) == ["a"]
    assert paths(placed(model, modules_to_save=["b", "a"])) == ["a"]
    assert set(placed(model, target_modules=["a"], exclude_modules=["b"]).target_problems) == {""}
    assert placed(model, target_modules=["a"], rank_pattern={"b": 3}).sites[0].method.r == 3


def test_layers_are_the_first_number():
    """Without a pattern the layer is the first number below a named list, not one further down."""
    model = nn.Module()
    model.m = nn.Module()
    model.m.layers = nn.ModuleList([nn.ModuleDict({"experts": nn.ModuleList([Layer(), Layer()])}) for _ in range(2)])
    q = {"target_modules": ["q"], "layers_to_transform": 1}
    assert paths(placed(model, **q)) == ["m.layers.1.experts.0.q", "m.layers.1.experts.1.q"]
    assert paths(placed(model, **q, layers_pattern=".*rs|experts")) == ["m.layers.1.experts.0.q", "m.layers.1.experts.1.q"]
    assert paths(placed(model, **q, layers_pattern="experts")) == ["m.layers.0.experts.1.q", "m.layers.1.experts.1.q"]
    assert paths(placed(model, **q, layers_pattern=["h", "experts"])) == ["m.layers.0.experts.1.q", "m.layers.1.experts.1.q"]
    # a number that nothing follows is not a layer
    assert set(placed(model, target_modules=["experts.1"], layers_to_transform=1, layers_pattern="experts").target_problems) == {""}


def test_a_list_of_layers_at_the_top_needs_a_pattern():
    """As in PEFT, a numbered part right below the model counts as a layer with `layers_pattern` only."""
    model = nn.Module()
    model.layers = nn.ModuleList([Layer(), Layer()])
    problem = placed(model, target_modules=["q"], layers_to_transform=[1]).target_problems[""]
    assert problem.startswith("target_modules=['q'] with layers_to_transform=[1] matches no module;")
    assert paths(placed(model, target_modules=["q"], layers_to_transform=[1], layers_pattern="layers")) == ["layers.1.q"]
    assert paths(placed(Model(), target_modules=["q"], layers_to_transform=[1], layers_pattern="x|layers")) == ["body.layers.1.q"]


def test_rank_and_alpha_patterns():
    """The first regular expression that matches the end of a path gives the rank or alpha there; others keep the config's."""
    placement = placed(
        Model(),
        target_modules=["q", "v"],
        r=2,
        rank_pattern={"1.q": 3, "q": 4, "ayers.0.v": 5},
        alpha_pattern={r"layers\.\d\.v": 16},
    )
    found = {site.path: (site.method.r, site.method.lora_alpha) for site in placement.sites}
    assert found == {"body.layers.0.q": (4, 8), "body.layers.0.v": (2, 16), "body.layers.1.q": (3, 8), "body.layers.1.v": (2, 16)}
    assert placement.warnings == ("rank_pattern: ['ayers.0.v'] matches no targeted module",)


@pytest.mark.parametrize(
    ("config", "warning"),
    [
        ({"target_modules": ["q", "nope", "neither"]}, "target_modules: ['nope', 'neither'] matches no module"),
        ({"target_modules": ["q"], "exclude_modules": ["nope"]}, "exclude_modules: ['nope'] matches no module"),
        ({"target_modules": ["q"], "layers_to_transform": [1, 7]}, "layers_to_transform: [7] holds no targeted module"),
        ({"target_modules": ["q"], "alpha_pattern": {"v": 1}}, "alpha_pattern: ['v'] matches no targeted module"),
        (
            {"target_modules": ["q"], "ensure_weight_tying": True},
            "ensure_weight_tying is True, but no weight that this adapter replaces is shared with another module",
        ),
    ],
    ids=str,
)
def test_what_has_no_effect_warns(config, warning):
    """A part of the config that matches nothing, beside others that match, is a warning."""
    placement = placed(Model(), **config)
    assert paths(placement)
    assert placement.warnings == (warning,)


def test_a_pattern_whose_matches_are_taken_away_does_not_warn():
    """A name that matches only what modules_to_save replaces has matched."""
    assert placed(Model(), target_modules=["q", "head"], modules_to_save=["head"]).warnings == ()


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"target_modules": ["nope"]}, r"target_modules=\['nope'\] matches no module; the last parts of a module's path"),
        ({"target_modules": "nope"}, "target_modules='nope' matches no module; a regular expression"),
        ({"target_modules": ["nope"], "modules_to_save": ["head"]}, r"target_modules=\['nope'\] matches no module"),
        ({"target_modules": ["head"], "modules_to_save": ["head"]}, "matches only modules that exclude_modules or modules_to_save"),
        ({"target_modules": "all-linear", "exclude_modules": ".*"}, "'all-linear' matches only modules that exclude_modules or"),
        ({"modules_to_save": ["nope"]}, "modules_to_save: 'nope' matches no module"),
        ({"trainable_token_indices": {"nope": [1]}}, "trainable_token_indices: 'nope' matches no module"),
    ],
    ids=str,
)
def test_no_match_is_a_problem(config, problem):
    """Targets of which none matches are refused, also beside other parts of the config that match."""
    problems = placed(Model(), **config).target_problems
    assert set(problems) == {""}
    assert re.search(problem, problems[""])


def test_all_problems_at_one_path_are_told():
    """Every name that matches nothing is told, whichever field it is in."""
    problems = placed(Model(), target_modules=["a"], modules_to_save=["b", "c", "head"], trainable_token_indices={"d": [1]}).target_problems
    assert list(problems) == [""]
    for text in ("target_modules=['a'] ", "modules_to_save: 'b' ", "modules_to_save: 'c' ", "trainable_token_indices: 'd' "):
        assert text in problems[""]


def test_what_lora_cannot_wrap_is_refused_beside_good_ones():
    """A matched module that LoRA does not support is a problem at its path, which names its class; the model itself is no target."""
    placement = placed(Model(), target_modules=["q", "norm", "0"])
    assert set(placement.target_problems) == {"body.layers.0", "body.layers.0.norm", "body.layers.1.norm"}
    assert placement.target_problems["body.layers.0"].startswith("LoRA cannot wrap Layer; supported are Linear, Embedding ")
    assert placement.target_problems["body.layers.0.norm"].startswith("LoRA cannot wrap LayerNorm; ")
    assert "" not in placed(Model(), target_modules=".*").target_problems


# --- "all-linear" ----------------------------------------------------------------------------------------


def test_all_linear():
    """Every Linear is a target; without a declared output head that one too."""
    layers = ["body.layers.0.q", "body.layers.0.v", "body.layers.1.q", "body.layers.1.v"]
    assert paths(placed(Model(), target_modules="all-linear")) == [*layers, "head"]
    assert paths(placed(Model(), target_modules="ALL-linear", exclude_modules=["q"])) == ["body.layers.0.v", "body.layers.1.v", "head"]


def test_all_linear_leaves_out_the_declared_head():
    """What get_output_embeddings() returns is left out, by identity; without an answer nothing is."""
    assert "head" not in paths(placed(Declared(), target_modules="all-linear"))
    for answer in (lambda self: None, lambda self: exec("raise NotImplementedError"), lambda self: []):
        kind = type("Kind", (Model,), {"get_output_embeddings": answer})
        assert "head" in paths(placed(kind(), target_modules="all-linear"))


def test_all_linear_without_any():
    """A model without linear layers has nothing for "all-linear"."""
    model = nn.Sequential(nn.Conv1d(2, 2, 1))
    assert "'all-linear' matches nothing" in placed(model, target_modules="all-linear").target_problems[""]


def test_all_linear_takes_conv1d_of_transformers():
    """Conv1D of transformers is a linear layer, as in PEFT; a real model's head and embedding are found."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=1, n_head=1, n_embd=4, vocab_size=10, n_positions=4)
    model = transformers.GPT2LMHeadModel(config)
    block = "transformer.h.0."
    expected = [block + name for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]
    assert paths(placed(model, target_modules="all-linear")) == expected
    assert paths(placed(model, trainable_token_indices=[1])) == ["transformer.wte", "lm_head"]


# --- forward is called -----------------------------------------------------------------------------------


def test_multihead_attention():
    """LoRA on MultiheadAttention.out_proj would never run: told apart when named, skipped by "all-linear", fine for a copy."""
    model = nn.Module()
    model.attention = nn.MultiheadAttention(4, 1)
    model.out = nn.Linear(4, 4)
    named = placed(model, target_modules=["out_proj", "out"])
    assert named.target_problems == {}
    assert list(named.uncalled) == ["attention.out_proj"]
    assert "never calls" in named.uncalled["attention.out_proj"]
    assert paths(placed(model, target_modules="all-linear")) == ["out"]
    assert paths(placed(model, modules_to_save=["out_proj"])) == ["attention.out_proj"]


# --- modules_to_save -------------------------------------------------------------------------------------


def test_copies_are_expanded():
    """A copy goes to the modules at and below the target that hold parameters or buffers, and nowhere else."""
    model = nn.Module()
    model.block = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.BatchNorm1d(2))
    statistics = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert saved(placed(model, modules_to_save=["block"])) == {
        "block.0": (("weight",), ("weight",), {}),
        "block.2": (statistics, statistics, {}),
    }


def test_a_target_that_holds_something_itself():
    """A parameter of the target itself is copied there."""
    model = nn.Module()
    model.block = nn.Module()
    model.block.scale = nn.Parameter(torch.ones(2))
    model.block.inner = nn.Linear(2, 2)
    assert list(saved(placed(model, modules_to_save=["block"]))) == ["block", "block.inner"]


def test_nothing_to_save_is_a_problem():
    """A target that holds nothing anywhere below is refused at its path, also beside good ones."""
    problems = placed(Model(), modules_to_save=["act", "head"]).target_problems
    assert set(problems) == {"body.layers.0.act", "body.layers.1.act"}
    assert "nothing to save" in problems["body.layers.0.act"]


def test_the_outermost_match_counts():
    """Of nested matches the outermost is the target: each module below it is copied once."""
    names = ["body.layers.0.q", "body.layers.0.v", "body.layers.0.norm"]
    assert list(saved(placed(Model(), modules_to_save=["q", "layers.0", "norm"]))) == [*names, "body.layers.1.q", "body.layers.1.norm"]
    assert placed(Model(), modules_to_save=["body", "act"]).target_problems == {}


def test_the_outermost_match_counts_at_every_path():
    """A target that another target contains under another path belongs to that one, with its ties."""
    model = nn.Module()
    model.a = nn.Linear(2, 2, bias=False)
    model.b = nn.Sequential(model.a, nn.Linear(2, 2, bias=False))
    model.b[1].weight = model.a.weight
    assert saved(placed(model, modules_to_save=["a", "b"])) == {
        "a": (("weight",), ("weight",), {}),
        "b.1": ((), ("weight",), {"weight": (model.a, "weight")}),
    }


def test_auxiliary_only():
    """An empty list of target modules is none."""
    assert paths(placed(Model(), target_modules=[], modules_to_save=["head"])) == ["head"]


def test_copies_win_over_tuners():
    """LoRA goes neither on nor below what modules_to_save replaces, at whichever path it was matched."""
    model = Model()
    model.other = model.body.layers[0].q
    placement = placed(model, target_modules=["q", "v", "other"], modules_to_save=["layers.0"])
    kinds = [(site.path, site.method.kind) for site in placement.sites]
    copies = [(f"body.layers.0.{name}", "modules_to_save") for name in ("q", "v", "norm")]
    assert kinds == [("body.layers.1.q", "lora"), ("body.layers.1.v", "lora"), *copies]


# --- adapters that are there -----------------------------------------------------------------------------


def test_slots_are_never_looked_into():
    """Nothing of other adapters is matched or copied, nor are their tensors ends of a tie; a child of that name which is the user's is."""
    model = Model()
    slots = Slots()
    slots._modules["q"] = Slot({"weight": model.head.weight})
    model.head.add_module(CHILD, slots)
    assert paths(placed(model, target_modules=["q"])) == ["body.layers.0.q", "body.layers.1.q"]
    assert saved(placed(model, modules_to_save=["head"])) == {"head": (("weight",), ("weight",), {})}
    assert saved(placed(model, modules_to_save=["head"], ensure_weight_tying=True)) == {"head": (("weight",), ("weight",), {})}
    mine = nn.Module()
    mine.adapters = nn.ModuleDict({"q": nn.Linear(2, 2)})
    assert paths(placed(mine, target_modules=["q"])) == ["adapters.q"]


def test_a_model_that_contains_itself():
    """A cycle of modules is followed once."""
    model = Model()
    model.body.model = model
    assert paths(placed(model, target_modules=["head"])) == ["head"]


# --- ties of copies --------------------------------------------------------------------------------------


def test_copies_of_tied_weights_are_independent():
    """Without ensure_weight_tying a copy acts at the named modules only, each of which has its own."""
    assert saved(placed(Model(tied=True), modules_to_save=["head"])) == {"head": (("weight",), ("weight",), {})}
    assert saved(placed(Model(tied=True), modules_to_save=["head", "embed"])) == {
        "body.embed": (("weight",), ("weight",), {}),
        "head": (("weight",), ("weight",), {}),
    }


@pytest.mark.parametrize("name", ["head", "embed"])
def test_ensured_ties_outside(name):
    """With ensure_weight_tying the one copy acts at the ends that are not named, under the names there."""
    model = Model(tied=True)
    model.free = nn.Module()
    model.free.table = model.body.embed.weight
    model.free.unrelated = nn.Parameter(torch.ones(1))
    named = {"head": model.head, "embed": model.body.embed}[name]
    found = saved(placed(model, modules_to_save=[name], ensure_weight_tying=True))
    here, other = ("head", "body.embed") if name == "head" else ("body.embed", "head")
    assert list(found) == [here, other, "free"]
    assert found[here] == (("weight",), ("weight",), {})
    assert found[other] == ((), ("weight",), {"weight": (named, "weight")})
    assert found["free"] == ((), ("table",), {"table": (named, "weight")})


def test_ensured_ties_inside():
    """With ensure_weight_tying and several named ends, the first holds the parameter and the others refer to it."""
    model = Model(tied=True)
    model.head.bias = nn.Parameter(torch.zeros(10))
    assert saved(placed(model, modules_to_save=["head", "embed"], ensure_weight_tying=True)) == {
        "body.embed": (("weight",), ("weight",), {}),
        "head": (("bias",), ("weight", "bias"), {"weight": (model.body.embed, "weight")}),
    }


def test_a_tie_at_the_model_itself():
    """The model's own parameters can be an end of a tie."""
    model = Model()
    model.register_parameter("table", model.body.embed.weight)
    found = saved(placed(model, modules_to_save=["embed"], ensure_weight_tying=True))
    assert found[""] == ((), ("table",), {"table": (model.body.embed, "weight")})


@pytest.mark.parametrize("ensure", [False, True])
def test_ties_inside_one_target(ensure):
    """What is tied inside one target stays tied inside its copy, as in a deep copy: parameters, buffers, and two names in one module."""
    model = nn.Module()
    model.block = nn.Module()
    first = model.block.first = nn.Linear(2, 2)
    second = model.block.second = nn.Linear(2, 2, bias=False)
    second.weight = first.weight
    second.again = first.weight
    first.register_buffer("table", torch.ones(2))
    second.register_buffer("table", first.table)
    shared = {"weight": (first, "weight"), "again": (first, "weight"), "table": (first, "table")}
    assert saved(placed(model, modules_to_save=["block"], ensure_weight_tying=ensure)) == {
        "block.first": (("weight", "bias", "table"), ("weight", "bias", "table"), {}),
        "block.second": ((), ("weight", "again", "table"), shared),
    }


def test_two_targets_with_a_tie_between_them():
    """Without ensure_weight_tying two targets have independent copies, although each keeps its inner ties."""
    model = nn.Module()
    model.a = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model.b = nn.Sequential(nn.Linear(2, 2, bias=False))
    model.a[1].weight = model.b[0].weight = model.a[0].weight
    assert saved(placed(model, modules_to_save=["a", "b"])) == {
        "a.0": (("weight",), ("weight",), {}),
        "a.1": ((), ("weight",), {"weight": (model.a[0], "weight")}),
        "b.0": (("weight",), ("weight",), {}),
    }


@pytest.mark.parametrize("ensure", [False, True])
def test_a_module_below_two_targets_is_copied_once(ensure):
    """A module that two targets share has one copy."""
    model = nn.Module()
    model.a = nn.Sequential(nn.Linear(2, 2))
    model.b = nn.Sequential(model.a[0], nn.Linear(2, 2))
    both = ("weight", "bias")
    expected = {"a.0": (both, both, {}), "b.1": (both, both, {})}
    assert saved(placed(model, modules_to_save=["a", "b"], ensure_weight_tying=ensure)) == expected


def test_ensured_ties_of_lora_are_refused():
    """ensure_weight_tying with LoRA on a tied weight is not supported, and not silently ignored."""
    problems = placed(Model(tied=True), target_modules=["q", "embed"], ensure_weight_tying=True).target_problems
    assert set(problems) == {"body.embed"}
    assert "shared with head; ensure_weight_tying is supported for modules_to_save" in problems["body.embed"]
    assert paths(placed(Model(tied=True), target_modules=["embed"])) == ["body.embed"]


def test_lora_on_the_other_end_of_an_ensured_copy():
    """LoRA may go on a module at which a copy acts that is held at another end."""
    model = Model(tied=True)
    placement = placed(model, target_modules=["embed"], modules_to_save=["head"], ensure_weight_tying=True)
    assert [(site.path, site.method.kind) for site in placement.sites] == [
        ("body.embed", "lora"),
        ("head", "modules_to_save"),
        ("body.embed", "modules_to_save"),
    ]
    assert placement.target_problems == {}


# --- trainable_token_indices -----------------------------------------------------------------------------


def rows(placement: Placement) -> dict[str, tuple[TrainableTokens, dict[str, tuple[nn.Module, str]]]]:
    """Path -> the method there and what it shares, in a placement of token rows."""
    assert len(set(paths(placement))) == len(placement.sites)
    return {site.path: (site.method, dict(site.shares)) for site in placement.sites}


def test_a_list_means_the_declared_input_embedding():
    """A list of indices goes to what get_input_embeddings() returns, also beside other embeddings."""
    model = Declared()
    model.positions = nn.Embedding(5, 4)
    assert rows(placed(model, trainable_token_indices=[3, 1])) == {"body.embed": (TrainableTokens((3, 1)), {})}


@pytest.mark.parametrize("answer", [None, lambda self: None, lambda self: exec("raise NotImplementedError")])
def test_a_list_means_the_only_embedding(answer):
    """Without an answer the list goes to the only embedding; none or several of them are a problem."""
    model = type("Kind", (Model,), {"get_input_embeddings": answer} if answer else {})()
    assert rows(placed(model, trainable_token_indices=[3])) == {"body.embed": (TrainableTokens((3,)), {})}
    model.positions = nn.Embedding(5, 4)
    problem = "the model has 2 embeddings: body.embed, positions; name one in a dict"
    assert problem in placed(model, trainable_token_indices=[3]).target_problems[""]
    assert "the model has 0 embeddings; name" in placed(nn.Sequential(nn.Linear(2, 2)), trainable_token_indices=[3]).target_problems[""]


def test_an_answer_from_elsewhere_is_a_problem():
    """get_input_embeddings() must return a module of the model."""
    kind = type("Kind", (Model,), {"get_input_embeddings": lambda self: nn.Embedding(10, 4)})
    assert "not a module of the model" in placed(kind(), trainable_token_indices=[3]).target_problems[""]


def test_names_of_embeddings():
    """A name goes to every embedding that it matches."""
    model = nn.ModuleDict({part: nn.ModuleDict({name: nn.Embedding(4, 2) for name in names}) for part, names in (("a", "e"), ("b", "ef"))})
    found = rows(placed(model, trainable_token_indices={"e": [1, 0], "b.f": [2]}))
    assert found == {"a.e": (TrainableTokens((1, 0)), {}), "b.e": (TrainableTokens((1, 0)), {}), "b.f": (TrainableTokens((2,)), {})}


def test_rows_act_at_every_end():
    """Rows are made at the embedding, and every other module with the same weight refers to them, by its own name for the weight."""
    model = Model(tied=True)
    model.free = nn.Module()
    model.free.table = model.body.embed.weight
    share = {"trainable_tokens": (model.body.embed, "trainable_tokens")}
    for ensure in (False, True):
        assert rows(placed(model, trainable_token_indices={"embed": [2]}, ensure_weight_tying=ensure)) == {
            "body.embed": (TrainableTokens((2,)), {}),
            "head": (TrainableTokens((2,), make=False), share),
            "free": (TrainableTokens((2,), make=False, name="table"), share),
        }


def test_both_ends_named_with_equal_rows_are_one():
    """Naming a tied head beside its embedding, or one embedding twice, with the same rows adds nothing."""
    model = Model(tied=True)
    once = rows(placed(model, trainable_token_indices={"embed": [2, 5]}))
    assert rows(placed(model, trainable_token_indices={"head": [2, 5], "embed": [2, 5]})) == once
    assert rows(placed(model, trainable_token_indices={"embed": [2, 5], "body.embed": [2, 5]})) == once


def test_both_ends_named_with_different_rows():
    """Different rows of one weight under two names are a problem: rows act at every end."""
    problems = placed(Model(tied=True), trainable_token_indices={"head": [2], "embed": [3]}).target_problems
    assert problems == {"head": "rows [2] here, but rows [3] of the same weight at body.embed; name the rows once"}


@pytest.mark.parametrize("name", ["head", "norm", "act", "layers"])
def test_rows_need_an_embedding(name):
    """Rows of anything but an embedding are a problem at its path, which names its class."""
    problems = placed(Model(), trainable_token_indices={name: [1]}).target_problems
    assert problems
    assert all(re.search("this is (Linear|LayerNorm|ReLU|ModuleList); an Embedding,.* is expected", text) for text in problems.values())


def test_a_problem_is_told_once():
    """One module that is named twice has each of its problems once."""
    (problem,) = placed(Model(), trainable_token_indices={"0.norm": [1], "layers.0.norm": [1]}).target_problems.values()
    assert problem.count("this is LayerNorm") == 1


def test_an_embedding_without_a_weight_of_its_own():
    """An embedding whose weight is computed cannot have rows replaced."""
    model = Model()
    torch.nn.utils.parametrize.register_parametrization(model.body.embed, "weight", nn.Identity())
    assert "no weight of its own" in placed(model, trainable_token_indices={"embed": [1]}).target_problems["body.embed"]


def test_indices_out_of_range():
    """Indices beyond the table are a problem that names them and its size."""
    problems = placed(Model(), trainable_token_indices={"embed": [9, 10, 12]}).target_problems
    assert problems == {"body.embed": "token indices [10, 12] are out of range; num_embeddings is 10"}


def test_a_config_with_everything():
    """One adapter can have LoRA, copies and rows; the parts come in that order."""
    placement = placed(Declared(tied=True), target_modules=["q"], modules_to_save=["norm"], trainable_token_indices=[1])
    assert [(site.path, site.method.kind) for site in placement.sites] == [
        ("body.layers.0.q", "lora"),
        ("body.layers.1.q", "lora"),
        ("body.layers.0.norm", "modules_to_save"),
        ("body.layers.1.norm", "modules_to_save"),
        ("body.embed", "trainable_token_indices"),
        ("head", "trainable_token_indices"),
    ]
    assert placement.warnings == ()
