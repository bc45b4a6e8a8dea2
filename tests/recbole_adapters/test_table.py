"""The item table behaves as the ``nn.Embedding`` that it stands in for."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from linkedout_lightning import LinkedOutItemEncoder
from linkedout_lightning.errors import ConfigError
from recbole_adapters.table import IdentityEncoder, ItemTable, Projected, all_held

N, H = 9, 6


class Linear(nn.Module):
    """An encoder whose rows are computed, with a loss of its own and a dropout."""

    num_items, dim = N, H

    def __init__(self) -> None:
        super().__init__()
        self.features = torch.randn(N + 1, 4, generator=torch.Generator().manual_seed(1))
        self.map = nn.Linear(4, H)
        self.last: Tensor | None = None

    def all_items(self) -> Tensor:
        rows = self.map(self.features)
        self.last = rows.square().mean() if self.training else None
        return rows

    def auxiliary_loss(self) -> Tensor | None:
        return self.last


@pytest.fixture
def embedding() -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(N + 1, H, padding_idx=0)


def test_identity_table_is_the_embedding_with_its_gradients(embedding: nn.Embedding) -> None:
    with torch.no_grad():
        embedding.weight[0] = 1.0  # RecBole fills the padding's row
    table = ItemTable(IdentityEncoder(embedding.weight), like=embedding)
    ids = torch.tensor([[0, 3, 3], [9, 0, 1]])
    losses = []
    for module in (embedding, table):
        logits = module(ids).sum(1) @ module.weight.T
        losses.append(nn.functional.cross_entropy(logits, torch.tensor([2, 5])))
        losses[-1].backward()
    assert losses[0] == losses[1]
    assert torch.equal(table.encoder.weight.grad, embedding.weight.grad)
    assert (table.num_embeddings, table.embedding_dim, table.padding_idx) == (N + 1, H, 0)


def test_a_lookup_of_padding_only_gives_no_gradient(embedding: nn.Embedding) -> None:
    table = ItemTable(IdentityEncoder(embedding.weight), like=embedding)
    table(torch.zeros(3, dtype=torch.long)).sum().backward()
    assert not table.encoder.weight.grad.any()


def test_held_encodes_once_and_lets_go_of_the_graph(embedding: nn.Embedding) -> None:
    table = ItemTable(Linear(), like=embedding).train()
    with all_held([table]):
        first = table.weight
        with table.held():
            assert table.weight is first
        (table(torch.tensor([1, 2])).sum() + table.auxiliary_loss()).backward()
        gone = weakref.ref(first)
        del first
    gc.collect()
    assert table.encodings == 1
    assert gone() is None
    table(torch.tensor([1])).sum().backward()  # a new graph
    assert table.encodings == 2


def test_held_lets_go_after_an_error(embedding: nn.Embedding) -> None:
    table = ItemTable(Linear(), like=embedding).train()
    with pytest.raises(IndexError), table.held():
        table(torch.tensor([N + 1]))
    with table.held():
        _ = table.weight
    assert table.encodings == 2


def test_evaluation_encodes_again_only_when_something_changed(embedding: nn.Embedding) -> None:
    table = ItemTable(Linear(), like=embedding).eval()
    with torch.no_grad():
        rows = table.weight
        assert table.weight is rows
        assert torch.equal(table(torch.tensor([4])), rows[[4]])
        for change in (
            lambda: table.encoder.map.weight.add_(1.0),
            lambda: table.load_state_dict({k: v + 1 for k, v in table.state_dict().items()}),
            lambda: setattr(table.encoder.map, "bias", nn.Parameter(torch.ones(H))),
        ):
            before = table.encodings
            change()
            assert not torch.equal(table.weight, rows)
            rows = table.weight
            assert table.encodings == before + 1
    assert table.weight.requires_grad  # with gradients wanted nothing is kept
    assert table.weight is not rows


def test_rows_of_inference_mode_stay_there(embedding: nn.Embedding) -> None:
    table = ItemTable(Linear(), like=embedding).eval()
    with torch.inference_mode():
        assert table.weight.is_inference()
    with torch.no_grad():
        assert not table.weight.is_inference()


@pytest.mark.parametrize("training", [True, False])
def test_autocast_leaves_the_rows_in_the_dtype_of_a_table(
    embedding: nn.Embedding, training: bool
) -> None:
    table = ItemTable(Linear(), like=embedding).train(training)
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(training):
        rows = table.weight
        assert rows.dtype == embedding(torch.tensor([1])).dtype == torch.float32
    with torch.no_grad():
        exact = table.eval().weight
    assert not torch.equal(exact, rows)  # the coarser rows are not kept
    torch.testing.assert_close(exact, rows, atol=0.05, rtol=0.05)


def test_extra_rows_are_learned(embedding: nn.Embedding) -> None:
    like = nn.Embedding(N + 2, H, padding_idx=0)  # with a [MASK]
    table = ItemTable(IdentityEncoder(like.weight[: N + 1]), like=like)
    assert torch.equal(table.weight, like.weight)
    table(torch.tensor([N + 1])).sum().backward()
    assert table.extra is not None
    assert table.extra.grad.eq(1).all()
    assert set(table.state_dict()) == {"extra", "encoder.weight"}


def test_an_encoder_that_does_not_fit(embedding: nn.Embedding) -> None:
    for rows, width in ((N + 1, H + 1), (N + 2, H)):
        encoder = IdentityEncoder(torch.zeros(rows, width))
        with pytest.raises(ConfigError, match=rf"{rows - 1} items of width {width}; .*{N} items"):
            ItemTable(encoder, like=embedding)


def test_rows_cannot_be_set(embedding: nn.Embedding) -> None:
    table = ItemTable(Linear(), like=embedding)
    for value in (torch.zeros(N + 1, H), nn.Parameter(torch.zeros(N + 1, H))):
        with pytest.raises(AttributeError, match="come from its item encoder"):
            table.weight = value
    with pytest.raises(RuntimeError, match="leaf"):
        table.weight.requires_grad = False
    table.requires_grad_(False)
    assert not table.weight.requires_grad


def test_copies_and_pickles_go_their_own_way(embedding: nn.Embedding) -> None:
    features = torch.randn(N, 2, 1, 8, generator=torch.Generator().manual_seed(2))
    encoder = LinkedOutItemEncoder.from_features(features, dim=H, rank=4, balance_weight=0.1)
    table = ItemTable(encoder, like=embedding).train()
    with table.held():
        rows = table.weight  # the table now belongs to a graph, which cannot be copied
        copied, thawed = copy.deepcopy(table), pickle.loads(pickle.dumps(table))
        for twin in (copied, thawed):
            assert torch.equal(twin.weight, rows)
            assert twin.weight is not twin.weight  # nothing is held there
    assert copied.encoder._table._tokens is encoder._table._tokens  # features are not copied
    with torch.no_grad():
        copied.encoder.scale.add_(1.0)
        assert not torch.equal(copied.eval().weight, table.eval().weight)


def test_auxiliary_loss_is_that_of_the_step_at_hand(embedding: nn.Embedding) -> None:
    table = ItemTable(Linear(), like=embedding).train()
    with table.held():
        assert table.auxiliary_loss() is None  # nobody has looked anything up
        _ = table.weight
        assert table.auxiliary_loss() is not None
    assert table.auxiliary_loss() is None  # of a step that is over
    with table.held():
        assert table.auxiliary_loss() is None


def test_projected_is_a_linear_map_of_the_encoder(embedding: nn.Embedding) -> None:
    narrow: Any = Linear()
    projected = Projected(narrow, 3).train()
    assert torch.equal(projected.all_items(), narrow.all_items() @ projected.projection.weight.T)
    assert projected.auxiliary_loss() is narrow.last
    assert (projected.num_items, projected.dim) == (N, 3)


def test_a_compiled_model_reads_it(embedding: nn.Embedding) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items = ItemTable(Linear(), like=embedding)

        def forward(self, ids: Tensor) -> Tensor:
            return self.items(ids).sum(1) @ self.items.weight.T

    model = Model()
    ids = torch.tensor([[1, 2], [3, 0]])
    wanted = model(ids)
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(ids), wanted)
    compiled(ids).sum().backward()
    assert model.items.encoder.map.weight.grad.any()
