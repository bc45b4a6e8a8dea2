from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from linkedout_lightning.errors import ConfigError, DataError
from linkedout_lightning.tap.items import Item, read_items

ROWS = [("007", "A cat, asleep", "x;y"), ("8", 'Says "hi"', ""), ("ü", "two\nlines", "z")]


def _quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def _csv(delimiter: str) -> str:
    lines = [("item_id", "title", "tags"), *ROWS]
    return "\n".join(delimiter.join(map(_quoted, line)) for line in lines)


def _json() -> str:
    rows = [dict(zip(("item_id", "title", "tags"), row, strict=True)) for row in ROWS]
    return "\n\n".join(json.dumps({k: v for k, v in row.items() if v}) for row in rows)


@pytest.mark.parametrize(
    "name", ["a.csv", "a.tsv", "a.jsonl", "a.csv.gz", "a.jsonl.gz", "a.parquet"]
)
def test_formats_give_the_same_items(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.parquet":
        ids, titles, tags = (list(column) for column in zip(*ROWS, strict=True))
        tags[1] = None
        parquet.write_table(pa.table({"item_id": ids, "title": titles, "tags": tags}), path)
    else:
        kind = name.split(".")[1]
        text = {"csv": _csv(","), "tsv": _csv("\t"), "jsonl": _json()}[kind]
        data = ("\ufeff" * (kind == "csv") + text).encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert read_items(path) == [
        Item(item_id, None, {"title": title, "tags": tags}) for item_id, title, tags in ROWS
    ]


def test_numbers_and_lists_become_text(tmp_path: Path) -> None:
    parquet.write_table(
        pa.table({"id": [1, 2], "year": [2001.0, float("nan")], "tags": [["a", "b"], None]}),
        tmp_path / "a.parquet",
    )
    assert read_items(tmp_path / "a.parquet") == [
        Item("1", None, {"year": "2001", "tags": "a, b"}),
        Item("2", None, {"year": "", "tags": ""}),
    ]


def test_recbole_item_files_lose_the_types_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "ml.item").write_text("item_id:token\tname:token_seq\n5\tToy Story\n")
    assert read_items(tmp_path / "ml.item", title_column="name") == [
        Item("5", None, {"name": "Toy Story", "title": "Toy Story"})
    ]


@pytest.mark.parametrize("header", ["item,title\n", ""])
def test_microlens_titles_with_and_without_header(tmp_path: Path, header: str) -> None:
    path = tmp_path / "MicroLens-100k_title_en.csv"
    path.write_text(header + '1,"A, b"\n2,c, d\n')
    assert read_items(path) == [
        Item("1", None, {"title": "A, b"}),
        Item("2", None, {"title": "c, d"}),
    ]


def test_real_titles(shared_data: Path) -> None:
    folder = shared_data / "microlens"
    items = read_items(folder / "MicroLens-50k_titles.csv.gz", folder / "videos")
    assert len(items) == 19220
    assert all(item.columns["title"] for item in items)
    assert [Path(i.video).name for i in items if i.video] == ["1002.mp4", "10034.mp4", "10040.mp4"]


