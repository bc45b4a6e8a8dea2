"""From a checkpoint on disk to a bundle, by the commands that people type."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from linkedout_lightning import FeatureStore, Ranker
from linkedout_lightning.cli import main
from linkedout_lightning.fitting import FitConfig, fit
from linkedout_lightning.store import StoreSpec

USERS, ITEMS, HIDDEN = 60, 40, 12


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Interactions, a feature store and a table of items."""
    folder = tmp_path_factory.mktemp("inputs")
    generator = torch.Generator().manual_seed(0)
    lines = ["user_id,item_id,timestamp"]
    for user in range(USERS):
        order = torch.randperm(ITEMS, generator=generator)[: 5 + user % 6].tolist()
        lines += [f"u{user},v{item},{step}" for step, item in enumerate(order)]
    (folder / "interactions.csv").write_text("\n".join(lines) + "\n")
    rows = "".join(f"v{item},Title {item},en\n" for item in range(ITEMS - 1))
    (folder / "items.csv").write_text(f"item_id,title,language\n{rows}")
    spec = StoreSpec(
        model="m", revision="1", layers=(1, 2), slots=("last",), hidden_size=HIDDEN, dtype="float32"
    )
    store = FeatureStore.create(folder / "features", spec)
    features = torch.randn(ITEMS + 1, 2, 1, HIDDEN, generator=generator)
    store.append(
        [f"v{item}" for item in range(ITEMS + 1)], features, torch.ones(ITEMS + 1, 1).bool()
    )
    return folder


