"""The leading eigenpairs of a covariance, for a wide one without its whole spectrum.

Letters: D width, R eigenpairs wanted, b columns of a block, k size of the search space.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Up to this width all eigenpairs are computed: half a second on one core.
_DENSE_WIDTH = 1024
# Small blocks reach high powers of the matrix at the same size of the space; below this, products
# with them no longer run at full speed.
_BLOCK = 32
# The search ends when no wanted eigenvalue grew by more than this share. Convergence is faster
# than linear, by an order of magnitude a look: what is missing then is far less.
_GROWTH = 1e-2
# Values below this share of the largest are what float32 products leave of zero.
_NOISE = 1e-9


def leading_eigenpairs(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    r"""The largest eigenvalues of a covariance and their eigenvectors.

    A wide matrix is searched with a block Krylov space (Musco & Musco, 2015),
    :math:`\mathrm{span}(\Omega, C\Omega, C^2\Omega, \dots)` from a fixed random start, orthonormal
    block by block, and the pairs are Rayleigh and Ritz's in it: the vectors are orthonormal and
    the matrix is diagonal in them, as whitening needs, and they carry the largest variances to
    within a hundredth each, most of them far closer.

    Args:
        matrix: ``(D, D)`` float64, symmetric, positive semidefinite up to rounding.
        count: R.

    Returns:
        Values ``(R,)``, descending, and vectors ``(D, R)``.

    Example:
        >>> values, vectors = leading_eigenpairs(torch.diag(torch.tensor([1.0, 3.0, 2.0])), 2)
        >>> values.tolist(), vectors.abs().argmax(0).tolist()
        ([3.0, 2.0], [1, 2])
    """
    width = len(matrix)
    if width <= _DENSE_WIDTH or 6 * count > width:
        return _largest(matrix, count)
    random = torch.Generator().manual_seed(0)
    block = max(_BLOCK, count // 4)
    new = torch.randn(width, block, generator=random).to(matrix)  # (D, b)
    basis, product = new[:, :0], new[:, :0]  # (D, k) both; product = matrix @ basis
    before: Tensor | None = None
    while basis.shape[1] + block <= width // 2:
        # Where the data has a smaller rank than the space, this gives QR a direction to go on in.
        noise = torch.randn(width, block, generator=random).to(matrix)
        new = new + 1e-15 * new.abs().max() * noise
        for _ in range(2):  # once leaves what rounding makes of nearly parallel vectors
            new = torch.linalg.qr(new - basis @ (basis.T @ new))[0]
        basis = torch.cat([basis, new], dim=1)
        new = matrix @ new
        product = torch.cat([product, new], dim=1)
        if basis.shape[1] < 2 * count or (basis.shape[1] // block) % 2:
            continue  # a look costs as much as a few blocks
        values, mixing = _largest(basis.T @ product, count)
        if before is not None:
            floor = _NOISE * values[0].clamp(min=0)
            if bool((values - before <= _GROWTH * values.clamp(min=floor)).all()):
                return values, basis @ mixing
        before = values
    return _largest(matrix, count)


def _largest(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(matrix)  # ascending
    return values.flip(0)[:count], vectors.flip(1)[:, :count]
