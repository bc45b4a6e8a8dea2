"""What a linear map finds in features, against numpy and against what was planted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from linkedout_lightning.explain import ExplainConfig
from linkedout_lightning.explain.anatomy import dissect
from linkedout_lightning.explain.cells import find_cells, load_data, load_model
from linkedout_lightning.explain.findings import find
from linkedout_lightning.explain.readout import foretold, read_out
from linkedout_lightning.explain.tables import readout_table


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_ridge_regression_as_numpy_solves_it() -> None:
    x, noise = drawn(203, 7), drawn(203, 3, seed=1)
    y = x @ drawn(7, 3, seed=2) + 2 * noise + 5
    error = total = 0.0
    a, b = x.double().numpy(), y.double().numpy()
    rows = np.arange(203)
    for last in range(5):
        fit = ~np.isin(rows % 5, (last, (last + 1) % 5))
        middle, mean = a[fit].mean(0), b[fit].mean(0)
        gram = (a[fit] - middle).T @ (a[fit] - middle)
        left = []
        for penalty in (0.01, 0.1, 0.3, 1.0, 3.0, 10.0):
            ridge = gram + penalty * np.trace(gram) / 7 * np.eye(7)
            maps = np.linalg.solve(ridge, (a[fit] - middle).T @ (b[fit] - mean))
            missed = ((b - mean - (a - middle) @ maps) ** 2).sum(1)
            left.append((missed[rows % 5 == (last + 1) % 5].sum(), missed[rows % 5 == last].sum()))
        error += min(left)[1]
        total += ((b[rows % 5 == last] - mean) ** 2).sum()
    assert 0.3 < foretold(x, y) < 0.9
    assert foretold(x, y) == pytest.approx(1 - error / total, abs=1e-9)


def test_layers_get_what_was_planted_in_them() -> None:
    a, b, noise = drawn(2000, 4), drawn(2000, 4, seed=1), drawn(2000, 4, seed=2)
    learned = torch.cat([a, b, drawn(2000, 8, seed=3)], dim=1)  # a quarter, a quarter, by itself
    turned = learned @ torch.linalg.qr(drawn(16, 16, seed=4)).Q
    usable = torch.ones(2000, dtype=torch.bool)
    tokens = torch.stack([a, b, noise])
    tokens[:, 1990:] = torch.nan
    usable[1990:] = False

    found = read_out((8, 16, 24), tokens, [learned, turned], usable, seed=0)

    assert found is not None
    assert found.items == 1990
    for by_layer, together in zip(found.by_layer, found.together, strict=True):
        assert by_layer.tolist() == pytest.approx([0.25, 0.25, 0.0], abs=0.03)
        assert float(together) == pytest.approx(0.5, abs=0.03)
    assert found.other_seed == pytest.approx(1.0, abs=0.01)


def test_one_training_has_no_other_and_few_items_say_nothing() -> None:
    tokens, usable = drawn(2, 60, 4), torch.ones(60, dtype=torch.bool)
    found = read_out((1, 2), tokens, [drawn(60, 3)], usable, seed=0)
    assert found is not None
    assert found.other_seed is None
    usable[45:] = False
    assert read_out((1, 2), tokens, [drawn(60, 3)], usable, seed=0) is None
    assert foretold(drawn(60, 3), torch.ones(60, 2)) == 0.0  # nothing to tell


def test_an_explanation_tells_it(document: dict[str, Any], options: dict[str, Any]) -> None:
    cells = find_cells(ExplainConfig(**options))
    data = load_data(cells[0])
    own = [dissect(load_model(c, data).item_encoder) for c in cells if c.encoder == "id"]
    [layered, *_] = [c for c in cells if c.encoder == "linkedout"]
    expected = read_out(
        (4, 8, 12),
        dissect(load_model(layered, data).item_encoder).tokens,
        [anatomy.vectors for anatomy in own],
        data.train_counts[1:] >= 5,
        seed=0,
    )
    found = document["readout"]
    assert found["layers"] == [4, 8, 12]
    assert found["items"] == int((data.train_counts[1:] >= 5).sum())
    for seed, row in enumerate(found["by_layer_by_seed"]):
        assert row == pytest.approx(expected.by_layer[seed].tolist(), rel=1e-4)
    assert found["together"] == pytest.approx(float(expected.together.mean()), rel=1e-4)
    assert found["other_seed"] == pytest.approx(expected.other_seed, rel=1e-4)
    table = readout_table(document)
    assert table is not None
    assert [row[0].text for row in table.rows] == [
        "layer 4",
        "layer 8",
        "layer 12",
        "all 3 layers",
        "ID vectors of another training",
    ]
    found |= {"by_layer": [0.02, 0.05, 0.01], "together": 0.045, "other_seed": 0.6}
    told = next(s for s in find(document) if "linear map" in s)
    assert "layer 4 2.0%, layer 8 5.0%, layer 12 1.0%; all layers together 4.5%" in told
    assert "−0.5 points beside layer 8 alone" in told
    assert "another training foretell 60%" in told
    found |= {"other_seed": None}
    assert "another training" not in " ".join(find(document))
    del document["readout"]  # as of an older version
    assert readout_table(document) is None
    assert "linear map" not in " ".join(find(document))
