"""The ID table: padding, dropout of ids, unknown items."""

from __future__ import annotations

import pytest
import torch

from linkedout_lightning.encoders import IDItemEncoder, ItemEncoder, parameter_counts
from linkedout_lightning.errors import ConfigError, DataError


def test_it_is_a_plain_embedding_without_options() -> None:
    encoder = IDItemEncoder(10, dim=4)
    oracle = torch.nn.Embedding(11, 4, padding_idx=0)
    oracle.weight.data.copy_(encoder.weight.data)
    assert isinstance(encoder, ItemEncoder)
    index = torch.tensor([[0, 3, 10], [3, 3, 1]])
    assert torch.equal(encoder(index), oracle(index))
    assert torch.equal(encoder.all_items(), oracle.weight)
    scale = torch.randn(2, 3, 4)
    (encoder(index) * scale).sum().backward()
    (oracle(index) * scale).sum().backward()
    assert torch.equal(encoder.weight.grad, oracle.weight.grad)
    assert parameter_counts(encoder) == {"own": 44, "total": 44}


def test_padding_is_zero_whatever_the_table_holds() -> None:
    # RecBole and others overwrite all of a model's weights after construction.
    for encoder in (IDItemEncoder(5, dim=3), IDItemEncoder(5, dim=3, id_dropout=0.5)):
        torch.nn.init.ones_(encoder.weight)
        if encoder.no_id is not None:
            torch.nn.init.ones_(encoder.no_id)
        assert not encoder(torch.tensor([0])).any()
        table = encoder.all_items()
        assert not table[0].any()
        table.sum().backward()
        assert not encoder.weight.grad[0].any()


def test_hidden_ids_show_one_learned_vector_in_training_only() -> None:
    torch.manual_seed(0)
    encoder = IDItemEncoder(2000, dim=4, id_dropout=0.25)
    with torch.no_grad():
        encoder.no_id.fill_(9.0)
    for vectors in (encoder(torch.arange(1, 2001)), encoder.all_items()[1:]):
        hidden = (vectors == 9.0).all(1)
        assert abs(hidden.float().mean() - 0.25) < 0.03
        assert torch.equal(vectors[~hidden], encoder.weight[1:][~hidden])
        assert not vectors[hidden].ne(9.0).any()
    encoder.eval()
    assert torch.equal(encoder.all_items()[1:], encoder.weight[1:])
    assert torch.equal(encoder(torch.arange(1, 2001)), encoder.weight[1:])


def test_a_hidden_id_gets_no_gradient_and_the_no_id_vector_does() -> None:
    encoder = IDItemEncoder(100, dim=4, id_dropout=0.5)
    vectors = encoder(torch.arange(1, 101))
    hidden = (vectors == 0).all(1)  # no_id starts at zero
    vectors.sum().backward()
    assert not encoder.weight.grad[1:][hidden].any()
    assert (encoder.weight.grad[1:][~hidden] == 1).all()
    assert torch.equal(encoder.no_id.grad, hidden.sum() * torch.ones(4))


@pytest.mark.parametrize("with_padding", [False, True])
def test_items_outside_training_are_alike_in_both_modes(with_padding: bool) -> None:
    known = torch.tensor([True, False, True, False])
    given = torch.cat([torch.tensor([False]), known]) if with_padding else known
    encoder = IDItemEncoder(4, dim=3, train_items=given)
    with torch.no_grad():
        encoder.no_id.fill_(2.0)
    for mode in (True, False):
        table = encoder.train(mode).all_items()
        assert (table[[2, 4]] == 2).all()
        assert torch.equal(table[[1, 3]], encoder.weight[[1, 3]])
        assert torch.equal(encoder(torch.arange(5)), table)
    # Who is known travels with the checkpoint.
    other = IDItemEncoder(4, dim=3, train_items=torch.ones(4, dtype=torch.bool))
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other.all_items(), encoder.all_items())


def test_dropout_and_scale() -> None:
    encoder = IDItemEncoder(4000, dim=16, dropout=0.5, init_std=0.1)
    assert abs(encoder.weight[1:].std() - 0.1) < 0.005
    assert abs((encoder.all_items()[1:] == 0).float().mean() - 0.5) < 0.02
    assert torch.equal(encoder.eval().all_items()[1:], encoder.weight[1:])


@pytest.mark.parametrize("norm", ["none", "layer", "unit"])
def test_the_length_of_vectors_is_bound_and_that_of_no_id_is_free(norm: str) -> None:
    torch.manual_seed(0)
    known = torch.tensor([True] * 5 + [False])
    encoder = IDItemEncoder(6, dim=8, output_norm=norm, train_items=known)
    with torch.no_grad():
        encoder.no_id.fill_(9.0)
    weight = encoder.weight.detach()
    expected = {
        "none": weight,
        "layer": torch.nn.functional.layer_norm(weight, (8,)) * 8**-0.5,
        "unit": torch.nn.functional.normalize(weight, dim=-1),
    }[norm].clone()
    expected[0], expected[6] = 0.0, 9.0
    table = encoder.all_items()
    torch.testing.assert_close(table, expected)
    index = torch.tensor([[0, 6], [3, 1]])
    torch.testing.assert_close(encoder(index), table[index])
    (table * torch.randn(7, 8)).sum().backward()
    assert encoder.weight.grad.isfinite().all()
    assert not encoder.weight.grad[[0, 6]].any()
    assert encoder.weight.grad[1:6].any(1).all()
    assert f"output_norm={norm}" in repr(encoder)


def test_bad_input_is_named() -> None:
    with pytest.raises(ConfigError, match="`num_items` is 0"):
        IDItemEncoder(0)
    with pytest.raises(ConfigError, match=r"`id_dropout` is 1\.5"):
        IDItemEncoder(3, id_dropout=1.5)
    with pytest.raises(ConfigError, match="`output_norm` is 'batch'; give one of none, layer"):
        IDItemEncoder(3, output_norm="batch")
    with pytest.raises(ConfigError, match=r"give bool of shape \(3,\), or \(4,\)"):
        IDItemEncoder(3, train_items=torch.ones(5, dtype=torch.bool))
    with pytest.raises(ConfigError, match=r"shape \(4,\) and is True in row 0.*padding's"):
        IDItemEncoder(3, train_items=torch.ones(4, dtype=torch.bool))
    with pytest.raises(DataError, match="item index 4 is out of range"):
        IDItemEncoder(3)(torch.tensor([4]))
