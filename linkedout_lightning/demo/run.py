"""``linkedout demo``: the whole way of the data on the simulated world."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linkedout_lightning.errors import ConfigError

if TYPE_CHECKING:
    from linkedout_lightning.compare import Comparison

ENCODERS = (
    "popularity",
    "id",
    "random",
    "last",
    "linkedout",
    "random+id",
    "linkedout+id",
    "oracle",
)
GROUPS = ("visual", "text", "last")
NOTE = (
    "Simulated world: clips rendered by a program, users drawn from written rules "
    "(linkedout_lightning/demo/WORLD.md), features from {model}. The figures say that the way of "
    "the data works; they say nothing about real users."
)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The simulated world, the model that watches it, and the comparison.

    Args:
        out: Folder for videos, interactions, features and the report; what stands there already
            is not made again.
        model: A video LLM by name or folder; none given: the small one that the package carries.
        layers: Layers to tap, as `linkedout extract --layers`.
        items: Clips in the catalogue.
        users: Users.
        cold: Clips that occur only as somebody's last interaction.
        steps: Interactions a user.
        world_seed: Seed of clips and users.
        encoders: Rows of the table.
        backbones: Sequence models: sasrec, gru4rec, nextitnet.
        seeds: One training of each trained row a seed.
        epochs: Most epochs of a row.
        jobs: Rows trained at the same time.
    """

    out: str = "runs/demo"
    model: str | None = None
    layers: tuple[int, ...] = (2, 4, 6, 8)
    items: int = 1000
    users: int = 3000
    cold: int = 150
    steps: int = 15
    world_seed: int = 0
    encoders: tuple[str, ...] = ENCODERS
    backbones: tuple[str, ...] = ("sasrec",)
    seeds: tuple[int, ...] = (0, 1)
    epochs: int = 50
    jobs: int = 2


@dataclass(frozen=True)
class DemoReport:
    """Where everything lies, and the results.

    Args:
        folder: The folder of the run.
        results: The object of ``results.json``, with its exit code.
        bundles: Folders of the exported models by name.
    """

    folder: Path
    results: Comparison
    bundles: dict[str, Path] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Paths and results as one object."""
        bundles = {name: str(path) for name, path in self.bundles.items()}
        return {"folder": str(self.folder), "bundles": bundles, **self.results}

    @property
    def exit_code(self) -> int:
        """0 when every cell ended well, 3 when some failed, 1 when all did."""
        return self.results.exit_code

    def summary(self) -> str:
        """The table of the report, and where to look next."""
        table = (self.folder / "report.md").read_text()
        lines = [table, f"report: {self.folder / 'report.html'}"]
        if "bundle" in self.bundles:
            bundle = self.bundles["bundle"]
            lines += [
                f"bundle: {bundle}",
                f"  linkedout recommend --bundle {bundle} --history ID,ID",
            ]
        return "\n".join(lines)


def demo(config: DemoConfig, *, progress: bool = True) -> DemoReport:
    """Render, tap, store, train, rank, report, export.

    Args:
        config: Sizes, seeds and the model.
        progress: Show what goes on.

    Returns:
        Paths and results; ``report.html`` in the folder is the thing to open.

    Raises:
        ConfigError: The folder holds another world.
        StoreSpecError: The folder holds features of another model.
    """
    from linkedout_lightning.compare import CompareConfig, compare
    from linkedout_lightning.demo.bundling import write_bundles
    from linkedout_lightning.demo.model import DEMO_FRAMES, DEMO_PROMPT, WEIGHTS
    from linkedout_lightning.tap.extract import ExtractConfig, extract

    folder = Path(config.out)
    _world(config, folder, progress=progress)
    model = config.model or str(WEIGHTS)
    _say(progress, f"features: {config.model or 'the small video LLM of the package'} watches")
    extraction = extract(
        ExtractConfig(
            model=model,
            items=str(folder / "items.parquet"),
            videos=str(folder / "videos"),
            out=str(folder / "features"),
            layers=config.layers,
            groups=GROUPS,
            prompt=DEMO_PROMPT,
            frames=DEMO_FRAMES,
            size=None,  # The clips are small already; the processor makes them the model's size.
            dtype="float32",
        ),
        progress=progress,
    )
    if extraction.failed:
        raise ConfigError(f"{extraction.failed} clips of the demo failed; see {folder}/features")
    _oracle(folder)
    _say(progress, f"comparison: {', '.join(config.encoders)}")
    results = compare(
        CompareConfig(
            interactions=str(folder / "interactions.parquet"),
            store=str(folder / "features"),
            stores={"oracle": str(folder / "oracle")},
            encoders=config.encoders,
            backbones=config.backbones,
            seeds=config.seeds,
            epochs=config.epochs,
            jobs=config.jobs,
            out=str(folder),
            title="LinkedOut on a simulated world",
            simulated=True,
            simulation_note=NOTE.format(
                model=config.model or "a small video LLM trained on clips of the same renderer"
            ),
            **SETTINGS,
        ),
        progress=progress,
    )
    _keep_best(folder, results)
    _say(progress, f"bundle: the best model, ready to be asked, in {folder / 'bundle'}")
    return DemoReport(folder, results, write_bundles(folder))


SETTINGS: dict[str, Any] = {
    "dim": 64,
    "max_len": 15,
    "batch_size": 128,
    "rank": 128,
    # ID stands at popularity's level for a dozen epochs before it learns, and 0.001 is too slow for
    # it: chosen on the validation users of the ID row, the baseline, and the same for every row.
    "lr": 3e-3,
    "patience": 20,
}
"""What the world's size asks for; the same for every row."""


