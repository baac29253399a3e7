"""Every one of PEFT's methods runs by the same rules: computed as PEFT computes it, merged exactly or refused with the reason."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import peft
import pytest
import torch
from packaging.version import Version
from peft import get_peft_model
from torch import nn

from adapterstate import NotMergeableError, SingleActiveError, attach
from adapterstate.peft.hosts import AttentionHost, TokenHost
from adapterstate.peft.methods import why_not_additive
from adapterstate.peft.stand_ins import Afresh, _layer, merged_base, why_not_weighted
from adapterstate.peft.survey import hosts_of
from adapterstate.peft.tuners import configs_of
from adapterstate.projection import Share

X = torch.tensor([[1, 2, 3], [4, 5, 0]])
LINEAR = ["lin0", "lin1"]
pytestmark = [
    # what PEFT and torch themselves warn of while they compute
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled"),
    pytest.mark.filterwarnings("ignore:Already following adapters were merged .*:UserWarning:peft"),
]


class Bench(nn.Module):
    """One module of each kind that PEFT wraps."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(12, 16)
        self.lin0 = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)
        self.attn = nn.MultiheadAttention(16, 2, batch_first=True)
        self.conv1 = nn.Conv1d(3, 3, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.lin1 = nn.Linear(16, 16)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(torch.tanh(self.lin0(self.emb(input_ids))))
        hidden = hidden + self.attn(hidden, hidden, hidden, need_weights=False)[0]
        hidden = hidden + self.conv1(hidden)
        hidden = hidden + self.conv2(hidden.reshape(-1, 4, 3, 4)).reshape(hidden.shape)
        found: torch.Tensor = self.lin1(hidden)
        return found


@attrs.frozen(eq=False)
class Method:
    """One of PEFT's methods, or a variant of one.

    Attributes:
        config: the name of its config class.
        options: for both adapters.
        second: other options of the second adapter.
        call: what forward needs beside the input.
        rewrites_base: whether PEFT changes base weights when it makes an adapter.
        only_one: whether PEFT refuses a second adapter.
    """

    config: str
    options: dict[str, Any]
    second: dict[str, Any] = attrs.field(factory=dict)
    call: dict[str, Any] = attrs.field(factory=dict)
    rewrites_base: bool = False
    only_one: bool = False

    def made(self, name: str) -> Any:
        """The config of one of the adapters."""
        return getattr(peft, self.config)(**{**self.options, **(self.second if name == "two" else {})})


def lora(*, rewrites_base: bool = False, only_one: bool = False, call: dict[str, Any] | None = None, **options: Any) -> Method:
    """A LoRA, whose delta is not zero."""
    given = {"r": 2, "lora_alpha": 4, "init_lora_weights": False, "target_modules": LINEAR, **options}
    return Method("LoraConfig", given, call=call or {}, rewrites_base=rewrites_base, only_one=only_one)


def linear(config: str, *, second: dict[str, Any] | None = None, call: dict[str, Any] | None = None, **options: Any) -> Method:
    """A method on linear layers."""
    return Method(config, {"target_modules": LINEAR, **options}, second or {}, call or {})


def newer(config: str) -> Any:
    """What releases of PEFT that know it configure so; None in others."""
    return getattr(peft, config)() if hasattr(peft, config) else None


SINCE = {
    "adalora": "0.21",  # before, the second one froze the first
    "trainable_tokens": "0.21",  # before, a model with trained rows could not be copied
    "lora mica": "0.20",
    "lora target_parameters": "0.20",  # before, for one adapter only
    "lora conv dora": "0.20",  # before, an inactive adapter's magnitudes accepted gradients, which attach refuses without repair=True
    "lora embedding dora": "0.20",
}
"""The first release of PEFT that makes what the tests need."""


def is_known(name: str) -> bool:
    """Whether the installed release of PEFT has one of the methods below."""
    method = EVERY[name]
    config = getattr(peft, method.config, None)
    if config is None or Version(peft.__version__) < Version(SINCE.get(name, "0")):
        return False
    return method.options.keys() | method.second.keys() <= {field.name for field in dataclasses.fields(config)}


EVERY = {
    "lora": lora(),
    "lora rslora": lora(use_rslora=True),
    "lora dora": lora(use_dora=True),
    "lora gaussian": lora(init_lora_weights="gaussian"),
    "lora orthogonal": lora(init_lora_weights="orthogonal"),
    "lora pissa": lora(init_lora_weights="pissa", rewrites_base=True),
    "lora olora": lora(init_lora_weights="olora", rewrites_base=True),
    "lora kasa": lora(kasa_config=newer("KasaConfig"), rewrites_base=True),
    "lora mica": lora(init_lora_weights="mica"),
    "lora monteclora": lora(monteclora_config=newer("MontecloraConfig")),
    "lora lora_bias": lora(lora_bias=True),
    "lora bias": lora(bias="lora_only", only_one=True),
    "lora target_parameters": lora(target_modules=[], target_parameters=["lin0.weight"]),
    "lora attention": lora(target_modules=["attn"]),
    "lora conv": lora(target_modules=["conv1", "conv2"]),
    "lora conv dora": lora(target_modules=["conv1", "conv2"], use_dora=True),
    "lora embedding": lora(target_modules=["emb"]),
    "lora embedding dora": lora(target_modules=["emb"], use_dora=True),
    "lora qalora": lora(use_qalora=True, qalora_group_size=4),
    "lora alora": lora(alora_invocation_tokens=[2, 3], call={"alora_offsets": [2, 2]}),
    "adalora": linear("AdaLoraConfig", init_r=3, target_r=2, total_step=10, init_lora_weights=False, second={"inference_mode": True}),
    "adamss": linear("AdamssConfig", r=4, num_subspaces=2),
    "beft": linear("BeftConfig"),
    "boft": linear("BOFTConfig", boft_block_size=4),
    "boft conv": Method("BOFTConfig", {"target_modules": ["conv2"], "boft_block_size": 4}),
    "c3a": linear("C3AConfig", block_size=4),
    "deft": linear("DeftConfig", r=2),
    "deft para": linear("DeftConfig", r=2, para=True),
    "delora": linear("DeloraConfig", r=2),
    "fourierft": linear("FourierFTConfig", n_frequency=10),
    "frod": linear("FrodConfig", progressbar=False),
    "glora": linear("GloraConfig", r=2),
    "gralora": linear("GraloraConfig", r=4, gralora_k=2, hybrid_r=2),
    "hira": linear("HiraConfig", r=2),
    "hira conv": Method("HiraConfig", {"target_modules": ["conv1", "conv2"], "r": 2}),
    "hira embedding": Method("HiraConfig", {"target_modules": ["emb"], "r": 2}),
    "hra": linear("HRAConfig", r=2),
    "hra conv": Method("HRAConfig", {"target_modules": ["conv2"], "r": 2}),
    "ia3": linear("IA3Config", feedforward_modules=["lin1"]),
    "ia3 conv": Method("IA3Config", {"target_modules": ["conv2"], "feedforward_modules": []}),
    "lily": linear("LilyConfig", r=2),
    "ln_tuning": Method("LNTuningConfig", {"target_modules": ["norm"]}),
    "loha": Method("LoHaConfig", {"target_modules": [*LINEAR, "conv2"], "r": 2}),
    "lokr": Method("LoKrConfig", {"target_modules": [*LINEAR, "conv2"], "r": 2}),
    "miss": linear("MissConfig", r=4),
    "miss bat": linear("MissConfig", r=4, init_weights="bat"),
    "miss mini": linear("MissConfig", r=4, init_weights="mini", mini_r=2),
    "oft": linear("OFTConfig", oft_block_size=4),
    "oft conv": Method("OFTConfig", {"target_modules": ["conv2"], "oft_block_size": 4}),
    "osf": linear("OSFConfig", effective_rank=2),
    "peanut": linear("PeanutConfig", r=2),
    "poly": linear("PolyConfig", r=2, n_tasks=2, n_skills=2, call={"task_ids": torch.tensor([0, 1])}),
    "psoft": linear("PsoftConfig", r=2),
    "pvera": linear("PveraConfig", r=4),
    "randlora": linear("RandLoraConfig", r=4),
    "road": linear("RoadConfig", group_size=4),
    "shira": linear("ShiraConfig", r=2, random_seed=1),
    "supertuning": linear("SupertuningConfig", sparsity=0.9, r=2),
    "tinylora": linear("TinyLoraConfig", u=4),
    "trainable_tokens": Method("TrainableTokensConfig", {"target_modules": ["emb"], "token_indices": [1, 2]}, {"token_indices": [3]}),
    "unilora": linear("UniLoraConfig", theta_d_length=16),
    "vblora": linear("VBLoRAConfig", num_vectors=8, vector_length=4),
    "vera": linear("VeraConfig", r=4),
    "waveft": linear("WaveFTConfig", n_frequency=10),
}
METHODS = {name: method for name, method in EVERY.items() if is_known(name)}
"""Those that the installed release of PEFT has."""


@functools.cache
def _built(method: Method) -> Any:
    torch.manual_seed(0)
    names = ("one",) if method.only_one else ("one", "two")
    with quiet():
        model = get_peft_model(Bench(), method.made("one"), adapter_name="one")
        for name in names[1:]:
            model.add_adapter(name, method.made(name))
    shake(model, names)
    return model.eval()


def build(method: Method) -> Any:
    """A PEFT model whose adapters all change the output; the same one each time. It is not attached."""
    return copy.deepcopy(_built(method))


def shake(model: nn.Module, names: tuple[str, ...]) -> None:
    """Move every value of these adapters away from where it makes no difference."""
    torch.manual_seed(1)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.is_floating_point() and not set(names).isdisjoint(path.split(".")):
                parameter.add_(torch.randn_like(parameter) * 0.2)


def run(model: Any, method: Method) -> torch.Tensor:
    """The output."""
    with torch.no_grad():
        # PEFT hands what a method needs beside the input on to the tuner only for models of a task
        found: torch.Tensor = (model.base_model if "task_ids" in method.call else model)(input_ids=X, **method.call)
    return found


@functools.cache
def run_base(method: Method) -> torch.Tensor:
    """The output of the base alone, as PEFT has left it when it made the adapters."""
    model = build(method)
    if not method.rewrites_base and "bias" not in method.options:
        torch.manual_seed(0)
        with torch.no_grad():
            found: torch.Tensor = Bench().eval()(X)
        return found
    with quiet(), model.disable_adapter():
        return run(model, method)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What plain PEFT and torch warn of is no matter here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def parameters(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Parameter]:
    """The parameters that belong to none of these adapters."""
    return {path: parameter for path, parameter in model.named_parameters() if set(names).isdisjoint(path.split("."))}


def snapshot(model: Any) -> dict[str, torch.Tensor]:
    """The base's parameters: objects and values."""
    return {path: (parameter, parameter.detach().clone()) for path, parameter in parameters(model, model.peft_config).items()}


def unchanged(before: dict[str, tuple[nn.Parameter, torch.Tensor]], model: Any) -> bool:
    """Whether the base has the same parameters, bit for bit as before."""
    after = parameters(model, model.peft_config)
    return set(before) == set(after) and all(
        after[path] is parameter and torch.equal(parameter, value) for path, (parameter, value) in before.items()
    )


def close(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Whether two outputs are equal up to rounding."""
    return torch.allclose(one, two, rtol=1e-3, atol=1e-4)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small lose most of their time to threads that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> Method:
    """One method."""
    return METHODS[request.param]


def all_of(model: Any) -> list[str]:
    """The names of the adapters."""
    return list(model.peft_config)


@functools.cache
def runs_several(method: Method) -> bool:
    """Whether PEFT computes something with both adapters active that each of them has a part in."""
    model = build(method)
    alone = []
    for name in model.peft_config:
        model.set_adapter(name)
        alone.append(run(model, method))
    try:
        model.base_model.set_adapter(all_of(model))
        together = run(model, method)
    except ValueError:
        return "trainable_tokens" in model.peft_type.lower()  # which PEFT refuses, and an attached model does
    return not any(close(together, other) for other in alone)


@functools.cache
def merged_by_peft(method: Method, *names: str) -> torch.Tensor | None:
    """The output of a plain model with these adapters active and merged by PEFT; None where PEFT cannot."""
    model = build(method)
    with quiet():
        model.base_model.set_adapter(list(names))
        try:
            model.merge_adapter()
        except NotImplementedError:
            return None
        return run(model, method)


@functools.cache
def peft_runs(method: Method, *names: str) -> torch.Tensor:
    """The output of a plain model, as it is made, with these adapters active."""
    model = build(method)
    model.base_model.set_adapter(list(names))
    return run(model, method)


def test_switching(method: Method) -> None:
    """Every activation computes what PEFT computes; several at once where PEFT can, refused where it cannot."""
    model = build(method)
    state = attach(model)
    assert state.check() == ()
    base = run_base(method)
    assert not close(run(model, method), base)
    for name in all_of(model):
        model.set_adapter(name)
        assert torch.equal(run(model, method), peft_runs(method, name))
        assert state.check() == ()
    if method.only_one or runs_several(method):
        model.base_model.set_adapter(all_of(model))
        assert torch.equal(run(model, method), peft_runs(method, *all_of(model)))
    else:
        before = run(model, method)
        with pytest.raises(SingleActiveError, match="one at a time"):
            model.base_model.set_adapter(all_of(model))
        assert torch.equal(run(model, method), before)
    assert state.check() == ()
    with quiet(), model.disable_adapter():
        assert torch.equal(run(model, method), base)
        assert state.check() == ()
    with quiet():
        for name in all_of(model):
            model.delete_adapter(name)
            assert torch.equal(run(model, method), peft_runs(method, "two") if state.adapters else base)
            assert state.check() == ()
    assert [path for path in model.state_dict() if not {"one", "two"}.isdisjoint(path.split("."))] == []


def test_merging(method: Method) -> None:
    """A merge computes what the live adapters do, writes no base parameter, and is undone bit for bit; or is refused with the reason."""
    model = build(method)
    state = attach(model)
    before = snapshot(model)
    base = run_base(method)
    activations = [["one"], all_of(model)] if runs_several(method) and not method.only_one else [["one"]]
    for names in activations:
        model.base_model.set_adapter(names)
        live = run(model, method)
        by_peft = merged_by_peft(method, *names)
        if by_peft is None or not close(by_peft, live):  # PEFT cannot, or computes something else
            with pytest.raises(NotMergeableError, match="PEFT"):
                model.merge_adapter()
            assert state.merged_adapters == ()
        else:
            model.merge_adapter()
            assert close(run(model, method), live)
            assert torch.allclose(run(model, method), by_peft, rtol=1e-5, atol=1e-5)
            assert state.check() == ()
            with quiet(), model.disable_adapter():
                assert torch.equal(run(model, method), base)
            model.unmerge_adapter()
        assert torch.equal(run(model, method), live)
        assert unchanged(before, model)
        assert state.check() == ()


@functools.cache
def merged_apart(method: Method, name: str) -> bool | None:
    """Whether merging one of two active adapters into a copy of each base leaves the output as it is; None where PEFT cannot merge."""
    model = build(method)
    model.base_model.set_adapter(all_of(model))
    live = run(model, method)
    others = tuple(Share(other) for other in all_of(model) if other != name)
    with quiet():
        for host in hosts_of(model).values():
            if isinstance(host, TokenHost):
                return True  # rows are this package's to combine
            try:
                base = merged_base(host, (Share(name),))
            except NotImplementedError:
                return None
            twin = _layer(host, base, others)
            if isinstance(host, AttentionHost):
                twin = Afresh(attrs.evolve(host, module=twin), base, others)
            host.module.forward = twin.forward
    return close(run(model, method), live)


def test_merging_apart(method: Method) -> None:
    """An adapter is merged apart from a live one where what it adds does not depend on the other; elsewhere that is the reason."""
    if method.only_one or not runs_several(method):
        pytest.skip("one adapter at a time")
    model = build(method)
    state = attach(model)
    before = snapshot(model)
    model.base_model.set_adapter(all_of(model))
    live = run(model, method)
    rows = any(isinstance(host, TokenHost) for host in hosts_of(model).values())
    reason = "" if rows else why_not_additive(configs_of(model)["two"])
    for name in all_of(model):
        exact = merged_apart(method, name)
        if exact is False:
            assert reason
        if reason or exact is None:
            with pytest.raises(NotMergeableError, match="depends on the other adapters" if reason else "PEFT cannot merge"):
                model.merge_adapter([name])
            assert state.merged_adapters == ()
        else:
            model.merge_adapter([name])
            assert state.merged_adapters == (name,)
            assert close(run(model, method), live)
            assert state.check() == ()
            model.unmerge_adapter()
        assert torch.equal(run(model, method), live)
        assert unchanged(before, model)
        assert state.check() == ()


def test_weights(method: Method) -> None:
    """A weight multiplies what an adapter adds to each layer's output, live or merged; or is refused with the reason."""
    model = build(method)
    state = attach(model)
    before = run(model, method)
    host = next(iter(hosts_of(model).values()))
    reason = "" if isinstance(host, TokenHost) else why_not_additive(configs_of(model)["one"]) or why_not_weighted(host, "one")
    if reason:
        with pytest.raises(NotMergeableError, match=re.escape(reason)):
            state.set_adapter("one", weights=[0.5])
        assert torch.equal(run(model, method), before)
    else:
        state.set_adapter("one", weights=[0.5])
        weighted = run(model, method)
        assert not close(weighted, before)
        plain = build(method)
        for host in hosts_of(plain).values():
            for part in host.parts:
                if isinstance(host, TokenHost):
                    base = part.get_base_layer().weight[part.token_indices["one"]]
                    part.trainable_tokens_delta["one"].data.lerp_(base, 0.5)
                else:
                    part.scaling["one"] *= 0.5
        assert torch.allclose(weighted, run(plain, method), rtol=1e-5, atol=1e-6)
        with contextlib.suppress(NotMergeableError):
            state.merge_adapter()
        assert close(run(model, method), weighted)
    assert state.check() == ()


def test_freezing(method: Method) -> None:
    """A frozen adapter stays frozen whatever happens, another one trains, and the base never does."""
    model = build(method)
    state = attach(model)
    model.set_requires_grad("one", False)
    events: list[Any] = [
        lambda: model.set_adapter(all_of(model)[-1]),
        lambda: model.set_adapter("one"),
        model.base_model.disable_adapter_layers,
        model.base_model.enable_adapter_layers,
        model.merge_adapter,
        model.unmerge_adapter,
    ]
    for event in events:
        with quiet(), contextlib.suppress(NotMergeableError):
            event()
        assert not any(p.requires_grad for path, p in model.named_parameters() if "one" in path.split("."))
        assert state.check() == ()
    state.set_requires_grad("one", True)
    with quiet(), contextlib.suppress(NotMergeableError):
        state.merge_adapter()
        state.unmerge_adapter()
    trains = {path for path, parameter in model.named_parameters() if parameter.requires_grad}
    assert trains == {path for path, parameter in build(method).named_parameters() if parameter.requires_grad}


def plain_of(model: nn.Module) -> bool:
    """Whether nothing of PEFT, or of this package, is left in a model."""
    return all(type(module) is type(bench) for module, bench in zip(model.modules(), Bench().modules(), strict=True))


@pytest.mark.parametrize("together", [False, True])
def test_unloading(method: Method, together: bool) -> None:
    """The base comes back plain: with the merged values in its own parameters, or as it was; where PEFT cannot merge, nothing happens."""
    names = all_of(build(method)) if together else ["one"]
    if together and (method.only_one or not runs_several(method)):
        pytest.skip("one adapter at a time")
    model = build(method)
    attach(model)
    before = snapshot(model)
    model.base_model.set_adapter(names)
    live = run(model, method)
    by_peft = merged_by_peft(method, *names)
    if by_peft is None or not close(by_peft, live):
        with pytest.raises(NotMergeableError, match="PEFT"):
            model.merge_and_unload()
        assert torch.equal(run(model, method), live)
        plain = model.unload()
        with torch.no_grad():
            assert torch.equal(plain(X), run_base(method))
    else:
        plain = model.merge_and_unload()
        with torch.no_grad():
            assert close(plain(X), live)
    assert plain_of(plain)
    assert {id(parameter) for parameter in plain.parameters()} == {id(parameter) for parameter, _ in before.values()}


def test_rank_allocation() -> None:
    """AdaLoRA allocates ranks while its adapter trains, leaves a frozen one alone, and goes on with another one when it is deleted."""
    if not is_known("adalora"):
        pytest.skip("this release of PEFT freezes the first of two")
    method = METHODS["adalora"]
    model = build(method)
    state = attach(model)
    tuner = model.base_model

    def allocated(name: str) -> bool:
        """Whether a step of training changes what the adapter computes with."""
        importance = tuner.rankallocator.ipt
        for step in (3, 4):
            model.zero_grad()
            output = model(input_ids=X).square().sum()
            if output.requires_grad:
                output.backward()
            tuner.update_and_allocate(step)
        return any(name in path.split(".") and value.any() for path, value in importance.items())

    assert allocated("one")
    model.zero_grad()
    state.set_requires_grad("one", False)
    before = {path: value.clone() for path, value in tuner.rankallocator.ipt.items()}
    assert allocated("one")
    assert all(torch.equal(value, before[path]) for path, value in tuner.rankallocator.ipt.items())
    with quiet():
        model.delete_adapter("one")
    state.set_requires_grad("two")
    assert state.active_adapters == ("two",)
    assert allocated("two")
    assert not any("one" in path.split(".") for path in tuner.rankallocator.ipt)


def test_copies(method: Method) -> None:
    """A deep copy computes the same, drives itself, and never the original."""
    model = build(method)
    state = attach(model)
    with contextlib.suppress(NotMergeableError):
        model.merge_adapter()
    expected = run(model, method)
    twin = copy.deepcopy(model)
    assert torch.equal(run(twin, method), expected)
    own = attach(twin)
    assert own is not state
    assert (own.active_adapters, own.merged_adapters) == (state.active_adapters, state.merged_adapters)
    assert own.check() == ()
    with quiet():
        own.unmerge_adapter()
        own.delete_adapter("one")
    assert torch.equal(run(twin, method), run_base(method) if method.only_one else peft_runs(method, "two"))
    assert own.check() == ()
    assert torch.equal(run(model, method), expected)
    assert state.check() == ()


def test_elsewhere(method: Method) -> None:
    """An adapter is present where PEFT has put it, and nowhere else."""
    if method.only_one or method.options["target_modules"] != LINEAR:
        pytest.skip("one adapter, or one place")
    narrow = attrs.evolve(method, second={**method.second, "target_modules": ["lin1"], **_fitting(method)})
    model, plain = build(narrow), build(narrow)
    state = attach(model)
    present = {path.split(".")[-1]: list(record.context.present) for path, record in state.facts.modules.items()}
    assert present == {"lin0": ["one"], "lin1": ["one", "two"]}
    model.set_adapter("two")
    plain.set_adapter("two")
    assert torch.equal(run(model, method), run(plain, method))
    if method.config not in ("OSFConfig",):
        model.base_model.set_adapter(["one", "two"])
        plain.base_model.set_adapter(["one", "two"])
        assert torch.equal(run(model, method), run(plain, method))
    assert state.check() == ()


def _fitting(method: Method) -> dict[str, Any]:
    """What else a config has to say when it names other modules."""
    return {key: value for key, value in method.options.items() if key == "feedforward_modules"}


# ------------------------------------------------------------------------------------------------------------- mixed models

MIXED = {
    "first": lora(target_modules=["lin0"]).made("one"),
    "second": peft.LoHaConfig(target_modules=["lin0", "conv2"], r=2),
    "third": peft.OFTConfig(target_modules=["lin1"], oft_block_size=4),
    "fourth": peft.LoKrConfig(target_modules=["lin0", "lin1"], r=2),
}


def mixed() -> Any:
    """A model with adapters of several methods, some on the same modules."""
    torch.manual_seed(0)
    names = list(MIXED)
    model = get_peft_model(Bench(), copy.deepcopy(MIXED[names[0]]), adapter_name=names[0], mixed=True)
    for name in names[1:]:
        model.add_adapter(name, copy.deepcopy(MIXED[name]))
    shake(model, tuple(names))
    return model.eval()


@pytest.mark.parametrize("names", [("first",), ("second",), ("first", "third"), ("second", "first"), tuple(MIXED)])
def test_mixed(names: tuple[str, ...]) -> None:
    """Adapters of several methods are driven together: computed and unloaded as PEFT does, deleted alike everywhere."""
    method = METHODS["lora"]
    plain, model = mixed(), mixed()
    state = attach(model)
    assert state.check() == ()
    model.set_adapter(list(names))
    plain.set_adapter(list(names))
    live = run(model, method)
    assert torch.equal(live, run(plain, method))
    assert state.check() == ()
    torch.manual_seed(0)
    with model.disable_adapter(), torch.no_grad():
        assert torch.equal(run(model, method), Bench().eval()(X))
    model.delete_adapter("fourth")
    plain.delete_adapter("fourth")
    rest = [name for name in names if name != "fourth"]
    plain.set_adapter(rest)
    assert list(state.active_adapters) == rest
    assert torch.equal(run(model, method), run(plain, method))
    assert state.check() == ()
    live = run(model, method)
    base = model.merge_and_unload()
    with torch.no_grad():
        assert close(base(X), live)
    assert plain_of(base)


# ------------------------------------------------------------------------------------------------- methods of whole language models

IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])
PROMPTS: dict[str, tuple[str, dict[str, Any]]] = {
    "prompt_tuning": ("PromptTuningConfig", {"num_virtual_tokens": 3}),
    "p_tuning": ("PromptEncoderConfig", {"num_virtual_tokens": 3, "encoder_hidden_size": 8}),
    "prefix_tuning": ("PrefixTuningConfig", {"num_virtual_tokens": 3}),
    "multitask_prompt_tuning": ("MultitaskPromptTuningConfig", {"num_virtual_tokens": 3, "num_tasks": 2}),
    "cpt": ("CPTConfig", {"cpt_token_ids": [1, 2, 3], "cpt_mask": [1, 1, 1], "cpt_tokens_type_mask": [1, 2, 3]}),
    "cartridge": ("CartridgeConfig", {"num_virtual_tokens": 3}),
    "shadow": ("ShadowConfig", {"r": 2, "shadow_num_hidden_layers": 1}),
}


