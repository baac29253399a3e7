"""LoRA on every kind of module: what it makes, and that live, merged and a dense computation written here agree."""

from __future__ import annotations

import copy
import io
import math
import pickle
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounter

from adapterstate.modules.lora import lora_for
from adapterstate.modules.slots import Slot, Slots

DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def lora(module: nn.Module, **options: Any) -> Any:
    given = {"r": 3, "lora_alpha": 5, "lora_dropout": 0.0, "use_rslora": False, "init_lora_weights": False} | options
    return lora_for(module, **given)


def transposed_linear(inside: int, outside: int) -> nn.Module:
    from transformers.pytorch_utils import Conv1D

    module: nn.Module = Conv1D(outside, inside)  # type: ignore[no-untyped-call]
    return module


def dense(module: nn.Module, tensors: Mapping[str, torch.Tensor], scale: float) -> torch.Tensor:
    """The delta of the weight, element by element of the definition: sum over the rank of outer products."""
    a, b = (t.detach().double() for t in tensors.values())
    if isinstance(module, nn.Embedding):
        return scale * torch.einsum("rv,dr->vd", a, b)
    flat = scale * torch.einsum("or,rk->ok", b.reshape(b.shape[0], -1), a.reshape(a.shape[0], -1))
    weight: Any = module.weight
    return flat.T if type(module).__name__ == "Conv1D" else flat.reshape(weight.shape)


def patched(module: nn.Module, delta: torch.Tensor) -> Any:
    """A plain copy of `module` with `delta` in its weight."""
    plain: Any = copy.deepcopy(module)
    with torch.no_grad():
        plain.weight += delta.to(plain.weight.dtype)
    return plain


def floats(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=DOUBLE)


CASES: dict[str, tuple[Any, Any]] = {
    "linear": (lambda: nn.Linear(5, 4), lambda: floats(2, 3, 5)),
    "linear without bias, unbatched": (lambda: nn.Linear(5, 4, bias=False), lambda: floats(5)),
    "transposed linear": (lambda: transposed_linear(5, 4), lambda: floats(2, 3, 5)),
    "embedding": (lambda: nn.Embedding(7, 4), lambda: torch.tensor([[0, 3], [6, 3]])),
    "embedding, one id": (lambda: nn.Embedding(7, 4), lambda: torch.tensor(3)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), lambda: floats(2, 4, 7)),
    "conv1d, unbatched, circular": (lambda: nn.Conv1d(4, 6, 3, padding=2, padding_mode="circular"), lambda: floats(4, 7)),
    "conv1d, same, replicate": (lambda: nn.Conv1d(4, 6, 4, padding="same", padding_mode="replicate"), lambda: floats(2, 4, 7)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0)), lambda: floats(2, 4, 5, 6)),
    "conv2d, dilation": (lambda: nn.Conv2d(4, 6, 2, dilation=(1, 2), padding=1), lambda: floats(2, 4, 5, 6)),
    "conv2d, groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1, stride=2), lambda: floats(2, 4, 5, 6)),
    "conv2d, depthwise, reflect": (lambda: nn.Conv2d(4, 8, 3, groups=4, padding=1, padding_mode="reflect"), lambda: floats(2, 4, 5, 6)),
    "conv2d, same": (lambda: nn.Conv2d(4, 6, (1, 3), padding="same", dilation=2), lambda: floats(2, 4, 5, 6)),
    "conv2d, unbatched, groups": (lambda: nn.Conv2d(4, 6, 2, groups=2), lambda: floats(4, 5, 6)),
    "conv3d": (lambda: nn.Conv3d(2, 4, 2, padding=1, dilation=2), lambda: floats(1, 2, 3, 4, 3)),
    "conv3d, groups, unbatched": (lambda: nn.Conv3d(2, 4, 2, groups=2, padding=1), lambda: floats(2, 3, 2, 3)),
}