@pytest.fixture(scope="module")
def trained(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A run of `linkedout fit` and its test figures."""
    out = tmp_path_factory.mktemp("fit")
    report = fit(
        FitConfig(
            interactions=str(inputs / "interactions.csv"), store=str(inputs / "features"),
            out=str(out), encoder="linkedout+id", epochs=2, dim=8, rank=4, max_len=6,
            accelerator="cpu",
        ),
        progress=False,
    )  # fmt: skip
    return out, report.metrics


@pytest.fixture(scope="module")
def exported(trained, inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "b"
    words = ["export", str(trained[0] / "best.ckpt"), "--out", str(out), "--layers"]
    words += ["--items", str(inputs / "items.csv"), "--formats", "torch.export"]
    assert main([*words, "--quiet"]) == 0
    return out


def test_figures_of_the_bundle_are_those_of_the_training(trained, inputs: Path, exported) -> None:
    """HR@10 over the test users, from the command's bundle and from the trainer."""
    _, metrics = trained
    histories: dict[str, list[str]] = {}
    for line in (inputs / "interactions.csv").read_text().splitlines()[1:]:
        user, item, _ = line.split(",")
        histories.setdefault(user, []).append(item)
    users = [history[:-1] for history in histories.values()]
    found = Ranker.load(exported).recommend(users, 10)
    hits = [h[-1] in ids for h, ids in zip(histories.values(), found.ids, strict=True)]
    assert sum(hits) / len(hits) == pytest.approx(metrics["HR@10"])


def test_popularity_counts_training_alone(exported: Path) -> None:
    shares = Ranker.load(exported)._snapshot.base.popularity
    assert float(shares.sum()) == pytest.approx(1)


def test_recommend_prints_a_table(exported: Path, capsys) -> None:
    words = ["recommend", "--bundle", str(exported), "--history", "v1,v2,zz", "-k", "3"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "not in the bundle, passed over: zz"
    assert len(lines) == 4
    assert "Title" in lines[1]
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    expected = Ranker.load(exported).recommend([["v1", "v2"]], 3)
    assert [item["id"] for item in answer["items"]] == expected.ids[0]
    assert answer["unknown"] == ["zz"]


def test_inspect_shows_a_bundle(exported: Path, capsys) -> None:
    assert main(["inspect", str(exported)]) == 0
    shown = capsys.readouterr().out
    assert "sasrec, the last 6 items" in shown
    assert "title, language" in shown
    damaged = exported.parent / "damaged"
    shutil.copytree(exported, damaged)
    (damaged / "items/0.ids.json").write_text("[]")
    assert main(["inspect", str(damaged)]) == 2
    assert "is damaged" in capsys.readouterr().err


def test_an_item_of_the_store_is_added(
    exported: Path, inputs: Path, tmp_path: Path, capsys
) -> None:
    own = str(shutil.copytree(exported, tmp_path / "b"))
    new = f"v{ITEMS}"  # extracted after the training
    words = ["add", "--bundle", own, "--store", str(inputs / "features"), "--id", new]
    assert main([*words, "--quiet"]) == 0
    assert new in Ranker.load(own)
    assert main([*words, "--quiet"]) == 2
    assert "there already" in capsys.readouterr().err
    assert main([*words[:-1], "nobody"]) == 2
    assert "nobody" in capsys.readouterr().err
    other = StoreSpec(model="m", revision="2", layers=(1, 2), slots=("last",), hidden_size=HIDDEN)
    FeatureStore.create(tmp_path / "other", other)
    assert main([*words[:4], str(tmp_path / "other"), *words[5:]]) == 2
    assert "revision: '1'" in capsys.readouterr().err


def test_items_are_deleted(exported: Path, tmp_path: Path, capsys) -> None:
    own = str(shutil.copytree(exported, tmp_path / "b"))
    assert main(["delete", own, "--items", "v1", "nobody"]) == 2
    assert "nobody" in capsys.readouterr().err
    assert main(["delete", own, "--items", "v1,v2"]) == 0
    assert f"deleted 2 ids; {ITEMS - 2} items" in capsys.readouterr().out
    assert "v1" not in Ranker.load(own)


def test_moved_and_changed_inputs(trained, inputs: Path, tmp_path: Path, capsys) -> None:
    moved = Path(shutil.copytree(inputs, tmp_path / "moved"))
    run = Path(shutil.copytree(trained[0], tmp_path / "run"))
    cell = json.loads((run / "cell.json").read_text())
    cell["settings"] |= {"interactions": "/gone/a.csv", "store": "/gone/features"}
    (run / "cell.json").write_text(json.dumps(cell))
    words = ["export", str(run), "--out", str(tmp_path / "b"), "--formats", "torch.export"]
    assert main(words) == 2
    assert "/gone/a.csv" in capsys.readouterr().err
    words += ["--interactions", str(moved / "interactions.csv"), "--store", str(moved / "features")]
    assert main(words) == 0
    table = moved / "interactions.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, "u0,v-new,99", "u1,v-new,99", "u2,v-new,98"]) + "\n")
    assert main([*words, "--overwrite"]) == 2  # another catalogue than the store and the weights
    assert (tmp_path / "b" / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export", "/nowhere"], "no such file"),
        (["export", "EMPTY"], "holds no trained model"),
        (["export", "BARE/best.ckpt"], "says how the model was made"),
        (["export", "RUN", "--encoder", "id"], "no comparison"),
        (["export", "RUN", "--columns", "title"], "name it in `items`"),
        (["export", "RUN", "--items", "ITEMS", "--columns", "nothing"], "nothing"),
        (["export", "RUN", "--formats", "pickle"], "pickle"),
        (["export", "NOISE"], "is no checkpoint"),
        (["recommend", "--bundle", "EMPTY", "--history", "v1"], "is no bundle"),
        (["recommend", "--bundle", "BUNDLE", "--history", "v1", "-k", "0"], "from 1"),
        (["add", "--bundle", "BUNDLE"], "give videos"),
        (["add", "--bundle", "BUNDLE", "--store", "x"], "name the items"),
        (["add", "--bundle", "BUNDLE", "--video", "a", "--id", "1,2"], "2 values for 1 videos"),
        (["add", "--bundle", "BUNDLE", "--video", "a.mp4"], "reads covers or texts"),
    ],
)
def test_bad_input_is_one_sentence(
    words: list[str], said: str, trained, inputs: Path, exported: Path, tmp_path: Path, capsys
) -> None:
    for name in ("empty", "bare"):
        (tmp_path / name).mkdir()
    (tmp_path / "bare" / "best.ckpt").write_bytes(b"x")
    noise = Path(shutil.copytree(trained[0], tmp_path / "noise"))
    (noise / "best.ckpt").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    places = {
        "EMPTY": tmp_path / "empty", "BARE": tmp_path / "bare", "RUN": trained[0],
        "NOISE": noise, "BUNDLE": exported, "ITEMS": inputs / "items.csv",
    }  # fmt: skip
    for name, place in places.items():
        words = [word.replace(name, str(place)) for word in words]
    if words[0] == "export":
        words = [*words, "--out", str(tmp_path / "b")]
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert len(shown.strip().splitlines()) == 1
    assert not (tmp_path / "b").exists()
