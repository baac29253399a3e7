"""The rules of the design, each a test of its name, on a small tied model against an oracle with explicit dense weights."""

from __future__ import annotations

import copy
import inspect
import itertools
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import adapterstate
from adapterstate import AdapterState, LoraConfig

X = torch.tensor([[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]])


class Net(nn.Module):
    """An embedding tied to its head, two linear layers and a block."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(10, 8)
        self.l0 = nn.Linear(8, 8)
        self.l1 = nn.Linear(8, 8)
        self.score = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of every token."""
        return self.head(self.score(self.l1(self.l0(self.emb(x)))))


CONFIGS = {
    "a": LoraConfig(r=2, lora_alpha=4, target_modules=["l0", "l1"], trainable_token_indices={"emb": [1, 2]}),
    "b": LoraConfig(r=2, lora_alpha=4, target_modules=["l0"], trainable_token_indices={"emb": [3]}, modules_to_save=["score"]),
}


def build(names: str = "ab", **options: Any) -> tuple[Net, AdapterState]:
    """A model with adapters whose weights all change the output."""
    torch.manual_seed(0)
    model = Net().eval()
    state = adapterstate.attach(model, **options)
    for name in names:
        state.add_adapter(name, CONFIGS[name])
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if ".adapters." in key:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model, state


def slot(module: nn.Module, name: str) -> Any:
    """The slot of an adapter on a module."""
    return module.adapters._modules[name]  # type: ignore[union-attr]


def oracle(model: Net, active: tuple[str, ...]) -> torch.Tensor:
    """The output computed from explicit dense weights, without any of the package's reads or forwards."""
    table = model.emb._parameters["weight"].detach().clone()  # type: ignore[union-attr]
    layers = {path: getattr(model, path)._parameters for path in ("l0", "l1")}
    linears = {path: (own["weight"].detach().clone(), own["bias"]) for path, own in layers.items()}
    block = {i: (model.score[i]._parameters["weight"], model.score[i]._parameters["bias"]) for i in (0, 2)}
    for name in active:
        rows = {"a": [1, 2], "b": [3]}[name]
        table[rows] = slot(model.emb, name).trainable_tokens.detach()
        for path in {"a": ("l0", "l1"), "b": ("l0",)}[name]:
            own = slot(getattr(model, path), name)
            linears[path][0].add_(2.0 * own.lora_B.detach() @ own.lora_A.detach())
        if name == "b":
            block = {i: (slot(model.score[i], "b").weight, slot(model.score[i], "b").bias) for i in (0, 2)}
    h = table[X]
    for path in ("l0", "l1"):
        h = F.linear(h, *linears[path])
    return F.linear(F.linear(torch.tanh(F.linear(h, *block[0])), *block[2]), table)


def look(model: nn.Module, state: AdapterState) -> dict[str, Any]:
    """Everything that a refused event must leave as it is."""
    return {
        "facts": state.facts,
        "values": [(key, value.clone()) for key, value in model.state_dict().items()],
        "parameters": [(name, id(p), p.requires_grad) for name, p in model.named_parameters()],
        "types": [(path, type(m)) for path, m in model.named_modules(remove_duplicate=False)],
        "output": model(X).detach(),
        "random": torch.get_rng_state(),
        "journal": len(state.journal),
    }


