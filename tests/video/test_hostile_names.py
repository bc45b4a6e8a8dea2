"""What a file refers to is not opened, and what it is called does not matter."""

from __future__ import annotations

import os
import socket
import threading

import pytest
from barcodes import expected_numbers, numbers, write_video

from linkedout_lightning.errors import VideoDecodeError
from linkedout_lightning.video import DecodePool, FrameSampler, probe_video

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("good") / "v.ts", 20)


@pytest.fixture(scope="module", params=["pyav", "decord"])
def sampler(request):
    if request.param == "decord":
        pytest.importorskip("decord")
    return FrameSampler(4, backend=request.param, timeout_s=10)


@pytest.fixture
def listener():
    """An address that notes every visitor."""
    visitors = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                visitors.append(1)
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1], visitors


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.8,\n{0}\n#EXT-X-ENDLIST\n"
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S"><Period><AdaptationSet><Representation id="a" '
    'bandwidth="1" mimeType="video/mp4"><BaseURL>{0}</BaseURL></Representation></AdaptationSet>'
    "</Period></MPD>"
)
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {0} RTP/AVP 96\n"
SCRIPTS = {
    "HLS": HLS,
    "HLS key": '#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{0}"\n#EXTINF:1,\n{0}\n#EXT-X-ENDLIST\n',
    "concat": "ffconcat version 1.0\nfile '{0}'\n",
    "DASH": DASH,
    "SDP": SDP,
    "address": "{0}\n",
    "ASF reference": "[Reference]\nRef1={0}\n",
    "image sequence": "{0}%03d.png\n",
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("ending", ["mp4", "ts", "m3u8"])
def test_a_script_opens_no_address(sampler, tmp_path, listener, script, ending):
    port, visitors = listener
    path = tmp_path / f"v.{ending}"
    target = str(port) if script == "SDP" else f"http://127.0.0.1:{port}/v.ts"
    path.write_text(SCRIPTS[script].format(target))
    with pytest.raises(VideoDecodeError, match="not a video"):
        sampler(path)
    assert probe_video(path).reason is not None
    assert visitors == []


@pytest.mark.parametrize("script", ["HLS", "HLS key", "concat", "DASH", "address"])
def test_a_script_opens_no_other_file(sampler, tmp_path, good, script):
    """The file that it names is a FIFO: opening it would last until the time limit."""
    os.mkfifo(tmp_path / "beside.ts")
    for target in ("beside.ts", str(tmp_path / "beside.ts"), f"file:{tmp_path}/beside.ts"):
        path = tmp_path / "v.mp4"
        path.write_text(SCRIPTS[script].format(target))
        with pytest.raises(VideoDecodeError, match="not a video"):
            sampler(path)
    # The same script over a sound clip would play, if it were followed.
    os.unlink(tmp_path / "beside.ts")
    (tmp_path / "beside.ts").write_bytes(good.read_bytes())
    with pytest.raises(VideoDecodeError, match="not a video"):
        sampler(path)


def test_paths_are_files_whatever_they_look_like(sampler, listener):
    port, visitors = listener
    for path in (
        f"http://127.0.0.1:{port}/v.mp4",
        f"tcp://127.0.0.1:{port}",
        "concat:a.ts|b.ts",
        "data:video/mp4;base64,AAAA",
        "pipe:0",
        "-",
    ):
        with pytest.raises(VideoDecodeError, match="no such file"):
            sampler(path)
    assert visitors == []


@pytest.mark.parametrize(
    "name", ["line\nbreak.ts", "tab\t'quote\".ts", b"not-\xff-utf8.ts", " .ts"]
)
def test_any_name_will_do(sampler, tmp_path, good, name):
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(good.read_bytes())
    assert numbers(sampler(path).data) == expected_numbers(20, 4)
    with DecodePool(sampler, workers=1) as pool:
        (outcome,) = pool.map([os.fsencode(path)])
    assert numbers(outcome.data) == expected_numbers(20, 4)
    broken = tmp_path / os.fsdecode(b"broken-" + os.fsencode(name))
    broken.write_text("no video")
    with pytest.raises(VideoDecodeError) as caught:
        sampler(broken)
    # Reports print the message on one line, in whatever encoding they have.
    assert str(caught.value).isprintable()
    str(caught.value).encode()


def test_files_of_proc_and_other_streams_without_an_end(sampler):
    for path in ("/proc/self/status", "/proc/self/mem", "/dev/zero", "/dev/stdin", "/dev/tty"):
        with pytest.raises(VideoDecodeError):
            sampler(path)
