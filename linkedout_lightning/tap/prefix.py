"""What the prompts of several views have in common is read once: the picture in front of them.

A prompt stands behind the visual part, and a causal model's states do not depend on what follows.
So for several prompts about one video the tokens that they begin with are run once, with a
key-value cache, and every prompt goes on from a copy of it.

Letters: b rows of one bucket, P tokens, C of them in front, Q behind, S slots.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.tap.groups import pool
from linkedout_lightning.tap.layers import Decoder
from linkedout_lightning.tap.types import TapBucket

OnState = Callable[[int, Tensor], None]
"""Called with a layer and its state, ``(b, P, D)``."""

_ROUNDING, _ROUNDING_HALF = 1e-4, 0.05


@dataclass(frozen=True)
class Part:
    """A part of the tokens of a bucket.

    Attributes:
        inputs: What the model's ``forward`` takes for it.
        weights: For each view, how its slots average these tokens, ``(b, S, C)`` or ``(b, S, Q)``.
    """

    inputs: dict[str, Tensor]
    weights: tuple[Tensor, ...]


@dataclass(frozen=True)
class SharedPrefix:
    """The buckets of several views over the same pictures, taken apart.

    Attributes:
        front: What they have in common, padded on the left.
        rest: What follows in each view, padded on the right, so that no padding is in between.
    """

    front: Part
    rest: tuple[Part, ...]


class PrefixSharing:
    """Extracts several views over one video with their common tokens run once.

    Args:
        model: The model.
        decoder: Its blocks.
        layers: The tapped layers.
        hidden_size: D.
        views: Views that may stand beside others.
        visual_ids: Ids of visual tokens.
        pad_id: Id of padding.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        decoder: Decoder,
        layers: Sequence[int],
        hidden_size: int,
        views: Collection[int],
        visual_ids: Tensor,
        pad_id: int,
    ) -> None:
        self.views = frozenset(views)
        self.proven = False
        self._model, self._decoder, self._layers = model, decoder, tuple(layers)
        self._hidden_size, self._visual_ids, self._pad_id = hidden_size, visual_ids, pad_id

    def features(
        self,
        buckets: Sequence[TapBucket],
        *,
        run: Callable[[dict[str, Any], OnState], None],
        separate: Callable[[TapBucket], Tensor],
    ) -> list[Tensor] | None:
        """Features ``(b, L, S, D)`` of each view; None where they have nothing in common.

        Args:
            buckets: One a view, with the same rows.
            run: Runs the model on inputs and reports its states.
            separate: Features of one view by itself; the first time both ways are compared.

        Raises:
            ConfigError: They differ by more than rounding.
        """
        if len(buckets) < 2:
            return None
        shared = shared_prefix(
            buckets, visual_ids=self._visual_ids, pad_id=self._pad_id, model=self._model
        )
        if shared is None:
            return None
        features = self._pooled(shared, run)
        if not self.proven:
            dtype = next(self._decoder.blocks.parameters()).dtype
            check_equal(features, [separate(bucket) for bucket in buckets], dtype=dtype)
            self.proven = True
        return features

    def _pooled(
        self, shared: SharedPrefix, run: Callable[[dict[str, Any], OnState], None]
    ) -> list[Tensor]:
        from transformers import DynamicCache

        cache = DynamicCache(config=self._decoder.module.config)
        features = []
        for weights in shared.front.weights:
            shape = (len(weights), len(self._layers), weights.shape[1], self._hidden_size)
            features.append(torch.zeros(shape, device=weights.device))

        def into(totals: Sequence[Tensor], parts: Sequence[Tensor]) -> OnState:
            def on_state(layer: int, state: Tensor) -> None:
                for total, weights in zip(totals, parts, strict=True):
                    added = pool(state, weights.to(state.device))
                    total[:, self._layers.index(layer)] += added.to(total.device)

            return on_state

        front = {**shared.front.inputs, "past_key_values": cache}
        run(front, into(features, shared.front.weights))
        for view, part in enumerate(shared.rest):
            if part.inputs["input_ids"].shape[1]:
                own = cache if view == len(shared.rest) - 1 else copy.deepcopy(cache)
                inputs = {**part.inputs, "past_key_values": own}
                run(inputs, into([features[view]], part.weights))
        return features


def check_equal(
    shared: Sequence[Tensor], separate: Sequence[Tensor], *, dtype: torch.dtype
) -> None:
    """Refuse a model whose states differ when the prefix is shared.

    Args:
        shared: Features of each view with the prefix shared.
        separate: The same without.
        dtype: The model's; kernels chosen by size differ more in half precision.

    Raises:
        ConfigError: They differ by more than rounding.
    """
    most = _ROUNDING if dtype == torch.float32 else _ROUNDING_HALF
    for ours, theirs in zip(shared, separate, strict=True):
        scale = theirs.abs().amax(dim=(0, 2, 3), keepdim=True).clamp(min=1e-12)
        error = float(((ours - theirs).abs() / scale).max())
        if not error <= most:
            raise ConfigError(
                f"`share_prefix`: features of the first batch differ by {error:.1e} of the largest "
                f"from those of a run without it (at most {most:.0e} is rounding), so this model "
                "cannot go on from what its prompts have in common; leave `share_prefix` out"
            )


def together(
    buckets: Sequence[TapBucket], sees: Sequence[str], *, sharing: Collection[int]
) -> list[list[TapBucket]]:
    """Put the buckets side by side whose views look at the same pictures of the same items.

    Args:
        buckets: Buckets of one batch.
        sees: What each view looks at.
        sharing: Views that may stand beside others.
    """
    groups: dict[Any, list[TapBucket]] = {}
    for bucket in buckets:
        seen = sees[bucket.view] if bucket.view in sharing else bucket.view
        groups.setdefault((seen, tuple(bucket.rows.tolist())), []).append(bucket)
    return list(groups.values())