def same(one: Any, two: Any) -> bool:
    """Whether two looks are equal, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(same(a, b) for a, b in zip(one, two, strict=True))
    return bool(one == two)


def test_atomic() -> None:
    """A refused event leaves everything as it is, the random generators included."""
    model, state = build()
    state.set_adapter(["a", "b"])
    state.merge_adapter("a")
    before = look(model, state)
    refused = [
        lambda: state.set_adapter(["a", "nope"]),
        lambda: state.delete_adapter("a"),
        lambda: state.add_adapter("c", LoraConfig(target_modules=["l0", "score"])),
        lambda: state.add_adapter("c", LoraConfig(target_modules=["l0"], trainable_token_indices={"emb": [10]})),
        lambda: state.merge_adapter(["a", "a"]),
    ]
    for event in refused:
        with pytest.raises(adapterstate.EventRefusedError, match="nothing has changed"):
            event()
        assert same(look(model, state), before)


def test_first_adapter_only() -> None:
    """The first adapter now present activates itself, no later one does, also with modules that were never wrapped before."""
    model, state = build("a")
    assert state.active_adapters == ("a",)
    before = model(X)
    state.add_adapter("b", CONFIGS["b"])
    assert state.active_adapters == ("a",)
    assert torch.equal(model(X), before)
    state.delete_adapter("a")
    assert state.active_adapters == ()
    state.delete_adapter("b")
    state.add_adapter("b", CONFIGS["b"])
    assert state.active_adapters == ("b",)


def test_same_everywhere() -> None:
    """On every wrapped module, the active adapters are the model's restricted to those present there, in its order."""
    _, state = build()
    for names in (["b", "a"], ["a"], ["b"], []):
        state.set_adapter(names)
        for record in state.facts.modules.values():
            assert record.context.active == tuple(name for name in names if name in record.context.present)


@pytest.mark.parametrize("active", [(), ("a",), ("b",), ("a", "b"), ("b", "a")])
def test_output_is_the_normal_form(active: tuple[str, ...]) -> None:
    """The output equals that of explicit dense weights, for every activation; gradients of the tied rows reach the parameter."""
    model, state = build()
    state.set_adapter(list(active))
    torch.testing.assert_close(model(X), oracle(model, active))


def test_no_overlap() -> None:
    """Adapters that replace the same rows at one end are refused together; disjoint rows and copies at different ends are not."""
    model, state = build()
    state.add_adapter("c", LoraConfig(trainable_token_indices={"emb": [2, 5]}))
    state.add_adapter("d", LoraConfig(modules_to_save=["head"]))
    state.add_adapter("e", LoraConfig(modules_to_save=["emb"]))
    state.set_adapter(["a", "b"])
    state.set_adapter(["d", "e"])
    for names, where in ((["a", "c"], "emb"), (["a", "d"], "head"), (["b", "e"], "emb")):
        before = look(model, state)
        with pytest.raises(adapterstate.AdapterOverlapError) as refused:
            state.set_adapter(names)
        assert where in {refusal.where for refusal in refused.value.refusals}
        assert same(look(model, state), before)
    with pytest.raises(adapterstate.AdapterOverlapError):
        state.add_adapter("f", LoraConfig(trainable_token_indices={"emb": [1]}, modules_to_save=["emb"]))


def test_independent_axes() -> None:
    """Enabling, switching and deleting never thaw a frozen adapter; freezing changes no activation; set_adapter never enables."""
    _, state = build()
    state.set_requires_grad("a", False)
    with state.disable_adapter():
        state.set_adapter(["b", "a"])
        assert not state.enabled
    state.delete_adapter("b")
    assert not state.trainable("a")
    assert state.active_adapters == ("a",)


def test_path_independent() -> None:
    """What is active after set_adapter depends on its arguments alone, and nothing is merged after it."""
    model, state = build()
    state.set_adapter(["a", "b"])
    direct = model(X)
    state.merge_adapter("b")
    state.set_adapter("a")
    state.merge_adapter()
    state.set_adapter(["a", "b"])
    assert state.merged_adapters == ()
    assert torch.equal(model(X), direct)
    state.set_adapter(["a", "b"])
    assert state.journal[-1].is_noop


def test_disabled_is_base() -> None:
    """Disabled output is bit-identical to the untouched base model, merged or not; contexts count in any order."""
    torch.manual_seed(0)
    base = Net().eval()(X)
    model, state = build()
    state.set_adapter(["a", "b"])
    for names in ([], ["a"], ["a", "b"]):
        if names:
            state.merge_adapter(names)
        one, two = state.disable_adapter(), state.disable_adapter()
        one.__enter__()
        two.__enter__()
        one.__exit__(None, None, None)
        assert torch.equal(model(X), base)
        two.__exit__(None, None, None)
        assert state.enabled
        assert not torch.allclose(model(X), base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_merge_is_exact(dtype: torch.dtype) -> None:
    """Merged equals unmerged within the dtype's tolerance; after cycles every base tensor is the same bit for bit."""
    model, state = build()
    model.to(dtype)
    state.set_adapter(["a", "b"])
    base = {key: value.clone() for key, value in state.base_state_dict().items()}
    unmerged = model(X)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float64: 1e-10}[dtype]
    for _ in range(25):
        state.merge_adapter()
        torch.testing.assert_close(model(X), unmerged, atol=tolerance, rtol=tolerance)
        state.unmerge_adapter()
    assert all(torch.equal(base[key], value) for key, value in state.base_state_dict().items())
    assert torch.equal(model(X), unmerged)


