"""The ranker over growing catalogues, without HTTP: time an answer, recall, memory, and the floor.

Each row runs in a process of its own: it loads a bundle, answers one user at a time and says how
long each answer took (p50, p99), what share of the exact float32 top 10 it found, and how much
memory it holds. The floor of an exact search is the bytes of the item vectors over the bandwidth
that this machine's memory reaches in the same process (the best of several sums over 512 MiB); an
approximate one reads its centroids and the lists that it probes.

The catalogues are simulated: with ``--like`` a trained bundle, whose item vectors are drawn again
with noise until there are enough of them, and whose sequence model answers; otherwise clustered
noise and a sequence model that nobody trained. A user's history is of items that are alike.

    python benchmarks/ranker.py --like runs/demo/bundle --out benchmarks/results/ranker.json
    python benchmarks/ranker.py --table benchmarks/results/ranker.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linkedout_lightning import Ranker, export_bundle
from linkedout_lightning.compare.environment import environment
from linkedout_lightning.sequence import SASRec
from linkedout_lightning.serving import Bundle
from linkedout_lightning.serving.exporting import Exportable

K, LONGEST, NEAR = 10, 10, 50
KINDS = ("exact float32", "exact float16", "exact int8", "flat float32", "flat float16",
         "ivf float32", "ivf float16", "ivf int8")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[20_000, 200_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=64, help="without --like")
    parser.add_argument("--like", type=Path, help="a trained bundle")
    parser.add_argument("--noise", type=float, default=0.3, help="share of a coordinate's spread")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--probes", type=int, help="of ivf")
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, help="print the Markdown table of a result")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads(arguments.table.read_text())))
        return 0
    if arguments.cell:
        print(json.dumps(cell(**json.loads(arguments.cell))))
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for items in arguments.items:
            folder = Path(name) / str(items)
            build(folder, items, arguments)
            rows += [measure(folder, kind, arguments) for kind in ("exact float32", *(
                kind for kind in arguments.kinds if kind != "exact float32"
            ))]  # fmt: skip
    result = {
        "what": " ".join(__doc__.split("\n\n")[1].split()),
        "simulated": True,
        "environment": environment(),
        "settings": {
            name: value.name if isinstance(value, Path) else value
            for name, value in vars(arguments).items()
            if name not in ("cell", "table", "out")
        },
        "rows": rows,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    return 0


def build(folder: Path, items: int, arguments: argparse.Namespace) -> None:
    """A bundle of that many items, and users to ask it."""
    torch.manual_seed(arguments.seed)
    if arguments.like:
        like = Bundle.open(arguments.like)
        known, sequence = like.items().candidates.all(), like.manifest.sequence
        rows = torch.randint(len(known), (items,))
        vectors = known[rows] + arguments.noise * known.std(0) * torch.randn(items, known.shape[1])
        parts = {
            "kind": sequence["kind"],
            "options": sequence["options"],
            "max_len": sequence["max_len"],
            "state": like.sequence().backbone.state_dict(),
        }
    else:
        centres = torch.randn(1000, arguments.dim)
        rows = torch.randint(len(centres), (items,))
        vectors = (centres[rows] + 0.5 * torch.randn(items, arguments.dim)) / arguments.dim**0.5
        parts = {
            "kind": "sasrec",
            "options": {"blocks": 2, "heads": 2},
            "max_len": LONGEST,
            "state": SASRec(arguments.dim, max_len=LONGEST, dense=True).state_dict(),
        }
    ids = [f"item-{number}" for number in range(items)]
    export_bundle(Exportable(item_ids=ids, vectors=vectors, **parts), folder, formats=())
    users = histories(vectors, arguments.users)
    (folder / "users.json").write_text(json.dumps([[ids[i] for i in user] for user in users]))


def histories(vectors: Tensor, users: int) -> list[list[int]]:
    """Items that are alike, from one to ten of them."""
    sample = torch.randperm(len(vectors))[:20_000]
    table = torch.nn.functional.normalize(vectors[sample], dim=1)
    chosen = torch.randint(len(sample), (users,))
    near = (table[chosen] @ table.T).topk(min(NEAR, len(sample)), dim=1).indices
    lengths = torch.randint(1, LONGEST + 1, (users,)).tolist()
    return [
        sample[row[torch.randperm(len(row))[:length]]].tolist()
        for row, length in zip(near, lengths, strict=True)
    ]


def measure(folder: Path, kind: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row, in a process of its own."""
    given = {
        "folder": str(folder),
        "kind": kind,
        "threads": arguments.threads,
        "probes": arguments.probes,
    }
    command = [sys.executable, __file__, "--cell", json.dumps(given)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout)
    print(f"{row['items']:>9,} {kind:<14} p50 {row['p50_ms']:.2f} ms", file=sys.stderr, flush=True)
    return row


