"""Auxiliary methods: whole copies of base parameters and buffers, and single rows of a weight."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adapterstate.modules.copies import ModulesToSave
from adapterstate.modules.method import Auxiliary
from adapterstate.modules.tokens import TrainableTokens

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def counted(rows: int, columns: int, dtype: torch.dtype = torch.float32) -> nn.Embedding:
    """An embedding whose row k holds ``k * columns, k * columns + 1, ...``."""
    return nn.Embedding(rows, columns, _weight=torch.arange(rows * columns, dtype=dtype).reshape(rows, columns))


def test_both_are_auxiliaries() -> None:
    """Both methods satisfy the public protocol, and name themselves as PEFT names its fields."""
    methods = ModulesToSave(("weight",), ("weight",)), TrainableTokens((1,))
    assert all(isinstance(method, Auxiliary) for method in methods)
    assert [method.kind for method in methods] == ["modules_to_save", "trainable_token_indices"]


# ------------------------------------------------------------------------------------------------------ copies


def test_copies_have_the_base_values_in_memory_of_their_own() -> None:
    """Parameters become parameters and buffers plain tensors, equal to the base and independent of it."""
    module = nn.BatchNorm1d(3)
    module(torch.randn(8, 3))
    made = ModulesToSave(NORM, NORM).tensors(module, autocast=True)
    assert list(made) == list(NORM)
    base = dict(module.named_parameters()) | dict(module.named_buffers())
    for name, copy in made.items():
        assert torch.equal(copy, base[name])
        assert copy.untyped_storage().data_ptr() != base[name].untyped_storage().data_ptr()
        assert (isinstance(copy, nn.Parameter), copy.requires_grad) == (isinstance(base[name], nn.Parameter),) * 2
        assert copy.is_leaf


def test_no_graph_leads_from_a_copy_to_the_base() -> None:
    """A copy is a leaf even of a buffer that requires grad, in grad mode."""
    module = nn.Module()
    module.register_buffer("table", torch.ones(2, requires_grad=True))
    copy = ModulesToSave(("table",), ("table",)).tensors(module, autocast=True)["table"]
    assert (copy.is_leaf, copy.requires_grad) == (True, False)


def test_only_own_names_are_copied_and_all_are_replaced() -> None:
    """A name whose copy is held at another end of a tie is replaced here and not copied."""
    method = ModulesToSave(("bias",), ("bias", "weight"))
    module = nn.Linear(3, 2)
    assert list(method.tensors(module, autocast=True)) == ["bias"]
    assert method.replaces() == {"bias": None, "weight": None}


def test_the_replacement_is_the_copy_itself() -> None:
    """What is read in place of the base is the slot's tensor, so that gradients reach it."""
    module = nn.Linear(3, 2)
    method = ModulesToSave(("weight", "bias"), ("weight", "bias"))
    made = method.tensors(module, autocast=True)
    assert method.replacement("weight", module.weight, made) is made["weight"]
    assert method.replacement("bias", module.bias, made) is made["bias"]


@pytest.mark.parametrize("autocast", [False, True])
def test_copies_keep_dtype_and_memory_format(autocast: bool) -> None:
    """A copy has the dtype of the base whatever autocast says, and its strides."""
    module = nn.Conv2d(4, 4, 3).to(torch.bfloat16).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    copy = ModulesToSave(("weight",), ("weight",)).tensors(module, autocast=autocast)["weight"]
    assert (copy.dtype, copy.stride()) == (torch.bfloat16, module.weight.stride())
    assert not copy.is_contiguous()


@pytest.mark.parametrize(("dtype", "trains"), [(torch.int8, False), (torch.complex64, True), (torch.float16, True)])
def test_only_what_can_train_requires_grad(dtype: torch.dtype, trains: bool) -> None:
    """A copy of an integer parameter is a parameter that requires no gradient; a frozen base says nothing about its copy."""
    module = nn.Module()
    module.weight = nn.Parameter(torch.ones(2, 2).to(dtype), requires_grad=False)
    copy = ModulesToSave(("weight",), ("weight",)).tensors(module, autocast=True)["weight"]
    assert isinstance(copy, nn.Parameter)
    assert copy.requires_grad is trains


def test_copies_of_what_was_made_in_inference_mode_can_train() -> None:
    """A model built in inference mode can still be given copies that train."""
    with torch.inference_mode():
        module = nn.BatchNorm1d(3)
    made = ModulesToSave(NORM, NORM).tensors(module, autocast=True)
    assert not any(copy.is_inference() for copy in made.values())
    torch.autograd.backward(made["weight"].sum())
    assert made["weight"].grad is not None


