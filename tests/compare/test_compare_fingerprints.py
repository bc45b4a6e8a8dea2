"""Finished cells stay valid: a native cell has the fingerprint with which it was trained."""

from __future__ import annotations

import pytest

from linkedout_lightning.compare import CompareConfig
from linkedout_lightning.compare.plan import plan

# Each was computed by version 0.1.0 before the comparison knew of engines and precision.
PINNED = {
    "popularity": "39b1f6e3c363d9423b4652b7964e47abd26c0934a80c29352fb5705d05a9c61a",
    "id": "79a3fc64aff35a8bf7a13cffc0cd71cb44f4ed5ff625a33fa1bf149163d1be33",
    "id-dropout": "ea78101c6e6e1a3ac16249196b534a2954c340670723e36ecff6687c44324bb7",
}
PINNED_PRESET = "0faeef1181672174f84f41cdfe2fc01b9d5ce04a972600d49af8ad983e08f281"


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Interactions of fixed bytes; a new version of the package retrains by intention."""
    monkeypatch.setattr("linkedout_lightning.compare.plan.__version__", "0.1.0")
    path = tmp_path / "interactions.csv"
    path.write_text("user_id,item_id,timestamp\nu1,i1,1\nu1,i2,2\nu1,i3,3\n")
    return str(path)


def test_defaults_have_the_fingerprints_that_they_had(table, tmp_path):
    config = CompareConfig(
        interactions=table, out=str(tmp_path / "out"), encoders=tuple(PINNED), html=False
    )
    assert {cell.encoder: cell.fingerprint for cell in plan(config)} == PINNED


def test_preset_and_overrides_have_the_fingerprint_that_they_had(table, tmp_path):
    [cell] = plan(
        CompareConfig(
            interactions=table,
            out=str(tmp_path / "out"),
            encoders=("id",),
            backbones=("gru4rec",),
            seeds=(3,),
            preset="microlens",
            dim=64,
            overrides={"id/gru4rec": {"lr": 3e-4}},
        )
    )
    assert cell.fingerprint == PINNED_PRESET


def test_settings_that_came_later_change_a_fingerprint_only_where_they_are_set(tmp_path, table):
    from linkedout_lightning.compare.tunables import LATER
    from linkedout_lightning.store import FeatureStore, StoreSpec

    store = str(tmp_path / "features")
    spec = StoreSpec(model="m", layers=(1, 2), slots=("a", "b"), hidden_size=4)
    FeatureStore.create(store, spec)

    def cells(**changes):
        return {
            cell.encoder: cell
            for cell in plan(
                CompareConfig(
                    interactions=table,
                    store=store,
                    encoders=("id", "linkedout", "linkedout+id"),
                    **changes,
                )
            )
        }

    before = cells()
    assert not set(LATER) & set(before["linkedout+id"].settings)
    for changes in ({"layers": (1,)}, {"slots": ("b",)}, {"id_fusion": "gate"}):
        after = cells(**changes)
        assert after["linkedout+id"].fingerprint != before["linkedout+id"].fingerprint
        assert after["id"].fingerprint == before["id"].fingerprint
    after = cells(candidates="trained")  # which changes every training
    assert all(after[name].fingerprint != before[name].fingerprint for name in before)
    after = cells(cold_calibration="moments")  # which is about items that lack an ID of their own
    changed = [name for name in before if after[name].fingerprint != before[name].fingerprint]
    assert changed == ["linkedout+id"]
    same = cells(cold_calibration="moments", cold_budget=0.05)  # which then means nothing
    assert all(same[name].fingerprint == after[name].fingerprint for name in after)
    budget, other = (cells(cold_calibration="budget", cold_budget=b) for b in (0.01, 0.05))
    assert budget["linkedout+id"].fingerprint != other["linkedout+id"].fingerprint
    assert budget["linkedout"].fingerprint == other["linkedout"].fingerprint


def test_an_id_with_a_norm_is_no_cell_from_before_it_could_have_one(table):
    def cell(norm):
        (found,) = plan(CompareConfig(interactions=table, encoders=("id",), output_norm=norm))
        return found

    free, normed = cell("none"), cell("layer")
    assert "normed_ids" not in free.settings
    assert normed.settings == free.settings | {"output_norm": "layer", "normed_ids": True}
