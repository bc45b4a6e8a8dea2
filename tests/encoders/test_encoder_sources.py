"""Encoders around stores: what they read, and what they do about missing items."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from encoder_catalogue import LAYERS, SLOTS, WIDTH, Catalogue
from torch import Tensor

from linkedout_lightning.encoders import LinkedOutItemEncoder
from linkedout_lightning.encoders import catalogue as catalogue_module
from linkedout_lightning.errors import ConfigError, UnknownItemError

LAYER_NAMES, SLOT_NAMES = (8, 16, 24), ("visual", "generated:16")


class DictStore:
    """The least that an encoder asks of a store, with its rows in another order."""

    def __init__(self, catalogue: Catalogue, without: Sequence[str] = ()) -> None:
        self.spec = SimpleNamespace(layers=LAYER_NAMES, slots=SLOT_NAMES, hidden_size=WIDTH)
        self._rows = {
            f"v{row}": (catalogue.features[row].half(), catalogue.mask[row])
            for row in reversed(range(len(catalogue.mask)))
            if f"v{row}" not in without
        }
        self.largest_read = 0

    @property
    def item_ids(self) -> list[str]:
        return list(self._rows)

    def get(self, item_ids: Sequence[str]) -> tuple[Tensor, Tensor]:
        self.largest_read = max(self.largest_read, len(item_ids))
        found = [self._rows[i] for i in item_ids]
        return torch.stack([f for f, _ in found]), torch.stack([m for _, m in found])


IDS = [f"v{row}" for row in range(60)]


def encoder_of(
    store: DictStore, ids: Sequence[str] = IDS, **options: object
) -> LinkedOutItemEncoder:
    torch.manual_seed(0)
    return LinkedOutItemEncoder(store, ids, dim=8, rank=12, **options).eval()  # type: ignore[arg-type]


def test_a_store_gives_the_same_as_its_tensors(catalogue: Catalogue) -> None:
    train = [IDS[row] for row in catalogue.train.nonzero().flatten().tolist()]
    one = encoder_of(DictStore(catalogue), train_item_ids=train)
    torch.manual_seed(0)
    two = LinkedOutItemEncoder.from_features(
        catalogue.features.half(), catalogue.mask, item_ids=IDS, train_items=catalogue.train,
        layers=LAYER_NAMES, slots=SLOT_NAMES, dim=8, rank=12,
    ).eval()  # fmt: skip
    assert one.layers == two.layers == LAYER_NAMES
    assert one.slots == SLOT_NAMES
    assert torch.equal(one.all_items(), two.all_items())


def test_a_mask_of_training_items_may_have_the_paddings_row(catalogue: Catalogue) -> None:
    padded = torch.cat([torch.tensor([False]), catalogue.train])
    tables = []
    for train in (catalogue.train, padded):
        torch.manual_seed(0)
        encoder = LinkedOutItemEncoder.from_features(
            catalogue.features, catalogue.mask, train_items=train, dim=8, rank=12, id_fusion="add"
        )
        tables.append(encoder.eval().all_items())
        assert encoder.ids is not None
        assert torch.equal(encoder.ids.known, padded)
    assert torch.equal(*tables)


def test_the_catalogue_has_its_own_order_and_size(catalogue: Catalogue) -> None:
    full = encoder_of(DictStore(catalogue))
    order = [5, 50, 7]
    part = encoder_of(DictStore(catalogue), [IDS[row] for row in order])
    part.load_state_dict(full.state_dict())
    index = torch.tensor(order) + 1
    torch.testing.assert_close(part.all_items()[1:], full(index), atol=1e-6, rtol=1e-5)


class LayeredStore(DictStore):
    """One that can leave layers out, as a feature store can."""

    def __init__(self, catalogue: Catalogue, without: Sequence[str] = ()) -> None:
        super().__init__(catalogue, without)
        self.asked: set[tuple[int, ...] | None] = set()

    def get(
        self, item_ids: Sequence[str], *, layers: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        self.asked.add(layers if layers is None else tuple(layers))
        features, mask = super().get(item_ids)
        places = range(LAYERS) if layers is None else [LAYER_NAMES.index(k) for k in layers]
        return features[:, list(places)], mask


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, None),
        ({"use_layers": [24]}, (24,)),
        ({"use_layers": [24, 8]}, (8, 24)),
        ({"use_layers": [16, 16, 16]}, (16,)),
        ({"use_layers": [24, 16, 8]}, None),
        ({"fuser": "last"}, (24,)),
        ({"fuser": "layer:16"}, (16,)),
    ],
)
@pytest.mark.parametrize("without", [[], ["v10", "v11"]])
def test_only_the_layers_in_use_are_read(
    catalogue: Catalogue, without: list[str], options: dict[str, object], asked: object
) -> None:
    rule = {"missing": "mean" if without else "error", **options}
    plain = encoder_of(DictStore(catalogue, without), **rule)
    store = LayeredStore(catalogue, without)
    layered = encoder_of(store, **rule)
    assert torch.equal(plain.all_items(), layered.all_items())
    assert store.asked == {asked}
    assert torch.equal(
        plain.encode_features(catalogue.features), layered.encode_features(catalogue.features)
    )


def test_it_is_read_in_bounded_pieces(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encoder_of(DictStore(catalogue)).all_items()
    monkeypatch.setattr(catalogue_module, "CHUNK_BYTES", 7 * LAYERS * SLOTS * WIDTH * 4)
    store = DictStore(catalogue)
    pieces = encoder_of(store).all_items()
    assert store.largest_read == 7
    torch.testing.assert_close(pieces, whole, atol=1e-4, rtol=1e-4)


def test_missing_items_are_an_error_unless_a_rule_is_given(catalogue: Catalogue) -> None:
    store = DictStore(catalogue, without=["v10", "v11"])
    with pytest.raises(UnknownItemError, match=r"2 item id.*missing='zero'") as caught:
        encoder_of(store)
    assert caught.value.item_ids == ["v10", "v11"]
    complete = encoder_of(DictStore(catalogue))
    complete.prepare()
    index = torch.tensor([11, 12])
    others = torch.tensor([row + 1 for row in range(60) if row not in (10, 11)])

    zero = encoder_of(store, missing="zero")
    zero.load_state_dict(complete.state_dict())
    assert torch.equal(zero(others), complete(others))
    empty = complete(torch.tensor([4]))  # in the store, without any valid slot
    assert not catalogue.mask[3].any()
    torch.testing.assert_close(zero(index), empty.expand(2, -1))

    mean = encoder_of(store, missing="mean")
    mean.load_state_dict(complete.state_dict())
    at_mean = complete.encode_features(complete.whitening.mean[None])
    torch.testing.assert_close(mean(index), at_mean.expand(2, -1), atol=1e-5, rtol=1e-4)
    assert torch.isfinite(mean.all_items()).all()


def test_missing_training_items_do_not_enter_the_whitening(catalogue: Catalogue) -> None:
    store = DictStore(catalogue, without=["v10", "v11"])
    with_rule = encoder_of(store, missing="mean")
    without = encoder_of(store, [i for i in IDS if i not in ("v10", "v11")])
    with_rule.prepare()
    without.prepare()
    assert torch.equal(with_rule.whitening.projection, without.whitening.projection)


def test_wrong_catalogues_are_named(catalogue: Catalogue) -> None:
    store = DictStore(catalogue)
    with pytest.raises(UnknownItemError, match="none of the catalogue"):
        encoder_of(store, ["a", "b"], missing="zero")
    with pytest.raises(UnknownItemError, match="`train_item_ids` is part of"):
        encoder_of(store, IDS, train_item_ids=["v1", "w1"])
    with pytest.raises(ConfigError, match="holds 3 ids, 2 different"):
        encoder_of(store, ["v1", "v2", "v1"])
    with pytest.raises(ConfigError, match="holds 0 ids"):
        encoder_of(store, [])


def test_the_mlp_compressor_finds_its_groups_by_name(catalogue: Catalogue) -> None:
    by_name = encoder_of(DictStore(catalogue), compressor="mlp")
    assert (by_name.compressor.old, by_name.compressor.new) == ((0,), (1,))
    given = encoder_of(
        DictStore(catalogue), compressor="mlp", old_slots=["generated:16"], new_slots=["visual"]
    )
    assert (given.compressor.old, given.compressor.new) == ((1,), (0,))