def _world(config: DemoConfig, folder: Path, *, progress: bool) -> None:
    from linkedout_lightning.demo.simulate import generate_world

    asked = {
        key: value
        for key, value in asdict(config).items()
        if key in ("items", "users", "cold", "steps", "world_seed")
    }
    record = folder / "world.json"
    if record.is_file():
        found = json.loads(record.read_text())
        if found != asked:
            raise ConfigError(
                f"{folder} holds a world of {found}, but {asked} is asked for; "
                "give another --out, or remove the folder"
            )
        return
    _say(progress, f"world: rendering {config.items} clips (simulated) to {folder / 'videos'}")
    folder.mkdir(parents=True, exist_ok=True)
    generate_world(
        folder,
        items=config.items,
        users=config.users,
        cold=config.cold,
        steps=config.steps,
        seed=config.world_seed,
        progress=progress,
    )
    record.write_text(json.dumps(asked, indent=2) + "\n")


def _oracle(folder: Path) -> None:
    """Keep the true attributes as features of one layer: what perfect eyes would see."""
    import pyarrow.parquet as parquet
    import torch

    from linkedout_lightning.demo.simulate import oracle_features
    from linkedout_lightning.store import FeatureStore, StoreSpec

    path = folder / "oracle"
    if path.exists():
        return
    item_ids, features = oracle_features(parquet.read_table(folder / "items.parquet"))
    spec = StoreSpec(
        model="the renderer's own attributes",
        revision="1",
        layers=(0,),
        slots=("attributes",),
        groups=("attributes",),
        hidden_size=features.shape[1],
        prompt="",
        sampler={},
        dtype="float32",
        versions={},
        extra={},
    )
    store = FeatureStore.create(path, spec)
    rows = torch.from_numpy(features)[:, None, None, :]  # (N, 1, 1, A)
    store.append(item_ids, rows, torch.ones(len(item_ids), 1, dtype=torch.bool))


def _keep_best(folder: Path, results: dict[str, Any]) -> None:
    """Copy the best LinkedOut checkpoint, by validation, to a name that is easy to find."""
    own = [
        cell
        for cell in results["cells"]
        if cell["encoder"].startswith("linkedout") and cell.get("checkpoint")
    ]
    if own:
        best = max(own, key=lambda cell: cell["best_value"])
        shutil.copy(folder / best["checkpoint"], folder / "best.ckpt")


def _say(progress: bool, line: str) -> None:
    if progress:
        print(f"==> {line}", flush=True)
