"""Oracles: the plain formulas, and the published MicroLens loss as its code writes it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from linkedout_lightning.sequence import (
    NegativeSampler,
    full_loss,
    in_batch_loss,
    sampled_loss,
)
from linkedout_lightning.sequence.softmax import softmax_nll


def _gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, inputs))


@pytest.mark.parametrize("chunk_size", [1, 7, 64, None])
@pytest.mark.parametrize("biased", [False, True])
def test_chunked_softmax_equals_cross_entropy_in_value_and_gradient(chunk_size, biased):
    torch.manual_seed(0)
    states = torch.randn(23, 8, dtype=torch.float64, requires_grad=True)
    items = torch.randn(31, 8, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 31, (23,))
    options, logits = {}, states @ items.T
    if biased:
        bias, own = torch.randn(31, dtype=torch.float64), torch.randn(23, dtype=torch.float64)
        bias[5] = -torch.inf
        target[target == 5] = 6
        excluded = torch.randint(0, 31, (23, 4))
        options = {"bias": bias, "target_bias": own, "excluded": excluded}
        is_label = F.one_hot(target, 31).bool()
        out = torch.zeros(23, 31, dtype=torch.bool).scatter(1, excluded, True) & ~is_label
        logits = (logits + bias + is_label * own[:, None]).masked_fill(out, -torch.inf)
    expected = F.cross_entropy(logits, target)
    found = softmax_nll(states, items, target, chunk_size=chunk_size, **options)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        _gradients(3 * found, states, items), _gradients(3 * expected, states, items), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_chunked_softmax_without_rows_is_zero_with_zero_gradients():
    states = torch.randn(0, 4, requires_grad=True)
    items = torch.randn(5, 4, requires_grad=True)
    loss = softmax_nll(states, items, torch.empty(0, dtype=torch.int64))
    assert loss.item() == 0
    assert _gradients(loss, states, items)[1].abs().max() == 0


def test_chunked_softmax_survives_huge_logits():
    states = torch.tensor([[1e4, 0.0], [0.0, 1e4]], requires_grad=True)
    items = torch.eye(2, requires_grad=True)
    loss = softmax_nll(states, items, torch.tensor([0, 0]))
    torch.testing.assert_close(loss, torch.tensor(5e3))
    assert _gradients(loss, items)[0].isfinite().all()


def test_chunked_softmax_under_autocast_is_near_float32():
    torch.manual_seed(0)
    states = torch.randn(300, 32, requires_grad=True)
    items = (torch.randn(500, 32) * 0.2).requires_grad_()
    target = torch.randint(0, 500, (300,))
    exact = softmax_nll(states, items, target)
    with torch.autocast("cpu", torch.bfloat16):
        rough = softmax_nll(states, items, target, chunk_size=100)
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=5e-3)
    for ours, theirs in zip(
        _gradients(rough, states, items), _gradients(exact, states, items), strict=True
    ):
        assert ours.dtype == torch.float32
        assert F.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.999


def test_full_loss_is_cross_entropy_over_the_catalogue_without_padding():
    torch.manual_seed(0)
    states = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    table = torch.randn(13, 4, dtype=torch.float64, requires_grad=True)
    target = torch.randint(1, 13, (9,))
    expected = F.cross_entropy((states @ table.T)[:, 1:], target - 1)
    found = full_loss(states, table, target, chunk_size=2)
    torch.testing.assert_close(found, expected)
    ours, theirs = (_gradients(x, states, table) for x in (found, expected))
    torch.testing.assert_close(ours, theirs)
    assert ours[1][0].abs().max() == 0


def _microlens_loss(items: Tensor, states: Tensor, table: Tensor, popularity: Tensor) -> Tensor:
    """As the authors' `model.py` does it: a column for every position of the batch, loops and all.

    `states` (B, M, H) belong to the inputs items[:, :-1].
    """
    batch, length = items.shape
    flat = items.flatten()
    logits = (states.reshape(-1, states.shape[-1]) @ table[flat].T) - popularity.log()[flat]
    logits = logits.view(batch, length - 1, -1)
    logits = logits.masked_fill(flat == 0, -1e4)
    labels = torch.empty(batch, length - 1, dtype=torch.int64)
    rows = []
    for i in range(batch):
        own = (flat[:, None] == items[i][None, :]).any(1)  # columns of this user's items
        for j in range(length - 1):
            mask = own.clone()
            labels[i, j] = i * length + j + 1
            mask[labels[i, j]] = False
            rows.append(logits[i, j].masked_fill(mask, -1e4))
    valid = (items[:, :-1] != 0).flatten()
    return F.cross_entropy(torch.stack(rows)[valid], labels.flatten()[valid])


def test_in_batch_loss_is_the_published_one_term_for_term():
    torch.manual_seed(0)
    # Repeats within and between users; the second user bought item 3 twice.
    items = torch.tensor([[0, 0, 1, 2, 3], [3, 4, 3, 5, 2], [0, 6, 1, 2, 7], [0, 0, 0, 8, 1]])
    table = torch.randn(10, 6, dtype=torch.float64, requires_grad=True)
    states = torch.randn(4, 4, 6, dtype=torch.float64, requires_grad=True)
    counts = torch.tensor([0, 9, 4, 7, 2, 2, 1, 1, 1, 3], dtype=torch.float64)
    popularity = (counts / counts.sum()).clone()
    popularity[0] = 1.0  # the authors' padding; its columns are masked anyway
    expected = _microlens_loss(items, states, table, popularity)

    inputs, targets = items[:, :-1], items[:, 1:]
    distinct, columns, copies = torch.unique(items, return_inverse=True, return_counts=True)
    log_popularity = popularity[distinct].log()
    log_popularity[distinct == 0] = torch.inf
    real = ((inputs != 0) & (targets != 0)).flatten().nonzero().squeeze(1)
    found = in_batch_loss(
        states.flatten(0, 1)[real],
        table[distinct],
        columns[:, 1:].flatten()[real],
        log_popularity=log_popularity,
        multiplicity=copies,
        own_columns=columns[real // inputs.shape[1]],
        chunk_size=3,
    )
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        _gradients(found, states, table), _gradients(expected, states, table)
    )


def test_sampled_loss_is_its_formula():
    torch.manual_seed(0)
    table = torch.randn(12, 5, dtype=torch.float64)
    states = torch.randn(4, 5, dtype=torch.float64)
    target = torch.tensor([1, 4, 4, 11])
    drawn = torch.tensor([4, 2, 9, 2, 11])
    log_expected = torch.randn(12, dtype=torch.float64)
    terms = []
    for s, t in zip(states, target.tolist(), strict=True):
        own = float(s @ table[t])
        others = [
            math.exp(float(s @ table[j]) - float(log_expected[j])) for j in drawn.tolist() if j != t
        ]
        terms.append(-own + math.log(math.exp(own) + sum(others)))
    found = sampled_loss(
        states,
        table[target],
        table[drawn],
        target=target,
        negative_items=drawn,
        log_expected=log_expected[drawn],
    )
    assert found.item() == pytest.approx(sum(terms) / 4, rel=1e-6)


def test_sampled_loss_with_every_item_drawn_once_is_the_full_loss():
    torch.manual_seed(0)
    table, states = torch.randn(12, 5), torch.randn(6, 5)
    target, drawn = torch.randint(1, 12, (6,)), torch.arange(1, 12)
    found = sampled_loss(
        states,
        table[target],
        table[drawn],
        target=target,
        negative_items=drawn,
        log_expected=torch.zeros(11),  # 11 draws, each item once on average
    )
    torch.testing.assert_close(found, full_loss(states, table, target))


@pytest.mark.parametrize("sampling", ["uniform", "popularity"])
def test_the_sampled_sum_is_an_unbiased_estimate_of_the_catalogue(sampling):
    torch.manual_seed(0)
    counts = torch.tensor([0, 5, 1, 30, 2, 8])
    scores = torch.tensor([0.0, 0.5, 1.0, -0.5, 2.0, 0.1])
    sampler = NegativeSampler(5, draws=200_000, sampling=sampling, counts=counts)
    items, log_expected = sampler()
    estimate = (scores[items] - log_expected).exp().sum()
    assert estimate.item() == pytest.approx(scores[1:].exp().sum().item(), rel=0.02)
    share = counts / counts.sum() if sampling == "popularity" else (counts > 0) / 5
    found = torch.bincount(items, minlength=6) / 200_000
    torch.testing.assert_close(found, share.float(), atol=5e-3, rtol=0)


def test_popularity_never_draws_what_was_never_chosen():
    counts = torch.tensor([7, 0, 3, 0, 1, 0])  # padding's own count is not looked at
    items, log_expected = NegativeSampler(5, draws=5000, sampling="popularity", counts=counts)()
    assert set(items.tolist()) == {2, 4}
    assert log_expected.isfinite().all()


def test_sampler_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="unknown sampling 'zipf'"):
        NegativeSampler(5, draws=3, sampling="zipf")
    with pytest.raises(ValueError, match="training counts"):
        NegativeSampler(5, draws=3, sampling="popularity")
    with pytest.raises(ValueError, match="positive"):
        NegativeSampler(5, draws=0)


@pytest.mark.parametrize("loss", ["full", "sampled"])
def test_items_that_training_never_saw_are_no_candidates_where_asked(loss):
    from linkedout_lightning.encoders import IDItemEncoder
    from linkedout_lightning.sequence import SASRec
    from linkedout_lightning.sequence.objective import NextItemObjective

    counts = torch.tensor([0, 3, 0, 2, 1, 0, 4])
    items = torch.tensor([[0, 1, 3, 4], [6, 4, 3, 1]])
    torch.manual_seed(0)
    encoder, backbone = IDItemEncoder(6, dim=8), SASRec(8, max_len=3, dropout=0.0)
    for candidates in ("all", "trained"):
        objective = NextItemObjective(
            loss, num_items=6, counts=counts, candidates=candidates, negatives=200
        )
        encoder.zero_grad()
        value = objective(encoder, backbone, items).value
        value.backward()
        untouched = (encoder.weight.grad.abs().sum(1) == 0)[1:].tolist()
        cold = [False, True, False, False, True, False]
        assert untouched == (cold if candidates == "trained" else [False] * 6)
    if loss == "full":  # by its formula: a softmax over four columns
        table = encoder.all_items()
        terms = []
        for row in items:
            row = row[row != 0]
            mask = torch.ones(1, len(row) - 1, dtype=torch.bool)
            states = backbone(table[row[:-1]][None], mask)[0]
            for state, wanted in zip(states, row[1:].tolist(), strict=True):
                column = [1, 3, 4, 6].index(wanted)
                terms.append(F.cross_entropy(table[[1, 3, 4, 6]] @ state, torch.tensor(column)))
        torch.testing.assert_close(value, torch.stack(terms).mean())


def test_counts_are_asked_for_where_candidates_depend_on_them():
    from linkedout_lightning.errors import ConfigError
    from linkedout_lightning.sequence.objective import NextItemObjective

    for loss in ("full", "sampled"):
        assert NextItemObjective(loss, num_items=5, candidates="trained").needs_counts
        assert not NextItemObjective(loss, num_items=5).needs_counts
    with pytest.raises(ConfigError, match="`candidates` is 'warm'; give one of all, trained"):
        NextItemObjective("full", num_items=5, candidates="warm")
