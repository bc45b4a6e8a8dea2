"""Every clip through every decoder that is here, held against the ``ffmpeg`` program.

Synthetic clips, sound and broken ones, are made by the program in a temporary folder; clips of a
folder of your own come beside them. For each one that decodes, two things are compared with what
the program shows when it decodes the file from start to end: which frames are shown at the instants
``(i + 0.5) / T`` (by the presentation times that its ``showinfo`` filter lists), and their pixels
(its raw RGB output of the frames at the times that we give). The program is another build and
another version of FFmpeg than the libraries inside PyAV.

    python benchmarks/clips.py --folder CLIPS
    python benchmarks/clips.py --only truncated
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

# The clips and the oracle are those of the tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "video"))

from clip_notes import NOTES
from ffmpeg_program import Shown, pixels, program_version, shown_frames
from hostile_clips import BROKEN, LARGE
from synthetic_clips import SOUND, Clip

from linkedout_lightning.compare.environment import environment
from linkedout_lightning.errors import VideoDecodeError
from linkedout_lightning.video import Frames, FrameSampler
from linkedout_lightning.video.backends import BACKENDS

# Beyond this the exact pixels of all frames are not worth their memory: they are compared shrunk.
FULL_SIZE_PIXELS = 1 << 21
SHRUNK = 360


def compare(frames: Frames, path: Path, shown: Shown) -> dict[str, Any]:
    """What we decoded against what ffmpeg shows."""
    indices = shown.indices_at(frames.timestamps)
    wanted = shown.at_uniform_instants(len(frames))
    row: dict[str, Any] = {
        "indices": indices,
        "ffmpeg_indices": wanted,
        "same_index": sum(a == b for a, b in zip(indices, wanted, strict=True)),
        "ffmpeg_size": list(shown.size),
    }
    known = [i for i, index in enumerate(indices) if index >= 0]
    height, width = frames.data.shape[1:3]
    try:
        starts = [shown.starts[indices[i]] for i in known]
        theirs = pixels(path, starts, height=height, width=width)
    except ValueError as error:
        return {**row, "pixels": str(error)}
    difference = [
        np.abs(frames.data[i].astype(np.int16) - their)
        for i, their in zip(known, theirs, strict=True)
    ]
    return {
        **row,
        "frames_compared": len(known),
        "mean_difference": round(float(np.mean([d.mean() for d in difference])), 3),
        "worst_frame_difference": round(float(max(d.mean() for d in difference)), 3),
        "largest_difference": int(max(d.max() for d in difference)),
    }


def judge(path: Path, backend: str, shown: Shown | None, arguments: Any) -> dict[str, Any]:
    """One clip through one backend."""
    sampler = SAMPLERS.setdefault(
        (backend, None), FrameSampler(arguments.frames, backend=backend, timeout_s=60)
    )
    if shown is not None and _large(path):
        sampler = SAMPLERS.setdefault(
            (backend, SHRUNK), FrameSampler(arguments.frames, SHRUNK, backend, timeout_s=60)
        )
    begun = time.perf_counter()
    try:
        frames = sampler(path)
    except VideoDecodeError as error:
        seconds = time.perf_counter() - begun
        return {"reason": error.reason, "seconds": round(seconds, 3)}
    row = {
        "shape": list(frames.data.shape),
        "seconds": round(time.perf_counter() - begun, 3),
        "backend": frames.backend,
        "fallback_reason": frames.fallback_reason,
    }
    return row | (compare(frames, path, shown) if shown is not None and shown.starts else {})


SAMPLERS: dict[tuple[str, int | None], FrameSampler] = {}


def _large(path: Path) -> bool:
    try:
        shape = SAMPLERS.setdefault(("probe", None), FrameSampler(1))(path).data.shape
    except VideoDecodeError:
        return False
    return shape[1] * shape[2] > FULL_SIZE_PIXELS


def clips_of(folder: Path | None) -> dict[str, tuple[str, Clip]]:
    """All clips by name, with the table that each stands in."""
    found = {}
    for group, clips in (("sound", SOUND), ("broken", BROKEN), ("broken", LARGE)):
        found.update({name: (group, clip) for name, clip in clips.items()})
    for path in sorted(folder.iterdir()) if folder is not None else ():
        found[path.name] = ("given", Clip("", lambda _, path=path: path))
    return found


def decoders() -> list[str]:
    """The backends whose packages are installed and can be loaded."""
    here = []
    for name, backend in BACKENDS.items():
        if all(find_spec(package) is not None for package in backend.packages):
            here.append(name)
    return here


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for name, (group, clip) in clips_of(arguments.folder).items():
        if arguments.only and arguments.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = clip.make(Path(folder))
            shown = shown_frames(path) if clip.ask_ffmpeg else None
            row: dict[str, Any] = {"clip": printable(name), "what": clip.what, "group": group}
            if shown is not None:
                row["ffmpeg_frames"] = len(shown.starts)
                row["ffmpeg_says"] = shown.complaint.replace(str(path), "…")
            row["backends"] = {b: judge(path, b, shown, arguments) for b in arguments.backends}
            row["note"] = NOTES.get(name, "")
        rows.append(row)
        print(_line(row, arguments.backends), flush=True)
    return rows


def printable(name: str) -> str:
    """A file name in which every byte can be read."""
    return os.fsencode(name).decode("utf-8", "backslashreplace").replace("\n", "\\n")


def outcome(row: dict[str, Any], frames: int) -> str:
    """One cell of the table."""
    if "reason" in row:
        return f"reason: {row['reason']}"
    height, width = row["shape"][1:3]
    text = f"{width}x{height}"
    if "same_index" in row:
        text += f", frames {row['same_index']}/{frames}"
    if row.get("ffmpeg_size", row["shape"][1:3]) != row["shape"][1:3]:
        text += f" (of {row['ffmpeg_size'][1]}x{row['ffmpeg_size'][0]})"
    if "mean_difference" in row:
        text += f", differ by {row['mean_difference']:g} (most {row['largest_difference']})"
    elif "pixels" in row:
        text += f", {row['pixels']}"
    if row["fallback_reason"]:
        text += f"; {row['backend']} after {row['fallback_reason']}"
    return text


def _line(row: dict[str, Any], backends: list[str]) -> str:
    shown = row.get("ffmpeg_frames", "")
    frames = next((r["shape"][0] for r in row["backends"].values() if "shape" in r), 0)
    cells = [outcome(row["backends"][b], frames) for b in backends]
    what = " — ".join(text for text in (row["what"], row["note"]) if text)
    fields = [f"`{row['clip']}`", what, str(shown), *cells]
    return "| " + " | ".join(field.replace("|", "\\|") for field in fields) + " |"


TITLES = {
    "sound": "Sound synthetic clips",
    "broken": "Broken and hostile clips",
    "given": "Clips of the folder",
}


def markdown(document: dict[str, Any]) -> str:
    """The tables, from the JSON alone."""
    settings, rows = document["settings"], document["rows"]
    backends = settings["backends"]
    head = ["clip", "what it is", "frames that ffmpeg shows", *backends]
    text = [
        "# Clips against ffmpeg",
        "",
        f"Made by `{document['environment']['command']}`; ffmpeg {document['ffmpeg']}, "
        + ", ".join(f"{name} {number}" for name, number in document["decoders"].items())
        + f". {settings['frames']} frames of each clip at its own size (above 2 megapixels: "
        f"shorter side {SHRUNK}). *frames k/{settings['frames']}*: how many are the frame that "
        "ffmpeg shows at that instant; *differ by*: mean absolute difference of the 8-bit RGB "
        "values against ffmpeg's raw output, and the largest single one. "
        "ffmpeg was not asked about what would block it or make it open other files.",
        "",
    ]
    for group, title in TITLES.items():
        chosen = [row for row in rows if row["group"] == group]
        if chosen:
            text += [f"## {title}", "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
            text += [_line(row, backends) for row in chosen] + [""]
    text += ["## Together", ""]
    for backend in backends:
        text.append(f"- {backend}: {_summary(rows, backend, settings['frames'])}")
    return "\n".join(text) + "\n"


def _summary(rows: list[dict[str, Any]], backend: str, frames: int) -> str:
    results = [row["backends"][backend] for row in rows]
    asked = [r for r in results if "same_index" in r]
    same = sum(r["same_index"] == frames for r in asked)
    exact = sum(r.get("mean_difference") == 0 for r in asked)
    means = sorted(r["mean_difference"] for r in asked if "mean_difference" in r)
    own = sum(r.get("backend") == backend for r in results)
    middle = statistics.median(means) if means else float("nan")
    return (
        f"{len(results)} clips, {sum('shape' in r for r in results)} with frames ({own} by "
        f"itself), {sum('reason' in r for r in results)} with a reason; of {len(asked)} compared, "
        f"all frames are ffmpeg's in {same}, every pixel equal in {exact}, median difference "
        f"{middle:g}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/clips.json"))
    parser.add_argument("--folder", type=Path, help="clips of your own, beside the synthetic ones")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--backends", nargs="+", default=decoders(), choices=BACKENDS)
    parser.add_argument("--only", help="clips whose name holds this")
    arguments = parser.parse_args()
    rows = run(arguments)
    packages = sorted({p for b in arguments.backends for p in BACKENDS[b].packages})
    document = {
        "what": "frames and pixels against the ffmpeg program; differences of 8-bit RGB values",
        "environment": environment(),
        "ffmpeg": program_version(),
        "decoders": {name: version(name) for name in packages},
        "settings": {"frames": arguments.frames, "backends": arguments.backends},
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    arguments.out.with_suffix(".md").write_text(markdown(document), encoding="utf-8")


if __name__ == "__main__":
    main()
