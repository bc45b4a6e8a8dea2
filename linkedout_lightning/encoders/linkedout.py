"""LinkedOut's item encoder: frozen multi-layer features in, one trained vector an item out.

Letters: N items, L layers, S slots, D LLM hidden size, R whitened rank, H item vector size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from linkedout_lightning.encoders import provenance
from linkedout_lightning.encoders.catalogue import CatalogueFeatures, TokenTable
from linkedout_lightning.encoders.id import IDItemEncoder, known_items
from linkedout_lightning.encoders.id_fusion import build_id_fusion
from linkedout_lightning.encoders.index import check_index
from linkedout_lightning.encoders.last_loss import LastLoss
from linkedout_lightning.encoders.options import (
    OutputNorm,
    pick_layers,
    pick_pair,
    recorded,
    training_rows,
)
from linkedout_lightning.encoders.sources import FeatureStoreLike, TensorStore
from linkedout_lightning.errors import ConfigError, NonFiniteError
from linkedout_lightning.fusion.fusers import Fused, load_balance
from linkedout_lightning.fusion.whitening import Whitening
from linkedout_lightning.fusion.wide import build_fusion


class LinkedOutItemEncoder(nn.Module):
    r"""Whiten, compress each layer's tokens with its expert, fuse the layers, join the ID.

    The frozen features are read from the store at the first use (or by :meth:`prepare`), whitened
    to rank R and kept in memory, ``4·N·L·S·R`` bytes in float32 (164 MB for 20,000 items, 4
    layers, 2 slots, rank 256). They are in no ``state_dict``; the whitening statistics, which a
    new item needs, are. Loading other statistics makes the tokens anew at the next use, so that a
    checkpoint gives the same vectors in any process, around any store that has the items.
    Without ID fusion nothing in the ``state_dict`` depends on the catalogue: it loads into an
    encoder of other items. It says which model, layers and slots it was trained on, and an
    encoder of other features refuses it.

    **Size of the vectors.** The fused vector is multiplied by a learned scalar that starts at
    :math:`1/\sqrt H`, so that item vectors start with norms from 0.4 to 1, and so do the
    standard deviations of their dot products with states of unit variance: a softmax that is
    neither flat nor saturated. Norms stay free, for popularity to use; ``output_norm`` binds them.

    **IDs and new items.** With an ID fusion, an item outside ``train_item_ids`` shows one learned
    ``[no-id]`` vector, in training and evaluation alike, and so do items given to
    :meth:`encode_features`: a new item is encoded exactly as a cold item of the catalogue. The
    vector is trained by ``id_dropout``, which shows it for a share of the known items too. With
    ``id_dropout=0`` and no cold item among those trained on, it keeps its start, zero.

    **Items without a valid slot** get a learned vector (the experts' biases), never NaN.

    Args:
        store: A :class:`~linkedout_lightning.FeatureStore`, or anything with ``get``,
            ``item_ids`` and ``spec`` (layers, slots, hidden_size).
        item_ids: The catalogue: index i is ``item_ids[i - 1]``, 0 is padding.
        train_item_ids: Items that occur in training: the whitening is fitted on them alone, and
            only they have an ID of their own. None: all.
        use_layers: Layers of the store to use, by name, in that order; one may be repeated (a
            control with equal parameters). None: all.
        dim: H.
        rank: R, cut to D.
        whitening_power: 1 whitens, 0 only centres and rotates.
        shrinkage: See :class:`~linkedout_lightning.fusion.Whitening`.
        max_fit_items: At most so many training items, evenly spaced, fit the whitening.
        compressor: ``latent``, ``mlp`` or ``mean``.
        queries: Queries of ``latent``.
        hidden: Width of the experts' MLP, by default H.
        old_slots: For ``mlp``, slots by name or position; by default those not in ``new_slots``.
        new_slots: For ``mlp``; by default the slots named ``generated…``, else ``last``.
        fuser: ``moe``, ``last``, ``layer:<k>``, ``mean``, ``concat``, ``weighted-sum``, ``dff``, or
            ``mlp``, one MLP over all tokens with the parameters of ``moe`` and its experts.
        top_k: Layers an item uses, for ``moe``; None: all.
        temperature: Of the gate, for ``moe``.
        balance_weight: Weight of the gate's balance loss in :meth:`auxiliary_loss`.
        id_fusion: ``none``, ``add``, ``concat``, ``gate``. By default ``none``, for the fuser
            ``dff``, which is defined with one, ``gate``.
        id_dropout: Share of known items shown without their ID in training.
        dropout: Dropout inside the experts.
        output_norm: ``none``, ``layer`` (LayerNorm with scale :math:`1/\sqrt H` at the start) or
            ``unit`` (length 1, for a loss with a temperature).
        missing: What items show that the store lacks: ``error``, ``zero`` (no valid slot) or
            ``mean`` (the mean of the training items).
        token_dtype: Of the tokens in memory; ``torch.bfloat16`` halves it.
        chunk_items: Items that :meth:`all_items` encodes at once.
        recompute: Let :meth:`all_items` keep no activations but compute each chunk again in the
            backward: memory of one chunk in place of N items, for about a third more time.

    Raises:
        ConfigError: An option that is not legal, or that does not fit the store.
        UnknownItemError: Items that the store (or, for training ids, the catalogue) lacks.
        DataError: At the first use: the training items' features do not vary.
        NonFiniteError: At the first use: they hold NaN or infinity.
        StoreSpecError: On loading a ``state_dict`` that was trained on other features.

    Example:
        >>> features = torch.randn(50, 4, 2, 32)
        >>> encoder = LinkedOutItemEncoder.from_features(features, dim=16, rank=8)
        >>> encoder(torch.tensor([[0, 1, 2], [3, 4, 50]])).shape
        torch.Size([2, 3, 16])
        >>> encoder.all_items().shape, encoder.gates(torch.tensor([7])).shape
        (torch.Size([51, 16]), torch.Size([1, 4]))
        >>> encoder.encode_features(torch.randn(3, 4, 2, 32)).shape
        torch.Size([3, 16])
    """

    def __init__(
        self,
        store: FeatureStoreLike,
        item_ids: Sequence[str],
        *,
        train_item_ids: Iterable[str] | None = None,
        use_layers: Sequence[int] | None = None,
        dim: int = 128,
        rank: int = 256,
        whitening_power: float = 1.0,
        shrinkage: float = 1e-3,
        max_fit_items: int = 65_536,
        compressor: str = "latent",
        queries: int = 2,
        hidden: int | None = None,
        old_slots: Sequence[int | str] | None = None,
        new_slots: Sequence[int | str] | None = None,
        fuser: str = "moe",
        top_k: int | None = None,
        temperature: float = 1.0,
        balance_weight: float = 0.0,
        id_fusion: str | None = None,
        id_dropout: float = 0.2,
        dropout: float = 0.0,
        output_norm: str = "none",
        missing: str = "error",
        token_dtype: torch.dtype = torch.float32,
        chunk_items: int = 2048,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        #: The arguments from which an encoder of other items can be made.
        self.options = recorded(locals())
        for name, value in (
            ("dim", dim), ("max_fit_items", max_fit_items), ("chunk_items", chunk_items),
        ):  # fmt: skip
            if value < 1:
                raise ConfigError(f"`{name}` is {value}; give at least 1")
        if not 0 <= dropout < 1 or balance_weight < 0:
            raise ConfigError(
                f"`dropout` is {dropout} and `balance_weight` {balance_weight}; "
                "give a share from 0 to below 1, and a weight of at least 0"
            )
        self.num_items, self.dim = len(item_ids), dim
        rows = training_rows(item_ids, train_item_ids)
        self.slots = tuple(store.spec.slots)
        positions = pick_layers(tuple(store.spec.layers), use_layers, fuser)
        #: Names of the L axis that the experts and :meth:`gates` have.
        self.layers = tuple(store.spec.layers[p] for p in positions)
        self._trained_on = provenance.describe(store.spec, self.layers)
        self._table = TokenTable(
            CatalogueFeatures(store, item_ids, positions=positions, missing=missing),
            fit_rows=rows[:: -(-len(rows) // max_fit_items)],
            dtype=token_dtype,
        )
        self.chunk_items, self.recompute = chunk_items, recompute
        self.balance_weight = balance_weight
        self._last = LastLoss()

        sizes = {"layers": len(positions), "slots": len(self.slots)}
        self.whitening = Whitening(
            **sizes, features=int(store.spec.hidden_size), rank=rank,
            power=whitening_power, epsilon=shrinkage,
        )  # fmt: skip
        old, new = pick_pair(self.slots, old_slots, new_slots) if compressor == "mlp" else ((), ())
        self.compressor, self.fuser = build_fusion(
            compressor, fuser, **sizes, features=self.whitening.rank, dim=dim, queries=queries,
            old=old, new=new, hidden=hidden, dropout=dropout, top_k=top_k, temperature=temperature,
        )  # fmt: skip
        # One element and not a scalar: FSDP refuses parameters without a dimension.
        self.scale = nn.Parameter(torch.full((1,), dim**-0.5))
        if id_fusion is None:
            id_fusion = "gate" if fuser == "dff" else "none"
        self.id_fusion = build_id_fusion(id_fusion, dim)
        self.ids: IDItemEncoder | None = None
        if self.id_fusion is not None:
            known = torch.zeros(self.num_items, dtype=torch.bool)
            known[rows] = True
            self.ids = IDItemEncoder(
                self.num_items, dim=dim, id_dropout=id_dropout, train_items=known
            )
        self.output_norm = OutputNorm(output_norm, dim)
        self.register_state_dict_pre_hook(_fit_before_saving)  # type: ignore[no-untyped-call]

    @classmethod
    def from_features(
        cls,
        features: Tensor,
        mask: Tensor | None = None,
        *,
        item_ids: Sequence[str] | None = None,
        train_items: Tensor | None = None,
        layers: Sequence[int] | None = None,
        slots: Sequence[str] | None = None,
        **options: Any,
    ) -> LinkedOutItemEncoder:
        """An encoder of features at hand, for people who have tensors and no store.

        Args:
            features: ``(N, L, S, D)`` floating; kept as it is, no copy.
            mask: ``(N, S)`` bool; None: every slot is valid.
            item_ids: N ids, by default ``"1"`` to ``str(N)``.
            train_items: ``(N,)`` bool, the items that occur in training, or ``(N + 1,)`` with the
                padding's False first, as a data module's ``train_item_mask``; None: all.
            layers: Names of the L axis, by default 0 to L−1.
            slots: Names of the S axis.
            **options: Those of the class.

        Raises:
            DataError: A wrong shape or dtype.
            ConfigError: As the class.
        """
        store = TensorStore(features, mask, item_ids=item_ids, layers=layers, slots=slots)
        ids = store.item_ids
        if train_items is not None:
            chosen = known_items(train_items, len(ids))[1:].nonzero().flatten().tolist()
            options["train_item_ids"] = [ids[row] for row in chosen]
        return cls(store, ids, **options)

    def forward(self, item_index: Tensor) -> Tensor:
        """Vectors of items, each encoded as often as it is asked for.

        Args:
            item_index: ``(…)`` integers, 0 (padding) to N.

        Returns:
            ``(…, H)``; zero where the index is 0.

        Raises:
            DataError: Not integers, or out of range.
        """
        check_index(item_index, self.num_items)
        rows = item_index.reshape(-1)
        fused = self._fuse(*self._table.tokens(self.whitening).take(rows, self._dtype))
        self._remember(fused)
        ids = None if self.ids is None else self.ids(rows)
        vectors = self._finish(fused.vectors, ids).masked_fill((rows == 0).unsqueeze(-1), 0.0)
        return vectors.view(*item_index.shape, self.dim)

    def all_items(self) -> Tensor:
        """``(N + 1, H)``, differentiable, chunk by chunk; row 0 is zero."""
        frozen, device = self._table.tokens(self.whitening), self.scale.device
        parts: list[Fused] = []
        for start in range(1, self.num_items + 1, self.chunk_items):
            stop = min(start + self.chunk_items, self.num_items + 1)
            chunk = frozen.span(start, stop, device, self._dtype)
            if self.recompute and torch.is_grad_enabled():
                parts.append(checkpoint(self._fuse, *chunk, use_reentrant=False))
            else:
                parts.append(self._fuse(*chunk))
        fused = _join(parts)
        self._remember(fused)
        ids = None if self.ids is None else self.ids.all_items()[1:]
        vectors = self._finish(fused.vectors, ids)
        return torch.cat([vectors.new_zeros(1, self.dim), vectors])

    def gates(self, item_index: Tensor) -> Tensor:
        """The share of each layer in items' content vectors.

        Args:
            item_index: ``(…)`` integers, 0 to N.

        Returns:
            ``(…, L)`` in the order of :attr:`layers`; rows sum to 1, padding's to 0.

        Raises:
            ConfigError: The fuser is ``concat`` or ``mlp``, which have no such share.
            DataError: Not integers, or out of range.
        """
        check_index(item_index, self.num_items)
        rows = item_index.reshape(-1)
        weights = self._fuse(*self._table.tokens(self.whitening).take(rows, self._dtype)).weights
        if weights is None:
            raise ConfigError("the fuser 'concat' has no weight a layer, nor 'mlp'; 'moe' has")
        weights = weights.masked_fill((rows == 0).unsqueeze(-1), 0.0)
        return weights.view(*item_index.shape, len(self.layers))

    def encode_features(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Vectors of items that are not in the catalogue.

        Args:
            features: ``(n, L, S, D)`` with all the layers of the store, as ``store.get`` and the
                tap give them.
            mask: ``(n, S)`` bool; None: every slot is valid. Masked slots may hold anything.

        Returns:
            ``(n, H)``, what the items would have as cold items of the catalogue.

        Raises:
            DataError: Shapes that do not fit the store's.
            NonFiniteError: NaN or infinity in a valid slot.
        """
        self._table.fit(self.whitening)
        features = self._table.source.select(features)
        if mask is None:
            mask = torch.ones(len(features), len(self.slots), dtype=torch.bool)
        device, dtype, parts = self.scale.device, self._dtype, []
        for start in range(0, max(len(features), 1), self.chunk_items):
            chunk = slice(start, start + self.chunk_items)
            valid = mask[chunk].to(device)
            with torch.no_grad():
                tokens = self.whitening(features[chunk].to(device), valid)
            if not torch.isfinite(tokens).all():
                raise NonFiniteError("the features hold NaN or infinity in a valid slot")
            # Rounded as the catalogue's tokens are, so that the same features give the same vector.
            parts.append(self._fuse(tokens.to(self._table.dtype).to(dtype), valid).vectors)
        content = torch.cat(parts)
        ids = None
        if self.ids is not None and self.ids.no_id is not None:
            ids = self.ids.no_id.expand_as(content)
        return self._finish(content, ids)

    def auxiliary_loss(self) -> Tensor | None:
        """Balance loss of the last training forward or ``all_items``, times its weight.

        Returns:
            A scalar to add to the loss; None if the weight is 0, the fuser has no gate, or nothing
            was encoded in training mode yet.
        """
        return self._last.loss

    def prepare(self) -> None:
        """Fit the whitening and make the tokens now; otherwise the first use does it."""
        self._table.tokens(self.whitening)

    @property
    def frozen_bytes(self) -> int:
        """Bytes of the tokens in memory, for one device."""
        return self._table.tokens(self.whitening).nbytes

    @property
    def _dtype(self) -> torch.dtype:
        return self.scale.dtype

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + provenance.KEY] = provenance.to_tensor(self._trained_on)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # Taken out, so that neither it nor its absence in earlier checkpoints offends `strict`.
        if (saved := state_dict.pop(key := prefix + provenance.KEY, None)) is not None:
            provenance.check(saved, self._trained_on, key=key)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _fuse(self, tokens: Tensor, mask: Tensor | None) -> Fused:
        """Tokens ``(L, n, S, R)`` and mask ``(n, S)`` to content vectors ``(n, H)``."""
        fused: Fused = self.fuser(self.compressor(tokens, mask))
        return fused

    def _finish(self, content: Tensor, ids: Tensor | None) -> Tensor:
        """Scale the content ``(n, H)``, join the ids ``(n, H)`` and normalise."""
        vectors = content * self.scale
        if self.id_fusion is not None:
            vectors = self.id_fusion(vectors, ids)
        normed: Tensor = self.output_norm(vectors)
        return normed

    def _remember(self, fused: Fused) -> None:
        self._last.loss = None
        if self.training and self.balance_weight and fused.dense is not None:
            assert fused.weights is not None
            self._last.loss = self.balance_weight * load_balance(fused.weights, fused.dense)


def _join(parts: Sequence[Fused]) -> Fused:
    """One :class:`Fused` of several chunks'."""

    def cat(column: Sequence[Tensor | None]) -> Tensor | None:
        found = [part for part in column if part is not None]
        return torch.cat(found) if found else None

    return Fused(
        torch.cat([part.vectors for part in parts]),
        cat([part.weights for part in parts]),
        cat([part.dense for part in parts]),
    )


def _fit_before_saving(module: nn.Module, prefix: str, keep_vars: bool) -> None:
    """A ``state_dict`` always holds the statistics, also of an encoder that was never used."""
    del prefix, keep_vars
    assert isinstance(module, LinkedOutItemEncoder)
    module._table.fit(module.whitening)
