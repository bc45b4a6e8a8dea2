"""What an export writes, when it refuses, and what is left when it is ended."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bundles import DIM, IDS, LONGEST, histories, make_model, write_bundle

from linkedout_lightning import Ranker, export_bundle
from linkedout_lightning.errors import ConfigError, DataError, NonFiniteError
from linkedout_lightning.serving import Bundle
from linkedout_lightning.serving.manifest import MANIFEST

V1 = Path(__file__).parent / "bundle_v1"


def test_a_bundle_of_format_version_1_still_answers() -> None:
    """`bundle_v1` was written by the first version that wrote any; it is never written again."""
    ranker = Ranker.load(V1)
    expected = json.loads((V1.parent / "bundle_v1_answers.json").read_text())
    found = ranker.recommend(expected["histories"], 5)
    assert found.ids == expected["ids"]
    for mine, theirs in zip(found.scores, expected["scores"], strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4)
    new = torch.tensor(expected["features"]).view(1, *expected["shape"])
    made = ranker._snapshot.newcomers.encode(new)
    assert made.vectors[0].tolist() == pytest.approx(expected["vector"], abs=1e-5)


@pytest.mark.parametrize("backbone", ["sasrec", "gru4rec", "nextitnet"])
def test_the_other_formats_compute_the_same(backbone: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = make_model(backbone)
    path = write_bundle(model, tmp_path / "b", formats=("torch.export", "onnx"))
    users = torch.tensor([[0] * (LONGEST - n) + list(range(1, n + 1)) for n in range(LONGEST + 1)])
    vectors = torch.nn.functional.embedding(users, model.item_table())
    with torch.no_grad():
        expected = model.encode_sequences(users[1:])
        # The bundle is this test's own, so its program may be run.
        program = torch.export.load(path / "sequence/encoder.pt2").module()
        exported = program(vectors=vectors, mask=users != 0)
    torch.testing.assert_close(exported[1:], expected, atol=1e-5, rtol=1e-5)
    assert not exported[0].any()
    ranker = Ranker.load(path, runtime="onnx")
    states = ranker._snapshot.encode(vectors, users != 0)
    torch.testing.assert_close(states[1:], expected, atol=1e-5, rtol=1e-5)
    assert not states[0].any()
    short = ranker._snapshot.encode(vectors[1:4, -3:], users[1:4, -3:] != 0)
    torch.testing.assert_close(short, expected[:3], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_smaller_numbers_on_disk(dtype: str, tmp_path: Path) -> None:
    model = make_model()
    whole = Ranker.load(write_bundle(model, tmp_path / "whole"))
    path = write_bundle(model, tmp_path / dtype, dtype=dtype)
    small, later = Ranker.load(path), Ranker.load(tmp_path / "whole", dtype=dtype)
    users = histories(200)
    assert small.recommend(users, 10).ids == later.recommend(users, 10).ids
    expected = whole.recommend(users, 10).ids
    shared = [
        len(set(a) & set(b)) for a, b in zip(small.recommend(users, 10).ids, expected, strict=True)
    ]
    assert sum(shared) / (10 * len(users)) > 0.95
    assert small.info()["bytes"] <= 0.6 * whole.info()["bytes"]


def test_the_same_model_has_the_same_fingerprint(tmp_path: Path) -> None:
    first, again = (write_bundle(make_model(), tmp_path / name) for name in "ab")
    other = write_bundle(make_model("gru4rec"), tmp_path / "c")
    prints = [Bundle.open(path).manifest.bundle for path in (first, again, other)]
    assert prints[0] == prints[1] != prints[2]


def test_a_model_in_training_stays_in_training(tmp_path: Path) -> None:
    model = make_model().train()
    write_bundle(model, tmp_path / "b")
    assert model.training
    assert model.item_encoder.training


def test_places_that_hold_something(own: Path, tmp_path: Path) -> None:
    before = (own / MANIFEST).read_bytes()
    with pytest.raises(ConfigError, match="overwrite"):
        write_bundle(make_model(), own)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(own)
    for name in ("mine", "file", "link"):
        with pytest.raises(ConfigError, match="give another"):
            write_bundle(make_model(), tmp_path / name, overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "x"
    assert (own / MANIFEST).read_bytes() == before
    (tmp_path / "empty").mkdir()
    write_bundle(make_model(), tmp_path / "empty")


def test_overwriting_swaps_whole_folders(own: Path) -> None:
    Ranker.load(own).add_items(["n"], torch.randn(1, DIM), durable=True)
    write_bundle(make_model("gru4rec"), own, overwrite=True)
    assert Bundle.open(own).manifest.generation == 0
    assert not list(own.glob("items/1.*"))
    assert {p.name for p in own.parent.iterdir()} == {own.name}


def test_models_and_arguments_that_are_refused(tmp_path: Path) -> None:
    model, out = make_model(), tmp_path / "b"
    for options, error, words in (
        ({"item_ids": IDS[1:]}, DataError, "210"),
        ({"item_ids": [*IDS[1:], IDS[1]]}, DataError, "210 different"),
        ({"item_ids": [*IDS[1:], ""]}, DataError, "none empty"),
        ({"item_ids": None}, ConfigError, "item_ids"),
        ({"counts": torch.ones(3)}, DataError, "counts"),
        ({"columns": {"title": ["x"]}}, DataError, "title"),
        ({"dtype": "bfloat16"}, ConfigError, "bfloat16"),
        ({"formats": ["pickle"]}, ConfigError, "pickle"),
    ):
        with pytest.raises(error, match=words):
            write_bundle(model, out, **options)
    own = torch.nn.GRU(DIM, DIM, batch_first=True)
    with pytest.raises(ConfigError, match="GRU"):
        write_bundle(make_model(own), out)
    with torch.no_grad():
        model.item_encoder.scale.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="'v1'"):
        write_bundle(model, out)
    assert not list(tmp_path.iterdir())


def test_importing_and_loading_brings_no_extra(bundle: Path) -> None:
    code = (
        "import sys\nfrom linkedout_lightning import Ranker\n"
        "Ranker.load(sys.argv[1]).recommend([['v1']], 3)\n"
        "extra = {'faiss', 'onnx', 'onnxruntime', 'onnxscript', 'av', 'decord', 'lance', 'recbole',"
        " 'litserve', 'fastapi'} & set(sys.modules)\n"
        "assert not extra, extra\n"
    )
    subprocess.run([sys.executable, "-c", code, str(bundle)], check=True, timeout=200)


def test_a_missing_extra_is_one_sentence(tmp_path: Path, monkeypatch, bundle: Path) -> None:
    for name in ("onnxscript", "faiss"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"linkedout-lightning\[onnx\]"):
        write_bundle(make_model(), tmp_path / "b", formats=("onnx",))
    with pytest.raises(ImportError, match=r"linkedout-lightning\[search\]"):
        Ranker.load(bundle, "ivf")
    export_bundle(make_model(), tmp_path / "b", item_ids=IDS, formats=["torch.export"])