def test_a_folder_of_videos(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.mp4", "a.MKV", "deep/c.webm", "same.avi", "deep/same.mp4", "notes.txt"):
        (tmp_path / name).touch()
    os.symlink("loop.mp4", tmp_path / "loop.mp4")
    os.symlink(tmp_path, tmp_path / "deep" / "up")
    found = {item.item_id: item.video for item in read_items(videos=tmp_path)}
    assert found == {
        name: str(tmp_path / path)
        for name, path in {
            "a": "a.MKV",
            "b": "b.mp4",
            "c": "deep/c.webm",
            "deep/same.mp4": "deep/same.mp4",
            "loop": "loop.mp4",
            "same.avi": "same.avi",
        }.items()
    }


def test_videos_join_by_id_or_by_column(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "1.mp4").touch()
    (tmp_path / "a.csv").write_text("id,title\n1,x\n2,y\n")
    (tmp_path / "b.csv").write_text("id,video,title\n1,q/z.mp4,x\n2,,y\n")
    folder = str(tmp_path / "videos")
    assert [i.video for i in read_items(tmp_path / "a.csv", folder)] == [f"{folder}/1.mp4", None]
    assert read_items(tmp_path / "b.csv", folder) == [
        Item("1", f"{folder}/q/z.mp4", {"title": "x"}),
        Item("2", None, {"title": "y"}),
    ]
    assert read_items(tmp_path / "b.csv")[0].video == str(tmp_path / "q/z.mp4")


def test_covers_join_by_id_or_by_column(tmp_path: Path) -> None:
    (tmp_path / "covers").mkdir()
    for name in ("1.JPG", "1.txt", "2.mp4", "3.webp", "deep.png"):
        (tmp_path / "covers" / name).touch()
    (tmp_path / "a.csv").write_text("id,title\n1,x\n2,y\n3,z\n")
    (tmp_path / "b.csv").write_text("id,Cover,title\n1,q/z.png,x\n2, ,y\n")
    (tmp_path / "c.csv").write_text("id,poster,image\n1,p.png,i.png\n")
    folder = str(tmp_path / "covers")
    assert read_items(tmp_path / "a.csv", covers=folder) == [
        Item("1", None, {"title": "x"}, f"{folder}/1.JPG"),
        Item("2", None, {"title": "y"}),
        Item("3", None, {"title": "z"}, f"{folder}/3.webp"),
    ]
    assert read_items(tmp_path / "b.csv", covers=folder) == [
        Item("1", None, {"title": "x"}, f"{folder}/q/z.png"),
        Item("2", None, {"title": "y"}),
    ]
    assert read_items(tmp_path / "b.csv")[0].cover == str(tmp_path / "q/z.png")
    assert read_items(tmp_path / "c.csv", cover_column="poster") == [
        Item("1", None, {"image": "i.png"}, str(tmp_path / "p.png"))
    ]
    assert read_items(covers=folder) == [
        Item("1", cover=f"{folder}/1.JPG"),
        Item("3", cover=f"{folder}/3.webp"),
        Item("deep", cover=f"{folder}/deep.png"),
    ]
    (tmp_path / "videos").mkdir()
    for name in ("1.mp4", "4.mp4"):
        (tmp_path / "videos" / name).touch()
    assert [
        (i.item_id, i.cover) for i in read_items(videos=tmp_path / "videos", covers=folder)
    ] == [
        ("1", f"{folder}/1.JPG"),
        ("4", None),
    ]
    with pytest.raises(ConfigError, match=r"`covers` is .*no folder"):
        read_items(tmp_path / "a.csv", covers=tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"`cover_column` is 'x'.*id, title"):
        read_items(tmp_path / "a.csv", cover_column="x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,text\nx,y\n", "no column of item ids; its columns are name, text"),
        ("id,title\n1,x\n1,y\n", "1 item ids occur more than once.*'1'"),
        ("id,title\n,x\n", "1 rows .* no item id"),
        ("id,title\n1,x,y\n", "line 2 .*3 values for 2 columns"),
        ("", "is empty"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        read_items(tmp_path / "a.csv")


def test_arguments_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,title\n1,x\n")
    (tmp_path / "b.csv").write_bytes(b"id,title\n1,\xff\n")
    (tmp_path / "c.csv.gz").write_bytes(b"id,title\n1,x\n")
    (tmp_path / "d.jsonl").write_text('{"id": 1}\n[1]\n')
    (tmp_path / "e.parquet").write_text("no")
    (tmp_path / "f.xlsx").touch()
    with pytest.raises(ConfigError, match="give `items`"):
        read_items()
    for name in ("nothing.csv", "f.xlsx"):
        with pytest.raises(ConfigError, match=name):
            read_items(tmp_path / name)
    for name in ("b.csv", "c.csv.gz", "d.jsonl", "e.parquet"):
        with pytest.raises(DataError, match=name):
            read_items(tmp_path / name)
    with pytest.raises(DataError, match=r"`title_column` is 'name'.*id, title"):
        read_items(tmp_path / "a.csv", title_column="name")
    with pytest.raises(ConfigError, match="no folder"):
        read_items(tmp_path / "a.csv", tmp_path / "a.csv")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no video"):
        read_items(videos=tmp_path / "none")


def test_odd_names_and_links_that_loop(tmp_path: Path) -> None:
    """Stores hold text, and a folder may hold a link to itself."""
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    odd = tmp_path / os.fsdecode(b"not-\xff-utf8.mp4")
    for path in (odd, tmp_path / "line\nbreak.mp4", tmp_path / "below" / odd.name):
        path.touch()
    items = read_items(videos=tmp_path)
    ids = [item.item_id for item in items]
    assert ids == ["below/not-\\xff-utf8.mp4", "line\nbreak", "loop", "not-\\xff-utf8.mp4"]
    pa.array(ids).to_string()
    assert [item.video for item in items if "xff" in item.item_id] == [
        str(tmp_path / "below" / odd.name),
        str(odd),
    ]