@pytest.mark.parametrize("subset", [s for k in (1, 2) for s in itertools.permutations(("a", "b"), k)])
def test_partial_merge(subset: tuple[str, ...]) -> None:
    """Whatever subset is merged, one after the other, the rest stays live and the result is the normal form."""
    model, state = build()
    state.set_adapter(["a", "b"])
    for name in subset:
        state.merge_adapter(name)
        torch.testing.assert_close(model(X), oracle(model, ("a", "b")))
        assert state.check() == ()


def test_zero_adapters() -> None:
    """A model whose last adapter was deleted forwards as the base and accepts another."""
    model, state = build("a")
    state.delete_adapter("a")
    torch.manual_seed(0)
    assert torch.equal(model(X), Net().eval()(X))
    state.set_adapter([])
    state.add_adapter("a", CONFIGS["a"])
    assert state.adapters == ("a",)


def test_leave_no_trace() -> None:
    """After the last delete: types, identities, keys in order, requires_grad, hooks and the root's attributes as before."""
    torch.manual_seed(0)
    model = Net()
    model.l1.weight.requires_grad_(False)

    def trace() -> Any:
        return (
            [(path, type(m), len(m._forward_hooks), list(m.__dict__)) for path, m in model.named_modules(remove_duplicate=False)],
            [(name, id(p), p.requires_grad) for name, p in model.named_parameters(remove_duplicate=False)],
            list(model.state_dict()),
        )

    before = trace()
    state = adapterstate.attach(model)
    for name in "ab":
        state.add_adapter(name, CONFIGS[name])
    assert not any(p.requires_grad for key, p in model.named_parameters() if ".adapters." not in key)
    state.delete_adapter("a")
    state.delete_adapter("b")
    assert trace() == before


