"""Answers over HTTP and without: latency, throughput, memory, recall, and the direct way.

For each size of the catalogue: a simulated bundle (clustered vectors, an untrained SASRec of two
blocks), the ranker called directly, and `linkedout serve` in a process of its own with the clients
on loopback, on the same cores. Beside each stands the floor: the bytes of the item table over the
bandwidth that this machine's memory has. The direct way watches the history's videos with a video
LLM at request time and then ranks as before; the larger one takes minutes a request.

    python benchmarks/serving.py --out benchmarks/results/serving.json
    python benchmarks/serving.py --items 20000 --seconds 1 --direct smolvlm2-256m --requests 2 \
        --out benchmarks/results/serving_direct.json
    python benchmarks/serving.py --items 20000 --soak 600 --out benchmarks/results/serving_soak.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import serving_direct
import torch
from serving_load import Server, all_at_once, at_a_rate, percentiles
from serving_soak import Reference, check_the_check, soak, world

from linkedout_lightning import Ranker
from linkedout_lightning.compare.environment import environment
from linkedout_lightning.serving.exporting import Exportable, export_bundle
from linkedout_lightning.serving.sequence import build

DIM, LONGEST, HISTORY, USERS = 64, 50, 10, 500
OPTIONS = {"blocks": 2, "heads": 2}


def write_bundle(folder: Path, *, items: int, seed: int = 0) -> Path:
    """A bundle of simulated item vectors, in clusters as trained ones are."""
    torch.manual_seed(seed)
    centres = torch.randn(max(8, items // 200), DIM)
    vectors = centres[torch.randint(len(centres), (items,))] + 0.6 * torch.randn(items, DIM)
    model = build("sasrec", dim=DIM, max_len=LONGEST, options=OPTIONS)
    parts = Exportable(
        item_ids=[f"item{number}" for number in range(items)],
        vectors=vectors / DIM**0.5,
        kind="sasrec",
        options=OPTIONS,
        max_len=LONGEST,
        state=model.backbone.state_dict(),
        popularity=torch.full((items,), 1 / items),
    )
    export_bundle(parts, folder, formats=())
    return folder


def histories_of(items: int, *, seed: int = 0) -> list[list[str]]:
    """Histories of ``HISTORY`` items."""
    chance = torch.Generator().manual_seed(seed)
    rows = torch.randint(items, (USERS, HISTORY), generator=chance)
    return [[f"item{number}" for number in row] for row in rows.tolist()]


def timed(work: Callable[[int], object], *, seconds: float, least: int = 20) -> dict[str, float]:
    """Times of calls, one after the other."""
    for number in range(5):
        work(number)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < least:
        start = time.perf_counter()
        work(len(times))
        times.append(1e3 * (time.perf_counter() - start))
    return percentiles(times)


def bandwidth_gb_s() -> float:
    """Bytes a second that a sum over 512 MB reads, the best of ten."""
    block = torch.ones(128 * 1024 * 1024)
    best = min(_seconds(block.sum) for _ in range(10))
    return block.nbytes / best / 1e9


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def one_size(folder: Path, items: int, *, index: str, seconds: float) -> dict[str, Any]:
    """All figures of one catalogue under one index."""
    histories = histories_of(items)
    start = time.perf_counter()
    ranker = Ranker.load(folder, index)  # type: ignore[arg-type]
    loaded = time.perf_counter() - start
    found: dict[str, Any] = {"items": items, "index": index, "load_s": round(loaded, 2)}
    found["calls_batch_1"] = timed(
        lambda n: ranker.recommend([histories[n % USERS]], 10), seconds=seconds
    )
    found["calls_batch_64"] = timed(
        lambda n: ranker.recommend([histories[(64 * n + i) % USERS] for i in range(64)], 10),
        seconds=seconds,
    )
    if index == "ivf":
        exact = Ranker.load(folder, "exact")
        right = exact.recommend(histories[:200], 10).ids
        near = ranker.recommend(histories[:200], 10).ids
        hits = sum(len(set(a) & set(b)) for a, b in zip(right, near, strict=True))
        found["recall@10"] = round(hits / (10 * len(right)), 4)
        del exact
    found["bytes"] = ranker.info()["bytes"]
    with Server(str(folder), "--index", index) as server:
        asyncio.run(all_at_once(server.port, histories, clients=8, seconds=min(2.0, seconds)))
        times = asyncio.run(at_a_rate(server.port, histories, rate=100, seconds=seconds))
        found["http_100_a_second"] = percentiles(times)
        times, rate = asyncio.run(all_at_once(server.port, histories, clients=1, seconds=seconds))
        found["http_1_client"] = {**percentiles(times), "requests_a_second": round(rate, 1)}
        times, rate = asyncio.run(all_at_once(server.port, histories, clients=64, seconds=seconds))
        found["http_64_clients"] = {**percentiles(times), "requests_a_second": round(rate, 1)}
        found["server_memory_mb"] = round(server.memory_mb, 1)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="+", default=[20_000, 200_000, 1_000_000])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--ivf-from", type=int, default=1_000_000, help="items; ivf is tried, too")
    parser.add_argument("--soak", type=float, default=0.0, help="seconds; in place of the figures")
    parser.add_argument("--clients", type=int, default=64, help="of the soak")
    parser.add_argument(
        "--pause", type=float, default=0.5, help="seconds between the soak's changes"
    )
    parser.add_argument(
        "--direct",
        nargs="*",
        default=["demo"],
        choices=serving_direct.MODELS,
        metavar="MODEL",
        help=f"video LLMs of the direct way: {', '.join(serving_direct.MODELS)}",
    )
    parser.add_argument("--requests", type=int, default=20, help="of the direct way")
    parser.add_argument("--folder", type=Path, help="for the bundles; by default a temporary one")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, help="print the Markdown table of a result")
    options = parser.parse_args(arguments)
    if options.table:
        print(table(json.loads(options.table.read_text())))
        return 0
    with tempfile.TemporaryDirectory() as room:
        folder = options.folder or Path(room)
        found = _soak(folder, options) if options.soak else _figures(folder, options)
    found = {"benchmark": "serving", "simulated": True, **found, "environment": environment()}
    text = json.dumps(found, indent=2) + "\n"
    if options.out is not None:
        options.out.write_text(text)
    print(text if options.out is None else f"written: {options.out}")
    return 1 if found.get("soak", {}).get("first_faults") else 0


def table(found: dict[str, Any]) -> str:
    """The figures in Markdown, times in ms: p50 / p99."""

    def pair(times: dict[str, float]) -> str:
        return f"{times['p50_ms']:.1f} / {times['p99_ms']:.1f}"

    lines = [
        "| items, index | a call | floor | 64 users a call | HTTP, 100 a second | 64 clients | "
        "answers a second | server |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in found["sizes"]:
        floor = f"{row['floor_ms']:.1f}" if "floor_ms" in row else ""
        lines.append(
            f"| {row['items']:,}, {row['index']} | {pair(row['calls_batch_1'])} | {floor} | "
            f"{pair(row['calls_batch_64'])} | {pair(row['http_100_a_second'])} | "
            f"{pair(row['http_64_clients'])} | "
            f"{row['http_64_clients']['requests_a_second']:,.0f} | "
            f"{row['server_memory_mb']:,.0f} MB |"
        )
    return "\n".join(lines)


def _figures(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    bandwidth = bandwidth_gb_s()
    sizes = []
    for items in options.items:
        bundle = folder / f"items-{items}"
        if not bundle.exists():
            write_bundle(bundle, items=items)
        for index in ("exact", "flat", "ivf") if items >= options.ivf_from else ("exact",):
            print(f"{items:,} items, {index}", file=sys.stderr, flush=True)
            one = one_size(bundle, items, index=index, seconds=options.seconds)
            if index != "ivf":  # which need not read all of the table
                one["floor_ms"] = round(1e3 * items * DIM * 4 / (bandwidth * 1e9), 3)
            sizes.append(one)
    found: dict[str, Any] = {
        "protocol": {
            "dim": DIM,
            "history": HISTORY,
            "k": 10,
            "sequence": {"kind": "sasrec", "max_len": LONGEST, **OPTIONS},
            "seed": 0,
            "bandwidth_gb_s": round(bandwidth, 2),
        },
        "sizes": sizes,
    }
    if options.direct:
        smallest = min(options.items)
        found["direct_way"] = []
        for name in options.direct:
            print(f"the direct way, {name}", file=sys.stderr, flush=True)
            one = serving_direct.measure(
                folder / f"items-{smallest}",
                name,
                histories_of(smallest),
                requests=options.requests,
            )
            found["direct_way"].append(one)
    return found


def _soak(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    items = options.items[0]
    histories = histories_of(items)[:200]
    for seed in (0, 1):
        if not (folder / f"soak-{seed}").exists():
            write_bundle(folder / f"soak-{seed}", items=items, seed=seed)
    worlds = tuple(world(folder / f"soak-{seed}", histories, seed=seed) for seed in (0, 1))
    check_the_check(Ranker.load(worlds[0].folder), Reference(worlds, histories), histories)
    with Server(str(worlds[0].folder)) as server:
        result = asyncio.run(
            soak(
                server,
                (worlds[0], worlds[1]),
                histories,
                seconds=options.soak,
                clients=options.clients,
                pause=options.pause,
            )
        )
    return {"items": items, "soak": result}


if __name__ == "__main__":
    sys.exit(main())