@pytest.fixture(params=CASES, ids=lambda name: name.replace(", ", "-").replace(" ", "_"))
def case(request: pytest.FixtureRequest) -> tuple[Any, torch.Tensor]:
    module, input = CASES[request.param]
    return module().double(), input()


# ------------------------------------------------------------------------------------------------------- values


def test_live_adds_what_the_dense_delta_would(case: tuple[Any, torch.Tensor]) -> None:
    """The output with a live adapter is that of a plain module with ``W + scale * B A``, for every kind of module."""
    module, x = case
    tuner = lora(module)
    tensors = tuner.tensors(module, autocast=True)
    live = tuner.live(module, tensors)
    expected = patched(module, dense(module, tensors, 5 / 3))(x)
    assert (expected - module(x)).abs().max() > 1e-3
    torch.testing.assert_close(live(module, module(x), x), expected)


def test_delta_is_the_dense_product(case: tuple[Any, torch.Tensor]) -> None:
    """`delta` has the shape of the base weight, whatever its layout, and the values of ``scale * B A``."""
    module, _ = case
    tuner = lora(module)
    tensors = tuner.tensors(module, autocast=True)
    (name, delta), *rest = tuner.delta(module, tensors).items()
    assert (name, rest, delta.shape, delta.dtype) == ("weight", [], module.weight.shape, DOUBLE)
    torch.testing.assert_close(delta, dense(module, tensors, 5 / 3))


def test_gradients_reach_input_and_both_matrices(case: tuple[Any, torch.Tensor]) -> None:
    """The gradients of the live path are those of finite differences, for the input and both tensors."""
    module, x = case
    module.requires_grad_(False)
    tuner = lora(module)
    made = tuner.tensors(module, autocast=True)
    floating = x.is_floating_point()

    def run(*given: torch.Tensor) -> Any:
        tensors = dict(zip(made, given, strict=False))
        ids = given[-1] if floating else x
        return tuner.live(module, tensors)(module, module(ids), ids)

    inputs = (*made.values(), *([x.requires_grad_()] if floating else []))
    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize(("use_rslora", "scale"), [(False, 5 / 3), (True, 5 / math.sqrt(3))])
def test_scale(use_rslora: bool, scale: float) -> None:
    """The product is scaled by ``lora_alpha / r``, and by ``lora_alpha / sqrt(r)`` with `use_rslora`."""
    module = nn.Linear(5, 4).double()
    tuner = lora(module, use_rslora=use_rslora)
    tensors = tuner.tensors(module, autocast=True)
    torch.testing.assert_close(tuner.delta(module, tensors)["weight"], scale * tensors["lora_B"] @ tensors["lora_A"])
    x = floats(2, 5)
    product = x @ tensors["lora_A"].T @ tensors["lora_B"].T
    torch.testing.assert_close(tuner.live(module, tensors)(module, torch.zeros(2, 4, dtype=DOUBLE), x), scale * product)


def test_padding_row_gets_the_delta_and_no_gradient() -> None:
    """At ``padding_idx`` the delta counts like at any row, as in a plain weight, and its column of A is not trained."""
    module = nn.Embedding(6, 4, padding_idx=2).double()
    tuner = lora(module)
    tensors = tuner.tensors(module, autocast=True)
    ids = torch.tensor([2, 1])
    output = tuner.live(module, tensors)(module, module(ids), ids)
    torch.testing.assert_close(output, patched(module, dense(module, tensors, 5 / 3))(ids))
    output.sum().backward()
    grad = tensors["lora_embedding_A"].grad
    assert grad is not None
    assert grad[:, 2].eq(0).all()
    assert grad[:, 1].ne(0).all()