BAD: list[tuple[str, Any, type[Exception]]] = [
    ("dotted name", lambda s: s.add_adapter("a.b", CONFIGS["a"]), adapterstate.AdapterNameError),
    ("empty name", lambda s: s.add_adapter("", CONFIGS["a"]), adapterstate.AdapterNameError),
    ("name that is there", lambda s: s.add_adapter("a", CONFIGS["a"]), adapterstate.DuplicateAdapterError),
    ("name of a wrong type", lambda s: s.add_adapter(3, CONFIGS["a"]), adapterstate.ArgumentError),
    ("no config", lambda s: s.add_adapter("c", None), adapterstate.ArgumentError),
    ("unknown name", lambda s: s.set_adapter("nope"), adapterstate.UnknownAdapterError),
    ("part of a name", lambda s: s.delete_adapter("aa"), adapterstate.UnknownAdapterError),
    ("name twice", lambda s: s.set_adapter(["a", "a"]), adapterstate.DuplicateAdapterError),
    ("no names", lambda s: s.set_adapter(None), adapterstate.ArgumentError),
    ("no target", lambda s: s.add_adapter("c", LoraConfig()), adapterstate.ConfigError),
    ("rank", lambda s: s.add_adapter("c", LoraConfig(r=0, target_modules=["l0"])), adapterstate.ConfigError),
    ("dropout", lambda s: s.add_adapter("c", LoraConfig(lora_dropout=1.0, target_modules=["l0"])), adapterstate.ConfigError),
    ("bias", lambda s: s.add_adapter("c", LoraConfig(bias="all", target_modules=["l0"])), adapterstate.ConfigError),
    ("target", lambda s: s.add_adapter("c", LoraConfig(target_modules=["nope"])), adapterstate.TargetError),
    ("unsupported target", lambda s: s.add_adapter("c", LoraConfig(target_modules=["l0", "score"])), adapterstate.TargetError),
    ("index", lambda s: s.add_adapter("c", LoraConfig(trainable_token_indices=[10])), adapterstate.TargetError),
    ("negative index", lambda s: s.add_adapter("c", LoraConfig(trainable_token_indices=[-1])), adapterstate.ConfigError),
    ("merge of an inactive one", lambda s: s.merge_adapter("b"), adapterstate.NotActiveError),
    ("flag", lambda s: s.set_requires_grad("a", 1), adapterstate.ArgumentError),
    ("snapshot", lambda s: s.restore("x"), adapterstate.ArgumentError),
    ("event", lambda s: s.explain("nope"), adapterstate.ArgumentError),
    ("event of a wrong type", lambda s: s.explain(3), adapterstate.ArgumentError),
    ("argument that is missing", lambda s: s.explain("set_adapter"), adapterstate.ArgumentError),
    ("argument that is unknown", lambda s: s.explain("set_adapter", "a", wieghts=[1]), adapterstate.ArgumentError),
    ("argument too many", lambda s: s.explain("unmerge_adapter", "a"), adapterstate.ArgumentError),
    ("unordered weights", lambda s: s.set_adapter(["a", "b"], weights={1.0, 2.0}), adapterstate.ArgumentError),
    ("weights by name", lambda s: s.set_adapter(["a", "b"], weights={"a": 1, "b": 2}), adapterstate.ArgumentError),
    ("safe_merge", lambda s: s.merge_adapter(safe_merge="x"), adapterstate.ArgumentError),
    ("progressbar", lambda s: s.merge_and_unload("yes"), adapterstate.ArgumentError),
    ("safe_merge of unloading", lambda s: s.merge_and_unload(safe_merge=1), adapterstate.ArgumentError),
    ("repair", lambda s: adapterstate.attach(s.model, repair="x"), adapterstate.ArgumentError),
    ("merge_activates", lambda s: adapterstate.attach(s.model, merge_activates=None), adapterstate.ArgumentError),
    ("unknown name in a context", lambda s: s.use_adapter("nope").__enter__(), adapterstate.UnknownAdapterError),
    ("name of a wrong type in a context", lambda s: s.use_adapter(3).__enter__(), adapterstate.ArgumentError),
]


