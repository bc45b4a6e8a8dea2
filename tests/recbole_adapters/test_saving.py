"""A saved model in a fresh process, and folders that hold none."""

from __future__ import annotations

import json
import os
import pickletools
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from small_world import ITEM_IDS, World, write_dataset, write_store

from linkedout_lightning.errors import ConfigError, DataError, LinkedOutError
from recbole_adapters import load, run, with_item_encoder
from recbole_adapters.compat import session
from recbole_adapters.saving import Loaded
from recbole_adapters.table import IdentityEncoder

OURS = {"rank": 8, "queries": 1, "id_fusion": "concat"}


def scores_of(loaded: Loaded) -> torch.Tensor:
    """``(rows, V)`` scores of the test rows."""
    with session(), torch.no_grad():
        parts = [loaded.model.full_sort_predict(batch[0]) for batch in loaded.loaders.test]
    return torch.cat(parts)


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    settings = world.settings(linkedout={"store": str(world.store), **OURS})
    run("SASRec", "tiny", config_dict=settings, out=folder, verbose=False)
    return folder


def copy_of(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def test_fresh_process_gives_the_same_scores_to_the_last_bit(trained: Path, tmp_path: Path) -> None:
    code = (
        "import sys, torch\nfrom safetensors.torch import save_file\n"
        "from recbole_adapters import load\nfrom test_saving import scores_of\n"
        "save_file({'scores': scores_of(load(sys.argv[1]))}, 'scores.safetensors')\n"
    )
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    subprocess.run(
        [sys.executable, "-c", code, str(trained)],
        cwd=tmp_path,  # from where the relative paths of the training would lead nowhere
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        check=True,
        timeout=200,
    )
    here = load(trained)
    with safe_open(tmp_path / "scores.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("scores"), scores_of(here))
    assert here.evaluate("test") == here.figures["test_result"]
    assert here.evaluate("valid") == here.figures["best_valid_result"]
    assert not here.model.training


def test_paths_are_kept_whole(world: World, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(world.folder)
    section = {"store": os.path.relpath(world.store), **OURS}
    settings = world.settings(data_path=".", linkedout=section, epochs=1)
    run("SASRec", "tiny", config_dict=settings, out=tmp_path / "run", verbose=False)
    monkeypatch.chdir(tmp_path)
    assert load("run").catalogue.item_ids


def test_folder_holds_no_pickle_and_no_features(trained: Path, world: World) -> None:
    names = sorted(path.name for path in trained.iterdir())
    assert names == ["items.json", "model.safetensors", "run.json"]
    for path in trained.iterdir():
        with pytest.raises(Exception):  # noqa: B017 - pickletools raises what it likes
            pickletools.dis(path.read_bytes(), out=open(os.devnull, "w"))  # noqa: SIM115
    with safe_open(trained / "model.safetensors", "pt") as file:
        sizes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    hidden, rows = 12, (len(ITEM_IDS), len(ITEM_IDS) + 1)
    assert not [n for n, s in sizes.items() if s and s[0] in rows and hidden in s[1:]]
    assert json.loads((trained / "items.json").read_text()).sort() == sorted(ITEM_IDS).sort()


def test_store_may_move_and_must_be_the_same(trained: Path, world: World, tmp_path: Path) -> None:
    moved = copy_of(world.store, tmp_path / "moved")
    assert torch.equal(scores_of(load(trained, store=moved)), scores_of(load(trained)))
    write_store(tmp_path / "wider", hidden=24)
    with pytest.raises(LinkedOutError):
        load(trained, store=tmp_path / "wider")
    with pytest.raises(LinkedOutError, match="nowhere"):
        load(trained, store=tmp_path / "nowhere")


def test_other_items_are_refused(trained: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path)
    file = tmp_path / "tiny" / "tiny.inter"
    file.write_text(file.read_text() + f"u1\tm{len(ITEM_IDS) + 1}\t99\n")
    with pytest.raises(DataError, match=rf"knows {len(ITEM_IDS)} items, the dataset 'tiny' now"):
        load(trained, config_dict={"data_path": str(tmp_path), "linkedout": {"encoder": "id"}})


def test_folders_without_a_run(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no trained model: model\.safetensors, run\.json"):
        load(tmp_path)
    with pytest.raises(ConfigError, match="holds no trained model"):
        load(tmp_path / "nowhere")
    part = copy_of(trained, tmp_path / "part")
    (part / "items.json").unlink()
    with pytest.raises(ConfigError, match=r"items\.json is not there"):
        load(part)


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("run.json", lambda text: text[:-40], "is damaged"),
        ("run.json", lambda text: "[]", "is of format None"),
        ("run.json", lambda text: text.replace('"format": 1', '"format": 7'), "format 7"),
        ("run.json", lambda text: text.replace('"settings"', '"sittings"'), "`settings` is None"),
        ("run.json", lambda text: text.replace('"SASRec"', '"NoRec"'), "no sequential model"),
        ("run.json", lambda text: text.replace('"1.2.1"', '"1.0"'), "trained by RecBole 1.0"),
        ("run.json", lambda text: text.replace('"hidden_size": 16', '"hidden_size": 8'), "."),
        ("items.json", lambda text: "{}", "holds no list of items"),
        ("items.json", lambda text: text.replace("m1", "x1"), "numbers them otherwise"),
        ("items.json", lambda text: "", "is damaged"),
    ],
)
def test_tampered_files(trained: Path, tmp_path: Path, file: str, change: Any, says: str) -> None:
    folder = copy_of(trained, tmp_path / "run")
    (folder / file).write_text(change((folder / file).read_text()))
    with pytest.raises(LinkedOutError, match=says) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_damaged_weights(trained: Path, tmp_path: Path) -> None:
    folder = copy_of(trained, tmp_path / "run")
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match="holds no weights of this model"):
        load(folder)


def test_settings_of_a_run_are_never_run_as_code(trained: Path, tmp_path: Path) -> None:
    """RecBole evaluates the strings of a `config_dict`; those of a file that came along are not."""
    folder = copy_of(trained, tmp_path / "run")
    found = json.loads((folder / "run.json").read_text())
    mark = tmp_path / "mark"
    found["settings"]["note"] = f"open({str(mark)!r}, 'w').close() or 1"
    (folder / "run.json").write_text(json.dumps(found))
    load(folder)
    assert not mark.exists()


def test_class_of_ones_own_is_asked_for(world: World, tmp_path: Path) -> None:
    made = with_item_encoder(
        "GRU4Rec", lambda slot: IdentityEncoder(slot.embedding.weight[: len(ITEM_IDS) + 1])
    )
    settings = world.settings("GRU4Rec", epochs=1)
    run(made, "tiny", config_dict=settings, out=tmp_path / "run", verbose=False)
    with pytest.raises(ConfigError, match=r"give the class: load\(path, model=\.\.\.\)"):
        load(tmp_path / "run")
    loaded = load(tmp_path / "run", model=made)
    assert loaded.evaluate() == loaded.figures["test_result"]
    adapted = with_item_encoder("GRU4Rec")  # found by name
    section = {"linkedout": {"encoder": "identity"}}
    run(adapted, "tiny", config_dict=settings | section, out=tmp_path / "named", verbose=False)
    assert load(tmp_path / "named").evaluate()


# RecBole's `quick_start` imports ray; this is its `load_data_and_model`, line by line, and the
# end of its `run_recbole` from a file.
BY_HAND = """
import json, sys, torch
from recbole_adapters.compat import session
file, which = sys.argv[1:]
with session():
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed
    checkpoint = torch.load(file)
    config = checkpoint["config"]
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    train, valid, test = data_preparation(config, dataset)
    init_seed(config["seed"], config["reproducibility"])
    kind = config.model_class if which == "adapted" else get_model(config["model"])
    model = kind(config, train._dataset).to(config["device"])
    model.load_state_dict(checkpoint["state_dict"])
    model.load_other_parameter(checkpoint.get("other_parameter"))
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    first = trainer.evaluate(test, load_best_model=False)
    again = trainer.evaluate(test, load_best_model=True, model_file=file)
    assert first == again
    print(json.dumps({name: float(value) for name, value in first.items()}))
"""


@pytest.mark.parametrize("kind", ["plain", "adapted"])
def test_recboles_own_checkpoint_is_read_by_recbole(
    kind: str, world: World, tmp_path: Path
) -> None:
    section = {"checkpoint": "recbole", "encoder": "id"}
    if kind == "adapted":
        section = {"checkpoint": "recbole", "store": str(world.store), "rank": 8}  # type: ignore[dict-item]
    settings = world.settings("GRU4Rec", linkedout=section)
    done = run("GRU4Rec", "tiny", config_dict=settings, out=tmp_path / "run", verbose=False)
    assert (tmp_path / "run" / "model.pth").is_file()
    read = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BY_HAND, str(tmp_path / "run" / "model.pth"), kind],
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": str(Path(__file__).parents[2]), "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert read.returncode == 0, read.stderr
    assert json.loads(read.stdout.splitlines()[-1]) == done["test_result"]
    with pytest.raises(ConfigError, match="RecBole's own pickle, which this package does not load"):
        load(tmp_path / "run")


def test_recboles_checkpoint_wants_a_class_with_a_name(world: World, tmp_path: Path) -> None:
    made = with_item_encoder("GRU4Rec", store=str(world.store), checkpoint="recbole")
    settings = world.settings("GRU4Rec", linkedout={"encoder": "id", "checkpoint": "recbole"})
    with pytest.raises(ConfigError, match="cannot import by that name"):
        run(made, "tiny", config_dict=settings, out=tmp_path, verbose=False)
