"""The same SASRec on the same split in RecBole and in this package: figures, seconds, memory.

Both engines get one model size, one split (the last item of a user for the test, the one before for
validation), the full softmax, history masked in the ranking, and the same seeds; each chooses its
best epoch on the validation. RecBole learns from one row a prefix, this package from all positions
of a window at once. Cells run one after the other, each in a process of its own with the same
threads. Times are rewritten as their order first: RecBole's float32 would lose it.

    python benchmarks/recbole_native.py --data ml-100k
    python benchmarks/recbole_native.py --data microlens --root MICROLENS_FOLDER
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
from pathlib import Path
from typing import Any

from linkedout_lightning.compare import CompareConfig, compare
from linkedout_lightning.compare.environment import environment
from recbole_adapters import write_inter

SIZES = {"ml-100k": (64, 10), "microlens": (64, 10)}  # width, inputs
METRICS = ("HR@10", "NDCG@10")


def atomic_file(data: str, root: Path | None, work: Path) -> Path:
    """Both engines read this file."""
    if data == "microlens":
        if root is None:
            raise SystemExit("--data microlens needs --root")
        pairs = root / "MicroLens-50k_pairs.tsv.gz"
        return write_inter(pairs, work, "microlens50k", keep_last=13, min_len=5, duplicates="keep")
    found = importlib.util.find_spec("recbole")
    if found is None or found.origin is None:
        raise SystemExit("RecBole is not installed; `linkedout doctor` says how")
    source = Path(found.origin).parent / "dataset_example/ml-100k/ml-100k.inter"
    return write_inter(source, work, "ml100k-ordered")


def native(inter: Path, data: str, arguments: argparse.Namespace) -> CompareConfig:
    width, inputs = SIZES[data]
    return CompareConfig(
        interactions=str(inter),
        out=str(arguments.work / f"native-{data}"),
        encoders=("id",),
        backbones=("sasrec",),
        seeds=tuple(arguments.seeds),
        dim=width,
        max_len=inputs,
        min_len=3,
        duplicates="keep",
        loss="full",
        dropout=arguments.native_dropout,
        weight_decay=0.0,
        lr=arguments.lr,
        batch_size=arguments.native_batch,
        epochs=arguments.native_epochs,
        patience=arguments.native_patience or arguments.patience,
        threads=arguments.threads,
        html=False,
    )


def recbole(inter: Path, data: str, arguments: argparse.Namespace) -> CompareConfig:
    width, inputs = SIZES[data]
    return CompareConfig(
        engine="recbole",
        dataset=inter.stem,
        out=str(arguments.work / f"recbole-{data}"),
        recbole_settings={
            "data_path": str(inter.parents[1]),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "MAX_ITEM_LIST_LENGTH": inputs,
            "hidden_size": width,
            "inner_size": 4 * width,
            "n_layers": 2,
            "n_heads": 2,
            "hidden_dropout_prob": arguments.recbole_dropout,
            "attn_dropout_prob": arguments.recbole_dropout,
            "train_neg_sample_args": None,
            "eval_args": {
                "split": {"LS": "valid_and_test"},
                "order": "TO",
                "group_by": "user",
                "mode": "full",
            },
            "eval_batch_size": 1024,
        },
        mask_history=True,
        encoders=("id",),
        backbones=("SASRec",),
        seeds=tuple(arguments.seeds),
        lr=arguments.lr,
        batch_size=arguments.recbole_batch,
        epochs=arguments.recbole_epochs,
        patience=arguments.patience,
        threads=arguments.threads,
        html=False,
    )


def summary(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds of what a comparison's cells say."""
    epochs = [point["seconds"] for cell in cells for point in cell["curve"]]
    row: dict[str, Any] = {
        "parameters": cells[0]["parameters"],
        "seconds_epoch": statistics.median(epochs),
        "seconds_evaluation": statistics.median(c["seconds_by_part"]["evaluation"] for c in cells),
        "seconds_to_best": statistics.mean(
            sum(p["seconds"] for p in c["curve"] if p["epoch"] <= (c["best_epoch"] or 0))
            for c in cells
        ),
        "peak_mb": max(cell["peak_mb"] for cell in cells),
        "best_epochs": [cell["best_epoch"] for cell in cells],
    }
    for metric in METRICS:
        values = [cell["metrics"][metric] for cell in cells]
        spread = statistics.stdev(values) if len(values) > 1 else None
        row[metric] = {"mean": statistics.mean(values), "std": spread, "seeds": values}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=SIZES, default="ml-100k")
    parser.add_argument("--root", type=Path, help="MicroLens' folder")
    parser.add_argument("--work", type=Path, default=Path("runs/recbole_native"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--lr", type=float, default=1e-3)
    # Of 0.2 and 0.4 the second did better here; RecBole has its own default.
    parser.add_argument("--native-dropout", type=float, default=0.4)
    parser.add_argument("--recbole-dropout", type=float, default=0.5, help="RecBole's default")
    parser.add_argument("--native-batch", type=int, default=64)
    parser.add_argument("--native-epochs", type=int, default=100)
    parser.add_argument("--recbole-batch", type=int, default=512)
    parser.add_argument("--recbole-epochs", type=int, default=15)
    parser.add_argument("--patience", type=int, default=5)
    parser.add_argument("--native-patience", type=int, help="as --patience, unless it is said")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    inter = atomic_file(arguments.data, arguments.root, arguments.work / "data")
    engines = {}
    for name, config in (("native", native), ("recbole", recbole)):
        results = compare(config(inter, arguments.data, arguments))
        engines[name] = summary(results["cells"]) | {"data": results["data"]}
    document = {
        "environment": environment(),
        "settings": {k: v for k, v in vars(arguments).items() if not isinstance(v, Path)},
        "protocol": "leave one out, full ranking, history masked, full softmax",
        "engines": engines,
        "recbole_over_native": {
            part: engines["recbole"][part] / engines["native"][part]
            for part in ("seconds_epoch", "seconds_evaluation", "seconds_to_best", "peak_mb")
        },
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    target = arguments.out / f"recbole_native_{arguments.data}.json"
    target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document["recbole_over_native"], indent=1))


if __name__ == "__main__":
    main()