class ScaledByTensor(nn.Embedding):
    embed_scale: torch.Tensor

    def __init__(self, scale: float) -> None:
        super().__init__(6, 4)
        self.register_buffer("embed_scale", torch.tensor(scale), persistent=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return super().forward(input_ids) * self.embed_scale.to(self.weight.dtype)


class ScaledByFloat(nn.Embedding):
    def __init__(self, scale: float) -> None:
        super().__init__(6, 4)
        self.embed_scale = scale

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return super().forward(input_ids) * self.embed_scale


@pytest.mark.parametrize("kind", [ScaledByTensor, ScaledByFloat])
def test_embed_scale_multiplies_the_delta_too(kind: Any) -> None:
    """An embedding that scales its output scales the live delta with it, so that live equals merged."""
    module = kind(7.5).double()
    tuner = lora(module)
    tensors = tuner.tensors(module, autocast=True)
    ids = torch.tensor([[1, 5]])
    expected = patched(module, dense(module, tensors, 5 / 3))(ids)
    torch.testing.assert_close(tuner.live(module, tensors)(module, module(ids), ids), expected)
    torch.testing.assert_close(tuner.live(module, tensors)(module, module(ids), input_ids=ids), expected)


def test_embed_scale_is_rounded_as_the_module_rounds_it() -> None:
    """A bfloat16 embedding rounds its scale to bfloat16 first: 33.9 counts as 34, in the live delta too."""
    module = ScaledByTensor(33.9)
    module.weight.data = torch.zeros_like(module.weight, dtype=torch.bfloat16)
    tuner = lora(module, r=1, lora_alpha=1)
    tensors = {"lora_embedding_A": nn.Parameter(torch.ones(1, 6)), "lora_embedding_B": nn.Parameter(torch.full((4, 1), 1.3))}
    output = tuner.live(module, tensors)(module, torch.zeros(1, 4, dtype=torch.bfloat16), torch.tensor([1]))
    assert output.eq(torch.tensor(34 * 1.3, dtype=torch.bfloat16)).all()


def test_input_given_by_keyword_or_with_more_arguments() -> None:
    """The input is the first positional argument, else the first keyword; whatever else the forward takes is left alone."""
    module = nn.Linear(5, 4).double()
    tuner = lora(module)
    live = tuner.live(module, tuner.tensors(module, autocast=True))
    x, y = floats(2, 5), floats(2, 4)
    expected = live(module, y, x)
    torch.testing.assert_close(live(module, y, input=x), expected, rtol=0, atol=0)
    torch.testing.assert_close(live(module, y, hidden=x, flag=True), expected, rtol=0, atol=0)
    torch.testing.assert_close(live(module, y, x, 7, flag=True), expected, rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------------ support


def test_none_where_not_supported() -> None:
    """Other classes, renormalising embeddings, lazy and complex weights are not supported, and said so with None."""
    unsupported = [
        nn.LayerNorm(4),
        nn.Bilinear(2, 2, 2),
        nn.ConvTranspose1d(2, 2, 2),
        nn.Embedding(4, 2, max_norm=1.0),
        nn.LazyLinear(3),
        nn.Linear(2, 2, dtype=torch.complex64),
    ]
    assert [lora(module) for module in unsupported] == [None] * len(unsupported)


def test_subclasses_count() -> None:
    """A subclass of a supported class gets what its parent gets."""

    class Mine(nn.Linear):
        pass

    assert lora(Mine(2, 2)) == lora(nn.Linear(2, 2))
    assert lora(nn.modules.linear.NonDynamicallyQuantizableLinear(2, 2)) == lora(nn.Linear(2, 2))


def test_transformers_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without transformers loaded, a module of a class named ``Conv1D`` is a stranger and nothing is imported."""
    monkeypatch.delitem(sys.modules, "transformers.pytorch_utils", raising=False)
    assert lora(type("Conv1D", (nn.Module,), {})()) is None
    assert "transformers.pytorch_utils" not in sys.modules


# --------------------------------------------------------------------------------------- names, shapes and dtypes


@pytest.mark.parametrize(
    ("module", "shapes"),
    [
        (nn.Linear(5, 4), {"lora_A": (3, 5), "lora_B": (4, 3)}),
        (nn.Embedding(7, 4), {"lora_embedding_A": (3, 7), "lora_embedding_B": (4, 3)}),
        (nn.Conv1d(4, 6, 5), {"lora_A": (3, 4, 5), "lora_B": (6, 3, 1)}),
        (nn.Conv2d(4, 6, (5, 2), groups=2), {"lora_A": (3, 2, 5, 2), "lora_B": (6, 3, 1, 1)}),
        (nn.Conv3d(4, 6, 2), {"lora_A": (3, 4, 2, 2, 2), "lora_B": (6, 3, 1, 1, 1)}),
    ],
)
def test_names_and_shapes(module: nn.Module, shapes: dict[str, tuple[int, ...]]) -> None:
    """Tensors are called and shaped as in PEFT's checkpoints, and are contiguous parameters."""
    tensors = lora(module).tensors(module, autocast=True)
    assert {name: tuple(t.shape) for name, t in tensors.items()} == shapes
    assert all(type(t) is nn.Parameter and t.requires_grad and t.is_contiguous() for t in tensors.values())


def test_names_and_shapes_of_a_transposed_linear() -> None:
    """On a weight of shape ``(in, out)`` the two matrices are those of a linear layer."""
    module = transposed_linear(5, 4)
    tensors = lora(module).tensors(module, autocast=True)
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {"lora_A": (3, 5), "lora_B": (4, 3)}


@pytest.mark.parametrize(
    ("base", "autocast", "expected"),
    [
        (torch.float16, True, torch.float32),
        (torch.bfloat16, True, torch.float32),
        (torch.bfloat16, False, torch.bfloat16),
        (torch.float32, True, torch.float32),
        (torch.float64, True, torch.float64),
        (torch.float8_e4m3fn, False, torch.float32),
        (torch.uint8, False, torch.float32),
    ],
)
def test_dtype_of_the_adapter(base: torch.dtype, autocast: bool, expected: torch.dtype) -> None:
    """Half precision gets float32 if autocast; what no arithmetic is done in always does; everything else keeps the base's."""
    module = nn.Linear(5, 4)
    module.weight = nn.Parameter(module.weight.data.to(base), requires_grad=False)
    tensors = lora(module).tensors(module, autocast=autocast)
    assert {t.dtype for t in tensors.values()} == {expected}


def test_parametrised_weight() -> None:
    """A weight that is computed is not read: shape, dtype and device come from elsewhere, and forward works."""
    module = nn.Linear(5, 4, bias=False).to(torch.bfloat16)
    module.add_module("adapters", nn.Linear(1, 1).double())  # whatever adapters hold says nothing about the base
    module = nn.utils.parametrizations.weight_norm(module)
    tuner = lora(module)
    assert {t.dtype for t in tuner.tensors(module, autocast=False).values()} == {torch.bfloat16}
    tensors = tuner.tensors(module, autocast=True)
    x = torch.randn(2, 5, dtype=torch.bfloat16)
    output = tuner.live(module, tensors)(module, module(x), x)
    assert output.dtype == torch.bfloat16
    expected = F.linear(x.double(), module.weight.double() + dense(module, tensors, 5 / 3))
    torch.testing.assert_close(output.double(), expected, rtol=1e-2, atol=2e-2)


def test_meta_device() -> None:
    """On a meta module everything is meta, and a delta has a shape."""
    module = nn.Conv2d(4, 6, 3, device="meta")
    tuner = lora(module)
    tensors = tuner.tensors(module, autocast=True)
    assert {t.device.type for t in tensors.values()} == {"meta"}
    live = tuner.live(module, tensors)
    assert live.factor.is_meta
    assert live(module, torch.empty(1, 6, 2, 2, device="meta"), torch.empty(1, 4, 4, 4, device="meta")).is_meta
    assert tuner.delta(module, tensors)["weight"].shape == module.weight.shape


# -------------------------------------------------------------------------------------------------------- init


@pytest.mark.parametrize("init", [True, "gaussian"])
@pytest.mark.parametrize("make", [lambda: nn.Linear(400, 8), lambda: nn.Conv2d(16, 8, 5), lambda: nn.Embedding(400, 8)])
def test_the_delta_starts_at_zero(make: Any, init: Any) -> None:
    """Exactly one of the two tensors is zero, the one that PEFT zeroes, so that adding an adapter changes no output."""
    module = make()
    tensors = lora(module, r=50, init_lora_weights=init).tensors(module, autocast=True)
    zero = {name for name, t in tensors.items() if t.eq(0).all()}
    assert zero == {"lora_embedding_A" if isinstance(module, nn.Embedding) else "lora_B"}


def test_distributions() -> None:
    """A is uniform within ``1 / sqrt(fan_in)`` by default and normal with deviation ``1 / r`` for "gaussian"; False fills both."""
    module = nn.Linear(400, 300)
    uniform = lora(module, r=50, init_lora_weights=True).tensors(module, autocast=True)["lora_A"].detach()
    assert uniform.abs().max() <= 1 / math.sqrt(400)
    assert uniform.std().item() == pytest.approx(1 / math.sqrt(400 * 3), rel=0.02)
    normal = lora(module, r=50, init_lora_weights="gaussian").tensors(module, autocast=True)["lora_A"].detach()
    assert normal.std().item() == pytest.approx(1 / 50, rel=0.02)
    both = lora(module, r=50, init_lora_weights=False).tensors(module, autocast=True)
    assert both["lora_B"].std().item() == pytest.approx(1 / math.sqrt(50 * 3), rel=0.02)
    rows = nn.Embedding(400, 300)
    made = lora(rows, r=50, init_lora_weights=False).tensors(rows, autocast=True)
    assert [t.std().item() for t in made.values()] == [pytest.approx(1, rel=0.02)] * 2


def test_unknown_init_is_an_error() -> None:
    """A name of an initialisation that is not supported is a `ValueError` that says which are."""
    with pytest.raises(ValueError, match="'pissa' is not supported; give True, False or 'gaussian'"):
        lora(nn.Linear(2, 2), init_lora_weights="pissa").tensors(nn.Linear(2, 2), autocast=True)


# -------------------------------------------------------------------------------------- dtypes and dropout, live


@pytest.mark.parametrize(
    ("make", "x"), [(lambda: nn.Linear(64, 4), torch.randn(8, 64)), (lambda: nn.Conv1d(64, 4, 1), torch.randn(2, 64, 3))]
)
def test_half_precision_is_computed_in_the_adapters_dtype(make: Any, x: torch.Tensor) -> None:
    """Beside a bfloat16 base the float32 adapter computes in float32, and the result is rounded to bfloat16 once."""
    module, x = make().to(torch.bfloat16), x.to(torch.bfloat16)
    tuner = lora(module, r=16, lora_alpha=9, use_rslora=True)
    tensors = tuner.tensors(module, autocast=True)
    zeros = torch.zeros_like(module(x))
    output = tuner.live(module, tensors)(module, zeros, x)
    delta = dense(module, tensors, 9 / 4)
    exact = x.double() @ delta.T if delta.dim() == 2 else F.conv1d(x.double(), delta)
    assert output.dtype == torch.bfloat16
    # half a unit in the last of bfloat16's 8 bits, and float32's own error
    assert ((output.double() - exact).abs() <= exact.abs() * 2.0**-8 + 1e-5).all()


def test_half_precision_embedding() -> None:
    """Beside a bfloat16 embedding the float32 adapter gives bfloat16 rows, rounded once."""
    module = nn.Embedding(7, 4).to(torch.bfloat16)
    tuner = lora(module)
    tensors = tuner.tensors(module, autocast=True)
    ids = torch.arange(7)
    output = tuner.live(module, tensors)(module, module(ids), ids)
    exact = module.weight.double() + dense(module, tensors, 5 / 3)
    assert output.dtype == torch.bfloat16
    assert ((output.double() - exact).abs() <= exact.abs() * 2.0**-8 + 1e-5).all()


@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 4), lambda: nn.Conv2d(6, 4, 1), lambda: nn.Conv2d(6, 4, 1, groups=2)])
def test_autocast_region(make: Any, base: torch.dtype) -> None:
    """Inside an autocast region the output keeps the dtype that the region gave it, and gradients arrive."""
    module = make().to(base)
    tuner = lora(module)
    tensors = tuner.tensors(module, autocast=True)
    x = torch.randn(2, 6) if isinstance(module, nn.Linear) else torch.randn(2, 6, 2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x)
        output = tuner.live(module, tensors)(module, y, x)
    assert output.dtype == y.dtype == torch.bfloat16
    expected = patched(module.double(), dense(module, tensors, 5 / 3))(x.double())
    torch.testing.assert_close(output.double(), expected, rtol=2e-2, atol=2e-2)
    output.sum().backward()
    assert all(t.grad is not None for t in tensors.values())


