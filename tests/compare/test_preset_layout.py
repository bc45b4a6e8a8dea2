"""The official files of MicroLens-100K, found under the names that people have them under."""

from __future__ import annotations

import csv
import gzip
import shutil
from pathlib import Path

import pytest
from official_layout import VIDEOS, write_layout

from linkedout_lightning.compare.presets.layout import OFFICIAL, find_layout
from linkedout_lightning.errors import ConfigError
from linkedout_lightning.tap.items import read_items


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_layout(tmp_path / "MicroLens-100k", items=12, users=20)


def test_it_finds_what_the_authors_publish(root: Path) -> None:
    layout = find_layout(root)
    assert layout.pairs.name == "MicroLens-100k_pairs.csv"
    assert layout.item_ids == [str(i) for i in range(1, 13)]
    assert set(layout.videos) == set(layout.item_ids)
    assert layout.titles["3"].endswith("thing")  # from the 50k file, which has it
    assert layout.titles["1"].startswith("a ")
    rows = (root / "MicroLens-100k_pairs.csv").read_text().splitlines()[1:]
    assert layout.sizes["rows"] == len(rows)
    assert layout.sizes["users"] == 20
    assert not layout.official
    lengths = [sum(row.startswith(f"{user + 1},") for row in rows) for user in range(20)]
    assert layout.positions == sum(max(0, min(n, 13) - 3) for n in lengths)
    assert OFFICIAL == {"users": 100_000, "items": 19_738, "rows": 719_405}


@pytest.mark.parametrize("tables", ["plain", "gzipped", "one level below", "other case"])
def test_names_that_differ_a_little(root: Path, tables: str) -> None:
    for file in [*root.glob("*.csv")]:
        if tables == "gzipped":
            (root / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
        elif tables == "one level below":
            (root / "Annotations").mkdir(exist_ok=True)
            file.rename(root / "Annotations" / file.name)
        elif tables == "other case":
            file.rename(root / file.name.replace("MicroLens", "Microlens"))
    assert len(find_layout(root).titles) == 12


@pytest.mark.parametrize("folder", ["video", "videos", "Video", "MicroLens-100K_videos"])
def test_folders_of_videos(root: Path, folder: str) -> None:
    (root / VIDEOS).rename(root / folder)
    assert len(find_layout(root).videos) == 12


def test_videos_in_parts(root: Path) -> None:
    for part, items in enumerate((range(1, 7), range(7, 13)), 1):
        inner = root / f"{VIDEOS}_Part_{part}" / VIDEOS
        inner.mkdir(parents=True)
        for item in items:
            shutil.move(root / VIDEOS / f"{item}.mp4", inner)
    (root / VIDEOS).rmdir()
    assert len(find_layout(root).videos) == 12


def test_pairs_as_sequences_give_the_same_catalogue(root: Path, tmp_path: Path) -> None:
    other = write_layout(tmp_path / "other", items=12, users=20, tsv=True)
    one, two = find_layout(root), find_layout(other)
    assert (one.item_ids, one.sizes, one.positions) == (two.item_ids, two.sizes, two.positions)


def test_titles_with_bare_commas_and_a_header_of_the_authors(root: Path) -> None:
    path = root / "MicroLens-100k_title_en.csv"
    path.write_text("videoID, title\n1,one, two, three\n2,four\n", encoding="utf-8")
    titles = find_layout(root).titles
    assert titles["1"] == "one, two, three"
    assert "videoID" not in titles


def test_the_item_table_is_one_that_the_extraction_reads(root: Path, tmp_path: Path) -> None:
    covers = root / "MicroLens-100k_covers"
    covers.mkdir()
    (covers / "5.jpg").write_bytes(b"cover")
    layout = find_layout(root)
    layout.write_items(tmp_path / "items.csv")
    items = {item.item_id: item for item in read_items(tmp_path / "items.csv")}
    assert list(items) == layout.item_ids
    assert items["5"].video == str((root / VIDEOS / "5.mp4").absolute())
    assert items["5"].cover == str((covers / "5.jpg").absolute())
    assert items["4"].cover is None
    assert items["5"].columns["title"] == layout.titles["5"]


def test_no_folder_and_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no/where', which is no folder"):
        find_layout("no/where")
    with pytest.raises(ConfigError, match=r"neither MicroLens-100k_pairs\.csv nor"):
        find_layout(tmp_path)


def test_all_that_is_missing_is_named_at_once(root: Path) -> None:
    (root / "MicroLens-100k_title_en.csv").unlink()
    (root / VIDEOS / "7.mp4").unlink()
    with pytest.raises(ConfigError) as refused:
        find_layout(root)
    message = str(refused.value)
    assert "no MicroLens-100k_title_en.csv" in message
    assert f"1 of 12 items have no video in '{VIDEOS}': '7'" in message
    assert "incomplete" in message
    with pytest.raises(ConfigError) as refused:
        find_layout(root, wants_titles=False)
    assert "title" not in str(refused.value)


def test_videos_that_are_still_packed(root: Path) -> None:
    shutil.rmtree(root / VIDEOS)
    for suffix in ("z01", "zip"):
        (root / f"{VIDEOS}.{suffix}").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"no folder of videos .* still packed: .*zip -s 0"):
        find_layout(root)


def test_incomplete_data_are_taken_when_asked(root: Path) -> None:
    (root / VIDEOS / "7.mp4").unlink()
    layout = find_layout(root, incomplete=True)
    assert "7" in layout.item_ids
    assert "7" not in layout.videos
    assert any("1 of 12 items have no video" in note for note in layout.notes)


def test_the_title_file_of_the_real_data(shared_data: Path, tmp_path: Path) -> None:
    """The authors' own titles beside pairs of the first items, under the larger set's names."""
    source = shared_data / "microlens"
    with gzip.open(source / "MicroLens-50k_pairs.tsv.gz", "rt") as lines:
        some = [next(lines) for _ in range(50)]
    (tmp_path / "MicroLens-100k_pairs.tsv").write_text("".join(some))
    shutil.copy(source / "MicroLens-50k_titles.csv.gz", tmp_path / "MicroLens-100k_titles.csv.gz")
    (tmp_path / "video").symlink_to(source / "videos")
    layout = find_layout(tmp_path, incomplete=True)
    with gzip.open(source / "MicroLens-50k_titles.csv.gz", "rt", newline="") as table:
        real = dict(csv.reader(table))
    assert layout.titles == {item: real[item].strip() for item in layout.item_ids}
