"""Still images: known pixels come back upright and in RGB, and bad ones give a reason."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import av
import numpy as np
import pytest
from barcodes import expected_numbers, numbers, write_video
from broken_decoders import pid_of
from pictures import GREY, GREY_ALPHA, PALETTE, RGB, RGBA, chunk, exif, png, scene
from PIL import Image

from linkedout_lightning.errors import ConfigError, MissingExtraError, VideoDecodeError
from linkedout_lightning.video import DecodePool, FrameSampler, backends

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module", params=[True, False], ids=["isolated", "inside"])
def sampler(request):
    return FrameSampler(frames=8, isolate=request.param, timeout_s=20)


@pytest.fixture(scope="module")
def inside():
    return FrameSampler(frames=8, isolate=False)


@pytest.mark.parametrize("ending", [".png", ".PNG", ".jpg", ".webp"])
def test_an_image_is_one_frame_whatever_the_name_says(sampler, tmp_path, ending):
    path = png(tmp_path / f"a{ending}", scene(), colour=RGB)
    frames = sampler(path)
    np.testing.assert_array_equal(frames.data, scene()[None])
    assert (frames.data.dtype, frames.data.flags["C_CONTIGUOUS"]) == (np.uint8, True)
    assert frames.timestamps.tolist() == [0.0]
    assert (frames.fps, frames.duration) == (1.0, 1.0)
    assert (frames.backend, frames.fallback_reason) == ("pillow", None)


def test_lossless_formats_keep_every_pixel(inside, tmp_path):
    Image.fromarray(scene()).save(tmp_path / "a.webp", lossless=True)
    Image.fromarray(scene()).save(tmp_path / "a.bmp")
    for name in ("a.webp", "a.bmp"):
        np.testing.assert_array_equal(inside(tmp_path / name).data[0], scene())


@pytest.mark.parametrize(
    ("options", "bound"),
    # With half as many colour samples each decoder fills the gaps in its own way.
    [({"subsampling": 0}, 1), ({}, 3), ({"progressive": True}, 3)],
)
def test_a_jpeg_is_what_ffmpeg_makes_of_it(inside, tmp_path, options, bound):
    Image.fromarray(scene()).save(tmp_path / "a.jpg", quality=95, **options)
    with av.open(str(tmp_path / "a.jpg"), format="jpeg_pipe") as container:
        theirs = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    assert np.abs(inside(tmp_path / "a.jpg").data[0] - theirs).mean() < bound
    assert np.abs(inside(tmp_path / "a.jpg").data[0] - scene().astype(int)).mean() < 3


# Exif 2.32, section 4.6.4: where the stored image's first row and column are on the screen.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: upright.transpose(1, 0, 2)[::-1],
    7: lambda upright: upright.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda upright: upright.transpose(1, 0, 2)[:, ::-1],
}


@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_is_shown_upright(inside, tmp_path, orientation):
    stored = np.ascontiguousarray(STORED[orientation](scene()))
    tag = chunk(b"eXIf", exif(orientation))
    path = png(tmp_path / "a.png", stored, colour=RGB, extra=tag)
    np.testing.assert_array_equal(inside(path).data[0], scene())
    jpeg = tmp_path / "a.jpg"
    Image.fromarray(stored).save(jpeg, quality=95, exif=b"Exif\0\0" + exif(orientation))
    assert np.abs(inside(jpeg).data[0] - scene().astype(int)).mean() < 3
    # The size is that of the upright image.
    assert FrameSampler(size=(20, 30), isolate=False)(path).data.shape == (1, 20, 30, 3)
    assert FrameSampler(size=20, isolate=False)(path).data.shape == (1, 20, 30, 3)


@pytest.mark.parametrize("spoilt", [b"", b"II*\0", exif(9), exif(6)[:-6], b"Exif\0\0" * 30])
def test_damaged_metadata_leave_the_image_as_it_is_stored(sampler, tmp_path, spoilt):
    path = png(tmp_path / "a.png", scene(), colour=RGB, extra=chunk(b"eXIf", spoilt))
    np.testing.assert_array_equal(sampler(path).data[0], scene())


def _on_white(colour, alpha):
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


def test_transparency_is_flattened_onto_white(inside, tmp_path):
    rng = np.random.default_rng(0)
    alpha = rng.integers(0, 256, (40, 60, 1), dtype=np.uint8)
    colour, grey = scene(), scene()[..., :1]
    cases = {
        "rgba": (np.concatenate([colour, alpha], -1), RGBA, colour, b""),
        "grey and alpha": (np.concatenate([grey, alpha], -1), GREY_ALPHA, grey, b""),
    }
    for name, (samples, kind, expected, extra) in cases.items():
        found = inside(png(tmp_path / "a.png", samples, colour=kind, extra=extra)).data[0]
        assert np.abs(found - _on_white(expected, alpha[..., 0])).max() <= 1, name


def test_a_colour_that_means_transparent(inside, tmp_path):
    """PNG's tRNS chunk: one colour, one grey, or an alpha for each entry of a palette."""
    colour = scene()
    key = colour[7, 9]
    extra = chunk(b"tRNS", struct.pack(">HHH", *key.tolist()))
    found = inside(png(tmp_path / "a.png", colour, colour=RGB, extra=extra)).data[0]
    np.testing.assert_array_equal(
        found, np.where((colour == key).all(-1, keepdims=True), 255, colour)
    )
    grey = colour[..., :1]
    extra = chunk(b"tRNS", struct.pack(">H", int(grey[0, 30, 0])))
    found = inside(png(tmp_path / "a.png", grey, colour=GREY, extra=extra)).data[0]
    np.testing.assert_array_equal(
        found, np.where(grey == grey[0, 30, 0], 255, grey).repeat(3, axis=-1)
    )


