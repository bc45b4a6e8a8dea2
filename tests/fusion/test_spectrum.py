"""Leading eigenpairs against the whole spectrum."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from linkedout_lightning.fusion import Whitening, spectrum
from linkedout_lightning.fusion.spectrum import leading_eigenpairs

WIDTH = 1200
INDEX = torch.arange(1, WIDTH + 1, dtype=torch.float64)
SPECTRA = {
    "slow": INDEX**-0.5,
    "power": INDEX**-1.0,
    "steep": INDEX**-2.0,
    "massive": torch.cat([torch.tensor([1e6, 1e5], dtype=torch.float64), INDEX[2:] ** -1.0]),
    "flat": torch.ones(WIDTH, dtype=torch.float64),
    "steps": torch.where(INDEX <= 70, 10.0, 1.0).double(),
    "low rank": torch.where(INDEX <= 20, 1 / INDEX, 0.0),
}


@pytest.fixture(scope="module")
def rotation() -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=g, dtype=torch.float64))[0]


@pytest.mark.parametrize("name", SPECTRA)
def test_a_wide_matrix_gives_what_its_whole_spectrum_says(
    name: str, rotation: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    plain = spectrum._largest

    def spied(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
        sizes.append(len(matrix))
        return plain(matrix, count)

    monkeypatch.setattr(spectrum, "_largest", spied)
    matrix = (rotation * SPECTRA[name]) @ rotation.T
    matrix = (matrix + matrix.T) / 2
    values, vectors = leading_eigenpairs(matrix, 64)
    assert max(sizes) <= WIDTH // 2  # the whole spectrum was never needed
    wanted = SPECTRA[name][:64]
    torch.testing.assert_close(values, wanted, rtol=5e-3, atol=1e-12)
    identity = torch.eye(64, dtype=torch.float64)
    torch.testing.assert_close(vectors.T @ vectors, identity, atol=1e-10, rtol=0)
    diagonal = vectors.T @ matrix @ vectors
    torch.testing.assert_close(
        diagonal / values[0], (values / values[0]).diag(), atol=1e-10, rtol=0
    )
    again = leading_eigenpairs(matrix, 64)
    assert torch.equal(again[0], values)
    assert torch.equal(again[1], vectors)


def test_few_coordinates_that_vary() -> None:
    matrix = torch.zeros(WIDTH, WIDTH, dtype=torch.float64)
    matrix[:5, :5] = torch.diag(torch.tensor([5.0, 4, 3, 2, 1], dtype=torch.float64))
    values, vectors = leading_eigenpairs(matrix, 16)
    expected = torch.tensor([5.0, 4, 3, 2, 1, *[0.0] * 11], dtype=torch.float64)
    torch.testing.assert_close(values, expected, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(vectors[:5, :5].abs(), torch.eye(5, dtype=torch.float64))
    assert not leading_eigenpairs(matrix * 0, 16)[0].any()


@pytest.mark.parametrize(("width", "count"), [(300, 20), (1200, 300)])
def test_narrow_matrices_and_many_pairs_are_solved_whole(width: int, count: int) -> None:
    x = torch.randn(2 * width, width, generator=torch.Generator().manual_seed(1)).double()
    values, vectors = torch.linalg.eigh(x.T @ x)
    found = leading_eigenpairs(x.T @ x, count)
    assert torch.equal(found[0], values.flip(0)[:count])
    assert torch.equal(found[1], vectors.flip(1)[:, :count])


@pytest.mark.parametrize("items", [5, 400])
def test_whitening_of_a_wide_layer_is_exact(items: int) -> None:
    g = torch.Generator().manual_seed(2)
    x = torch.randn(items, 1, 2, WIDTH, generator=g) * INDEX.float() ** -0.5
    x[..., 0] = x[..., 0] * 100 + 500  # a massive activation
    mask = torch.ones(items, 2, dtype=torch.bool)
    whitening = Whitening(layers=1, slots=2, features=WIDTH, rank=32, epsilon=0.0)
    z = whitening.fit([(x, mask)])(x, mask)[0].flatten(0, 1).double()
    kept = min(32, 2 * items - 2)
    assert whitening.ranks == [kept]
    cov = (z.T @ z / len(z))[:kept, :kept]
    torch.testing.assert_close(cov, torch.eye(kept, dtype=torch.float64), atol=2e-3, rtol=0)