def test_delta_is_not_rounded_by_autocast_nor_bound_to_inference_mode() -> None:
    """`delta` is float32 at least, exact inside autocast, and usable in a later backward even if made in inference mode."""
    module = nn.Linear(5, 4).to(torch.bfloat16)
    tuner = lora(module)
    tensors = tuner.tensors(module, autocast=False)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        delta = tuner.delta(module, tensors)["weight"]
    assert (delta.dtype, delta.is_inference(), delta.requires_grad) == (torch.float32, False, False)
    torch.testing.assert_close(delta.double(), dense(module, tensors, 5 / 3), rtol=1e-5, atol=1e-6)


def test_live_made_in_inference_mode_can_train() -> None:
    """Switching adapters inside inference mode leaves nothing behind that a later backward refuses, compiled or not."""
    module = nn.Linear(5, 4)
    tuner = lora(module)
    tensors = tuner.tensors(module, autocast=True)
    with torch.inference_mode():
        live = tuner.live(module, tensors)
    assert not live.factor.is_inference()
    live(module, torch.zeros(2, 4), torch.randn(2, 5)).sum().backward()
    assert all(t.grad is not None for t in tensors.values())


@pytest.mark.parametrize(("make", "shape"), [(lambda: nn.Linear(200, 1), (100, 200)), (lambda: nn.Conv1d(200, 1, 1), (200, 100))])
def test_dropout_only_while_the_module_trains(make: Any, shape: tuple[int, ...]) -> None:
    """In training elements of the input are dropped and the rest scaled up; in evaluation nothing is drawn or dropped."""
    module = make().double()
    tuner = lora(module, r=1, lora_alpha=1, lora_dropout=0.25)
    ones = {"lora_A": (1, 200), "lora_B": (1, 1)}
    kernel = () if isinstance(module, nn.Linear) else (1,)
    tensors = {name: nn.Parameter(torch.ones(*size, *kernel, dtype=DOUBLE)) for name, size in ones.items()}
    live = tuner.live(module, tensors)
    x = torch.ones(shape, dtype=DOUBLE)
    zeros = torch.zeros_like(module(x))
    kept = live(module, zeros, x) * 0.75  # a count of the elements that were kept, of 200
    assert kept.std() > 2
    assert kept.mean().item() == pytest.approx(150, abs=3)
    module.eval()
    before = torch.get_rng_state()
    assert live(module, zeros, x).eq(200).all()
    assert torch.equal(torch.get_rng_state(), before)