def shared_prefix(
    buckets: Sequence[TapBucket], *, visual_ids: Tensor, pad_id: int, model: nn.Module
) -> SharedPrefix | None:
    """Take buckets apart where their tokens begin to differ.

    Args:
        buckets: Those of several views, with the same rows.
        visual_ids: Ids of visual tokens.
        pad_id: Id of padding.
        model: The model, which may number positions by itself.

    Returns:
        None where there is no common part: no visual token, a prompt in front of the picture, or
        positions that cannot be known beforehand.
    """
    cuts = _cuts(buckets, visual_ids)
    if cuts is None:
        return None
    fronts = [_columns(b, cut, front=True) for b, cut in zip(buckets, cuts, strict=True)]
    front = Part(
        inputs=_cut(buckets[0].inputs, fronts[0], pad_id),
        weights=tuple(
            _weights(b.weights, columns) for b, columns in zip(buckets, fronts, strict=True)
        ),
    )
    rest = []
    for bucket, cut in zip(buckets, cuts, strict=True):
        columns = _columns(bucket, cut, front=False)
        inputs = _cut(bucket.inputs, columns, pad_id)
        positions = positions_of(model, bucket.inputs)
        if positions is not None:
            inputs["position_ids"] = _gather(positions, columns, 0)
        elif _numbers_by_itself(model):
            return None
        mask = torch.cat([front.inputs["attention_mask"], inputs["attention_mask"]], dim=1)
        kept = {k: v for k, v in inputs.items() if k in ("input_ids", "position_ids")}
        rest.append(Part({**kept, "attention_mask": mask}, (_weights(bucket.weights, columns),)))
    return SharedPrefix(front, tuple(rest))


def positions_of(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor | None:
    """Positions ``(3, b, P)`` of whole sequences, in models that number them by the grid.

    They cannot be told from the front alone: in Qwen2.5-VL the text behind a video does not begin
    behind its last position in time.
    """
    for module in model.modules():
        compute = getattr(module, "compute_3d_position_ids", None)
        if compute is not None:
            wanted = inspect.signature(compute).parameters
            known = {name: inputs.get(name) for name in wanted}
            positions: Tensor | None = compute(**known)
            return positions
    return None


def _numbers_by_itself(model: nn.Module) -> bool:
    return any(hasattr(module, "get_rope_index") for module in model.modules())


def _cuts(buckets: Sequence[TapBucket], visual_ids: Tensor) -> list[Tensor] | None:
    """The column of each row ``(b,)`` from which on its tokens differ between the buckets.

    None if that is not behind the pictures. It may be some tokens behind: Ovis2 writes marks
    around a picture that are embedded with it.
    """
    starts, texts = [], []
    for bucket in buckets:
        ids, mask = bucket.inputs["input_ids"], bucket.inputs["attention_mask"].bool()
        starts.append(mask.int().argmax(dim=1))
        columns = torch.arange(ids.shape[1], device=ids.device) + starts[-1][:, None]
        columns = columns.clamp(max=ids.shape[1] - 1)
        texts.append(ids.gather(1, columns).masked_fill(~mask.gather(1, columns), -1))
    least = min(text.shape[1] for text in texts)
    first = texts[0][:, :least]
    same = first >= 0
    for text in texts[1:]:
        same &= text[:, :least] == first
    common = same.int().cumprod(dim=1).sum(dim=1)
    for text in texts:
        visual = torch.isin(text, visual_ids.to(text.device))
        count = torch.arange(1, text.shape[1] + 1, device=text.device)
        end = (visual * count).amax(dim=1)
        if not ((end > 0) & (end <= common)).all():
            return None
    return [start + common for start in starts]


def _columns(bucket: TapBucket, cut: Tensor, *, front: bool) -> Tensor:
    """Columns of each row's tokens before or behind its cut, ``-1`` where there is padding."""
    mask = bucket.inputs["attention_mask"].bool()
    places = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    chosen = mask & ((places < cut[:, None]) == front)
    count = int(chosen.sum(dim=1).max())
    # Chosen columns in their order at the end (front) or at the beginning (rest) of a row.
    order = torch.argsort(chosen.int() if front else (~chosen).int(), dim=1, stable=True)
    order = order[:, -count:] if front else order[:, :count]
    return torch.where(chosen.gather(1, order), order, -1)


def _gather(values: Tensor, columns: Tensor, padding: int) -> Tensor:
    """Values ``(…, b, P)`` at some columns ``(b, C)`` of each row."""
    index = columns.clamp(min=0).expand(*values.shape[:-1], columns.shape[1])
    return values.gather(-1, index).masked_fill(columns < 0, padding)


def _cut(inputs: dict[str, Tensor], columns: Tensor, pad_id: int) -> dict[str, Tensor]:
    """Inputs of which those of a value a token are cut."""
    shape = inputs["input_ids"].shape
    return {
        name: _gather(value, columns, pad_id if name == "input_ids" else 0)
        if value.shape == shape
        else value
        for name, value in inputs.items()
    }


def _weights(weights: Tensor, columns: Tensor) -> Tensor:
    """Weights ``(b, S, P)`` at some columns; zero on padding."""
    index = columns.clamp(min=0)[:, None].expand(-1, weights.shape[1], -1)
    return weights.gather(2, index) * (columns >= 0)[:, None]