def test_a_palette_with_and_without_alpha(inside, tmp_path):
    rng = np.random.default_rng(1)
    palette = rng.integers(0, 256, (256, 3), dtype=np.uint8)
    index = rng.integers(0, 256, (40, 60, 1), dtype=np.uint8)
    entries = chunk(b"PLTE", palette.tobytes())
    path = png(tmp_path / "a.png", index, colour=PALETTE, extra=entries)
    np.testing.assert_array_equal(inside(path).data[0], palette[index[..., 0]])
    alpha = rng.integers(0, 256, 256, dtype=np.uint8)
    extra = entries + chunk(b"tRNS", alpha.tobytes())
    found = inside(png(tmp_path / "b.png", index, colour=PALETTE, extra=extra)).data[0]
    expected = _on_white(palette[index[..., 0]], alpha[index[..., 0]])
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize(("colour", "channels"), [(GREY, 1), (GREY_ALPHA, 2), (RGB, 3), (RGBA, 4)])
def test_sixteen_bits_become_eight(inside, tmp_path, colour, channels):
    rng = np.random.default_rng(2)
    samples = rng.integers(0, 1 << 16, (40, 60, channels)).astype(np.uint16)
    colours = samples[..., : 1 if channels < 3 else 3] / 257
    expected = colours if channels % 2 else _on_white(colours, samples[..., -1] / 257)
    found = inside(png(tmp_path / "a.png", samples, colour=colour)).data[0]
    assert np.abs(found - expected).max() <= 2


def test_a_grey_of_sixteen_bits_that_means_transparent(inside, tmp_path):
    samples = (np.arange(2400, dtype=np.uint16) * 20).reshape(40, 60, 1)
    extra = chunk(b"tRNS", struct.pack(">H", 20 * 70))
    found = inside(png(tmp_path / "a.png", samples, colour=GREY, extra=extra)).data[0]
    assert (found[1, 10] == 255).all()
    assert (found[1, 11] == 20 * 71 >> 8).all()


def test_one_bit_and_cmyk(inside, tmp_path):
    bits = scene()[..., 0] > 127
    Image.fromarray(bits).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        inside(tmp_path / "a.png").data[0], np.where(bits, 255, 0)[..., None].repeat(3, -1)
    )
    flat = {"red": (0, 255, 255, 0), "white": (0, 0, 0, 0), "black": (0, 0, 0, 255)}
    colours = {"red": (255, 0, 0), "white": (255, 255, 255), "black": (0, 0, 0)}
    for name, ink in flat.items():
        Image.new("CMYK", (32, 32), ink).save(tmp_path / f"{name}.jpg", quality=100)
        found = inside(tmp_path / f"{name}.jpg").data.astype(int)
        assert np.abs(found - colours[name]).max() <= 3, name


