"""Fusers against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.fusion import MoEFuser, build_fuser, load_balance
from linkedout_lightning.fusion.fusers import single_layer

NAMES = ("moe", "mean", "concat", "weighted-sum", "dff")


def experts(seed: int = 0, layers: int = 4, items: int = 6) -> Tensor:
    return torch.randn(layers, items, 5, generator=torch.Generator().manual_seed(seed))


def reference_moe(fuser: MoEFuser, e: Tensor) -> tuple[Tensor, Tensor]:
    layers, items, dim = e.shape
    vectors, weights = torch.zeros(items, dim), torch.zeros(items, layers)
    # The paper's W_g, (L, L·H), from the stack of its blocks.
    w_g = torch.cat([fuser.gate.weight[layer].T for layer in range(layers)], dim=1)
    for b in range(items):
        normed = []
        for layer in range(layers):
            x = e[layer, b]
            normed.append((x - x.mean()) / math.sqrt(x.var(correction=0) + 1e-5))
        logits = ((w_g @ torch.cat(normed) + fuser.bias) / fuser.temperature).tolist()
        kept = sorted(range(layers), key=lambda k: -logits[k])[: fuser.top_k or layers]
        total = sum(math.exp(logits[k]) for k in kept)
        for k in kept:
            weights[b, k] = math.exp(logits[k]) / total
            vectors[b] += weights[b, k] * e[k, b]
    return vectors, weights


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    top_k=st.sampled_from([None, 1, 2, 3, 4]),
    temperature=st.floats(0.2, 5),
)
def test_moe_equals_the_loop(seed: int, top_k: int | None, temperature: float) -> None:
    torch.manual_seed(seed)
    fuser = MoEFuser(layers=4, dim=5, top_k=top_k, temperature=temperature)
    torch.nn.init.normal_(fuser.bias)
    e = experts(seed)
    fused = fuser(e)
    vectors, weights = reference_moe(fuser, e)
    torch.testing.assert_close(fused.vectors, vectors, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fused.weights, weights, atol=1e-5, rtol=1e-4)


def test_top_k_of_all_layers_is_dense() -> None:
    torch.manual_seed(0)
    dense = MoEFuser(layers=4, dim=5)
    sparse = MoEFuser(layers=4, dim=5, top_k=4)
    sparse.load_state_dict(dense.state_dict())
    for one, two in zip(dense(experts()), sparse(experts()), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_temperature_sharpens() -> None:
    torch.manual_seed(0)
    warm = MoEFuser(layers=4, dim=5, temperature=10.0)
    cold = MoEFuser(layers=4, dim=5, temperature=0.1)
    cold.load_state_dict(warm.state_dict())
    assert cold(experts()).weights.amax(1).min() > warm(experts()).weights.amax(1).max()


@pytest.mark.parametrize("top_k", [None, 2])
def test_gradients_reach_the_gate_and_the_experts_in_use(top_k: int | None) -> None:
    torch.manual_seed(0)
    fuser, e = MoEFuser(layers=4, dim=5, top_k=top_k), experts(items=200).requires_grad_()
    fused = fuser(e)
    (fused.vectors * torch.randn(200, 5)).sum().backward()
    assert fuser.gate.weight.grad.flatten(1).abs().sum(1).min() > 0
    assert fuser.bias.grad.abs().min() > 0
    used = (fused.weights > 0).T
    assert used.any(1).all()
    # An unused expert still moves the gate through its normed vector, never the mixture.
    assert (e.grad.abs().sum(-1)[used] > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_weights_sum_to_one_and_shapes_hold(name: str) -> None:
    fused = build_fuser(name, layers=4, dim=5)(experts())
    assert fused.vectors.shape == (6, 5)
    if name == "concat":
        assert fused.weights is None
    else:
        torch.testing.assert_close(fused.weights.sum(1), torch.ones(6))


def test_baselines_equal_their_formulas() -> None:
    e = experts()
    torch.testing.assert_close(build_fuser("mean", layers=4, dim=5)(e).vectors, e.mean(0))
    assert torch.equal(build_fuser("last", layers=1, dim=5)(e[:1]).vectors, e[0])
    assert torch.equal(build_fuser("layer:8", layers=1, dim=5)(e[:1]).vectors, e[0])

    mix = build_fuser("weighted-sum", layers=4, dim=5)
    torch.nn.init.normal_(mix.logits)
    shares = torch.softmax(mix.logits, 0)
    summed = sum(shares[k] * e[k] for k in range(4))
    torch.testing.assert_close(mix(e).vectors, summed)

    concat = build_fuser("concat", layers=4, dim=5)
    torch.nn.init.normal_(concat.bias)
    weight = concat.linear.weight.reshape(20, 5)
    joined = e.transpose(0, 1).reshape(6, 20)
    torch.testing.assert_close(concat(e).vectors, joined @ weight + concat.bias)

    dff = build_fuser("dff", layers=4, dim=5)
    torch.nn.init.normal_(dff.mix.logits)
    summed = sum(torch.softmax(dff.mix.logits, 0)[k] * e[k] for k in range(4))
    torch.testing.assert_close(dff(e).vectors, torch.relu(dff.linear(summed)))


def test_concat_keeps_the_variance_of_its_inputs() -> None:
    torch.manual_seed(0)
    out = build_fuser("concat", layers=4, dim=64)(torch.randn(4, 500, 64)).vectors
    assert 0.8 < out.std() < 1.25


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), layers=st.integers(1, 6), items=st.integers(1, 9))
def test_balance_lies_between_one_and_the_number_of_layers(
    seed: int, layers: int, items: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    weights = torch.softmax(3 * torch.randn(items, layers, generator=g), 1)
    loss = load_balance(weights, weights).item()
    assert 1 - 1e-5 <= loss <= layers + 1e-5
    equal = torch.full((items, layers), 1 / layers)
    assert load_balance(equal, equal).item() == pytest.approx(1)


def test_single_layer_names() -> None:
    assert single_layer("last", (24, 8, 16)) == 0  # the deepest, wherever it stands
    assert single_layer("layer:8", (24, 8, 16)) == 1
    assert single_layer("concat", (24, 8, 16)) is None
    with pytest.raises(ConfigError, match="hold the layers 24, 8, 16"):
        single_layer("layer:9", (24, 8, 16))


def test_bad_options_are_named() -> None:
    with pytest.raises(ConfigError, match="'max'; give one of moe, last"):
        build_fuser("max", layers=4, dim=5)
    with pytest.raises(ConfigError, match="`top_k` is 5; give 1 to 4"):
        build_fuser("moe", layers=4, dim=5, top_k=5)
    with pytest.raises(ConfigError, match="only 'moe' has"):
        build_fuser("mean", layers=4, dim=5, top_k=2)
    with pytest.raises(ConfigError, match="`temperature` is 0"):
        build_fuser("moe", layers=4, dim=5, temperature=0)