def test_embeddings_drop_nothing() -> None:
    """As in PEFT, dropout is without effect on an embedding."""
    module = nn.Embedding(7, 4)
    tuner = lora(module, lora_dropout=0.9)
    live = tuner.live(module, tuner.tensors(module, autocast=True))
    ids = torch.arange(7)
    assert torch.equal(live(module, module(ids), ids), live(module, module(ids), ids))
    assert type(live) is type(lora(module).live(module, live.tensors))


def test_refresh_decides_again_after_a_cast() -> None:
    """After the base became bfloat16, `refresh` makes the same object cast; after it came back, the same object no longer does."""
    module = nn.Linear(5, 4)
    tuner = lora(module)
    slot = Slot(tuner.tensors(module, autocast=True))
    live: Any = tuner.live(module, slot._parameters)
    exact = type(live)
    module.to(torch.bfloat16)
    live.refresh(module, slot._parameters)
    assert type(live) is not exact
    x = torch.randn(2, 5, dtype=torch.bfloat16)
    assert live(module, module(x), x).dtype == torch.bfloat16
    module.to(DOUBLE)
    slot.to(DOUBLE)
    live.refresh(module, slot._parameters)
    assert type(live) is exact
    assert live(module, module(x.double()), x.double()).dtype == DOUBLE


