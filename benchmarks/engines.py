"""One catalogue, four ways to extract it: one job, two jobs, Lightning with DDP, Ray.

Every way is a fresh process, as a person starts it, and is run twice: over a few videos, which is
nearly all start-up, and over all of them. The difference of the two is what an item costs. Wall
seconds depend on who else is at the machine, so the CPU seconds of all processes of a way are
counted as well (of the whole tree, looked at four times a second, so a little less than the truth).
The model is tiny, which is the hard case for an engine: what it adds to an item is the same under
a model that takes a second an item.

    python benchmarks/engines.py
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

ROOT = Path(__file__).parents[1]
OPTIONS = {"layers": 3, "frames": 8, "size": 192, "batch_size": 4, "store_dtype": "float32"}

# As a user of Lightning writes it; Lightning runs it again for the second process.
PREDICT = """
import sys
from lightning import Trainer
from linkedout_lightning import FeatureStore, FrameSampler, VideoLLMTap
from linkedout_lightning.tap.dataset import VideoDataModule
from linkedout_lightning.tap.items import read_items
from linkedout_lightning.tap.sink import store_spec
from linkedout_lightning.tap.writer import StoreWriter

def main(model, table, videos, out, limit):
    tap = VideoLLMTap.from_pretrained(model, layers=3, frames=8)
    sampler = FrameSampler(tap.frames, size=192)
    spec = store_spec(tap, sampler=sampler, dtype="float32")
    store = FeatureStore.create(out, spec, exist_ok=True)
    data = VideoDataModule(
        read_items(table, videos)[:int(limit)], tap=tap, store=store, sampler=sampler, batch_size=4,
        workers=1,
    )
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp", callbacks=[StoreWriter(store)], logger=False,
        enable_progress_bar=False, enable_model_summary=False,
    )
    trainer.predict(tap, datamodule=data, return_predictions=False)

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