@pytest.mark.parametrize(("event", "error"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_is_an_error(event: Any, error: type[Exception]) -> None:
    """Bad input is a typed error that says that nothing has changed, and nothing has."""
    model, state = build()
    before = look(model, state)
    with pytest.raises(error, match="nothing has changed"):
        event(state)
    assert same(look(model, state), before)


def test_merge_and_unload_keeps_what_it_computed() -> None:
    """The plain model computes as the adapters did, under the same keys and parameters; a tie whose ends agree stays."""
    model, state = build()
    state.set_adapter(["a", "b"])
    expected, ids = oracle(model, ("a", "b")), {key: id(p) for key, p in model.named_parameters() if ".adapters." not in key}
    assert state.merge_and_unload() is model
    torch.testing.assert_close(model(X), expected)
    assert {key: id(p) for key, p in model.named_parameters()} == ids
    assert model.head.weight is model.emb.weight
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"])
def test_copies_drive_themselves(copied: Any) -> None:
    """A copy computes the same, has a state of its own, and never touches the original."""
    model, state = build()
    state.set_adapter(["b", "a"])
    state.merge_adapter("b")
    twin = copied(model)
    own = adapterstate.attach(twin)
    assert own is not state
    assert own.snapshot() == state.snapshot()
    assert own.check() == ()
    assert torch.equal(twin(X), model(X))
    before = look(model, state)
    own.unload()
    assert same(look(model, state), before)


def test_only_the_active_adapter_learns() -> None:
    """After optimiser steps, exactly the active trainable adapter's tensors have moved; a switch before backward loses no gradient."""
    model, state = build()
    model.train()
    state.set_adapter("b")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.0)
    with state.use_adapter("a"):
        loss = model(X).square().sum()
    loss.backward()
    optimiser.step()
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {key for key in before if ".adapters.a." in key}


def test_grad_follows_activation() -> None:
    """With grad_follows="activation", only active, enabled and trainable adapters accept gradients, or those that were asked to."""
    model, state = build(grad_follows="activation")

    def accepting() -> set[str]:
        return {key.split(".adapters.")[1].split(".")[0] for key, p in model.named_parameters() if p.requires_grad}

    assert accepting() == {"a"}
    state.set_adapter("b")
    assert accepting() == {"b"}
    state.disable_adapters()
    assert accepting() == set()
    state.set_requires_grad("a", True)
    assert accepting() == {"a"}
    state.enable_adapters()
    assert accepting() == {"a", "b"}


def test_check_and_repair() -> None:
    """`check` names a flag, a stale merge and exchanged wiring; repair puts them right."""
    model, state = build()
    state.merge_adapter("a")
    model.l1._parameters["weight"].requires_grad_(True)  # type: ignore[union-attr]
    with torch.no_grad():
        slot(model.l0, "a").lora_A.add_(1.0)
    assert {finding.where for finding in state.check()} == {"l0", "l1.weight"}
    assert state.repair() != ()
    assert state.check() == ()
    torch.testing.assert_close(model(X), oracle(model, ("a",)))


def test_snapshot_and_restore() -> None:
    """`restore` brings back what was active, merged, enabled and trainable; it refuses when an adapter is gone."""
    model, state = build()
    state.set_adapter(["b", "a"])
    state.merge_adapter("b")
    state.set_requires_grad("a", False)
    kept, output = state.snapshot(), model(X)
    state.set_adapter([])
    state.set_requires_grad("a", True)
    state.disable_adapters()
    state.restore(kept)
    assert state.snapshot() == kept
    torch.testing.assert_close(model(X), output)
    state.unmerge_adapter()
    state.delete_adapter("b")
    with pytest.raises(adapterstate.SnapshotError, match="nothing has changed"):
        state.restore(kept)


def test_explain_changes_nothing() -> None:
    """`explain` says what would happen, refused or not, and changes nothing."""
    model, state = build()
    before = look(model, state)
    assert state.explain("set_adapter", ["a", "b"]).accepted
    assert state.explain("add_adapter", "c", CONFIGS["a"]).accepted
    assert [r.guard for r in state.explain("delete_adapter", "x").refusals] == ["known"]
    assert same(look(model, state), before)


def test_explain_names_its_arguments() -> None:
    """Arguments that a method does not have are named as that method's, and nothing private is."""
    _, state = build()
    with pytest.raises(adapterstate.ArgumentError, match=r"^explain of set_adapter: missing a required argument: 'names'; nothing has"):
        state.explain("set_adapter")
    with pytest.raises(adapterstate.ArgumentError, match=r"^explain of set_adapter: got an unexpected keyword argument 'wieghts'"):
        state.explain("set_adapter", "a", wieghts=[1])


@pytest.mark.parametrize(("event", "args"), [("use_adapter", ("b",)), ("disable_adapter", ())])
def test_contexts_are_explained(event: str, args: tuple[Any, ...]) -> None:
    """What entering a context would do is explained by the name that the journal has for it."""
    model, state = build()
    before = look(model, state)
    found = state.explain(event, *args)
    assert found.accepted
    assert same(look(model, state), before)
    with getattr(state, event)(*args):
        assert state.journal[-1].name == event
        assert state.facts == found.plan.after
    assert state.explain("use_adapter", "nope").refusals[0].guard == "known"


@pytest.mark.parametrize("name", ["a", ""])
def test_trainable_of_a_name(name: str) -> None:
    """Only the name of one adapter can be asked about."""
    _, state = build()
    if name:
        assert state.trainable(name)
    with pytest.raises(adapterstate.ArgumentError, match=r"trainable was given \['a'\]"):
        state.trainable(["a"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda s: s.use_adapter("nope").__enter__(), "use_adapter: set_adapter(['nope']) refused; nothing has changed."),
        (lambda s: s.merge_and_unload(adapter_names=["nope"]), "merge_and_unload: set_adapter(['nope']) refused; nothing has changed."),
        (lambda s: s.set_adapter("nope"), "set_adapter(['nope']) refused; nothing has changed."),
    ],
)
def test_refusals_name_the_method(act: Any, said: str) -> None:
    """A step that is refused names the method that was called, and the error survives pickling with it."""
    _, state = build()
    with pytest.raises(adapterstate.UnknownAdapterError) as raised:
        act(state)
    assert str(raised.value).startswith(said)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


