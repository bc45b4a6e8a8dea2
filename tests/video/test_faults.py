"""Every fault of a file gives one error with a plain reason, in the worker and without it."""

from __future__ import annotations

import os
import pickle
import struct

import av
import numpy as np
import pytest
from barcodes import expected_numbers, numbers, write_audio, write_video

from linkedout_lightning.errors import VideoDecodeError
from linkedout_lightning.video import FrameSampler, probe_video


@pytest.fixture(scope="module", params=[True, False], ids=["isolated", "inside"])
def sampler(request):
    return FrameSampler(frames=4, isolate=request.param, timeout_s=20)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("good") / "v.mp4", gop=12)


def _missing(folder, good):
    return folder / "missing.mp4"


def _empty(folder, good):
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def _text(folder, good):
    (folder / "text.mp4").write_text("This is no video.\n" * 500)
    return folder / "text.mp4"


def _random(folder, good):
    (folder / "r.mp4").write_bytes(np.random.default_rng(0).bytes(50_000))
    return folder / "r.mp4"


def _audio(folder, good):
    return write_audio(folder / "sound.mp4")


def _cover_art(folder, good):
    """A sound file with a picture attached has a video stream by name only."""
    path = folder / "song.mp4"
    write_video(path, 1, codec="mjpeg", pixel_format="yuvj420p", audio=True)
    with av.open(str(path)) as source, av.open(str(folder / "cover.mp4"), "w") as target:
        streams = {s.index: target.add_stream_from_template(s) for s in source.streams}
        for stream in streams.values():
            if stream.type == "video":
                stream.disposition = av.stream.Disposition.attached_pic
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    return folder / "cover.mp4"


def _directory(folder, good):
    return folder


def _fifo(folder, good):
    os.mkfifo(folder / "fifo.mp4")
    return folder / "fifo.mp4"


def _loop(folder, good):
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    return folder / "loop.mp4"


def _device(folder, good):
    return "/dev/zero"


def _null(folder, good):
    return "a\0b.mp4"


def _no_index(folder, good):
    """The index of a plain mp4 comes last: cut before it."""
    data = good.read_bytes()
    (folder / "v.mp4").write_bytes(data[: data.index(b"moov") - 4])
    return folder / "v.mp4"


def _header_only(folder, good):
    data = write_video(folder / "w.mp4", container_options={"movflags": "faststart"}).read_bytes()
    (folder / "v.mp4").write_bytes(data[: data.index(b"mdat") - 4])
    return folder / "v.mp4"


def _encrypted(folder, good):
    key = {
        "encryption_scheme": "cenc-aes-ctr",
        "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
        "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
    }
    return write_video(folder / "v.mp4", container_options=key)


def _encrypted_header(folder, good):
    data = _encrypted(folder, good).read_bytes()
    moov = data.index(b"moov") - 4
    (length,) = struct.unpack_from(">I", data, moov)
    ftyp = data[: struct.unpack_from(">I", data)[0]]
    (folder / "init.mp4").write_bytes(ftyp + data[moov : moov + length])
    return folder / "init.mp4"


def _noise_inside(folder, good):
    """The index is whole, every packet is garbage."""
    data = bytearray(good.read_bytes())
    start = data.index(b"mdat") + 4
    data[start : data.index(b"moov") - 4] = b"\xff" * (data.index(b"moov") - 4 - start)
    (folder / "v.mp4").write_bytes(data)
    return folder / "v.mp4"


def _playlist(folder, good):
    """A script that names other files: it must not make us open them."""
    (folder / "good.mp4").write_bytes(good.read_bytes())
    (folder / "list.mp4").write_text("ffconcat version 1.0\nfile good.mp4\n")
    return folder / "list.mp4"


FAULTS = [
    (_missing, "no such file"),
    (_empty, "the file is empty"),
    (_text, "not a video"),
    (_random, "not a video"),
    (_audio, "no video stream"),
    (_cover_art, "no video stream"),
    (_directory, "a directory"),
    (_fifo, "a FIFO"),
    (_loop, "a loop of symbolic links"),
    (_device, "a device"),
    (_null, "null character"),
    (_no_index, "not a video"),
    (_header_only, "no frames in the file"),
    (_encrypted, "encrypted"),
    (_encrypted_header, "encrypted"),
    (_noise_inside, "no frame could be decoded"),
    (_playlist, "not a video"),
]


@pytest.mark.parametrize(("make", "reason"), FAULTS, ids=[make.__name__[1:] for make, _ in FAULTS])
@pytest.mark.timeout(30)
def test_a_fault_gives_a_reason(sampler, tmp_path, good, make, reason):
    path = make(tmp_path, good)
    with pytest.raises(VideoDecodeError) as caught:
        sampler(path)
    assert reason in caught.value.reason
    assert caught.value.path == str(path)
    assert "\n" not in caught.value.reason
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.path, again.reason) == (caught.value.path, caught.value.reason)


@pytest.mark.timeout(60)
def test_a_file_that_may_not_be_read(tmp_path, good):
    path = tmp_path / "v.mp4"
    path.write_bytes(good.read_bytes())
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(VideoDecodeError, match="permission denied"):
        FrameSampler()(path)


