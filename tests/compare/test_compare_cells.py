"""Cells as processes: what they leave, what is run again, what a death costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from made_up import write_interactions, write_result, write_store
from safetensors.torch import load_file

from linkedout_lightning.compare.files import plain, read_json, write_json
from linkedout_lightning.compare.plan import plan
from linkedout_lightning.compare.run import compare
from linkedout_lightning.errors import ConfigError, MissingExtraError, StoreError
from linkedout_lightning.evaluation.metrics import ranking_values


def test_real_cells_leave_figures_that_follow_from_their_ranks(trained):
    assert trained.exit_code == 0
    assert trained["failed"] == []
    by_encoder = {cell["encoder"]: cell for cell in trained["cells"]}
    assert set(by_encoder) == {"popularity", "id", "linkedout"}
    for cell in trained["cells"]:
        kept = load_file(trained.out / cell["folder"] / "ranks.safetensors")
        assert len(kept["users"]) == trained["data"]["test_users"] == 150
        for k in (10, 20):
            assert cell["metrics"][f"HR@{k}"] == pytest.approx(
                (kept["ranks"] <= k).double().mean().item(), abs=1e-6
            )
            assert cell["metrics"][f"NDCG@{k}"] == pytest.approx(
                ranking_values(kept["ranks"], k).mean().item(), abs=1e-6
            )
        users = sum(part["users"] for part in cell["slices"].values())
        assert users == 150
        assert cell["seconds"] > 0
        assert 50 < cell["peak_mb"] < 8000
    for name in ("id", "linkedout"):
        assert len(by_encoder[name]["curve"]) == 2
        assert by_encoder[name]["best_epoch"] in (1, 2)
        for point in by_encoder[name]["curve"]:
            assert 0 < point["train_seconds"] < point["seconds"]
        assert by_encoder[name]["parameters"] == sum(
            count for part, count in by_encoder[name]["parameters_by_part"].items()
            if part != "total"
        )  # fmt: skip
    gates = by_encoder["linkedout"]["gates"]
    assert gates["layers"] == [4, 8, 12]
    assert sum(gates["mean"]) == pytest.approx(1)
    assert by_encoder["id"]["gates"] is None


def test_a_cell_that_is_run_again_gives_the_same_figures_to_the_last_digit(
    trained, inputs, tmp_path
):
    again = compare(
        inputs.config(tmp_path, encoders=("linkedout",), baseline="linkedout"), progress=False
    )
    (one,) = (cell for cell in trained["cells"] if cell["encoder"] == "linkedout")
    (other,) = again["cells"]
    assert other["metrics"] == one["metrics"]
    assert [e["train_loss"] for e in other["curve"]] == [e["train_loss"] for e in one["curve"]]
    ranks = [
        load_file(found.out / cell["folder"] / "ranks.safetensors")["ranks"]
        for found, cell in ((trained, one), (again, other))
    ]
    assert torch.equal(*ranks)


def test_best_weights_load_without_running_code_and_hold_no_features(trained):
    weights = torch.load(
        trained.out / "cells" / "linkedout.sasrec.seed0" / "best.ckpt", weights_only=True
    )
    shapes = {name: tuple(value.shape) for name, value in weights["state_dict"].items()}
    assert not any(60 in shape or 61 in shape for shape in shapes.values())  # 60 items


def test_nothing_is_run_twice_and_a_change_runs_its_cells_alone(inputs, trained, monkeypatch):
    started = []
    monkeypatch.setattr(
        "linkedout_lightning.compare.run.run_cells",
        lambda cells, **options: started.extend(cell.encoder for cell in cells) or {},
    )
    compare(inputs.config(trained.out, jobs=2), progress=False)
    assert started == []
    compare(inputs.config(trained.out, overrides={"id": {"lr": 0.02}}), progress=False)
    assert started == ["id"]


@pytest.fixture
def planned(tmp_path, inputs):
    """A finished plan, and the way to plan it anew after a change."""
    (tmp_path / "x.csv").write_bytes(Path(inputs.interactions).read_bytes())
    write_store(tmp_path / "features")

    def again(**changes):
        given = {"interactions": str(tmp_path / "x.csv"), "store": str(tmp_path / "features")}
        import dataclasses

        config = dataclasses.replace(inputs.config(tmp_path / "out"), **(given | changes))
        return plan(config)

    for cell in again():
        write_result(cell)
    return again


def waiting(cells):
    return [cell.encoder for cell in cells if cell.result() is None]


@pytest.mark.parametrize(
    ("changes", "rerun"),
    [
        ({}, []),
        ({"title": "Another", "jobs": 2, "html": True, "keep_checkpoints": False}, []),
        ({"epochs": 3}, ["id", "linkedout"]),
        ({"max_len": 7}, ["popularity", "id", "linkedout"]),
        ({"overrides": {"linkedout": {"rank": 4}}}, ["linkedout"]),
    ],
)
def test_only_what_a_setting_touches_is_stale(planned, changes, rerun):
    assert waiting(planned(**changes)) == rerun


def test_new_data_and_new_features_are_stale(planned, tmp_path):
    import shutil

    shutil.rmtree(tmp_path / "features")
    write_store(tmp_path / "features")  # the same version number, the same spec
    assert waiting(planned()) == ["linkedout"]
    write_interactions(tmp_path / "x.csv", seed=5)
    assert waiting(planned()) == ["popularity", "id", "linkedout"]


def test_failed_cells_are_tried_again(planned):
    cells = planned()
    write_result(cells[1], error="MemoryError: no")
    assert waiting(cells) == ["id"]


def test_a_failing_cell_is_reported_and_stops_nobody(inputs, tmp_path):
    write_store(tmp_path / "few", ids=40)  # the other items have no features
    done = compare(
        inputs.config(
            tmp_path / "out", stores={"few": str(tmp_path / "few")}, epochs=1,
            encoders=("few", "popularity"),
        ),
        progress=False,
    )  # fmt: skip
    assert done.exit_code == 3
    [failed] = done["failed"]
    assert failed["encoder"] == "few"
    assert "UnknownItemError" in failed["error"]
    assert "missing='zero'" in failed["error"]
    assert [cell["encoder"] for cell in done["cells"]] == ["popularity"]
    assert "UnknownItemError" in (tmp_path / "out" / "report.md").read_text()
    assert "Traceback" in (tmp_path / "out" / failed["folder"] / "log.txt").read_text()
    assert "failed" in done.summary()


def test_a_killed_comparison_leaves_no_process_and_resumes(inputs, tmp_path):
    config = inputs.config(tmp_path / "out", epochs=2000, patience=0, encoders=("popularity", "id"))
    program = (
        "import json, sys\n"
        "from linkedout_lightning.compare import CompareConfig, compare\n"
        "options = json.load(open(sys.argv[1]))\n"
        "for name in ('encoders', 'backbones', 'seeds', 'ks'):\n"
        "    options[name] = tuple(options[name])\n"
        "compare(CompareConfig(**options), progress=False)\n"
    )
    import dataclasses

    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "config.json")])
    progress = tmp_path / "out" / "cells" / "id.sasrec.seed0" / "progress.json"
    deadline = time.monotonic() + 240  # importing Lightning alone takes a minute on a busy machine
    try:
        while not progress.exists():
            assert time.monotonic() < deadline
            assert parent.poll() is None
            time.sleep(0.05)
        with pytest.raises(ConfigError, match="another comparison is writing"):
            compare(config, progress=False)
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    while any(str(progress.parent) in line for line in command_lines()):
        assert time.monotonic() < deadline, "the cell outlived the comparison"
        time.sleep(0.05)
    kept = (tmp_path / "out" / "cells" / "popularity" / "result.json").stat().st_mtime_ns
    done = compare(dataclasses.replace(config, epochs=1), progress=False)
    assert done.exit_code == 0
    assert {cell["encoder"] for cell in done["cells"]} == {"popularity", "id"}
    assert (tmp_path / "out" / "cells" / "popularity" / "result.json").stat().st_mtime_ns == kept


def command_lines():
    """Those of all processes that may be looked at."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_text().replace("\0", " ")
        except OSError:
            continue


