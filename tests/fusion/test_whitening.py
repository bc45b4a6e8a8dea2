"""Whitening against plain numpy statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from linkedout_lightning.errors import ConfigError, DataError, NonFiniteError
from linkedout_lightning.fusion import TokenMoments, Whitening, effective_rank, mean_cosine


def correlated(items: int, layers: int, slots: int, width: int, seed: int = 0) -> Tensor:
    """Features as an LLM's: a large common mean, few dominant directions, outlier coordinates."""
    g = torch.Generator().manual_seed(seed)
    basis = torch.randn(layers, width, width, generator=g) * torch.linspace(3, 0.1, width)
    x = torch.einsum("nlsd,lde->nlse", torch.randn(items, layers, slots, width, generator=g), basis)
    x = x + 10 * torch.randn(layers, slots, width, generator=g)
    x[..., 0] = x[..., 0] * 20 + 500  # a massive activation
    return x


def reference_moments(x: Tensor, mask: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Means a slot and the covariance about them, token by token."""
    items, layers, slots, width = x.shape
    data, valid = x.double().numpy(), mask.numpy()
    mean = np.zeros((layers, slots, width))
    cov = np.zeros((layers, width, width))
    for layer in range(layers):
        for slot in range(slots):
            mean[layer, slot] = data[valid[:, slot], layer, slot].mean(0)
        for item in range(items):
            for slot in range(slots):
                if valid[item, slot]:
                    d = data[item, layer, slot] - mean[layer, slot]
                    cov[layer] += np.outer(d, d)
    return mean, cov / valid.sum()


@settings(max_examples=25, deadline=None)
@given(
    items=st.integers(3, 12),
    layers=st.integers(1, 3),
    slots=st.integers(1, 3),
    cut=st.integers(1, 11),
    seed=st.integers(0, 1000),
)
def test_moments_equal_a_loop_however_they_are_chunked(
    items: int, layers: int, slots: int, cut: int, seed: int
) -> None:
    x = correlated(items, layers, slots, 5, seed)
    mask = torch.rand(items, slots, generator=torch.Generator().manual_seed(seed)) < 0.7
    mask[seed % items] = True  # every slot at least once
    moments = TokenMoments(layers=layers, slots=slots, features=5)
    for start in range(0, items, cut):
        moments.update(x[start : start + cut], mask[start : start + cut])
    mean, cov = reference_moments(x, mask)
    np.testing.assert_allclose(moments.mean().numpy(), mean, rtol=1e-6)
    np.testing.assert_allclose(moments.covariance().numpy(), cov, rtol=1e-4, atol=1e-3)


def test_a_wide_layer_is_summed_in_float32_chunks_and_still_right() -> None:
    x = correlated(60, 1, 1, 1100)
    mask = torch.ones(60, 1, dtype=torch.bool)
    moments = TokenMoments(layers=1, slots=1, features=1100)
    for part in x.split(25):
        moments.update(part, mask[: len(part)])
        assert torch.equal(moments.covariance(), moments.covariance().mT)  # also between chunks
    wanted = np.cov(x[:, 0, 0].double().numpy().T, bias=True)
    scale = np.sqrt(np.outer(wanted.diagonal(), wanted.diagonal()))
    assert np.abs((moments.covariance()[0].numpy() - wanted) / scale).max() < 1e-5


def test_covariance_of_the_training_tokens_is_the_identity() -> None:
    x = correlated(400, 3, 2, 16)
    mask = torch.rand(400, 2, generator=torch.Generator().manual_seed(1)) < 0.8
    whitening = Whitening(layers=3, slots=2, features=16, rank=10, epsilon=0.0)
    z = whitening.fit([(x, mask)])(x, mask)
    assert z.shape == (3, 400, 2, 10)
    assert not z[:, ~mask].any()
    for layer in range(3):
        tokens = z[layer][mask].double()
        torch.testing.assert_close(tokens.mean(0), torch.zeros(10).double(), atol=1e-4, rtol=0)
        cov = tokens.T @ tokens / len(tokens)
        torch.testing.assert_close(cov, torch.eye(10).double(), atol=2e-3, rtol=0)


def test_it_keeps_the_directions_of_largest_variance() -> None:
    x = correlated(300, 1, 1, 12)
    mask = torch.ones(300, 1, dtype=torch.bool)
    z = Whitening(layers=1, slots=1, features=12, rank=3, power=0.0).fit([(x, mask)])(x, mask)
    values = np.linalg.eigvalsh(np.cov(x[:, 0, 0].double().numpy().T, bias=True))[::-1][:3]
    got = z[0, :, 0].var(0, correction=0).numpy()
    np.testing.assert_allclose(got / got[0], values / values[0], rtol=1e-3)
    np.testing.assert_allclose(got.mean(), 1, rtol=1e-4)


def test_whitening_makes_items_isotropic() -> None:
    x = correlated(500, 1, 1, 32)
    mask = torch.ones(500, 1, dtype=torch.bool)
    raw = x[:, 0, 0]
    z = Whitening(layers=1, slots=1, features=32, rank=32).fit([(x, mask)])(x, mask)[0, :, 0]
    assert mean_cosine(raw) > 0.8
    assert abs(mean_cosine(z)) < 0.01
    assert effective_rank(raw) < 3
    assert effective_rank(z) > 30


@pytest.mark.parametrize("items", [2, 5, 9])
def test_rank_beyond_what_the_data_has_gives_zero_columns(items: int) -> None:
    x = correlated(items, 2, 1, 16)
    mask = torch.ones(items, 1, dtype=torch.bool)
    whitening = Whitening(layers=2, slots=1, features=16, rank=64).fit([(x, mask)])
    assert whitening.rank == 16
    assert whitening.ranks == [items - 1] * 2
    new = whitening(correlated(50, 2, 1, 16, seed=7), torch.ones(50, 1, dtype=torch.bool))
    assert not new[..., items - 1 :].any()
    assert torch.isfinite(new).all()


def test_a_constant_layer_gives_zero_tokens_and_all_constant_is_refused() -> None:
    # `hidden_states[0]` of the last prompt token is the same for every item.
    x = correlated(30, 2, 1, 8)
    x[:, 0] = 4.0
    mask = torch.ones(30, 1, dtype=torch.bool)
    whitening = Whitening(layers=2, slots=1, features=8, rank=4).fit([(x, mask)])
    z = whitening(x, mask)
    assert not z[0].any()
    assert z[1].any()
    with pytest.raises(DataError, match="do not vary"):
        Whitening(layers=1, slots=1, features=8, rank=4).fit([(x[:, :1], mask)])


def test_what_stands_in_masked_slots_is_ignored_even_nan() -> None:
    x = correlated(40, 2, 2, 8)
    mask = torch.rand(40, 2, generator=torch.Generator().manual_seed(3)) < 0.5
    dirty = torch.where(mask[:, None, :, None], x, torch.nan)
    one = Whitening(layers=2, slots=2, features=8, rank=4).fit([(x, mask)])
    two = Whitening(layers=2, slots=2, features=8, rank=4).fit([(dirty, mask)])
    torch.testing.assert_close(one.projection, two.projection, rtol=0, atol=0)
    torch.testing.assert_close(one(x, mask), two(dirty, mask), rtol=0, atol=0)


def test_nan_in_a_valid_slot_is_refused() -> None:
    x = correlated(10, 2, 1, 4)
    x[3, 1, 0, 2] = torch.inf
    with pytest.raises(NonFiniteError, match="layer position 1"):
        Whitening(layers=2, slots=1, features=4, rank=2).fit([(x, torch.ones(10, 1).bool())])


def test_statistics_are_state_but_no_buffers() -> None:
    x, mask = correlated(30, 2, 1, 8), torch.ones(30, 1, dtype=torch.bool)
    one = Whitening(layers=2, slots=1, features=8, rank=4).fit([(x, mask)])
    assert sorted(one.state_dict()) == ["mean", "projection"]
    assert not list(one.buffers())
    half = one.half()
    assert half.projection.dtype == torch.float32
    two = Whitening(layers=2, slots=1, features=8, rank=4)
    two.load_state_dict(one.state_dict())
    torch.testing.assert_close(one(x, mask), two(x, mask), rtol=0, atol=0)
    revision = two.revision
    two.load_state_dict(one.state_dict())
    assert two.revision == revision  # the same statistics: tokens made with them stay valid
    # A loaded module must not share memory with the checkpoint that it came from.
    assert two.mean.data_ptr() != one.mean.data_ptr()


def test_loading_other_shapes_or_half_a_state_says_what_is_wrong() -> None:
    x, mask = correlated(30, 2, 1, 8), torch.ones(30, 1, dtype=torch.bool)
    state = Whitening(layers=2, slots=1, features=8, rank=4).fit([(x, mask)]).state_dict()
    with pytest.raises(RuntimeError, match="layers, slots, hidden size and rank"):
        Whitening(layers=2, slots=1, features=8, rank=3).load_state_dict(state)
    other = Whitening(layers=2, slots=1, features=8, rank=4)
    with pytest.raises(RuntimeError, match=r"Missing key.*projection"):
        other.load_state_dict({"mean": state["mean"]})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*foo"):
        other.load_state_dict({**state, "foo": state["mean"]})
    assert other.load_state_dict({"foo": state["mean"]}, strict=False).missing_keys


def test_bad_input_is_named() -> None:
    with pytest.raises(ConfigError, match="`rank` is 0"):
        Whitening(layers=1, slots=1, features=4, rank=0)
    with pytest.raises(ConfigError, match="`power` 2"):
        Whitening(layers=1, slots=1, features=4, rank=2, power=2)
    whitening = Whitening(layers=1, slots=1, features=4, rank=2)
    x, mask = torch.randn(3, 1, 1, 4), torch.ones(3, 1, dtype=torch.bool)
    with pytest.raises(DataError, match="no statistics yet"):
        whitening(x, mask)
    with pytest.raises(
        DataError, match=r"\(3, 1, 1, 5\); expected \(n, L, S, D\) = \(n, 1, 1, 4\)"
    ):
        whitening.fit([(torch.randn(3, 1, 1, 5), mask)])
    with pytest.raises(DataError, match="expected bool"):
        whitening.fit([(x, mask.float())])
    with pytest.raises(DataError, match="no valid token"):
        whitening.fit([(x, ~mask)])
