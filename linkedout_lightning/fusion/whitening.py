"""Whitening of frozen features: each layer centred, decorrelated and cut to rank R.

Raw item vectors of LLMs point the same way (mean cosine above 0.8), so that neither a dot product
nor a linear layer tells them apart at first. Letters: B items, L layers, S slots, D hidden size,
R rank.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from linkedout_lightning.errors import ConfigError, DataError
from linkedout_lightning.fusion.moments import TokenMoments
from linkedout_lightning.fusion.spectrum import leading_eigenpairs

_log = logging.getLogger(__name__)


class Whitening(nn.Module):
    r"""PCA whitening per layer, :math:`z_{l,s} = P_l^T (x_{l,s} - \mu_{l,s})`.

    :math:`P_l = U_R\,(\Lambda_R + \epsilon\,\mathrm{median}(\Lambda_R))^{-p/2}` from the covariance
    of all valid tokens of layer ``l`` about their slots' means. With ``power`` 1 and ``epsilon`` 0
    the tokens it was fitted on have exactly the identity as covariance. ZCA would only add a
    rotation, which the trained map after it takes in.

    Columns beyond the rank that the data has (few items, a constant layer) are zero, so the shapes
    depend on the arguments alone, and noise is never blown up to unit variance.

    ``mean`` and ``projection`` are in the ``state_dict``, but are no buffers: they are constants of
    training that ``.half()`` must not round and DDP must not send to each rank at each step.

    Args:
        layers: L.
        slots: S.
        features: D.
        rank: R; cut to D if it is larger.
        power: 1 whitens, 0 only centres and rotates (the variances keep their ratios), between
            them the whitening is relaxed. The mean variance of a token's coordinates is 1 always.
        epsilon: Shrinkage for near-singular spectra, as a share of the median kept variance.

    Raises:
        ConfigError: A size or ``rank`` below 1, a negative ``epsilon``, ``power`` not in [0, 1].

    Example:
        >>> x = torch.randn(50, 2, 1, 8, generator=torch.Generator().manual_seed(0)) + 3
        >>> mask = torch.ones(50, 1, dtype=torch.bool)
        >>> whitening = Whitening(layers=2, slots=1, features=8, rank=4).fit([(x, mask)])
        >>> z = whitening(x, mask)
        >>> z.shape
        torch.Size([2, 50, 1, 4])
        >>> torch.allclose(torch.cov(z[0, :, 0].T, correction=0), torch.eye(4), atol=5e-3)
        True
    """

    def __init__(
        self,
        *,
        layers: int,
        slots: int,
        features: int,
        rank: int,
        power: float = 1.0,
        epsilon: float = 1e-3,
    ) -> None:
        super().__init__()
        for name, value in (
            ("layers", layers), ("slots", slots), ("features", features), ("rank", rank),
        ):  # fmt: skip
            if value < 1:
                raise ConfigError(f"`{name}` is {value}; give at least 1")
        if epsilon < 0 or not 0 <= power <= 1:
            raise ConfigError(
                f"`epsilon` is {epsilon} and `power` {power}; "
                "give epsilon >= 0 and a power from 0 to 1"
            )
        self.layers, self.slots, self.features = layers, slots, features
        self.rank = min(rank, features)
        self.power, self.epsilon = power, epsilon
        self.mean = torch.zeros(layers, slots, features)
        self.projection = torch.zeros(layers, features, self.rank)
        self.fitted = False
        #: Grows whenever the statistics change; tokens made with an earlier value are stale.
        self.revision = 0

    def extra_repr(self) -> str:
        """The sizes, shown by ``print(module)``."""
        return f"layers={self.layers}, slots={self.slots}, {self.features} -> {self.rank}"

    @property
    def ranks(self) -> list[int]:
        """For each layer how many of the R columns carry data."""
        return [int(n) for n in (self.projection != 0).any(1).sum(-1)]

    def fit(self, chunks: Iterable[tuple[Tensor, Tensor]]) -> Whitening:
        """Fit on the training items' tokens, read once.

        Args:
            chunks: Pairs of features ``(B, L, S, D)`` and mask ``(B, S)``.

        Returns:
            Itself.

        Raises:
            DataError: No layer varies over the tokens, or there is none.
            NonFiniteError: A valid token holds NaN or infinity.
        """
        moments = TokenMoments(layers=self.layers, slots=self.slots, features=self.features)
        for features, mask in chunks:
            self._check(features, mask)
            moments.update(features, mask)
        if moments.count.sum() == 0:
            raise DataError(
                "no valid token to fit the whitening on: every slot of every training item is "
                "masked, or there is no training item"
            )
        projection = torch.stack([self._project(c, moments) for c in moments.covariance()])
        if not projection.any():
            raise DataError(
                f"the features do not vary over the {int(moments.count.sum())} tokens of the "
                "training items in any layer, so that they cannot be whitened; give at least two "
                "items that differ"
            )
        self._set(moments.mean().float(), projection.float())
        if min(self.ranks) < self.rank:
            _log.info("whitening: rank %d wanted, layers have %s", self.rank, self.ranks)
        return self

    def _project(self, covariance: Tensor, moments: TokenMoments) -> Tensor:
        values, vectors = leading_eigenpairs(covariance, self.rank)
        kept = values > moments.tolerance * values[0].clamp(min=0)
        kept[moments.rank_limit :] = False
        if not kept.any():
            return torch.zeros_like(vectors)
        # The median and not the mean or the largest: a few of an LLM's coordinates have variances
        # thousands of times the others', and would shrink all the rest away.
        scale = torch.where(kept, values, 1.0) + self.epsilon * values[kept].median()
        scale = scale.pow(-self.power / 2)
        scale = scale / (values * scale.square())[kept].mean().sqrt()
        # An eigenvector's sign is arbitrary; fixed, two machines are likelier to agree.
        sign = vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
        projection: Tensor = vectors * sign * torch.where(kept, scale, 0.0)
        return projection

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Whitened tokens.

        Args:
            features: ``(B, L, S, D)`` floating; masked slots may hold anything, even NaN.
            mask: ``(B, S)`` bool.

        Returns:
            ``(L, B, S, R)`` float32 on the device of ``features``, zero in masked slots.

        Raises:
            DataError: Shapes that do not fit, or nothing was fitted yet.
        """
        self._check(features, mask)
        if not self.fitted:
            raise DataError("the whitening has no statistics yet: call `fit` or load a state_dict")
        mean, projection = self.mean.to(features.device), self.projection.to(features.device)
        # Turned while still in the features' own type; the difference is float32 at once.
        x = features.transpose(0, 1).contiguous() - mean.unsqueeze(1)  # (L, B, S, D)
        if not mask.all():
            x = x.masked_fill(~mask[:, :, None], 0.0)
        x, batch = x.float(), x.shape[1]
        with torch.autocast(features.device.type, enabled=False):
            tokens: Tensor = torch.bmm(x.reshape(self.layers, batch * self.slots, -1), projection)
        return tokens.view(self.layers, batch, self.slots, self.rank)

    def _check(self, features: Tensor, mask: Tensor) -> None:
        wanted = (self.layers, self.slots, self.features)
        if features.dim() != 4 or features.shape[1:] != wanted:
            raise DataError(
                f"features have shape {tuple(features.shape)}; expected (n, L, S, D) = "
                f"(n, {', '.join(map(str, wanted))})"
            )
        if mask.shape != (features.shape[0], self.slots) or mask.dtype != torch.bool:
            raise DataError(
                f"the mask is {mask.dtype} of shape {tuple(mask.shape)}; expected bool of shape "
                f"({features.shape[0]}, {self.slots}), True where a slot holds a token"
            )

    def _set(self, mean: Tensor, projection: Tensor) -> None:
        same = torch.equal(mean, self.mean) and torch.equal(projection, self.projection)
        if not (self.fitted and same):
            self.mean, self.projection = mean, projection
            self.fitted = True
            self.revision += 1

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.fitted:
            destination[prefix + "mean"] = self.mean
            destination[prefix + "projection"] = self.projection

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],  # noqa: ARG002
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        found: list[Tensor] = []
        for name in ("mean", "projection"):
            value = state_dict.get(prefix + name)
            wanted = getattr(self, name).shape
            if value is None:
                missing_keys.append(prefix + name)
            elif value.shape != wanted:
                error_msgs.append(
                    f"size mismatch for {prefix + name}: the checkpoint has "
                    f"{tuple(value.shape)}, this encoder {tuple(wanted)}; layers, slots, hidden "
                    "size and rank must be those of the training"
                )
            else:
                found.append(value.detach().to("cpu", torch.float32, copy=True))
        if strict:
            known = {prefix + "mean", prefix + "projection"}
            unexpected_keys += [k for k in state_dict if k.startswith(prefix) and k not in known]
        if len(found) == 2:
            self._set(found[0], found[1])