def test_inputs_that_are_not_there(inputs, tmp_path):
    with pytest.raises(ConfigError, match=r"no such file or folder: 'nowhere\.csv'"):
        plan(inputs.config(tmp_path).__class__(interactions="nowhere.csv", encoders=("id",)))
    (tmp_path / "empty").mkdir()
    config = inputs.config(tmp_path / "out", stores={"empty": str(tmp_path / "empty")},
                           encoders=("empty",))  # fmt: skip
    with pytest.raises(StoreError, match="no feature store"):
        compare(config, progress=False)


def test_missing_extra_is_told_before_anything_runs(inputs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"linkedout-lightning\[report\]"):
        compare(inputs.config(tmp_path / "out", html=True), progress=False)
    assert not (tmp_path / "out").exists()


def test_json_is_whole_and_has_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": ()}})
    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail) == {
        "a": None, "b": [None, 1.5], "c": {"d": []},
    }  # fmt: skip
    (tmp_path / "a.json").write_text('{"torn": ')
    assert read_json(tmp_path / "a.json") is None
    assert plain({"x": torch.tensor(2.5)}) == {"x": 2.5}


def test_seeds_share_the_cold_items_and_nothing_else(inputs, tmp_path):
    from linkedout_lightning.compare.training import read_data

    config = inputs.config(tmp_path, split="cold_items", seeds=(0, 1), encoders=("id",))
    first, second = (read_data(cell.to_json()) for cell in plan(config))
    assert torch.equal(first.train_item_mask, second.train_item_mask)
    orders = [torch.cat(data.train_dataloader().order(0)) for data in (first, second)]
    assert not torch.equal(*orders)


def test_precision_reaches_lightning_and_the_fingerprint(inputs, tmp_path):
    from linkedout_lightning.compare.cell import run_cell

    prints = {}
    for precision in ("32-true", "bf16-mixed"):
        config = inputs.config(tmp_path / precision, precision=precision, encoders=("id",))
        [cell] = plan(config)
        prints[precision] = cell.fingerprint
        assert cell.settings.get("precision") == (None if precision == "32-true" else precision)
        cell.folder.mkdir(parents=True)
        result = run_cell(cell.to_json(), cell.folder)
        prints[precision, "loss"] = result["curve"][0]["train_loss"]
    assert prints["32-true"] != prints["bf16-mixed"]
    first, second = prints["32-true", "loss"], prints["bf16-mixed", "loss"]
    assert first != second  # rounded otherwise, yet the same training
    assert first == pytest.approx(second, rel=0.02)
