"""Oracles: torch's own layers with the same weights, and the published parameter count."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from linkedout_lightning.sequence import (
    BACKBONES,
    GRU4Rec,
    NextItNet,
    SASRec,
    SequenceBackbone,
    build_backbone,
)
from linkedout_lightning.sequence.backbones import last_state
from linkedout_lightning.sequence.packing import Packing

DIM, LENGTH = 16, 6


def _padded(lengths: list[int], length: int = LENGTH) -> tuple[Tensor, Tensor]:
    mask = torch.arange(length) >= length - torch.tensor(lengths)[:, None]
    return torch.randn(len(lengths), length, DIM), mask


def _build(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return build_backbone(name, DIM, max_len=10, **options)


EACH = pytest.mark.parametrize("name", BACKBONES)


@EACH
def test_train_and_eval_give_the_same_states_without_dropout(name):
    model = _build(name, dropout=0.0)
    x, mask = _padded([0, 1, 3, 6])
    trained = model.train()(x, mask)
    with torch.no_grad():  # torch's own fused encoder path needs both of these
        evaluated = model.eval()(x, mask)
    torch.testing.assert_close(trained, evaluated, rtol=0, atol=0)


@EACH
def test_dropout_works_in_training_only(name):
    model = _build(name, dropout=0.5)
    x, mask = _padded([4, 6])
    assert not torch.equal(model.train()(x, mask), model(x, mask))
    assert torch.equal(model.eval()(x, mask), model(x, mask))


@EACH
def test_trimming_padding_changes_nothing(name):
    model = _build(name).eval()
    x, mask = _padded([1, 3, 2], 9)
    whole, trimmed = model(x, mask), model(x[:, -3:], mask[:, -3:])
    torch.testing.assert_close(whole[:, -3:], trimmed, rtol=1e-5, atol=1e-6)


@EACH
def test_what_stands_in_padding_does_not_matter_and_its_states_are_zero(name):
    model = _build(name).eval()
    x, mask = _padded([0, 2, 6])
    states = model(x, mask)
    noisy = model(torch.where(mask[..., None], x, torch.randn_like(x)), mask)
    torch.testing.assert_close(states, noisy, rtol=0, atol=0)
    assert (states[~mask] == 0).all()
    assert states.isfinite().all()


@EACH
def test_states_are_causal(name):
    model = _build(name).eval()
    x, mask = _padded([5, 6])
    before = model(x, mask)
    x[:, -2] = torch.randn(2, DIM)  # adding a constant would vanish in the LayerNorm
    after = model(x, mask)
    torch.testing.assert_close(before[:, :-2], after[:, :-2], rtol=0, atol=0)
    assert not torch.allclose(before[:, -1], after[:, -1])


@EACH
def test_users_do_not_see_each_other(name):
    model = _build(name).eval()
    x, mask = _padded([2, 6, 4])
    together = model(x, mask)
    alone = torch.cat([model(x[i : i + 1], mask[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@EACH
def test_last_state_is_the_last_of_all_states(name):
    model = _build(name).eval()
    x, mask = _padded([0, 1, 4, 6])
    torch.testing.assert_close(
        last_state(model, x, mask), model(x, mask)[:, -1], rtol=1e-5, atol=1e-6
    )


@EACH
def test_an_empty_batch_of_items_gives_finite_zero_states_and_gradients(name):
    model = _build(name)
    x, mask = _padded([0, 0])
    states = model(x, mask)
    states.sum().backward()
    assert (states == 0).all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@EACH
def test_gradients_reach_every_parameter_and_stay_finite_beside_empty_rows(name):
    model = _build(name)
    x, mask = _padded([0, 3, 6])
    (model(x, mask) ** 2).sum().backward()
    for parameter_name, p in model.named_parameters():
        assert p.grad is not None, parameter_name
        assert p.grad.isfinite().all(), parameter_name
        assert p.grad.abs().max() > 0, parameter_name


def test_a_module_without_last_state_serves_as_backbone():
    class Mean(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return x * mask[..., None]

    x, mask = _padded([2, 3])
    assert isinstance(Mean(), SequenceBackbone)
    assert torch.equal(last_state(Mean(), x, mask), x[:, -1])


def test_sasrec_has_the_parameters_that_microlens_reports():
    # Their table says 141M; their code gives 141,150,208 at d = 2048 with MicroLens-100K's items.
    with torch.device("meta"):
        model = SASRec(2048, max_len=10)
    count = sum(p.numel() for p in model.parameters())
    assert count + (19_738 + 1) * 2048 == 141_150_208


def test_sasrec_dense_equals_packed():
    packed = _build("sasrec").eval()
    dense = _build("sasrec", dense=True).eval()
    dense.load_state_dict(packed.state_dict())
    x, mask = _padded([0, 1, 4, 6])
    torch.testing.assert_close(dense(x, mask), packed(x, mask), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        dense.last_state(x, mask), packed.last_state(x, mask), rtol=1e-5, atol=1e-6
    )


def test_sasrec_dense_can_be_exported_and_takes_other_batch_sizes():
    model = _build("sasrec", dense=True).eval()
    x, mask = _padded([2, 6, 3])
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(
        model, (x, mask), dynamic_shapes={"x": {0: batch}, "mask": {0: batch}}
    )
    x, mask = _padded([1, 5, 6, 0, 2])
    torch.testing.assert_close(program.module()(x, mask), model(x, mask), rtol=1e-5, atol=1e-6)


def test_sasrec_block_is_torchs_post_norm_encoder_layer():
    model = SASRec(DIM, max_len=LENGTH, blocks=1, heads=2, dropout=0.0)
    block = model.blocks[0]
    with torch.no_grad():
        block.expand.bias.normal_()
        block.attention_norm.weight.normal_()
    layer = nn.TransformerEncoderLayer(
        DIM, 2, 4 * DIM, dropout=0.0, batch_first=True, layer_norm_eps=1e-6
    )
    layer.load_state_dict(
        {
            "self_attn.in_proj_weight": block.qkv.weight,
            "self_attn.in_proj_bias": torch.zeros(3 * DIM),
            "self_attn.out_proj.weight": block.out.weight,
            "self_attn.out_proj.bias": torch.zeros(DIM),
            "linear1.weight": block.expand.weight,
            "linear1.bias": block.expand.bias,
            "linear2.weight": block.shrink.weight,
            "linear2.bias": block.shrink.bias,
            "norm1.weight": block.attention_norm.weight,
            "norm1.bias": block.attention_norm.bias,
            "norm2.weight": block.output_norm.weight,
            "norm2.bias": block.output_norm.bias,
        }
    )
    x, mask = _padded([LENGTH, LENGTH])
    embedded = model.norm(x + model.positions)
    future = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    expected = layer.train()(embedded, src_mask=future)  # train(): the path that is not fused
    torch.testing.assert_close(model(x, mask), expected, rtol=1e-5, atol=1e-5)


def test_gru4rec_is_the_unbiased_gru_cell_run_from_each_first_item():
    model = GRU4Rec(DIM, dropout=0.0)
    cell = nn.GRUCell(DIM, DIM, bias=False)
    cell.weight_ih, cell.weight_hh = model.gru.weight_ih_l0, model.gru.weight_hh_l0
    x, mask = _padded([1, 4, 6])
    found = model(x, mask)
    for user, length in enumerate((1, 4, 6)):
        state = torch.zeros(1, DIM)
        for step in range(LENGTH - length, LENGTH):
            state = cell(x[user, step][None], state)
            torch.testing.assert_close(found[user, step], state[0], rtol=1e-5, atol=1e-6)


def _causal_convolution(sequence: Tensor, conv: nn.Module) -> Tensor:
    """One user's items ``(length, H)`` through a dilated convolution, sum by sum."""
    states = []
    for step in range(len(sequence)):
        state = conv.bias
        for k in range(conv.kernel):
            if step - k * conv.dilation >= 0:
                weight = conv.weight[:, k * DIM : (k + 1) * DIM]
                state = state + weight @ sequence[step - k * conv.dilation]
        states.append(state)
    return torch.stack(states)


