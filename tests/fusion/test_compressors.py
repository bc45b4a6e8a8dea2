"""Compressors against loops over layers, items and slots."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.fusion import (
    COMPRESSORS,
    LatentCompressor,
    MeanCompressor,
    PairCompressor,
    build_compressor,
)


def make(name: str, *, layers: int = 3, slots: int = 4, **options: float) -> nn.Module:
    return build_compressor(
        name, layers=layers, slots=slots, features=6, dim=5, old=(0, 2), new=(1, 3), **options
    )  # type: ignore[arg-type]


def tokens_and_mask(seed: int, items: int = 7, slots: int = 4) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(items, slots, generator=g) < 0.6
    return torch.randn(3, items, slots, 6, generator=g), mask


def norm(x: Tensor) -> Tensor:
    return (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()


def mlp(module: nn.Module, layer: int, x: Tensor) -> Tensor:
    inner, outer = module.inner, module.outer
    hidden = nn.functional.gelu(inner.weight[layer].T @ x + inner.bias[layer])
    return outer.weight[layer].T @ hidden + outer.bias[layer]


def reference(expert: nn.Module, tokens: Tensor, mask: Tensor) -> Tensor:
    """One token at a time, as the equations stand in the docstrings."""
    layers, items, slots, _ = tokens.shape
    out = torch.zeros(layers, items, 5)
    for layer in range(layers):
        for item in range(items):
            valid = [s for s in range(slots) if mask[item, s]]
            if isinstance(expert, MeanCompressor):
                mean = sum((tokens[layer, item, s] for s in valid), torch.zeros(6))
                mean = mean / max(len(valid), 1)
                out[layer, item] = expert.linear.weight[layer].T @ mean + expert.linear.bias[layer]
                continue
            w, t = expert.project.linear.weight[layer], expert.project.slot[layer]
            y = {s: norm(w.T @ tokens[layer, item, s] + t[s]) for s in valid}
            if isinstance(expert, LatentCompressor):
                pooled = []
                for k in range(expert.query.shape[2]):
                    c = torch.zeros(5)
                    if valid:
                        score = torch.stack([expert.query[layer, :, k] @ y[s] for s in valid])
                        weight = torch.softmax(score / 5**0.5, 0)
                        c = sum((a * y[s] for a, s in zip(weight, valid, strict=True)), c)
                    pooled.append(c)
                out[layer, item] = torch.stack(pooled).mean(0) + mlp(
                    expert.mlp, layer, torch.cat(pooled)
                )
            if isinstance(expert, PairCompressor):
                groups = []
                for members in (expert.old, expert.new):
                    there = [y[s] for s in members if s in y]
                    groups.append(torch.stack(there).mean(0) if there else None)
                o, n = (torch.zeros(5) if g is None else g for g in groups)
                present = max(sum(g is not None for g in groups), 1)
                out[layer, item] = (o + n) / present + mlp(
                    expert.mlp, layer, torch.cat([o, n, (o - n).abs(), o * n])
                )
    return out


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(COMPRESSORS), seed=st.integers(0, 10_000))
def test_equals_the_loop(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    expert = make(name)
    tokens, mask = tokens_and_mask(seed)
    torch.testing.assert_close(
        expert(tokens, mask), reference(expert, tokens, mask), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("name", COMPRESSORS)
def test_no_mask_is_the_full_mask(name: str) -> None:
    expert, (tokens, mask) = make(name), tokens_and_mask(0)
    torch.testing.assert_close(expert(tokens), expert(tokens, torch.ones_like(mask)))


@pytest.mark.parametrize("name", COMPRESSORS)
def test_masked_slots_have_no_influence(name: str) -> None:
    expert, (tokens, mask) = make(name), tokens_and_mask(1)
    other = torch.where(mask[None, :, :, None], tokens, 100 * torch.randn_like(tokens))
    torch.testing.assert_close(expert(tokens, mask), expert(other, mask), rtol=0, atol=0)


@pytest.mark.parametrize("name", COMPRESSORS)
def test_items_do_not_see_each_other(name: str) -> None:
    expert, (tokens, mask) = make(name), tokens_and_mask(2)
    alone = torch.cat([expert(tokens[:, i : i + 1], mask[i : i + 1]) for i in range(7)], dim=1)
    torch.testing.assert_close(expert(tokens, mask), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", COMPRESSORS)
def test_an_item_without_any_token_has_a_finite_learned_vector_in_both_modes(name: str) -> None:
    expert, (tokens, mask) = make(name), tokens_and_mask(3)
    mask[2] = False
    train = expert.train()(tokens, mask)
    torch.testing.assert_close(train, expert.eval()(tokens, mask), rtol=0, atol=0)
    assert torch.isfinite(train).all()
    assert train[:, 2].abs().sum(-1).min() > 0
    other = torch.randn_like(tokens)
    torch.testing.assert_close(expert(other, mask)[:, 2], train[:, 2], rtol=0, atol=0)
    train[:, 2].sum().backward()
    grads = {n: p.grad for n, p in expert.named_parameters() if p.grad is not None}
    assert all(torch.isfinite(g).all() for g in grads.values())
    assert any("bias" in n and g.abs().sum() > 0 for n, g in grads.items())


@pytest.mark.parametrize("name", COMPRESSORS)
def test_every_expert_learns_and_layers_are_independent(name: str) -> None:
    expert, (tokens, mask) = make(name), tokens_and_mask(4)
    for layer in range(3):
        expert.zero_grad()
        (expert(tokens, mask)[layer] * torch.randn(7, 5)).sum().backward()
        for parameter_name, parameter in expert.named_parameters():
            reach = parameter.grad.flatten(1).abs().sum(1) > 0
            assert reach.tolist() == [other == layer for other in range(3)], parameter_name


def test_dropout_acts_in_training_only() -> None:
    for name in COMPRESSORS:
        expert, (tokens, mask) = make(name, dropout=0.5), tokens_and_mask(5)
        assert not torch.equal(expert(tokens, mask), expert(tokens, mask))
        expert.eval()
        assert torch.equal(expert(tokens, mask), expert(tokens, mask))


@pytest.mark.parametrize(
    ("old", "new"), [((), (1,)), ((0,), ()), ((0, 1), (1,)), ((0,), (4,)), ((-1,), (0,))]
)
def test_groups_that_cannot_be_compared_are_refused(
    old: tuple[int, ...], new: tuple[int, ...]
) -> None:
    with pytest.raises(ConfigError, match="slots from 0 to 3"):
        PairCompressor(layers=1, slots=4, features=6, dim=5, old=old, new=new)


def test_bad_names_and_numbers_are_named() -> None:
    with pytest.raises(ConfigError, match="'attention'; give one of latent, mlp, mean"):
        make("attention")
    with pytest.raises(ConfigError, match="`queries` is 0"):
        make("latent", queries=0)