def test_a_link_to_a_video_is_a_video(sampler, tmp_path, good):
    (tmp_path / "link.mp4").symlink_to(good)
    assert numbers(sampler(tmp_path / "link.mp4").data) == expected_numbers(60, 4)


def test_names_that_look_like_something_else(sampler, tmp_path, good, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "http:x.mp4",
        "-v.mp4",
        "a|b.mp4",
        "%d.mp4",
        "späß 视频.mp4",
        os.fsdecode(b"\xff\xfe.mp4"),
    ):
        with open(name, "wb") as file:
            file.write(good.read_bytes())
        # The worker was started elsewhere: a relative path means the caller's folder.
        assert numbers(sampler(name).data) == expected_numbers(60, 4), name


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_a_title_in_an_older_encoding_is_no_fault(sampler, tmp_path, ending):
    path = write_video(tmp_path / f"v.{ending}", title="stra@e")
    data = path.read_bytes()
    assert b"stra@e" in data
    path.write_bytes(data.replace(b"stra@e", b"stra\xdfe"))
    assert numbers(sampler(path).data) == expected_numbers(60, 4)


@pytest.mark.parametrize("cut", [0.02, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999])
@pytest.mark.parametrize("layout", ["fragmented", "faststart", "mkv", "ts"])
def test_a_truncated_file_gives_what_is_left_of_it_or_a_reason(sampler, tmp_path, cut, layout):
    flags = {"fragmented": "frag_keyframe+empty_moov", "faststart": "faststart"}.get(layout)
    ending = layout if layout in ("mkv", "ts") else "mp4"
    whole = write_video(
        tmp_path / f"w.{ending}", gop=6, container_options={"movflags": flags} if flags else None
    ).read_bytes()
    (tmp_path / f"v.{ending}").write_bytes(whole[: int(len(whole) * cut)])
    try:
        found = numbers(sampler(tmp_path / f"v.{ending}").data)
    except VideoDecodeError:
        found = None
    if found is None:
        assert cut <= 0.5
        return
    # The last frame before the cut may show the damage; all others are exact and in order.
    assert found[:-1] == sorted(found[:-1])
    assert cut < 0.3 or found[0] < 60 * cut


def test_broken_packets_in_the_middle_are_stepped_over(sampler, tmp_path):
    path = write_video(tmp_path / "v.mp4", gop=6, b_frames=0)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        spoilt = [p for i, p in enumerate(container.demux(video=0)) if p.size and 24 <= i < 30]
        for packet in spoilt:
            data[packet.pos : packet.pos + packet.size] = b"\0" * packet.size
    path.write_bytes(data)
    result = FrameSampler(frames=20, isolate=sampler.isolate)(path)
    wanted = expected_numbers(60, 20)
    whole = [(w, f) for w, f in zip(wanted, numbers(result.data), strict=True) if not 24 <= w < 30]
    assert all(w == f for w, f in whole)
    lost = [f for w, f in zip(wanted, numbers(result.data), strict=True) if 24 <= w < 30]
    assert lost == [23] * len(lost)


def test_too_many_pixels_are_refused_before_decoding(sampler, good, tmp_path):
    small = FrameSampler(max_pixels=160 * 96 - 1, isolate=sampler.isolate)
    with pytest.raises(VideoDecodeError, match="160x96 is more than the limit of 15359 pixels"):
        small(good)
    with pytest.raises(VideoDecodeError, match="more than the limit"):
        FrameSampler(size=(9000, 9000), isolate=sampler.isolate)(good)
    assert len(FrameSampler(max_pixels=160 * 96, isolate=sampler.isolate)(good)) == 8


def test_a_picture_size_beyond_reason(sampler, tmp_path):
    """A header that claims 16384x16384, over a tiny file."""
    path = write_video(tmp_path / "v.mov", 2, codec="png", pixel_format="rgb24")
    data = path.read_bytes()
    claim = struct.pack(">II", 160, 96), struct.pack(">II", 16384, 16384)
    entry = struct.pack(">HH", 160, 96), struct.pack(">HH", 16384, 16384)
    path.write_bytes(data.replace(*claim).replace(*entry))
    with pytest.raises(VideoDecodeError, match=r"size is missing or absurd|more than the limit"):
        sampler(path)


def test_memory_is_limited_in_the_worker(tmp_path):
    path = tmp_path / "v.mp4"
    write_video(path, 3)
    with pytest.raises(VideoDecodeError, match="memory"):
        FrameSampler(frames=8, size=(3000, 3000), memory_mb=150)(path)


@pytest.mark.timeout(60)
def test_probe_describes_what_is_there(tmp_path, good):
    info = probe_video(write_video(tmp_path / "v.mp4", audio=True))
    assert (info.width, info.height, info.frames, info.rotation) == (160, 96, 60, 0)
    assert (info.codec, info.decodable, info.reason, info.constant_rate) == (
        "h264",
        True,
        None,
        True,
    )
    assert info.fps == pytest.approx(25)
    assert info.duration == pytest.approx(2.4, abs=0.01)
    assert info.streams == ("video: h264", "audio: aac")
    broken = probe_video(_noise_inside(tmp_path, good))
    assert (broken.codec, broken.decodable) == ("h264", False)
    assert broken.reason == "no frame could be decoded"
    assert probe_video(tmp_path / "missing").reason == "no such file"