def test_nextitnet_is_the_papers_residual_block_run_item_by_item():
    torch.manual_seed(0)
    model = NextItNet(DIM, dropout=0.0)
    with torch.no_grad():
        for block in model.blocks:
            block.first_norm.bias.normal_()  # a bias is what would leak out of padding
            block.second_norm.weight.normal_()
    assert [b.first.dilation for b in model.blocks] == [1, 4, 1, 4]
    assert [b.second.dilation for b in model.blocks] == [2, 8, 2, 8]
    x, mask = _padded([0, 1, 4, 12], 12)
    found = model(x, mask)
    for user, length in enumerate((0, 1, 4, 12)):
        if not length:
            continue
        states = x[user, -length:]
        for block in model.blocks:
            inner = torch.relu(block.first_norm(_causal_convolution(states, block.first)))
            outer = torch.relu(block.second_norm(_causal_convolution(inner, block.second)))
            states = states + outer
        torch.testing.assert_close(found[user, -length:], states, rtol=1e-5, atol=1e-5)


def test_nextitnet_convolution_is_torchs_with_the_future_cut_off():
    torch.manual_seed(0)
    conv = NextItNet(DIM, dilations=(3,), blocks=1).blocks[0].first
    x, mask = _padded([11], 11)
    weight = conv.weight.view(DIM, 3, DIM).flip(1).transpose(1, 2)  # torch has the oldest first
    padded = nn.functional.pad(x.transpose(1, 2), (6, 0))
    expected = nn.functional.conv1d(padded, weight, conv.bias, dilation=3).transpose(1, 2)
    found = conv(x.flatten(0, 1), Packing(mask))
    torch.testing.assert_close(found, expected[0], rtol=1e-5, atol=1e-6)