def test_copies_on_meta() -> None:
    """On a meta module the copies are meta tensors of the same shapes."""
    module = nn.BatchNorm1d(3, device="meta")
    made = ModulesToSave(NORM, NORM).tensors(module, autocast=True)
    assert all(copy.is_meta for copy in made.values())
    assert made["weight"].shape == (3,)


def test_a_name_that_is_not_there_is_an_error() -> None:
    """A name that is no parameter or buffer of the module is a `KeyError`, also where a parameter of that name is None."""
    with pytest.raises(KeyError, match="bias"):
        ModulesToSave(("bias",), ("bias",)).tensors(nn.Linear(3, 2, bias=False), autocast=True)


# ------------------------------------------------------------------------------------------------------ tokens


def test_row_k_belongs_to_the_kth_index() -> None:
    """The parameter holds the rows themselves in the order given, whatever that is."""
    module = counted(6, 2)
    method = TrainableTokens((4, 0, 5))
    (name, rows), *rest = method.tensors(module, autocast=True).items()
    assert (name, rest) == ("trainable_tokens", [])
    assert type(rows) is nn.Parameter
    assert rows.requires_grad
    assert rows.tolist() == [[8.0, 9.0], [0.0, 1.0], [10.0, 11.0]]
    assert method.replaces() == {"weight": (4, 0, 5)}
    assert method.replacement("weight", module.weight, {name: rows}) is rows


def test_the_rows_are_in_memory_of_their_own() -> None:
    """Training the rows does not write to the base, and no graph leads back to it."""
    module = counted(6, 2)
    rows = TrainableTokens((0, 1)).tensors(module, autocast=True)["trainable_tokens"]
    assert rows.is_leaf
    with torch.no_grad():
        rows.fill_(-1)
    assert module.weight.min() == 0


@pytest.mark.parametrize(
    ("base", "autocast", "expected"),
    [
        (torch.bfloat16, True, torch.float32),
        (torch.float16, True, torch.float32),
        (torch.float16, False, torch.float16),
        (torch.float64, True, torch.float64),
    ],
)
def test_dtype_of_the_rows(base: torch.dtype, autocast: bool, expected: torch.dtype) -> None:
    """Rows of a half-precision weight are float32 if autocast, all others have the dtype of the base."""
    rows = TrainableTokens((2,)).tensors(counted(6, 2, base), autocast=autocast)["trainable_tokens"]
    assert rows.dtype == expected
    assert rows.tolist() == [[4.0, 5.0]]


def test_nothing_is_made_where_another_end_of_the_tie_holds_the_rows() -> None:
    """With ``make=False`` there is no tensor, and the rows are replaced all the same."""
    method = TrainableTokens((4, 0), make=False)
    assert method.tensors(counted(6, 2), autocast=True) == {}
    assert method.replaces() == {"weight": (4, 0)}


def test_rows_of_what_was_made_in_inference_mode_can_train() -> None:
    """A model built in inference mode can still be given rows that train."""
    with torch.inference_mode():
        module = counted(6, 2)
    rows = TrainableTokens((2, 3)).tensors(module, autocast=True)["trainable_tokens"]
    torch.autograd.backward(rows.sum())
    assert rows.grad is not None


def test_rows_on_meta() -> None:
    """On a meta module the rows are a meta tensor of the right shape."""
    rows = TrainableTokens((2, 3)).tensors(nn.Embedding(6, 2, device="meta"), autocast=True)["trainable_tokens"]
    assert (rows.is_meta, rows.shape) == (True, (2, 2))


def test_rows_of_a_head() -> None:
    """A linear layer has rows too: those of the tokens that it predicts."""
    module = nn.Linear(2, 6)
    rows = TrainableTokens((5, 1)).tensors(module, autocast=True)["trainable_tokens"]
    assert torch.equal(rows, module.weight[[5, 1]])


def test_integer_weights_are_refused() -> None:
    """Rows of a quantised weight are not what the module computes with: a `TypeError` says so."""
    module = nn.Embedding(6, 2)
    module.weight = nn.Parameter(torch.zeros(6, 2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(TypeError, match=r"trainable_token_indices needs a floating-point weight, not torch\.int8"):
        TrainableTokens((1,)).tensors(module, autocast=True)