def write_video(path: Path, *, seed: int) -> None:
    """Moving blocks, 320 x 180, three seconds of H.264."""
    chance = np.random.default_rng(seed)
    picture = chance.integers(0, 256, (18, 32, 3), dtype=np.uint8)
    picture = picture.repeat(10, axis=0).repeat(10, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for step in range(72):
            shown = np.roll(picture, 3 * step, axis=1)
            for packet in stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def catalogue(folder: Path, *, videos: int) -> None:
    """Videos, one in a hundred of them broken, and their table."""
    (folder / "videos").mkdir()
    lines = ["item_id,title"]
    for number in range(videos):
        path = folder / "videos" / f"v{number}.mp4"
        if number % 100 == 50:
            path.write_text("this is no video")
        else:
            write_video(path, seed=number)
        lines.append(f"v{number},A video called {number}")
    (folder / "items.csv").write_text("\n".join(lines) + "\n")


def _processes() -> dict[int, tuple[int, int, int]]:
    """Parent, beginning and CPU time of each process, in the kernel's ticks."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
            ticks = int(fields[11]) + int(fields[12])
            found[int(path.parent.name)] = int(fields[1]), int(fields[19]), ticks
    return found


class Tree:
    """CPU seconds of processes and of all that come from them."""

    def __init__(self) -> None:
        # Orphans, as Ray leaves some, become children of this process, and stay in sight.
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
        self._seen: dict[tuple[int, int], float] = {}
        self._before = {(pid, began) for pid, (_, began, _) in _processes().items()}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Tree:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        """So far."""
        return sum(self._seen.values())

    def _watch(self) -> None:
        while not self._stop.wait(0.25):
            found = _processes()
            for pid, (_, began, ticks) in found.items():
                if (pid, began) not in self._before and self._is_ours(pid, found):
                    self._seen[pid, began] = ticks / os.sysconf("SC_CLK_TCK")

    def _is_ours(self, pid: int, found: dict[int, tuple[int, int, int]]) -> bool:
        while (pid := found[pid][0] if pid in found else 0) > 1:
            if pid == os.getpid():
                return True
        return False


def measured(commands: list[list[str]]) -> dict[str, Any]:
    """Run commands at the same time, to the end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    start = time.perf_counter()
    with Tree() as tree:
        running = [
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            for command in commands
        ]
        outputs = [process.communicate() for process in running]
        wall = time.perf_counter() - start
        time.sleep(0.3)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:  # orphans, which would count for the next way too
            pass
    for process, (_, errors) in zip(running, outputs, strict=True):
        if process.returncode not in (0, 3):
            raise SystemExit(errors)
    reports = [json.loads(out) for out, _ in outputs if out.startswith("{")]
    return {
        "wall_s": round(wall, 2),
        "cpu_s": round(tree.seconds, 2),
        "notes": [note for report in reports for note in report["notes"]],
    }


def ways(folder: Path, *, few: int, many: int) -> dict[str, dict[int, list[list[str]]]]:
    """Commands of each way, by the number of items."""
    model, table, videos = folder / "model", folder / "items.csv", folder / "videos"
    (folder / "predict.py").write_text(PREDICT)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    base = [sys.executable, "-m", "linkedout_lightning.cli", "extract", f"--model={model}"]
    base += [f"--items={table}", f"--videos={videos}", "--workers=1", "--device=cpu", "--json"]
    base += words
    ray = ["--engine=ray", "--engine-options", "actors=2", "decoders=2"]

    def plain(name: str, limit: int, *more: str) -> list[str]:
        return [*base, f"--limit={limit}", f"--out={folder / f'{name}-{limit}'}", *more]

    def predict(limit: int) -> list[str]:
        out = folder / f"lightning_ddp_2-{limit}"
        return [
            sys.executable,
            *map(str, (folder / "predict.py", model, table, videos, out, limit)),
        ]

    sizes = (few, many)
    return {
        "plain_1": {n: [plain("plain_1", n)] for n in sizes},
        "plain_2": {n: [plain("plain_2", n)] * 2 for n in sizes},
        "lightning_ddp_2": {n: [predict(n)] for n in sizes},
        "ray_2": {n: [plain("ray_2", n, *ray)] for n in sizes},
        # The first once more: how steady the machine was.
        "plain_1_again": {n: [plain("plain_1_again", n)] for n in sizes},
    }


def differences(folder: Path, names: list[str], many: int) -> dict[str, Any]:
    """What each way has made, against one plain job."""
    from linkedout_lightning.store import FeatureStore

    stores = {name: FeatureStore.open(folder / f"{name}-{many}") for name in names}
    truth = stores[names[0]]
    wanted = truth.get(truth.item_ids)
    found = {}
    for name, store in stores.items():
        assert store.item_ids == truth.item_ids
        assert store.failures == truth.failures
        features = store.get(truth.item_ids).features
        found[name] = float((features - wanted.features).abs().max())
    return {
        "items": len(truth),
        "failures": len(truth.failures),
        "largest_feature": float(wanted.features.abs().max()),
        "largest_difference": found,
    }


NAMES = {
    "plain_1": "one job",
    "plain_2": "two jobs, one store",
    "lightning_ddp_2": "Lightning predict, DDP, 2 processes",
    "ray_2": "Ray, 2 actors, 2 decoders",
    "plain_1_again": "one job, once more at the end",
}


def table(report: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        "| way | start-up: wall s, CPU s | an item: wall ms, CPU ms | CPU an item, to one job | "
        f"all {report['videos']}: wall s, CPU s |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, way in report["ways"].items():
        start, whole = way["startup"], way["all"]
        lines.append(
            f"| {NAMES[name]} | {start['wall_s']:.0f}, {start['cpu_s']:.0f} | "
            f"{way['wall_ms_an_item']:.0f}, {way['cpu_ms_an_item']:.0f} | "
            f"{way['ratio_to_plain_1']['cpu_an_item']:.2f} | "
            f"{whole['wall_s']:.0f}, {whole['cpu_s']:.0f} |"
        )
    return "\n".join(lines)


def render(report: dict[str, Any], page: Path) -> None:
    """Put the table between its marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition("<!-- engines -->\n")
    _, mark, after = rest.partition("<!-- /engines -->")
    if mark:
        page.write_text(
            f"{before}<!-- engines -->\n{table(report)}\n{mark}{after}", encoding="utf-8"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--render", action="store_true", help="only write the table again")
    parser.add_argument("--few", type=int, default=16)
    parser.add_argument("--videos", type=int, default=400)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/engines.json")
    arguments = parser.parse_args()
    page = ROOT / "docs/extraction.md"
    if arguments.render:
        render(json.loads(arguments.out.read_text()), page)
        return
    few, many = arguments.few, arguments.videos

    from tiny_models import build_tiny_video_llm

    from linkedout_lightning.compare.environment import environment

    load = os.getloadavg()[0]
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        catalogue(folder, videos=many)
        (folder / "model").mkdir()
        build_tiny_video_llm(folder / "model", "idefics3")
        for name, runs in ways(folder, few=few, many=many).items():
            small, whole = measured(runs[few]), measured(runs[many])
            results[name] = {
                "startup": {key: small[key] for key in ("wall_s", "cpu_s")},
                "all": {key: whole[key] for key in ("wall_s", "cpu_s")},
                "notes": whole["notes"],
            }
            for kind in ("wall", "cpu"):
                spent = whole[f"{kind}_s"] - small[f"{kind}_s"]
                results[name][f"{kind}_ms_an_item"] = round(1000 * spent / (many - few), 2)
            results[name]["items_per_wall_second"] = round(many / whole["wall_s"], 2)
            print(name, results[name], flush=True)
        same = differences(folder, list(results), many)
    one = results["plain_1"]
    for result in results.values():
        result["ratio_to_plain_1"] = {
            "wall": round(result["all"]["wall_s"] / one["all"]["wall_s"], 2),
            "cpu": round(result["all"]["cpu_s"] / one["all"]["cpu_s"], 2),
            "startup_cpu": round(result["startup"]["cpu_s"] / one["startup"]["cpu_s"], 2),
            "wall_an_item": round(result["wall_ms_an_item"] / one["wall_ms_an_item"], 2),
            "cpu_an_item": round(result["cpu_ms_an_item"] / one["cpu_ms_an_item"], 2),
        }
    report = {
        "simulated": "synthetic videos, a tiny model with random weights",
        "environment": environment()
        | {"load_before": round(load, 1), "load_after": round(os.getloadavg()[0], 1)},
        "versions": {name: version(name) for name in ("ray", "transformers", "av", "pylance")},
        "videos": many,
        "few": few,
        "options": OPTIONS,
        "ways": results,
        "same": same,
    }
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    render(report, page)


if __name__ == "__main__":
    main()
