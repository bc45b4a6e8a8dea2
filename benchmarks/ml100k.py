"""ID against LinkedOut on ml-100k, its last items left out and its time cut in two.

RecBole's wheel carries ml-100k: interactions, and the movies' real titles, years and genres. Those
go as text through the real pretrained SmolLM2-135M, as in `recbole_ml100k.py`; there are no videos
in this data set. The rows are this package's own models: leave-one-out, where every user's last
item is asked for, and the temporal split, where nothing learns from what came after an instant.

    python benchmarks/ml100k.py --out benchmarks/results/ml100k
    python benchmarks/ml100k.py --splits leave_one_out --trials 5 --seeds 0 1 2 3 4

The first has one recipe for all rows. The second tunes each row with as many trials on the
validation, and a control has the settings of the row that it stands for.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml
from microlens50k import ROWS, WEIGHTS, stands_for, weights_folder
from recbole_ml100k import LAYERS, PROMPT, write_items

from linkedout_lightning.compare import CompareConfig, compare
from linkedout_lightning.compare.tuning import TuneConfig, tune
from linkedout_lightning.errors import LinkedOutError
from linkedout_lightning.tap.extract import ExtractConfig, extract

FLOORS = ("popularity", "cooccurrence")
ENCODERS = (*FLOORS, "id", "linkedout", "linkedout+id", "random+id")
SPLITS = ("leave_one_out", "temporal")
# The same for every row: where `recbole_native.py` found this package's SASRec with an ID strong
# (HR@10 .195). With a dropout of 0.1, 50 inputs and batches of 128 the ID has a quarter less and
# the co-occurrence two fifths, and a gain over either is cheap.
BUDGET: dict[str, Any] = {
    "dim": 64,
    "lr": 1e-3,
    "dropout": 0.4,
    "batch_size": 64,
    "max_len": 10,
    "epochs": 30,
    "patience": 5,
}
# A user of ml-100k rates all films within days: of the last tenth of the rows few users have a
# past, so that a larger part is held out for the temporal split.
SHARES = {"valid_share": 0.15, "test_share": 0.25}


def interactions() -> Path:
    """RecBole's own copy of the ratings."""
    found = importlib.util.find_spec("recbole")
    if found is None or found.origin is None:
        sys.exit("RecBole is not installed; `linkedout doctor` says how")
    return Path(found.origin).parent / "dataset_example/ml-100k/ml-100k.inter"


def features(work: Path, weights: Path | None) -> Path:
    """The store of the movies' texts; made, or finished, if it is not there."""
    items = work / "items.csv"
    write_items(items)
    extract(
        ExtractConfig(
            model=str(weights_folder(weights)),
            gguf_file=WEIGHTS,
            items=str(items),
            out=str(work / "features"),
            prompt=PROMPT,
            layers=LAYERS,
            groups=("text", "last"),
            dtype="bfloat16",
        )
    )
    return work / "features"


def tuned(
    data: dict[str, Any], arguments: argparse.Namespace, folder: Path, kept: Path
) -> dict[str, Any]:
    """What the validation chooses for each row, as options of a comparison."""
    recipe = {k: v for k, v in BUDGET.items() if k not in ("epochs", "patience", "max_len")}
    shares = {k: v for k, v in data.items() if k not in ("interactions", "store", "split")}
    tune(
        TuneConfig(
            interactions=data["interactions"],
            store=data["store"],
            split=data["split"],
            encoders=ROWS,
            backbones=tuple(arguments.backbones),
            trials=arguments.trials,
            values={"batch_size": [BUDGET["batch_size"]]},
            settings=recipe | shares,
            max_len=BUDGET["max_len"],
            epochs=arguments.epochs,
            patience=BUDGET["patience"],
            jobs=arguments.jobs,
            threads=arguments.threads,
            out=str(folder),
            title=f"ml-100k, {data['split'].replace('_', ' ')}: tuned on the validation",
        )
    )
    kept.mkdir(parents=True, exist_ok=True)
    for name in ("tune.json", "tune.md", "tuned.yaml"):
        shutil.copy(folder / name, kept / name)
    options: dict[str, Any] = yaml.safe_load((folder / "tuned.yaml").read_text())
    encoders = tuple(dict.fromkeys((*FLOORS, *options["encoders"], *arguments.encoders)))
    overrides = {
        f"{encoder}/{backbone}": options["overrides"][f"{stands_for(encoder)}/{backbone}"]
        for encoder in encoders
        for backbone in arguments.backbones
        if encoder not in FLOORS
    }
    return options | {"encoders": encoders, "overrides": overrides, "reuse": (str(folder),)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help=f"folder with {WEIGHTS}")
    parser.add_argument("--store", type=Path, help="features that are there already")
    parser.add_argument("--work", type=Path, default=Path("runs/ml100k"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ml100k"))
    parser.add_argument("--splits", nargs="+", default=list(SPLITS), choices=SPLITS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--backbones", nargs="+", default=["sasrec"])
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS))
    parser.add_argument("--epochs", type=int, default=BUDGET["epochs"])
    parser.add_argument("--trials", type=int, default=0, help="of each row; 0: one recipe for all")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()

    try:
        run(arguments)
    except LinkedOutError as error:
        sys.exit(str(error))


def run(arguments: argparse.Namespace) -> None:
    """A table for each split."""
    store = arguments.store or features(arguments.work, arguments.weights)
    for split in arguments.splits:
        name = f"tuned-{split}" if arguments.trials else split
        folder, kept = arguments.work / name, arguments.out / name
        data = {"interactions": str(interactions()), "store": str(store), "split": split, **SHARES}
        recipe = {
            "encoders": tuple(arguments.encoders),
            "backbones": tuple(arguments.backbones),
            **BUDGET,
            "epochs": arguments.epochs,
        }
        if arguments.trials:
            recipe |= tuned(data, arguments, folder / "tune", kept)
        compare(
            CompareConfig(
                **(data | recipe),
                seeds=tuple(arguments.seeds),
                jobs=arguments.jobs,
                threads=arguments.threads,
                out=str(folder),
                title=f"ml-100k, {split.replace('_', ' ')}: ID against titles, years and genres "
                "through SmolLM2-135M",
            )
        )
        kept.mkdir(parents=True, exist_ok=True)
        for file in ("results.json", "report.md", "report.html"):
            shutil.copy(folder / file, kept / file)


if __name__ == "__main__":
    main()