@pytest.mark.parametrize("size", [None, 20, 64, (30, 30)])
def test_sizes_are_those_of_videos(inside, tmp_path, size):
    """The same picture as a lossless video of one frame is the oracle."""
    big = scene(80, 120)
    png(tmp_path / "a.png", big, colour=RGB)
    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 120, 80, "bgr0"
        frame = av.VideoFrame.from_ndarray(big, format="rgb24")
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    options = {"size": size, "isolate": False}
    image = FrameSampler(3, **options)(tmp_path / "a.png").data
    video = FrameSampler(1, **options)(tmp_path / "a.mkv").data
    assert image.shape == video.shape
    assert np.abs(image.astype(int) - video.astype(int)).mean() < 1


# What is refused.


def _truncated(folder, cut=0.6, name="a.jpg"):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / name)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(len(data) * cut)])
    return folder / name


def _garbage(folder):
    (folder / "a.jpg").write_bytes(np.random.default_rng(0).bytes(5000))
    return folder / "a.jpg"


def _empty(folder):
    (folder / "a.png").touch()
    return folder / "a.png"


def _bomb(folder):
    """A header that claims 10^10 pixels, over a few bytes."""
    return png(folder / "a.png", scene(), colour=RGB, size=(100_000, 100_000))


def _text_bomb(folder):
    """A comment that unpacks to a hundred megabytes."""
    comment = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100 << 20)))
    return png(folder / "a.png", scene(), colour=RGB, extra=comment)


def _animation(folder, name):
    shots = [Image.fromarray(np.roll(scene(), 5 * k, 1)) for k in range(4)]
    shots[0].save(folder / name, save_all=True, append_images=shots[1:], duration=50)
    return folder / name


def _other_format(folder):
    Image.fromarray(scene()).save(folder / "a.gif")
    return (folder / "a.gif").rename(folder / "a.jpg")


def _postscript(folder):
    """Pillow would start Ghostscript on it."""
    (folder / "a.jpg").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    )
    return folder / "a.jpg"


def _video(folder):
    return write_video(folder / "v.mp4", 5).rename(folder / "v.jpg")


