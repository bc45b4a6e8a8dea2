"""The control of equal parameters, against torch's own layers and a count."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.fusion import WideMLP, build_fusion


def test_it_is_a_plain_mlp_over_the_tokens_side_by_side():
    torch.manual_seed(0)
    mlp = WideMLP(layers=3, slots=2, features=4, dim=5, hidden=7)
    plain = nn.Sequential(mlp.inner, nn.GELU(), mlp.outer)
    tokens = torch.randn(3, 6, 2, 4)
    rows = torch.stack(
        [torch.cat([tokens[x, b, s] for x in range(3) for s in range(2)]) for b in range(6)]
    )
    torch.testing.assert_close(mlp(tokens)[0], plain(rows))


def test_what_stands_in_a_masked_slot_does_not_matter():
    mlp = WideMLP(layers=3, slots=2, features=4, dim=5, hidden=7)
    tokens, mask = torch.randn(3, 6, 2, 4), torch.rand(6, 2) > 0.5
    mask[0] = False
    other = torch.where(mask[:, :, None], tokens, torch.randn_like(tokens))
    torch.testing.assert_close(mlp(tokens, mask), mlp(other, mask))
    assert mlp(tokens, mask)[0, 0].abs().max() > 0  # an item without a token has a vector too


def test_it_starts_with_outputs_of_unit_variance():
    torch.manual_seed(0)
    mlp = WideMLP(layers=4, slots=2, features=64, dim=128, hidden=150)
    assert mlp(torch.randn(4, 500, 2, 64)).std().item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("compressor", ["latent", "mean", "mlp"])
@pytest.mark.parametrize(("layers", "slots"), [(2, 2), (4, 3), (24, 2)])
def test_it_has_the_parameters_of_what_it_replaces(compressor, layers, slots):
    sizes = {"layers": layers, "slots": slots, "features": 64, "dim": 32}
    groups = {"old": (0,), "new": (1,)}

    def count(fuser):
        modules = build_fusion(compressor, fuser, **sizes, **groups)
        return sum(p.numel() for module in modules for p in module.parameters())

    assert abs(count("moe") - count("mlp")) <= (layers * slots * 64 + 1 + 32) / 2


def test_it_refuses_what_it_does_not_have():
    with pytest.raises(ConfigError, match="the fuser 'mlp' has no gate"):
        build_fusion("latent", "mlp", layers=2, slots=1, features=4, dim=4, top_k=1)
    with pytest.raises(ConfigError, match="`hidden` is 0"):
        WideMLP(layers=2, slots=1, features=4, dim=4, hidden=0)