def test_refresh_follows_a_device() -> None:
    """After `to_empty` the scale is where the adapter is, with its value."""
    module = nn.Linear(5, 4, device="meta")
    tuner = lora(module)
    slot = Slot(tuner.tensors(module, autocast=True))
    live: Any = tuner.live(module, slot._parameters)
    module.to_empty(device="cpu")
    slot.to_empty(device="cpu")
    live.refresh(module, slot._parameters)
    assert (live.factor.device.type, live.factor.item()) == ("cpu", 5 / 3)


def test_exchanged_parameters_are_seen() -> None:
    """Tensors are looked up at each call: a `Parameter` that takes another's place counts at once."""
    module = nn.Linear(5, 4)
    tuner = lora(module)
    slot = Slot(tuner.tensors(module, autocast=True))
    live = tuner.live(module, slot._parameters)
    slot._parameters["lora_B"] = nn.Parameter(torch.zeros(4, 3))
    y = torch.randn(2, 4)
    assert torch.equal(live(module, y, torch.randn(2, 5)), y)


def test_other_tensors_in_the_slot_do_not_matter() -> None:
    """A slot may hold more than LoRA's tensors, of any dtype and in any order."""
    module = nn.Linear(5, 4)
    tuner = lora(module)
    tensors = tuner.tensors(module, autocast=True)
    more = {"trainable_tokens": nn.Parameter(torch.zeros(1, 5, dtype=DOUBLE)), **tensors}
    assert type(tuner.live(module, more)) is type(tuner.live(module, tensors))
    torch.testing.assert_close(tuner.delta(module, more), tuner.delta(module, tensors))