def test_what_is_shown_of_an_explanation_is_short() -> None:
    """Its repr is one line about the event, however large the model; the journal shows events as calls."""
    _, state = build()
    assert repr(state.explain("set_adapter", "b")) == "<Explanation: set_adapter(['b']) accepted, 6 modules change>"
    assert repr(state.explain("set_adapter", ["b", "b", "x"])) == "<Explanation: set_adapter(['b', 'b', 'x']) refused by known, distinct>"
    state.set_adapter("b")
    assert repr(state.journal[-1]) == (
        "JournalEntry(number=3, name='set_adapter', events=[set_adapter(['b'])], changed=6 modules, is_noop=False)"
    )


def test_names_are_shown_on_one_line() -> None:
    """A name may hold a line break, which is shown escaped where it would break a table."""
    _, state = build("")
    name = "a\nb\tc"
    state.add_adapter(name, CONFIGS["a"])
    lines = str(state.status()).splitlines()
    assert lines[0] == r"adapters enabled; active: a\nb\tc"
    assert lines[1].split("  ")[-1] == r"a\nb\tc (trainable)"
    assert len(lines) == 2 + len(state.facts.modules)
    assert state.active_adapters == (name,)


def test_attachment() -> None:
    """One model has one state; a part, a whole, other options and detaching while adapters are there are refused."""
    model, state = build()
    assert adapterstate.attach(model) is state
    for event in (
        lambda: adapterstate.attach(model, grad_follows="activation"),
        lambda: adapterstate.attach(model.score),
        lambda: adapterstate.attach(nn.Sequential(model)),
        state.detach,
    ):
        with pytest.raises(adapterstate.AttachError, match="nothing has changed"):
            event()
    state.unload()
    state.detach()
    assert adapterstate.attach(model) is not state


def test_contexts_without_with_warn() -> None:
    """A context that is thrown away unused says so."""
    _, state = build()
    with pytest.warns(UserWarning, match="without `with`"):
        state.disable_adapter()