def cell(*, folder: str, kind: str, threads: int, probes: int | None) -> dict[str, Any]:
    """Load, ask, compare with the exact answers, which the first cell leaves behind."""
    torch.set_num_threads(threads)
    index, dtype = kind.split()
    users = json.loads((Path(folder) / "users.json").read_text())
    bandwidth = measured_bandwidth()
    before = resident()
    started = time.perf_counter()
    options = {"probes": probes} if index == "ivf" and probes else None
    ranker = Ranker.load(folder, index, dtype=dtype, index_options=options)  # type: ignore[arg-type]
    loaded = time.perf_counter() - started
    for history in users[:20]:
        ranker.recommend([history], K)
    times, found = [], []
    for history in users:
        began = time.perf_counter()
        found.append(ranker.recommend([history], K).ids[0])
        times.append(time.perf_counter() - began)
    began = time.perf_counter()
    ranker.recommend(users[:64], K)
    batch = time.perf_counter() - began
    exact = Path(folder) / "exact.json"
    if kind == "exact float32":
        exact.write_text(json.dumps(found))
    true = json.loads(exact.read_text())
    recall = [len(set(a) & set(b)) / len(b) for a, b in zip(found, true, strict=True)]
    read = bytes_read(ranker)
    return {
        "items": len(ranker),
        "kind": kind,
        "p50_ms": 1e3 * quantile(times, 0.5),
        "p99_ms": 1e3 * quantile(times, 0.99),
        "batch_64_ms": 1e3 * batch,
        "recall_at_10": sum(recall) / len(recall),
        "load_s": loaded,
        "vectors_mb": ranker.info()["bytes"] / 2**20,
        "resident_mb": (resident() - before) / 2**20,
        "bandwidth_gb_s": bandwidth / 1e9,
        "floor_ms": 1e3 * read / bandwidth,
    }


def bytes_read(ranker: Ranker) -> float:
    """What one search cannot do without reading."""
    snapshot = ranker._snapshot
    size = float(snapshot.base.candidates.nbytes)
    index: Any = snapshot.index
    if index.kind == "ivf":
        centroids = index._made.centroids
        return size * index._probes / len(centroids) + centroids.nbytes
    return size


def measured_bandwidth() -> float:
    """Bytes a second of reading what no cache holds."""
    block = torch.ones(1 << 27)
    best = float("inf")
    for _ in range(7):
        began = time.perf_counter()
        block.sum()
        best = min(best, time.perf_counter() - began)
    return block.nbytes / best


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def table(result: dict[str, Any]) -> str:
    """The rows in Markdown."""
    lines = [
        "| items | index, numbers | p50 | p99 | floor | recall@10 | 64 users at once | vectors | "
        "in memory | loads in |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['items']:,} | {row['kind']} | {row['p50_ms']:.2f} ms | {row['p99_ms']:.2f} ms | "
        f"{row['floor_ms']:.2f} ms | {row['recall_at_10']:.3f} | {row['batch_64_ms']:.0f} ms | "
        f"{row['vectors_mb']:.0f} MB | {row['resident_mb']:.0f} MB | {row['load_s']:.1f} s |"
        for row in result["rows"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
