"""Opening an untrusted file with PyAV, and reading its frames' times without decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import av.error

from linkedout_lightning.errors import VideoDecodeError
from linkedout_lightning.video.files import require_regular_file
from linkedout_lightning.video.timeline import Timeline, make_timeline

# Playlists and concatenation scripts (hls, concat, dash) open other files and addresses by
# themselves, images and text art are no videos: only these demuxers may look at the bytes.
DEMUXERS = (
    "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,h264,hevc,vvc,m4v,ivf,obu,av1,vc1,"
    "h263,h261,mjpeg,dirac,gif,apng,mxf,nut,rm,dv,wtv,yuv4mpegpipe,swf,gxf"
)
ATTACHED_PICTURE = 0x0400
# DivX and Xvid pack two frames in one packet and fill up with packets that say "nothing coded".
SKIPPED_BYTES = 19
# What PyAV raises for damage; IndexError for a packet of a stream that was not there at first.
BROKEN = (av.error.FFmpegError, EOFError, ValueError, IndexError)


class VideoSource:
    """One opened video stream; use it as a context manager.

    Args:
        path: The file.
        max_pixels: Largest width x height that is decoded.

    Raises:
        VideoDecodeError: If there is no video stream to be had, with the reason.
    """

    def __init__(self, path: str, *, max_pixels: int) -> None:
        require_regular_file(path)
        self.path = path
        self._max_pixels = max_pixels
        self.container: Any = self._open()
        try:
            self.stream: Any = self._video_stream()
        except BaseException:
            self.container.close()
            raise

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(self, *exception: object) -> None:
        self.container.close()

    @property
    def format_name(self) -> str:
        """The container's name as FFmpeg gives it, for example ``"matroska,webm"``."""
        return str(self.container.format.name)

    def fail(self, reason: str) -> VideoDecodeError:
        """An error about this file."""
        return VideoDecodeError(self.path, reason)

    def nothing_decoded(self) -> VideoDecodeError:
        """The error of a stream whose packets gave no frame at all."""
        if not self.stream.codec_context.width:
            # FFmpeg itself drops a header's size of about 16384x16384 and above.
            return self.fail("no frame could be decoded, and its size is missing or absurd")
        return self.fail("no frame could be decoded")

    def reopen(self) -> None:
        """Start again from the first packet; not every format can seek there."""
        self.container.close()
        self.container = self._open()
        self.stream = self._video_stream()

    def seek(self, start: int) -> bool:
        """Go to the last key frame at or before ``start`` (ticks); False if that is refused."""
        try:
            self.container.seek(start, stream=self.stream, backward=True, any_frame=False)
        except BROKEN:
            return False
        return True

    def scan(self) -> Timeline | None:
        """Read the time of every frame that is shown from the packets, decoding nothing.

        Packets that an edit list hides count for nothing, and neither do the counts and the
        durations in the container's header, which are often wrong. A last packet that the end of
        the file cuts off is no frame: what decodes it shows the one before, or nothing.

        Returns:
            The timeline; ``None`` if packets carry no presentation times.

        Raises:
            VideoDecodeError: If there are no packets or they are encrypted.
        """
        starts: list[int] = []
        durations: list[int] = []
        keys: list[int] = []
        packets, open_gops, packed, cut = 0, False, False, False
        may_pack = self.stream.codec_context.name == "mpeg4"
        for packet in self._packets():
            if not packet.size:
                continue
            packets += 1
            if packets == 1 and packet.has_sidedata("encryption_info"):
                raise self.fail("encrypted")
            if packet.is_discard:
                continue
            if packet.pts is None:
                return None
            packed |= may_pack and packet.size <= SKIPPED_BYTES
            starts.append(packet.pts)
            durations.append(packet.duration or 0)
            cut = packet.is_corrupt
            if packet.is_keyframe:
                keys.append(packet.pts)
            elif keys and packet.pts < keys[-1]:
                open_gops = True
        if not starts:
            raise self.fail(self._why_no_packets())
        if cut and len(starts) > 1:
            lost = starts.pop()
            durations.pop()
            keys = [key for key in keys if key != lost]
        _, last_duration = max(zip(starts, durations, strict=True))
        return make_timeline(
            starts,
            keys,
            last_duration=last_duration,
            time_base=self.stream.time_base,
            guessed_fps=self.guessed_fps,
            open_gops=open_gops,
            doubtful=bool(self.stream.codec_context.has_b_frames)
            and (packed or _increasing(starts)),
        )

    @property
    def guessed_fps(self) -> Fraction | None:
        """The rate that the container claims."""
        return self.stream.guessed_rate or self.stream.average_rate or None

    def frames(self) -> Iterator[Any]:
        """Decode from the current position, stepping over what is broken."""
        for packet in self._packets():
            yield from _decoded(packet.decode)
        # Demuxing that ends in an error brings no flushing packet.
        yield from _decoded(lambda: self.stream.codec_context.decode(None))

    def _packets(self) -> Iterator[Any]:
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except MemoryError:
                raise
            except BROKEN:
                return
            if packet is None:
                return
            yield packet

    def _open(self) -> Any:
        options = {"protocol_whitelist": "file", "format_whitelist": DEMUXERS}
        try:
            # Titles in some older encoding are no reason to refuse a video.
            return av.open(f"file:{self.path}", options=options, metadata_errors="replace")
        except MemoryError:
            raise
        except (av.error.InvalidDataError, av.error.ArgumentError, EOFError):
            raise self.fail("not a video, or its header is damaged") from None
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self.fail(f"cannot be opened: {_brief(error)}") from None

    def _video_stream(self) -> Any:
        stream = self.container.streams.best("video")
        if stream is None or int(stream.disposition) & ATTACHED_PICTURE:
            raise self.fail("no video stream")
        if stream.codec_context is None:
            raise self.fail("no decoder for its codec")
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > self._max_pixels:
            raise self.fail(f"{width}x{height} is more than the limit of {self._max_pixels} pixels")
        # Frames may be larger than the header says. FFmpeg counts with its padding, so this is a
        # rough guard of the decoder's memory; the exact limit holds where pixels are converted.
        stream.codec_context.options = {"max_pixels": str(2 * self._max_pixels + (1 << 16))}
        # Frame threads decode ahead of every seek in vain; many videos at once use more processes.
        stream.codec_context.thread_count = 1
        for other in self.container.streams:
            if other.index != stream.index and hasattr(other, "discard"):
                other.discard = type(other.discard)["all"]
        return stream

    def _why_no_packets(self) -> str:
        # An initialisation segment holds the encryption boxes and no packet that could tell.
        with open(self.path, "rb") as file:
            head = file.read(1 << 16)
        return "encrypted" if b"encv" in head and b"sinf" in head else "no frames in the file"


def _increasing(times: list[int]) -> bool:
    return len(times) > 1 and all(before < after for before, after in pairwise(times))


def _decoded(decode: Callable[[], list[Any]]) -> Iterator[Any]:
    try:
        yield from decode()
    except MemoryError:
        raise
    except BROKEN:
        return


def _brief(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0][:200]