# --------------------------------------------------------------------------------------- copies, compiling, export


class Wrapped(nn.Linear):
    """A linear layer with slots and a tuple of live objects, as the package wraps one."""

    def __init__(self, alphas: list[float], *, r: int = 3, **options: Any) -> None:
        super().__init__(5, 4)
        self.requires_grad_(False)
        self.choices: tuple[Any, ...] = ()
        slots = Slots()
        self._modules["adapters"] = slots
        for index, alpha in enumerate(alphas):
            tuner = lora(self, r=r, lora_alpha=alpha, **options)
            slot = Slot(tuner.tensors(self, autocast=True))
            slots._modules[str(index)] = slot
            self.choices += (tuner.live(self, slot._parameters),)
        self.__dict__["_live"] = self.choices[:1]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        output = super().forward(input)
        for live in self.__dict__["_live"]:
            output = live(self, output, input)
        return output

    def expected(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight.double()
        for live in self.__dict__["_live"]:
            weight = weight + live.scale * live.tensors["lora_B"].double() @ live.tensors["lora_A"].double()
        return F.linear(x.double(), weight, self.bias.double()).float()


def pickled(module: nn.Module) -> Any:
    return pickle.loads(pickle.dumps(module))


def saved(module: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, saved])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_copy_reads_its_own_slots(copied: Any, dropout: float) -> None:
    """In a deep or pickled copy of a module the live objects hold the dict of the copied slot, not the original's nor a third."""
    module = Wrapped([5.0, 7.0], lora_dropout=dropout).eval()
    other = copied(module)
    for index, live in enumerate(other.choices):
        assert live.tensors is other._modules["adapters"]._modules[str(index)]._parameters
        assert live.tensors is not module.choices[index].tensors
        assert (type(live), live.scale, live.dropout) == (type(module.choices[index]), module.choices[index].scale, dropout)
    x = torch.randn(2, 5)
    torch.testing.assert_close(other(x), module.expected(x))


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("alphas", [[5.0] * 12, [5.0 + index for index in range(10)] + [0.0, 3.0]], ids=["one alpha", "twelve alphas"])
@pytest.mark.parametrize("many", [1, 2])
def test_switching_between_equal_shapes_compiles_once(alphas: list[float], many: int) -> None:
    """One whole graph serves twelve adapters of one rank, one or two at a time, whatever their scales."""
    module = Wrapped(alphas)
    counter = CompileCounter()
    compiled = torch.compile(module, backend=counter, fullgraph=True)
    x = torch.randn(2, 5)
    for index in range(12):
        module.__dict__["_live"] = tuple(module.choices[(index + k) % 12] for k in range(many))
        torch.testing.assert_close(compiled(x), module.expected(x))
    assert counter.frame_count == 1


