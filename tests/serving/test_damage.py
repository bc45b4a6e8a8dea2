"""Bundles that are damaged or hostile are refused with one sentence, and nothing of them is run."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
from pathlib import Path

import pytest
from bundles import IDS, histories
from safetensors.torch import load, save

from linkedout_lightning import Ranker
from linkedout_lightning.errors import LinkedOutError
from linkedout_lightning.serving import Bundle, BundleError
from linkedout_lightning.serving import folder as files
from linkedout_lightning.serving.manifest import MANIFEST, Segment, decode, encode

FLIPS = 40


def refused(path: Path, *words: str) -> str:
    with pytest.raises(BundleError) as caught:
        Ranker.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    assert all(word in message for word in words), message
    return message


def rewritten(path: Path, **changes) -> None:
    """A manifest with other content that is in order with itself, as a forger would write it."""
    manifest = decode((path / MANIFEST).read_bytes(), where="here")
    named = changes.pop("files", {})
    entries = {**manifest.files, **named}
    made = object.__new__(type(manifest))
    for field in dataclasses.fields(manifest):
        object.__setattr__(made, field.name, getattr(manifest, field.name))
    for name, value in {**changes, "files": entries}.items():
        object.__setattr__(made, name, value)
    (path / MANIFEST).write_bytes(encode(made))


def replaced(path: Path, name: str, content: bytes) -> None:
    """Another content of a file, and a manifest that vouches for it."""
    (path / name).write_bytes(content)
    rewritten(path, files={name: files.entry_of(path / name)})


def test_a_flipped_byte_in_any_file_is_refused(with_formats: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(with_formats, tmp_path / "b"))
    chance = random.Random(0)
    found = [path for path in own.rglob("*") if path.is_file()]
    assert len(found) == 7
    for path in found:
        whole = path.read_bytes()
        places = {0, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(FLIPS))}
        for place in sorted(places):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << chance.randrange(8)
            path.write_bytes(damaged)
            refused(own)
        path.write_bytes(whole)
    assert Ranker.load(own).recommend([["v1"]], 3).ids[0]


def test_every_byte_of_the_manifest_counts(own: Path) -> None:
    whole = (own / MANIFEST).read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        with pytest.raises(BundleError):
            decode(bytes(damaged), where="'b'")
    for more in (b" ", b"\n", b"\0"):
        with pytest.raises(BundleError):
            decode(whole + more, where="'b'")


@pytest.mark.parametrize("length", [0, 1, -1])
def test_a_truncated_file_is_refused(own: Path, length: int) -> None:
    for path in [p for p in own.rglob("*") if p.is_file()]:
        whole = path.read_bytes()
        path.write_bytes(whole[:length])
        refused(own)
        path.unlink()
        refused(own)
        path.write_bytes(whole)
    Ranker.load(own)


@pytest.mark.parametrize(
    "name",
    ["../outside", "items/../../outside", "/etc/hostname", "items//0", "items\\0", "C:\\x", "",
     ".", "..", "items/.hidden", "a\0b", "items/" + "x" * 300, "ï"],
)  # fmt: skip
def test_names_that_lead_out_are_refused(own: Path, name: str) -> None:
    (own.parent / "outside").write_text("[]")
    entry = files.entry_of(own.parent / "outside")
    first = Bundle.open(own).manifest.segments[0]
    rewritten(own, files={name: entry}, segments=(dataclasses.replace(first, ids=name),))
    refused(own, "no plain name")


def test_links_are_refused_wherever_they_stand(own: Path) -> None:
    outside = own.parent / "outside"
    shutil.copytree(own, outside)
    name = "items/0.ids.json"
    (own / name).unlink()
    (own / name).symlink_to(outside / name)
    refused(own, "symbolic link")
    (own / name).unlink()
    shutil.rmtree(own / "items")
    (own / "items").symlink_to(outside / "items")
    refused(own, "symbolic link")
    (own / "items").unlink()
    shutil.copytree(outside / "items", own / "items")
    (own / MANIFEST).unlink()
    (own / MANIFEST).symlink_to(outside / MANIFEST)
    refused(own)


def test_the_bundle_itself_may_be_named_by_a_link(own: Path) -> None:
    (own.parent / "current").symlink_to(own)
    assert len(Ranker.load(own.parent / "current")) == len(IDS)


def test_a_pipe_in_a_file_s_place_does_not_hang(own: Path) -> None:
    (own / "items/0.ids.json").unlink()
    os.mkfifo(own / "items/0.ids.json")
    refused(own, "items/0.ids.json")


@pytest.mark.parametrize(
    ("version", "cure"), [(2, "install a later"), (0, "export it again"), ("1", "export it again")]
)
def test_another_format_version_says_why_not(own: Path, version, cure: str) -> None:
    value = json.loads((own / MANIFEST).read_bytes())
    (own / MANIFEST).write_text(json.dumps(value | {"version": version, "anything": []}))
    refused(own, repr(version), cure)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"[" * 100_000, b"\xff", b"null", b"3"])
def test_what_is_no_manifest(own: Path, content: bytes) -> None:
    (own / MANIFEST).write_bytes(content)
    refused(own, "is no bundle")


def test_what_is_no_bundle(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent", tmp_path / ("x" * 300)):
        refused(path, "linkedout export")


@pytest.mark.parametrize(
    "changes",
    [
        {"dim": 0}, {"dim": "16"}, {"dtype": "float64"}, {"dtype": "int8"}, {"dim": 15},
        {"segments": ()}, {"sequence": {}}, {"sequence": {"kind": 3}}, {"encoder": {}},
        {"generation": -1}, {"source": []}, {"encoder": {"weights": 3}}, {"removed": 7},
        {"sequence": {"kind": "x", "options": {}, "max_len": 8, "weights": "x", "exports": {}}},
    ],
)  # fmt: skip
def test_fields_of_another_kind(own: Path, changes) -> None:
    rewritten(own, **changes)
    refused(own)


@pytest.mark.parametrize(
    "changes",
    [{"kind": "eval"}, {"max_len": 9}, {"options": {"blocks": 3, "heads": 2}},
     {"options": {"blocks": 2, "heads": 3}}, {"options": {"__class__": 1}}, {"max_len": 10**12}],
)  # fmt: skip
def test_a_sequence_encoder_that_does_not_fit(own: Path, changes) -> None:
    rewritten(own, sequence={**Bundle.open(own).manifest.sequence, **changes})
    refused(own, "fit")


@pytest.mark.parametrize(
    "changes",
    [{"options": {}}, {"options": {"fuser": "x"}}, {"layers": [2, 4]}, {"slots": ["a", "a"]},
     {"hidden_size": 23}, {"hidden_size": "x"}, {"layers": "244"}, {"layers": None}],
)  # fmt: skip
def test_a_fusion_encoder_that_does_not_fit(own: Path, changes) -> None:
    rewritten(own, encoder={**Bundle.open(own).manifest.encoder, **changes})
    refused(own, "fit")


def test_forged_contents_that_do_not_fit(own: Path) -> None:
    name, ids = "items/0.safetensors", "items/0.ids.json"
    whole, listed = (own / name).read_bytes(), (own / ids).read_bytes()
    tensors = load(whole)
    bad = {
        "short": {**tensors, "vectors": tensors["vectors"][1:].contiguous()},
        "narrow": {**tensors, "vectors": tensors["vectors"][:, 1:].contiguous()},
        "nan": {**tensors, "vectors": tensors["vectors"] * float("nan")},
        "half": {**tensors, "vectors": tensors["vectors"].half()},
        "none": {key: value for key, value in tensors.items() if key != "vectors"},
        "gates": {**tensors, "gates": tensors["gates"][1:].contiguous()},
    }
    for content in [*map(save, bad.values()), b"", b"\xff" * 20, b"\x10" + bytes(30)]:
        replaced(own, name, content)
        refused(own)
    replaced(own, name, whole)
    for value in ([*IDS[1:], IDS[1]], IDS[1:], [*IDS[1:], 5], [*IDS[1:], ""], {}, "x", [[]] * 211):
        replaced(own, ids, json.dumps(value).encode())
        refused(own)
    replaced(own, ids, b"[" * 200_000)
    refused(own)
    replaced(own, ids, listed)
    for value in ({"title": ["x"]}, {"title": "x" * len(IDS)}, {"title": [1] * len(IDS)}, []):
        replaced(own, "items/0.columns.json", json.dumps(value).encode())
        refused(own)


def test_a_segment_that_is_there_twice_counts_once(own: Path) -> None:
    """A later segment replaces: not an error, and nothing is there twice."""
    segments = Bundle.open(own).manifest.segments
    rewritten(own, segments=(*segments, *segments))
    assert sorted(Ranker.load(own).item_ids) == sorted(IDS)
    rewritten(own, segments=(Segment(0, *dataclasses.astuple(segments[0])[1:]),))
    refused(own)


def test_nothing_in_a_bundle_is_a_pickle(with_formats: Path) -> None:
    import zipfile

    for path in with_formats.rglob("*"):
        if path.is_dir():
            continue
        assert path.suffix in {".json", ".safetensors", ".onnx", ".pt2"}
        if path.suffix == ".pt2":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    assert archive.read(name)[:2] not in (b"\x80\x02", b"\x80\x04", b"PK"), name


def test_a_hostile_archive_is_never_opened(with_formats: Path, tmp_path: Path, monkeypatch) -> None:
    """`torch.export.load` would unpickle it; checked contents or not, nobody calls it."""
    import torch

    def never(*arguments, **options):
        raise AssertionError("a .pt2 archive was loaded")

    own = Path(shutil.copytree(with_formats, tmp_path / "b"))
    monkeypatch.setattr(torch.export, "load", never)
    monkeypatch.setattr(torch, "load", never)
    replaced(own, "sequence/encoder.pt2", b"cos\nsystem\n(S'false'\ntR.")
    for runtime in ("torch", "onnx"):
        assert Ranker.load(own, runtime=runtime).recommend(histories(3), 2).ids


def test_a_forged_onnx_model_is_one_sentence(with_formats: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(with_formats, tmp_path / "b"))
    replaced(own, "sequence/encoder.onnx", b"\x08\x07nonsense")
    with pytest.raises(LinkedOutError, match="ONNX"):
        Ranker.load(own, runtime="onnx")


def test_the_folder_s_order_and_extras_do_not_matter(own: Path) -> None:
    (own / "notes.txt").write_text("of a person")
    (own / "items" / ".DS_Store").write_bytes(b"x")
    assert len(Ranker.load(own)) == len(IDS)