def test_contexts_are_good_for_one_use() -> None:
    """Entering again is an error of this package, and leaving what is not in force does nothing but warn."""
    _, state = build()
    context = state.use_adapter("b")
    with context:
        pass
    before = state.facts
    with pytest.raises(adapterstate.ContextError, match=r"use_adapter\(\) is good for one use; nothing has changed") as raised:
        context.__enter__()
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
    for fresh in (context, state.use_adapter("b"), state.disable_adapter()):
        with state.disable_adapter(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fresh.__exit__(None, None, None)
            assert [str(w.message) for w in caught if "was left without being in force" not in str(w.message)] == []
            assert len(caught) == 1
            assert not state.enabled  # the other context still holds
            fresh._entered = True  # it need not also say that it was not used
    assert state.facts == before


def test_training_with_a_merged_adapter_warns_once() -> None:
    """A forward in training mode with a trainable merged adapter warns, once; a frozen one does not."""
    model, state = build("a")
    state.merge_adapter()
    model.train()
    with pytest.warns(UserWarning, match="merged"):
        model(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state.unmerge_adapter()
        state.set_requires_grad("a", False)
        state.merge_adapter()
        model(X)


def forward_twice(model: nn.Module) -> list[warnings.WarningMessage]:
    """Everything that two forwards in training mode warn about."""
    model.train()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model(X)
        model(X)
    return caught


def line_of_the_call(function: Any, call: str) -> int:
    """The first line of a function that holds `call`."""
    lines, first = inspect.getsourcelines(function)
    return first + next(number for number, line in enumerate(lines) if call in line)


def test_a_merge_is_spoken_of_once() -> None:
    """However many modules and sets of adapters are merged, one warning names them, at the line that calls the model."""
    model, state = build()
    state.add_adapter("c", LoraConfig(target_modules=["l1"]))
    state.set_adapter(["a", "c"])
    state.merge_adapter()
    assert len({tuple(record.context.merged) for record in state.facts.modules.values()} - {()}) == 2
    (warning,) = forward_twice(model)
    assert "while ['a', 'c'] are merged" in str(warning.message)
    assert (warning.filename, warning.lineno) == (__file__, line_of_the_call(forward_twice, "model(X)"))


def test_a_merge_is_spoken_of_again_only_when_more_is_merged() -> None:
    """Another merge warns once more; disabling and enabling, freezing one of them, and copies of the model do not."""
    model, state = build()
    state.set_adapter(["a", "b"])
    state.merge_adapter("a")
    assert len(forward_twice(model)) == 1
    state.merge_adapter(["a", "b"])
    assert ["['a', 'b'] are merged" in str(warning.message) for warning in forward_twice(model)] == [True]
    copied = copy.deepcopy(model)
    adapterstate.attach(copied)
    assert forward_twice(copied) == []
    state.disable_adapters()
    state.enable_adapters()
    state.set_requires_grad("b", False)
    assert forward_twice(model) == []
    state.unmerge_adapter()
    state.merge_adapter()
    assert ["['a'] are merged" in str(warning.message) for warning in forward_twice(model)] == [True]


def test_one_writer() -> None:
    """One file of the package writes `requires_grad`."""
    package = Path(adapterstate.__file__).parent
    writers = {p.name for p in package.rglob("*.py") if re.search(r"\.requires_grad\s*=[^=]|requires_grad_\(", p.read_text())}
    assert writers == {"commit.py"}


def test_delete_takes_its_weights_along() -> None:
    """Deleting one of two adapters removes its tensors, and only those; the order of the others' keys stays."""
    model, state = build()
    left = [key for key in model.state_dict() if ".adapters.a." not in key]
    state.set_adapter(["a", "b"])
    state.delete_adapter("a")
    assert list(model.state_dict()) == left
    assert state.active_adapters == ("b",)
    assert state.check() == ()
    torch.testing.assert_close(model(X), oracle(model, ("b",)))


def test_a_failed_add_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """An add that fails after it has drawn random numbers puts the generators and everything else back."""
    model, state = build()
    before = look(model, state)

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("adapterstate.modules.copies.ModulesToSave.tensors", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        state.add_adapter("c", LoraConfig(target_modules=["l0", "l1"], modules_to_save=["score"]))
    assert same(look(model, state), before)


def test_the_page_of_rules_names_tests_that_there_are() -> None:
    """Every test that the page of rules points to exists."""
    root = Path(__file__).resolve().parent.parent
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (root / "docs" / "rules.md").read_text(encoding="utf-8"))
    assert len(named) > 20
    assert [f"{file}::{name}" for file, name in named if f"def {name}(" not in (root / file).read_text(encoding="utf-8")] == []


def _always(situation: Any, event: Any) -> tuple[()]:
    """Never refuses."""
    return ()


always = adapterstate.guard("anything goes")(_always)


def test_derived_charts_are_pickled() -> None:
    """A model attached with charts of its own is pickled with them."""
    model = Net().eval()
    charts = adapterstate.CHARTS.with_guard("set_adapter", always)
    state = adapterstate.attach(model, charts=charts)
    state.add_adapter("a", CONFIGS["a"])
    again = adapterstate.attach(pickle.loads(pickle.dumps(model)))
    assert again.charts.model_guards["set_adapter"][-1].judge is _always
    assert again.charts.activation == charts.activation
    assert again.active_adapters == ("a",)
    assert pickle.loads(pickle.dumps(adapterstate.CHARTS)).activation.rows == adapterstate.CHARTS.activation.rows
