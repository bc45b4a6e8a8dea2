"""The exact search against sorting everything, and what smaller numbers cost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.serving import exact
from linkedout_lightning.serving.exact import top_k
from linkedout_lightning.serving.table import VectorTable


@given(
    size=st.integers(1, 90),
    users=st.integers(1, 4),
    k=st.integers(1, 100),
    chunk=st.integers(1, 40),
    seed=st.integers(0, 1000),
    share=st.floats(0, 1),
)
def test_it_is_the_full_sort(
    size: int, users: int, k: int, chunk: int, seed: int, share: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Whole numbers: products are exact, and there are many ties.
    vectors = torch.randint(-3, 4, (size, 3), generator=generator).float()
    queries = torch.randint(-3, 4, (users, 3), generator=generator).float()
    banned = (torch.rand(size, generator=generator) < share).nonzero().flatten()
    kept = exact._SMALLEST, exact._CELLS
    exact._SMALLEST, exact._CELLS = chunk, 0
    try:
        scores, rows = top_k(VectorTable.of(vectors), queries, k, banned=banned)
    finally:
        exact._SMALLEST, exact._CELLS = kept
    whole = queries @ vectors.T
    whole[:, banned] = -torch.inf
    assert torch.equal(scores, whole.sort(dim=1, descending=True).values[:, :k])
    assert torch.equal(scores, whole.gather(1, rows))
    for row in rows:
        assert len(row.unique()) == len(row)


def test_cosines() -> None:
    vectors, queries = torch.randn(50, 4), torch.nn.functional.normalize(torch.randn(2, 4))
    scores, rows = top_k(VectorTable.of(vectors), queries, 5, factor=1 / vectors.norm(dim=1))
    whole = torch.cosine_similarity(queries[:, None], vectors[None], dim=2)
    torch.testing.assert_close(scores, whole.topk(5).values)
    assert torch.equal(rows, whole.topk(5).indices)


def test_int8_is_within_half_a_step() -> None:
    vectors = torch.randn(100, 16) * torch.logspace(-3, 3, 100)[:, None]
    vectors[7] = 0
    table = VectorTable.of(vectors, "int8")
    step = vectors.abs().amax(1, keepdim=True) / 127
    assert bool(((table.all() - vectors).abs() <= step / 2 * 1.001).all())
    assert table.nbytes == 100 * (16 + 4)
    assert torch.equal(table.take(torch.tensor([7])), torch.zeros(1, 16))


@pytest.mark.parametrize(("dtype", "least"), [("float16", 0.999), ("int8", 0.96)])
def test_recall_of_smaller_numbers(dtype: str, least: float) -> None:
    torch.manual_seed(0)
    vectors, queries = torch.randn(20_000, 64), torch.randn(100, 64)
    _, true = top_k(VectorTable.of(vectors), queries, 10)
    _, found = top_k(VectorTable.of(vectors, dtype), queries, 10)
    recall = (true[:, :, None] == found[:, None, :]).any(2).float().mean()
    assert recall >= least


def test_scores_of_int8_are_those_of_its_vectors() -> None:
    table, queries = VectorTable.of(torch.randn(30, 8), "int8"), torch.randn(3, 8)
    torch.testing.assert_close(table.scores(queries, 5, 20), queries @ table.all()[5:20].T)
    both = table.joined(VectorTable.of(torch.randn(4, 8), "int8"))
    assert torch.equal(both.kept(torch.arange(30)).all(), table.all())


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ConfigError, match="float64"):
        VectorTable.of(torch.randn(3, 2), "float64")