@pytest.mark.usefixtures("fresh_dynamo")
def test_compiled_through_aot_autograd(case: tuple[Any, torch.Tensor]) -> None:
    """Each kind of module is traced as one graph, forward and backward, with the values and gradients of eager mode."""
    module, x = case
    module.requires_grad_(False)
    tuner = lora(module)
    tensors = tuner.tensors(module, autocast=True)
    live = tuner.live(module, tensors)

    def forward(x: torch.Tensor) -> Any:
        return live(module, module(x), x)

    eager, compiled = forward(x), torch.compile(forward, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(compiled, eager)
    first, second = (torch.autograd.grad(y.square().sum(), list(tensors.values())) for y in (eager, compiled))
    torch.testing.assert_close(first, second)


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("options", [{}, {"lora_dropout": 0.5}], ids=["plain", "dropout"])
@pytest.mark.parametrize(("base", "region"), [(torch.bfloat16, False), (torch.float32, True), (torch.bfloat16, True)])
def test_compiled_output_has_the_dtype_of_eager_mode(base: torch.dtype, region: bool, options: dict[str, Any]) -> None:
    """The scale, a tensor in compiled code, changes no dtype: beside a half-precision base, in an autocast region, and in both."""
    module = Wrapped([5.0], **options).eval().to(base)
    module.choices[0].refresh(module, module.choices[0].tensors)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 5, dtype=base)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=region):
        eager, output = module(x), compiled(x)
    assert output.dtype == eager.dtype == torch.bfloat16
    torch.testing.assert_close(output, eager, rtol=2e-2, atol=2e-2)


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("options", [{}, {"lora_dropout": 0.5}], ids=["plain", "dropout"])
@pytest.mark.parametrize("strict", [False, True])
def test_export_leaves_the_module_working(strict: bool, options: dict[str, Any]) -> None:
    """An exported program computes what the module does, and the module's own tensors are still real ones afterwards."""
    module = Wrapped([5.0, 7.0], **options).eval()
    module.__dict__["_live"] = module.choices
    x = torch.randn(2, 5)
    with torch.no_grad():
        program = torch.export.export(module, (x,), strict=strict)
    torch.testing.assert_close(program.module()(x), module.expected(x))
    assert [type(t) for live in module.choices for t in live.tensors.values()] == [nn.Parameter] * 4
    assert [type(live.factor) for live in module.choices] == [torch.Tensor] * 2
    torch.testing.assert_close(module(x), module.expected(x))
