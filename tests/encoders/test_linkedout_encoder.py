"""LinkedOutItemEncoder: vectors, gates, new items, ID fusion."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from encoder_catalogue import LAYERS, SLOTS, WIDTH, Catalogue, build, make_features
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from linkedout_lightning.encoders import ItemEncoder, LinkedOutItemEncoder, parameter_counts
from linkedout_lightning.fusion import effective_rank, mean_cosine

FUSERS = ("moe", "last", "layer:1", "mean", "concat", "weighted-sum", "dff")
COMPRESSORS = ("latent", "mlp", "mean")
FUSIONS = ("none", "add", "concat", "gate")


@pytest.mark.parametrize("id_fusion", FUSIONS)
@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("fuser", FUSERS)
def test_every_combination_trains_and_agrees_with_itself(
    catalogue: Catalogue, fuser: str, compressor: str, id_fusion: str
) -> None:
    encoder = build(
        catalogue, fuser=fuser, compressor=compressor, id_fusion=id_fusion, chunk_items=7
    )
    assert isinstance(encoder, ItemEncoder)
    table = encoder.all_items()
    assert table.shape == (61, 8)
    (table * torch.randn(61, 8)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name  # or DDP would stop
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name

    encoder.eval()
    table = encoder.all_items()
    index = torch.randint(0, 61, (2, 3, 5))
    torch.testing.assert_close(encoder(index), table[index], atol=1e-5, rtol=1e-5)
    assert not table[0].any()
    assert torch.isfinite(table).all()
    if fuser != "concat":
        gates = encoder.gates(index)
        assert gates.shape == (2, 3, 5, len(encoder.layers))
        torch.testing.assert_close(gates.sum(-1), (index > 0).float())


def test_one_item_by_hand(catalogue: Catalogue) -> None:
    """The whole way for one item, from the modules that have loops of their own as oracles."""
    encoder = build(catalogue, compressor="mean").eval()
    row = 9
    x, mask = catalogue.features[row], catalogue.mask[row]
    experts = []
    encoder.prepare()
    for layer in range(LAYERS):
        z = [
            (x[layer, s] - encoder.whitening.mean[layer, s]) @ encoder.whitening.projection[layer]
            for s in range(SLOTS)
            if mask[s]
        ]
        linear = encoder.compressor.linear
        experts.append(torch.stack(z).mean(0) @ linear.weight[layer] + linear.bias[layer])
    gates = encoder.gates(torch.tensor(row + 1))
    wanted = sum(gates[k] * experts[k] for k in range(LAYERS)) * encoder.scale
    torch.testing.assert_close(encoder(torch.tensor(row + 1)), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("fuser", "position"), [("last", 2), ("layer:1", 1), ("layer:0", 0)])
def test_a_single_layer_has_no_parameter_and_no_token_of_the_others(
    catalogue: Catalogue, fuser: str, position: int
) -> None:
    encoder = build(catalogue, fuser=fuser)
    assert encoder.layers == (position,)
    assert encoder.compressor.project.linear.weight.shape[0] == 1
    assert encoder.frozen_bytes == 4 * 61 * SLOTS * 12
    before = encoder.eval().all_items()
    features = catalogue.features.clone()
    others = [k for k in range(LAYERS) if k != position]
    features[:, others] = torch.randn(60, 2, SLOTS, WIDTH)
    changed = build(catalogue._replace(features=features), fuser=fuser).eval().all_items()
    assert torch.equal(before, changed)


def test_layers_may_be_chosen_and_repeated(catalogue: Catalogue) -> None:
    copies = build(catalogue, use_layers=[2, 2, 2])
    all_layers = build(catalogue)
    assert copies.layers == (2, 2, 2)
    assert parameter_counts(copies) == parameter_counts(all_layers)
    assert torch.equal(
        copies.whitening.fit([(catalogue.features[:, [2] * 3], catalogue.mask)]).mean[0],
        copies.whitening.mean[2],
    )
    new = make_features(4, seed=3)
    assert copies.encode_features(new).shape == (4, 8)  # features as the store has them


def test_only_training_items_shape_the_whitening(catalogue: Catalogue) -> None:
    one = build(catalogue)
    features = catalogue.features.clone()
    features[~catalogue.train] = 1000 * torch.randn(features[~catalogue.train].shape)
    two = build(catalogue._replace(features=features))
    one.prepare()
    two.prepare()
    assert torch.equal(one.whitening.projection, two.whitening.projection)
    assert torch.equal(one.whitening.mean, two.whitening.mean)

    encoder = build(catalogue, rank=WIDTH, shrinkage=0.0)
    encoder.prepare()
    z = encoder.whitening(catalogue.features[catalogue.train], catalogue.mask[catalogue.train])
    valid = catalogue.mask[catalogue.train]
    for layer in range(LAYERS):
        tokens = z[layer][valid].double()
        cov = tokens.T @ tokens / len(tokens)
        torch.testing.assert_close(cov, torch.eye(WIDTH).double(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("id_fusion", FUSIONS)
@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_a_new_item_is_encoded_as_a_cold_item_of_the_catalogue(
    catalogue: Catalogue, compressor: str, id_fusion: str
) -> None:
    encoder = build(catalogue, compressor=compressor, id_fusion=id_fusion).eval()
    with torch.no_grad():
        if encoder.ids is not None:
            encoder.ids.no_id.normal_()
    cold = (~catalogue.train).nonzero().flatten()
    new = encoder.encode_features(catalogue.features[cold], catalogue.mask[cold])
    torch.testing.assert_close(new, encoder(cold + 1), atol=1e-5, rtol=1e-5)
    warm = catalogue.train.nonzero().flatten()
    same = torch.allclose(
        encoder.encode_features(catalogue.features[warm], catalogue.mask[warm]),
        encoder(warm + 1),
        atol=1e-5,
    )
    assert same == (id_fusion == "none")


def test_masked_slots_never_matter_even_nan(catalogue: Catalogue) -> None:
    valid = catalogue.mask[:, None, :, None]
    dirty = torch.where(valid, catalogue.features, torch.nan)
    one, two = build(catalogue).eval(), build(catalogue._replace(features=dirty)).eval()
    assert torch.equal(one.all_items(), two.all_items())
    assert torch.equal(
        one.encode_features(catalogue.features, catalogue.mask),
        one.encode_features(dirty, catalogue.mask),
    )


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_an_item_without_any_slot_is_finite_and_alike_in_both_modes(
    catalogue: Catalogue, compressor: str
) -> None:
    encoder = build(catalogue, compressor=compressor)
    empty = torch.tensor([4])  # the fixture's fourth item
    assert not catalogue.mask[3].any()
    trained = encoder.train()(empty)
    assert torch.isfinite(trained).all()
    assert trained.abs().sum() > 0
    assert torch.equal(trained, encoder.eval()(empty))
    only = encoder.encode_features(
        torch.full((1, LAYERS, SLOTS, WIDTH), torch.nan), ~catalogue.mask[:1]
    )
    torch.testing.assert_close(only, trained)


def test_items_start_with_sane_norms_and_isotropic(catalogue: Catalogue) -> None:
    features = make_features(800, seed=0)
    raw = features[:, 1, 0]
    assert mean_cosine(raw) > 0.8
    for compressor in COMPRESSORS:
        for output_norm in ("none", "layer", "unit"):
            torch.manual_seed(0)
            encoder = LinkedOutItemEncoder.from_features(
                features,
                dim=64,
                rank=24,
                compressor=compressor,
                new_slots=[1],
                output_norm=output_norm,
            )
            vectors = encoder.all_items()[1:].detach()
            assert abs(mean_cosine(vectors)) < 0.05
            assert effective_rank(vectors) > 25
            # The logit of a state of unit variance has about unit variance.
            assert 0.4 < vectors.norm(dim=1).mean() < 1.6
            if output_norm != "none":
                torch.testing.assert_close(
                    vectors.norm(dim=1), torch.ones(800), atol=1e-2, rtol=1e-2
                )


def test_top_k_uses_k_layers_and_all_layers_is_dense(catalogue: Catalogue) -> None:
    index = torch.arange(1, 61)
    assert ((build(catalogue, top_k=2).gates(index) > 0).sum(-1) == 2).all()
    assert torch.equal(build(catalogue, top_k=LAYERS)(index), build(catalogue)(index))


def test_auxiliary_loss_is_that_of_the_last_training_call(catalogue: Catalogue) -> None:
    assert build(catalogue).auxiliary_loss() is None
    encoder = build(catalogue, balance_weight=0.1, top_k=1, chunk_items=7)
    assert encoder.auxiliary_loss() is None
    encoder(torch.arange(1, 61))
    loss = encoder.auxiliary_loss()
    assert 0.1 <= loss.item() <= 0.1 * LAYERS
    loss.backward()
    assert encoder.fuser.gate.weight.grad.abs().sum() > 0
    encoder.all_items()  # in chunks, yet one loss over all
    torch.testing.assert_close(encoder.auxiliary_loss(), loss)
    encoder.eval()(torch.tensor([1]))
    assert encoder.auxiliary_loss() is None


@pytest.mark.parametrize("fuser", ["moe", "concat"])
def test_recompute_gives_the_same_gradients_with_dropout(catalogue: Catalogue, fuser: str) -> None:
    grads = []
    for recompute in (False, True):
        encoder = build(
            catalogue, fuser=fuser, recompute=recompute, chunk_items=13, dropout=0.3,
            id_fusion="concat", balance_weight=0.0 if fuser == "concat" else 0.1,
        )  # fmt: skip
        torch.manual_seed(1)
        loss = encoder.all_items().square().sum()
        loss = loss + (encoder.auxiliary_loss() or 0.0)
        loss.backward()
        grads.append({n: p.grad for n, p in encoder.named_parameters()})
    for name in grads[0]:
        torch.testing.assert_close(grads[0][name], grads[1][name], msg=name)


def test_id_dropout_shows_no_id_at_its_rate_and_only_in_training(catalogue: Catalogue) -> None:
    encoder = build(catalogue, id_fusion="add", id_dropout=0.3)
    with torch.no_grad():
        encoder.ids.no_id.fill_(7.0)
    known = (catalogue.train.nonzero().flatten() + 1).repeat(100)
    content = build(catalogue, id_fusion="none").eval()(known)
    hidden = (encoder(known) - content - 7.0).abs().amax(1) < 1e-4
    assert abs(hidden.float().mean() - 0.3) < 0.03
    hidden = (encoder.eval()(known) - content - 7.0).abs().amax(1) < 1e-4
    assert not hidden.any()
    catalogue_content = build(catalogue, id_fusion="none").eval().all_items()[1:]
    table = encoder.train().all_items()[1:]
    cold = ((table - catalogue_content - 7.0).abs().amax(1) < 1e-4)[~catalogue.train]
    assert cold.all()  # an item that is not trained on never has an id of its own


def test_dff_has_its_id_gate_unless_told_otherwise(catalogue: Catalogue) -> None:
    assert build(catalogue, fuser="dff").ids is not None
    assert build(catalogue, fuser="dff", id_fusion="none").ids is None
    assert build(catalogue).ids is None


def test_first_use_in_inference_mode_leaves_the_encoder_trainable(catalogue: Catalogue) -> None:
    encoder = build(catalogue)
    with torch.inference_mode():  # Lightning's sanity check
        encoder.all_items()
    encoder(torch.tensor([1, 2])).sum().backward()
    encoder.all_items().sum().backward()


def test_copies_share_the_tokens_and_carry_no_graph(catalogue: Catalogue) -> None:
    encoder = build(catalogue, balance_weight=0.1)
    encoder(torch.tensor([1, 2]))
    twin = copy.deepcopy(encoder)
    index = torch.arange(61)
    assert twin.auxiliary_loss() is None
    assert twin._table._tokens is encoder._table._tokens
    assert torch.equal(twin(index), encoder(index))
    # The copy goes its own way: other statistics for it change nothing in the original.
    before = encoder(index)
    state = twin.state_dict()
    state["whitening.projection"] = state["whitening.projection"] * 2
    twin.load_state_dict(state)
    assert torch.equal(encoder(index), before)
    assert not torch.equal(twin(index), before)
    assert torch.equal(pickle.loads(pickle.dumps(encoder))(index), before)  # ddp_spawn


def test_half_precision(catalogue: Catalogue) -> None:
    full = build(catalogue).eval().all_items()
    half = build(catalogue, token_dtype=torch.bfloat16).eval()
    assert half.frozen_bytes == 2 * LAYERS * 61 * SLOTS * 12
    torch.testing.assert_close(half.all_items(), full, atol=0.02, rtol=0.05)
    new = half.encode_features(catalogue.features, catalogue.mask)
    torch.testing.assert_close(new, half.all_items()[1:], atol=1e-5, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = build(catalogue).all_items()
    torch.testing.assert_close(mixed.float(), full, atol=0.03, rtol=0.1)
    mixed.float().sum().backward()
    pure = build(catalogue).bfloat16()  # Trainer(precision="bf16-true")
    assert pure.all_items().dtype == torch.bfloat16
    assert pure.whitening.projection.dtype == torch.float32


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(shape=st.lists(st.integers(0, 3), max_size=3), chunk=st.integers(1, 70))
def test_any_index_shape_and_chunk(catalogue: Catalogue, shape: list[int], chunk: int) -> None:
    encoder = build(catalogue, chunk_items=chunk).eval()
    index = torch.randint(0, 61, shape)
    vectors = encoder(index)
    assert vectors.shape == (*shape, 8)
    torch.testing.assert_close(vectors, encoder.all_items()[index], atol=1e-5, rtol=1e-5)
    assert encoder.gates(index).shape == (*shape, LAYERS)


def test_many_training_items_are_thinned_evenly(catalogue: Catalogue) -> None:
    encoder = build(catalogue, max_fit_items=10)
    assert 0 < len(encoder._table._fit_rows) <= 10
    assert encoder.all_items().isfinite().all()


def oracle_tokens(encoder: LinkedOutItemEncoder) -> Tensor:
    return encoder._table.tokens(encoder.whitening).take(torch.arange(61), torch.float32)[0]


def test_the_padding_row_of_the_tokens_is_zero(catalogue: Catalogue) -> None:
    assert not oracle_tokens(build(catalogue))[:, 0].any()