def llama() -> Any:
    """A very small language model."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    shape = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, use_cache=False)).eval()


PROMPTING = [name for name, (config, _) in PROMPTS.items() if hasattr(peft, config)]
"""Those that the installed release of PEFT has."""


def prompting(name: str) -> Any:
    """A language model with two adapters of this method, which change the output."""
    config, options = PROMPTS[name]
    with quiet():
        model = get_peft_model(llama(), getattr(peft, config)(task_type="CAUSAL_LM", **options), adapter_name="one")
        model.add_adapter("two", getattr(peft, config)(task_type="CAUSAL_LM", **options))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
        for path, parameter in model.named_parameters():
            if "two" in path.split(".") and not parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def answer(model: Any) -> torch.Tensor:
    """What a language model makes of a batch."""
    prompted = isinstance(model, peft.PeftModel) and model.peft_type == "MULTITASK_PROMPT_TUNING"
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS, **({"task_ids": torch.tensor([0, 1])} if prompted else {})).logits
    return found


@pytest.mark.parametrize("name", PROMPTING)
def test_one_at_a_time(name: str) -> None:
    """What PEFT runs one of at a time is switched, disabled, deleted, copied and unloaded; several, merges and weights are refused."""
    model = prompting(name)
    expected = {}
    for adapter in ("two", "one"):
        model.set_adapter(adapter)
        expected[adapter] = answer(model)
    base = answer(llama())
    state = attach(model)
    assert state.check() == ()
    for adapter in ("two", "one"):
        model.set_adapter(adapter)
        torch.testing.assert_close(answer(model), expected[adapter])
        assert state.check() == ()
    with model.disable_adapter():
        assert torch.equal(answer(model), base)
    with pytest.raises(SingleActiveError, match="one at a time"):
        state.set_adapter(["one", "two"])
    with pytest.raises(NotMergeableError):
        state.merge_adapter()
    with pytest.raises(NotMergeableError, match="cannot have the weight"):
        state.set_adapter("one", weights=[0.5])
    torch.testing.assert_close(answer(model), expected["one"])
    torch.testing.assert_close(answer(copy.deepcopy(model)), expected["one"])
    state.set_requires_grad("two", False)
    with pytest.warns(UserWarning, match="Setting active adapter to two"):
        model.delete_adapter("one")
    torch.testing.assert_close(answer(model), expected["two"])
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert state.check() == ()
    plain = state.unload()
    assert torch.equal(answer(plain), base)
