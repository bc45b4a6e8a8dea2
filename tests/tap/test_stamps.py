"""Stamps of items: a real change is seen, a copy is none."""

from __future__ import annotations

import builtins
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linkedout_lightning.tap.items import Item
from linkedout_lightning.tap.stamps import stamp, unchanged

WATCH = {"columns": ("title",), "sources": frozenset({"video"})}
BLIND = {"columns": ("title",), "sources": frozenset[str]()}


def item(path: Path | None, title: str = "x", tags: str = "y") -> Item:
    return Item("a", None if path is None else str(path), {"title": title, "tags": tags})


@pytest.fixture(params=[1000, 3_000_001], ids=["small", "large"])
def video(request, tmp_path: Path) -> Path:
    path = tmp_path / "a.mp4"
    path.write_bytes(os.urandom(request.param))
    return path


def test_what_is_used_decides(video: Path) -> None:
    first = stamp(item(video), **WATCH)
    assert first == stamp(item(video), **WATCH)
    assert unchanged(first, item(video), **WATCH)
    assert unchanged(first, item(video, tags="z"), **WATCH)
    assert not unchanged(first, item(video, title="w"), **WATCH)
    assert not unchanged(first, item(None), **WATCH)
    assert not unchanged(first, item(video), **BLIND)
    assert not unchanged("", item(video), **WATCH)
    assert not unchanged("nothing", item(video), **WATCH)
    assert unchanged(stamp(item(video), **BLIND), item(None), **BLIND)


def test_a_copy_is_not_watched_again(video: Path, tmp_path: Path) -> None:
    first = stamp(item(video), **WATCH)
    copy = tmp_path / "elsewhere.mp4"
    shutil.copyfile(video, copy)
    os.utime(copy, ns=(1, 1))
    assert unchanged(first, item(copy), **WATCH)
    os.utime(video, ns=(2, 2))
    assert unchanged(first, item(video), **WATCH)


@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_other_content_of_the_same_size_is_seen(video: Path, place: float) -> None:
    first = stamp(item(video), **WATCH)
    content = bytearray(video.read_bytes())
    # A video that is encoded anew differs nearly everywhere; from one place on is already little.
    start = min(int(place * len(content)), len(content) - 1)
    content[start:] = bytes(255 - byte for byte in content[start:])
    video.write_bytes(content)
    os.utime(video, ns=(1, 1))
    assert not unchanged(first, item(video), **WATCH)


def test_another_size_is_seen_even_with_the_old_time(video: Path) -> None:
    first, status = stamp(item(video), **WATCH), video.stat()
    with video.open("ab") as file:
        file.write(b"1")
    os.utime(video, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not unchanged(first, item(video), **WATCH)


def test_content_is_read_only_for_another_time(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stamp(item(video), **WATCH)

    def no_reading(*args: object, **kwargs: object) -> None:
        raise AssertionError("content was read")

    monkeypatch.setattr(builtins, "open", no_reading)
    assert unchanged(first, item(video), **WATCH)
    assert not unchanged(first.replace(":", ":1", 1), item(video), **WATCH)
    os.utime(video, ns=(1, 1))
    with pytest.raises(AssertionError, match="content was read"):
        unchanged(first, item(video), **WATCH)


def test_stamps_of_earlier_versions_are_understood(video: Path) -> None:
    status = video.stat()
    text = hashlib.sha256(json.dumps({"title": "x"}).encode()).hexdigest()[:24]
    old = f"video:{status.st_size}:{status.st_mtime_ns} text:{text}"
    assert stamp(item(video), **WATCH).startswith(old.split()[0] + ":")
    assert unchanged(old, item(video), **WATCH)
    assert not unchanged(old, item(video, title="w"), **WATCH)
    os.utime(video, ns=(1, 1))
    assert not unchanged(old, item(video), **WATCH)
    assert stamp(item(video), **BLIND) == f"text:{text}"
    assert stamp(Item("a"), **WATCH) == "nothing"


def test_what_cannot_be_read_has_a_stamp_too(tmp_path: Path) -> None:
    loop = tmp_path / "loop.mp4"
    loop.symlink_to(loop)
    for path in (tmp_path / "gone.mp4", loop, Path("a\0b")):
        found = stamp(item(path), **WATCH)
        assert found.startswith("video:unreadable text:")
        assert unchanged(found, item(path), **WATCH)
    video = tmp_path / "gone.mp4"
    gone = stamp(item(video), **WATCH)
    video.write_bytes(b"12")
    assert not unchanged(gone, item(video), **WATCH)
    here = stamp(item(video), **WATCH)
    video.unlink()
    assert not unchanged(here, item(video), **WATCH)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    found = stamp(item(tmp_path / "pipe.mp4"), **WATCH)
    assert unchanged(found, item(tmp_path / "pipe.mp4"), **WATCH)
    os.utime(tmp_path / "pipe.mp4", ns=(1, 1))
    assert not unchanged(found, item(tmp_path / "pipe.mp4"), **WATCH)


def test_a_cover_is_a_source_of_its_own(tmp_path: Path) -> None:
    video, cover = tmp_path / "a.mp4", tmp_path / "a.jpg"
    video.write_bytes(b"video")
    cover.write_bytes(b"cover")
    both = {"columns": (), "sources": {"video", "cover"}}
    whole = Item("a", str(video), cover=str(cover))
    first = stamp(whole, **both)
    assert [part.split(":")[0] for part in first.split()] == ["video", "cover"]
    assert unchanged(first, whole, **both)
    assert not unchanged(first, Item("a", str(video)), **both)
    assert not unchanged(first, Item("a", cover=str(cover)), **both)
    assert not unchanged(stamp(whole, columns=(), sources={"video"}), whole, **both)
    cover.write_bytes(b"other")
    os.utime(cover, ns=(1, 1))
    assert not unchanged(first, whole, **both)
    assert unchanged(
        stamp(whole, columns=(), sources={"cover"}), whole, columns=(), sources={"cover"}
    )


_TEXTS = st.dictionaries(st.sampled_from(["title", "tags", "other"]), st.text(max_size=3))


@given(before=_TEXTS, after=_TEXTS)
def test_texts_are_unchanged_exactly_if_what_is_used_is_equal(before, after) -> None:
    used = {"columns": ("title", "tags"), "sources": {"video", "cover"}}
    found = stamp(Item("a", columns=before), **used)
    same = all((before.get(c) or "") == (after.get(c) or "") for c in used["columns"])
    assert unchanged(found, Item("a", columns=after), **used) == same


@given(st.text())
def test_any_text_may_stand_in_a_store(stored: str) -> None:
    assert unchanged(stored, item(None), **WATCH) == (stored == stamp(item(None), **WATCH))
    unchanged(stored, item(Path("gone")), **WATCH)