FAULTS = {
    "truncated JPEG": (_truncated, "damaged image"),
    "truncated PNG": (lambda folder: _truncated(folder, 0.5, "a.png"), "damaged image"),
    "truncated WebP": (lambda folder: _truncated(folder, 0.5, "a.webp"), "image"),
    "truncated BMP": (lambda folder: _truncated(folder, 0.5, "a.bmp"), "damaged image"),
    "header alone": (lambda folder: _truncated(folder, 0.001, "a.png"), "damaged image"),
    "garbage": (_garbage, "not a JPEG, PNG, WebP or BMP image"),
    "empty": (_empty, "the file is empty"),
    "bomb": (_bomb, "100000x100000 is more than the limit"),
    "text bomb": (_text_bomb, "damaged image"),
    "animated PNG": (lambda folder: _animation(folder, "a.png"), "an animation"),
    "animated WebP": (lambda folder: _animation(folder, "a.webp"), "an animation"),
    "GIF": (_other_format, "not a JPEG"),
    "PostScript": (_postscript, "not a JPEG"),
    "video": (_video, "not a JPEG"),
    "missing": (lambda folder: folder / "no.jpg", "no such file"),
    "directory": (lambda folder: folder.joinpath("d.png").mkdir() or folder / "d.png", "directory"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_image_gives_a_reason(sampler, tmp_path, fault):
    make, reason = FAULTS[fault]
    path = make(tmp_path)
    with pytest.raises(VideoDecodeError) as caught:
        sampler(path)
    assert reason in caught.value.reason
    assert "\n" not in caught.value.reason


def test_memory_is_limited_for_images(tmp_path):
    png(tmp_path / "a.png", np.zeros((7000, 7000, 3), np.uint8), colour=RGB)
    small = FrameSampler(memory_mb=100)
    with pytest.raises(VideoDecodeError, match="memory"):
        small(tmp_path / "a.png")
    png(tmp_path / "b.png", scene(), colour=RGB)
    assert len(small(tmp_path / "b.png")) == 1


def test_the_limit_of_pixels_is_ours(tmp_path):
    """Pillow warns at 89 million pixels and refuses at 179 million; `max_pixels` alone decides."""
    png(tmp_path / "a.png", np.zeros((14_000, 14_000, 1), np.uint8), colour=GREY)
    with pytest.raises(VideoDecodeError, match="14000x14000 is more than the limit of 67108864"):
        FrameSampler(isolate=False)(tmp_path / "a.png")
    allowed = FrameSampler(size=(8, 8), max_pixels=1 << 28)
    assert allowed(tmp_path / "a.png").data.shape == (1, 8, 8, 3)


def test_images_and_videos_share_a_pool_and_its_workers(tmp_path):
    video = write_video(tmp_path / "v.mp4")
    image = png(tmp_path / "a.png", scene(), colour=RGB)
    bad = _garbage(tmp_path)
    with DecodePool(FrameSampler(6), workers=1) as pool:
        first, broken, second, third = pool.map([image, bad, video, image])
    np.testing.assert_array_equal(first.data[0], scene())
    np.testing.assert_array_equal(third.data[0], scene())
    assert broken.reason.startswith("not a JPEG")
    assert numbers(second.data) == expected_numbers(60, 6)


def test_a_backend_of_ones_own_and_decord_leave_images_to_pillow(tmp_path):
    image = png(tmp_path / "a.png", scene(), colour=RGB)
    own = FrameSampler(2, backend="broken_decoders:by_name")
    assert pid_of(own("pid"))
    assert own(image).backend == "pillow"
    pytest.importorskip("decord")
    frames = FrameSampler(2, backend="decord")(image)
    assert (frames.backend, frames.fallback_reason) == ("pillow", None)


def test_pillow_is_imported_in_the_worker_alone(tmp_path):
    image = png(tmp_path / "a.png", scene(), colour=RGB)
    code = (
        "import sys; from linkedout_lightning.video import FrameSampler; "
        f"frames = FrameSampler()({str(image)!r}); "
        "print(len(frames), 'PIL' in sys.modules, 'av' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.split() == ["1", "False", "False"], result.stderr


def test_without_pillow_images_name_it_and_videos_go_on(tmp_path, monkeypatch):
    find = backends.find_spec
    monkeypatch.setattr(backends, "find_spec", lambda name: None if name == "PIL" else find(name))
    sampler = FrameSampler(2)
    assert len(sampler(write_video(tmp_path / "v.mp4"))) == 2
    image = png(tmp_path / "a.png", scene(), colour=RGB)
    with pytest.raises(MissingExtraError, match="still images needs pillow"):
        sampler(image)
    with DecodePool(sampler, workers=1) as pool, pytest.raises(MissingExtraError, match="pillow"):
        list(pool.map([image]))


def test_the_fingerprint_names_pillow_only_for_images():
    base = FrameSampler().fingerprint()
    assert set(base) == {"frames", "size", "strategy", "backend", "versions"}
    assert "pillow" not in base["versions"]
    both = FrameSampler().fingerprint(images=True)
    assert both["images"] == "pillow"
    assert set(both["versions"]) == {"av", "pillow"}
    assert "unknown" not in both["versions"].values()


def test_pillow_is_no_backend_for_videos():
    with pytest.raises(ConfigError, match="pyav, decord, torchcodec"):
        FrameSampler(backend="pillow")


def _mutated(original, count, rng):
    for _ in range(count):
        data = bytearray(original)
        for position in rng.integers(0, len(data), int(rng.integers(1, 30))).tolist():
            data[position] ^= int(rng.integers(1, 256))
        yield bytes(data)


def test_flipped_bytes_give_an_image_or_a_reason(tmp_path):
    rng = np.random.default_rng(0)
    image = Image.fromarray(scene())
    paths = []
    for kind in ("jpeg", "png", "webp", "bmp"):
        whole = io.BytesIO()
        image.save(whole, kind, exif=exif(6) if kind != "bmp" else b"")
        for index, data in enumerate(_mutated(whole.getvalue(), 50, rng)):
            paths.append(tmp_path / f"{index}.{kind}")
            paths[-1].write_bytes(data)
    with DecodePool(FrameSampler(size=(16, 16), timeout_s=20), workers=1) as pool:
        outcomes = list(pool.map(paths))
    good = 0
    for path, outcome in zip(paths, outcomes, strict=True):
        if isinstance(outcome, VideoDecodeError):
            assert "decoder failed" not in outcome.reason, (path, outcome.reason)
        else:
            good += 1
            assert outcome.data.shape == (1, 16, 16, 3)
    assert 20 < good < 200