def test_nextitnet_has_the_parameters_of_the_published_architecture():
    # 2 x [1, 4] blocks, each of two convolutions H x H x 3 with bias and two LayerNorms.
    with torch.device("meta"):
        model = NextItNet(2048)
    conv, norm = 3 * 2048 * 2048 + 2048, 2 * 2048
    assert sum(p.numel() for p in model.parameters()) == 4 * (2 * conv + 2 * norm)


def test_nextitnet_sees_thirty_one_items_a_round_and_none_after():
    model = NextItNet(DIM, blocks=1).eval()
    x, mask = _padded([40], 40)
    x.requires_grad_()
    model(x, mask)[0, 35].sum().backward()
    seen = (x.grad[0].abs().sum(-1) > 0).nonzero().flatten()
    assert seen.max() == 35
    # 2 * (1 + 2 + 4 + 8) before it.
    assert seen.min() == 5


@pytest.mark.parametrize("name", ["sasrec", "nextitnet"])
def test_dense_equals_packed(name):
    packed, dense = _build(name).eval(), _build(name, dense=True).eval()
    dense.load_state_dict(packed.state_dict())
    x, mask = _padded([0, 1, 4, 6])
    torch.testing.assert_close(dense(x, mask), packed(x, mask), rtol=1e-5, atol=1e-6)


def test_gru4rec_with_another_hidden_size_gives_states_of_the_item_size():
    model = GRU4Rec(DIM, hidden=24, layers=2)
    x, mask = _padded([1, 4])
    assert model(x, mask).shape == (2, LENGTH, DIM)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"`heads` must divide `dim` = 16, got 3"):
        SASRec(DIM, max_len=5, heads=3)
    with pytest.raises(ValueError, match="must be positive"):
        GRU4Rec(DIM, hidden=0)
    with pytest.raises(ValueError, match=r"`dilations` is \[0\]"):
        NextItNet(DIM, dilations=(0,))
    with pytest.raises(ValueError, match="unknown backbone 'bert'"):
        build_backbone("bert", DIM, max_len=5)
    with pytest.raises(ValueError, match=r"does not take these options.*stride"):
        build_backbone("sasrec", DIM, max_len=5, stride=2)
    with pytest.raises(ValueError, match="6 items exceed max_len=5"):
        SASRec(DIM, max_len=5)(*_padded([6]))
