"""What each finished cell shows, gathered encoder by encoder.

Letters: N items, L layers, G groups, P items of the pool, U test users.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from linkedout_lightning.data import InteractionDataModule
from linkedout_lightning.encoders.sources import FeatureStoreLike
from linkedout_lightning.encoders.views import SlotsView
from linkedout_lightning.errors import DataError
from linkedout_lightning.evaluation.metrics import UserRanks
from linkedout_lightning.explain.anatomy import Anatomy, dissect
from linkedout_lightning.explain.cells import TrainedCell, load_model, open_store
from linkedout_lightning.explain.config import ExplainConfig
from linkedout_lightning.explain.gates import part_shares, variance_shares
from linkedout_lightning.explain.groups import Groups, numbered
from linkedout_lightning.explain.items import KnownItems, choose_queries
from linkedout_lightning.explain.readout import Readout, read_out
from linkedout_lightning.explain.spaces import (
    Examined,
    Sample,
    examine,
    frozen_spaces,
    trained_spaces,
    whitened_spaces,
)
from linkedout_lightning.explain.without import (
    can_leave_out,
    left_out,
    questions_of_test,
    rank_test_users,
    targets_of,
)

KNOWN_FROM = 5
"""An item with fewer training interactions has an ID vector that says little."""


@dataclass
class Collected:
    """What the cells of one encoder show, seed by seed.

    Attributes:
        cells: The cells.
        layers: Names of the L axis; empty for an encoder without a choice of layers.
        weights: ``(N, L)``, the gate.
        variance: ``(G, L)``, each layer's share of the content's variance.
        id_shares: ``(G, 2)``, the shares of content and ID in the item vectors' variance.
        spaces: By key.
        whole: Ranks of the test users.
        without: Ranks with each layer left out.
    """

    cells: list[TrainedCell] = field(default_factory=list)
    layers: tuple[int, ...] = ()
    weights: list[Tensor] = field(default_factory=list)
    variance: list[Tensor] = field(default_factory=list)
    id_shares: list[Tensor] = field(default_factory=list)
    spaces: list[dict[str, Examined]] = field(default_factory=list)
    whole: list[UserRanks] = field(default_factory=list)
    without: list[list[UserRanks]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Study:
    """All that was gathered.

    Attributes:
        encoders: By name, in the order of the cells.
        frozen: Spaces of the features themselves.
        sample: Which items were compared.
        rule: How the shown items were chosen.
        targets: ``(U,)`` target of each ranked user.
        readout: What the features know of the ID vectors; None without an ID encoder or layers.
    """

    encoders: dict[str, Collected]
    frozen: dict[str, Examined]
    sample: Sample
    rule: str
    targets: Tensor
    readout: Readout | None


def gather(
    cells: Sequence[TrainedCell],
    data: InteractionDataModule,
    known: KnownItems,
    groups: Groups,
    config: ExplainConfig,
    *,
    step: Callable[[str], None],
) -> Study:
    """Look into every cell, one at a time.

    Args:
        cells: Encoder by encoder.
        data: What they share.
        known: The catalogue.
        groups: Groups of items.
        config: Choices.
        step: Told what comes next.

    Raises:
        DataError: Too few items to compare.
    """
    warm, counts = data.train_item_mask[1:].cpu(), data.train_counts[1:].cpu()
    present = torch.ones(len(known.item_ids), dtype=torch.bool)
    by_store = {cell.spec["settings"].get("store"): cell for cell in cells}
    for store in map(open_store, by_store.values()):
        if store is not None:
            stored = set(store.item_ids)
            present &= torch.tensor([item in stored for item in known.item_ids])
    sample, rule = _sample(warm & present, counts, known, config)
    questions = questions_of_test(data, users=config.test_users, seed=config.query_seed)
    encoders: dict[str, Collected] = {}
    frozen: dict[str, Examined] = {}
    learned: list[Tensor] = []
    white: tuple[tuple[int, ...], Tensor] | None = None
    for cell in cells:
        step(f"{cell.encoder}, seed {cell.seed}")
        model = load_model(cell, data)
        anatomy = dissect(model.item_encoder)
        found = encoders.setdefault(cell.encoder, Collected())
        found.cells.append(cell)
        of_features = cell.name.base not in ("random", "shuffled") and len(anatomy.layers) > 1
        if of_features and not frozen:
            for space in frozen_spaces(
                _store(cell), known.item_ids, list(dict.fromkeys(anatomy.layers)), present
            ):
                frozen[space.key] = examine(space, groups, sample, present, warm)
            for space in whitened_spaces(anatomy):
                frozen[space.key] = examine(space, groups, sample, present, warm)
        if of_features and white is None and anatomy.tokens is not None:
            white = anatomy.layers, anatomy.tokens
        if cell.encoder == "id":
            learned.append(anatomy.vectors)
        valid = present if anatomy.layers else torch.ones_like(present)
        found.spaces.append(
            {s.key: examine(s, groups, sample, valid, warm) for s in trained_spaces(anatomy)}
        )
        _add_shares(found, anatomy, groups)
        if can_leave_out(model.item_encoder) and config.leave_out:
            found.whole.append(rank_test_users(model, questions, accelerator=config.accelerator))
            found.without.append([])
            for position, layer in enumerate(anatomy.layers):
                step(f"{cell.encoder}, seed {cell.seed}, without layer {layer}")
                with left_out(model.item_encoder, position):  # type: ignore[arg-type]
                    ranks = rank_test_users(model, questions, accelerator=config.accelerator)
                found.without[-1].append(ranks)
    readout = None
    if white is not None and learned and len(set(white[0])) == len(white[0]):
        often = warm & present & (counts >= KNOWN_FROM)
        readout = read_out(*white, learned, often, seed=config.query_seed)
    return Study(
        encoders=encoders,
        frozen=frozen,
        sample=sample,
        rule=rule,
        targets=targets_of(questions),
        readout=readout,
    )


def rankings(cells: Sequence[TrainedCell], config: ExplainConfig) -> int:
    """About how many steps :func:`gather` tells of."""
    layers = sum(len((c.result.get("gates") or {}).get("layers", ())) for c in cells)
    return len(cells) + (layers if config.leave_out else 0)


def _add_shares(found: Collected, anatomy: Anatomy, groups: Groups) -> None:
    if anatomy.parts is not None:
        found.id_shares.append(part_shares(torch.stack(anatomy.parts), groups.members))
    if anatomy.weights is None or len(set(anatomy.layers)) < 2:
        return
    assert anatomy.experts is not None
    found.layers = anatomy.layers
    found.weights.append(anatomy.weights)
    if anatomy.content is not None:
        found.variance.append(variance_shares(anatomy.experts, anatomy.weights, groups.members))


def _store(cell: TrainedCell) -> FeatureStoreLike:
    store, slots = open_store(cell), cell.spec["settings"].get("slots")
    assert store is not None  # its encoder has layers
    return SlotsView(store, slots) if slots else store


def _sample(
    usable: Tensor, counts: Tensor, known: KnownItems, config: ExplainConfig
) -> tuple[Sample, str]:
    pool = usable.nonzero()[:, 0]
    if len(pool) < 3:
        raise DataError(
            f"{len(pool)} items are in training and in the feature store; at least 3 are needed to "
            "speak of neighbours"
        )
    often = usable & (counts >= KNOWN_FROM)
    shown, rule = choose_queries(
        known, usable if config.queries else often,
        wanted=config.queries, count=config.query_count, seed=config.query_seed,
    )  # fmt: skip
    place = torch.full((len(usable),), -1)
    place[pool] = torch.arange(len(pool))
    drawn = torch.arange(len(pool))
    if 0 < config.sample < len(pool):
        generator = torch.Generator().manual_seed(config.query_seed)
        drawn = torch.randperm(len(pool), generator=generator)[: config.sample].sort().values
    _, numbers = numbered(known.categories)
    sample = Sample(
        pool=pool, drawn=drawn, shown=place[torch.tensor(shown, dtype=torch.int64)],
        kinds=numbers[pool], k=min(max(config.near, config.listed), len(pool) - 1),
    )  # fmt: skip
    return sample, rule
