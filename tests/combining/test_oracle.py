"""Tuners, copies and rows, policies, weights, merged subsets, ties and dtypes, against the naive oracle."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn

from adapterstate import AdapterOverlapError

from .oracle import TOKENS, WEIGHTS, Net, World, build, dense, output, overlap, replaced
from .worlds import Case, cases

OUTPUT = {torch.float64: 1e-9, torch.float32: 2e-4, torch.float16: 0.05, torch.bfloat16: 0.3}
"""How far an output may be from the exact one, beside the largest of all."""
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}
"""How far a weight that was rounded once may be from the exact one."""


def expected_refusals(case: Case) -> set[tuple[str, frozenset[str]]]:
    """(module, pair) of every refusal that the rules demand of the activation."""
    found = set()
    policies = {name: policy for name, _, policy in case.active}
    for one, two in itertools.combinations(case.names, 2):
        if policies[one] == policies[two] != "error":
            continue
        for path in overlap(case.adapters[one], case.adapters[two], tied=case.tied):
            found.add((path, frozenset((one, two))))
    return found


def begun(case: Case) -> World | None:
    """A world in which the case is active and nothing merged yet; None where the rules refuse it, which is checked."""
    world = build(case.adapters, tied=case.tied, dtype=case.dtype)
    expected = expected_refusals(case)
    if not expected:
        world.state.set_adapter(case.names, weights=case.weights, on_overlap=case.policy)
        return world
    with pytest.raises(AdapterOverlapError) as refused:
        world.state.set_adapter(case.names, weights=case.weights, on_overlap=case.policy)
    assert {(refusal.where, frozenset(refusal.adapters)) for refusal in refused.value.refusals} == expected
    assert world.state.active_adapters == tuple(case.adapters)[:1]
    return None


def close(found: Tensor, exact: Tensor, tolerance: float) -> None:
    """Compare with the exact values, beside the largest of them."""
    scale = max(1.0, float(exact.abs().max()))
    torch.testing.assert_close(found.detach().double(), exact, rtol=tolerance, atol=tolerance * scale)


@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
@given(cases())
def test_output_and_reads(case: Case) -> None:
    """Outputs, and what reads of every weight return, are those of explicit dense weights; the base is never written."""
    world = begun(case)
    if world is None:
        return
    bases = {key: value.clone() for key, value in world.state.base_state_dict().items()}
    plain = world.model(TOKENS).detach().clone()
    exact = output(dense(world, case.active))
    close(plain, exact, OUTPUT[case.dtype])
    for name in case.merges:
        world.state.merge_adapter(name)
    close(world.model(TOKENS), exact, OUTPUT[case.dtype])
    whole = dense(world, case.active)
    for path, names in WEIGHTS.items():
        module = world.model.get_submodule(path)
        for name in names:
            # a read returns every replacing slot and what is merged, never the delta of a live tuner
            merged = [share for share in case.active if share[0] in case.merges]
            rest = [share for share in case.active if share[0] not in case.merges]
            here = any(path in world.adapters[adapter].tuned() for adapter, _, _ in merged)
            exposed = replaced(world, path, name, case.active)
            replaces_live = any(
                any(end == path for end, _ in world.adapters[a].copies(tied=case.tied))
                or path in world.adapters[a].row_ends(tied=case.tied)
                for a, _, _ in rest
            )
            if name == "weight" and here and not replaces_live:
                live = [share for share in rest if path in world.adapters[share[0]].tuned()]
                exposed = whole[f"{path}.weight"] - sum(
                    (dense(world, [share])[f"{path}.weight"] - replaced(world, path, "weight", [share]) for share in live),
                    torch.zeros_like(exposed),
                )
            close(getattr(module, name), exposed, ROUNDING[case.dtype])
    world.state.unmerge_adapter()
    assert torch.equal(world.model(TOKENS), plain)
    assert world.state.check() == ()
    for key, value in world.state.base_state_dict().items():
        assert torch.equal(value, bases[key]), key


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(cases())
def test_merge_and_unload(case: Case) -> None:
    """The plain model that is left holds the dense weights at every end, rounded once, and is a plain model."""
    world = begun(case)
    if world is None:
        return
    for name in case.merges:
        world.state.merge_adapter(name)
    whole = dense(world, case.active)
    plain = world.state.merge_and_unload()
    assert [type(module) for module in plain.modules()] == [type(module) for module in Net(tied=case.tied).modules()]
    for key, exact in whole.items():
        path, name = key.rsplit(".", 1)
        parameter = plain.get_submodule(path)._parameters[name]
        assert isinstance(parameter, nn.Parameter)
        assert parameter.requires_grad
        close(parameter, exact, ROUNDING[case.dtype])
    close(plain(TOKENS), output(whole), OUTPUT[case.dtype])


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(cases((torch.float32, torch.bfloat16, torch.float16)))
def test_every_way_back_is_exact(case: Case) -> None:
    """Disabling, switching, deleting others and unloading leave the base's output bit for bit."""
    torch.manual_seed(0)
    base = Net(tied=case.tied).to(case.dtype).eval()(TOKENS)
    world = begun(case)
    if world is None:
        return
    for name in case.merges:
        world.state.merge_adapter(name)
    merged = world.model(TOKENS)
    with world.state.disable_adapter():
        assert torch.equal(world.model(TOKENS), base)
    assert torch.equal(world.model(TOKENS), merged)
    world.state.set_adapter([])
    assert torch.equal(world.model(TOKENS), base)
    for name in list(world.adapters)[1:]:
        world.state.delete_adapter(name)
    assert torch.equal(world.model(TOKENS), base)
    assert torch.equal(world.state.unload()(TOKENS), base)
