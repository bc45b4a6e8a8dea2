"""Train the demo's video LLM from nothing on rendered clips.

    python -m linkedout_lightning.demo.train --out weights --minutes 55 --seed 0

Two stages: frames (`vision_stage`), then captions and answers over the frozen vision tower
(`language_stage`). Each takes its share of the minutes; the learning rate follows the share of its
time that has passed. Every minute the state goes to `--work`, and `--resume` goes on from there.
The folder `--out` then holds a model that loads through `AutoProcessor` and
`AutoModelForImageTextToText`, and `training.json`, which says how it was made.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from linkedout_lightning.demo import language_stage, vision_stage
from linkedout_lightning.demo.model import build_model, build_processor
from linkedout_lightning.demo.optim import Optimizers
from linkedout_lightning.errors import ConfigError

if TYPE_CHECKING:
    from transformers import Idefics3ForConditionalGeneration, Idefics3Processor

CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What `train` needs to know.

    Attributes:
        out: Folder of the finished model.
        work: Folder of checkpoints, logs and cached features; may be deleted afterwards.
        minutes: Wall-clock budget of both stages together.
        vision_share: Share of it that the first stage gets.
        batch: Frames a step in the first stage.
        clips: Rendered clips whose features the second stage learns from.
        seed: Of everything random.
        threads: Processor threads.
        held_out: Clips (and eight times as many frames) of the check at the end of each stage.
        resume: Go on from the checkpoint in `work`.
    """

    out: Path
    work: Path = Path("runs/demo-train")
    minutes: float = 55.0
    vision_share: float = 0.4
    batch: int = 64
    clips: int = 24000
    seed: int = 0
    threads: int = 1
    held_out: int = 256
    resume: bool = False

    def __post_init__(self) -> None:
        if self.minutes <= 0 or not 0 < self.vision_share < 1:
            raise ConfigError(
                f"`minutes` is {self.minutes} and `vision_share` {self.vision_share}; give minutes "
                "above 0 and a share between 0 and 1"
            )
        if self.clips < language_stage.BATCH or min(self.batch, self.threads, self.held_out) < 1:
            raise ConfigError(
                f"`clips` is {self.clips}, `batch` {self.batch}, `threads` {self.threads}, "
                f"`held_out` {self.held_out}; give at least {language_stage.BATCH} clips and 1 of "
                "the others"
            )


@dataclass
class Progress:
    """Where a stage stands; it travels with the checkpoint."""

    stage: str = "vision"
    step: int = 0
    seconds: dict[str, float] = field(default_factory=dict)  # wall clock by stage
    cpu: dict[str, float] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    last: dict[str, dict[str, float]] = field(default_factory=dict)  # held-out figures by stage


class Run:
    """The model, where training stands, and the files in `work`."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        config.work.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        self.processor: Idefics3Processor = build_processor()
        self.model: Idefics3ForConditionalGeneration = build_model(self.processor.tokenizer)
        vision_stage.start_well(self.model)
        # Fused attention is slow backwards on a CPU: plain matrices halve a step's time here.
        self.model.set_attn_implementation("eager")
        self.progress = Progress()
        self.saved: dict[str, Any] = {}
        path = config.work / "checkpoint.pt"
        if config.resume and path.exists():
            self.saved = torch.load(path, weights_only=True)
            self.model.load_state_dict(self.saved["model"])
            self.progress = Progress(**self.saved["progress"])

    def save(self, heads: nn.Module, optimizers: Optimizers) -> None:
        """Write the checkpoint; a kill in between leaves the old one."""
        state = {
            "model": self.model.state_dict(),
            "heads": heads.state_dict(),
            "optimizers": optimizers.state_dict(),
            "progress": asdict(self.progress),
        }
        path = self.config.work / "checkpoint.pt"
        torch.save(state, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    def log(self, **figures: object) -> None:
        """One line of JSON on the screen and in `work`."""
        line = json.dumps(figures)
        print(line, flush=True)
        with (self.config.work / "log.jsonl").open("a") as file:
            file.write(line + "\n")

    def train(
        self,
        stage: str,
        heads: nn.Module,
        modules: list[nn.Module],
        *,
        minutes: float,
        loss: Callable[[int], tuple[torch.Tensor, dict[str, float]]],
        evaluate: Callable[[], dict[str, float]],
    ) -> None:
        """Step until the stage's time is up; `loss(step)` makes a step's batch and its loss."""
        optimizers = Optimizers([*modules, heads])
        at = self.progress
        if at.stage != stage:
            at.stage, at.step = stage, 0
        elif self.saved:
            heads.load_state_dict(self.saved["heads"])
            optimizers.load_state_dict(self.saved["optimizers"])
        before, cpu_before = at.seconds.get(stage, 0.0), at.cpu.get(stage, 0.0)
        start, cpu_start, last = time.monotonic(), time.process_time(), time.monotonic()
        share = before / (60 * minutes)
        while share < 1.0:
            value, report = loss(at.step)
            if not torch.isfinite(value):
                raise RuntimeError(f"loss is {float(value)} at step {at.step} of stage {stage}")
            torch.autograd.backward(value)
            optimizers.step(share)
            at.step += 1
            at.seconds[stage] = before + time.monotonic() - start
            at.cpu[stage] = cpu_before + time.process_time() - cpu_start
            at.steps[stage] = at.step
            share = at.seconds[stage] / (60 * minutes)
            if at.step % 50 == 0:
                figures = {k: round(v, 4) for k, v in report.items()}
                loss_now = round(float(value.detach()), 4)
                self.log(stage=stage, step=at.step, share=round(share, 4), loss=loss_now, **figures)
            if time.monotonic() - last > CHECKPOINT_SECONDS or share >= 1.0:
                last = time.monotonic()
                self.save(heads, optimizers)
        at.last[stage] = {k: round(v, 4) for k, v in evaluate().items()}
        self.log(stage=stage, held_out=at.last[stage])
        self.save(heads, optimizers)


def train_vision(run: Run) -> None:
    """First stage: see `vision_stage`."""
    config, model = run.config, run.model
    vision = model.model.vision_model
    heads = vision_stage.FrameHeads(
        vision_dim=model.config.vision_config.hidden_size,
        text_dim=model.config.text_config.hidden_size,
    )

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = np.random.default_rng([config.seed, 1, step])
        return vision_stage.frame_loss(model, heads, vision_stage.FrameBatch(config.batch, rng))

    def evaluate() -> dict[str, float]:
        with torch.no_grad():
            rngs = (np.random.default_rng([config.seed, 2, i]) for i in range(8))
            rows = [
                vision_stage.frame_loss(model, heads, vision_stage.FrameBatch(config.held_out, r))[
                    1
                ]
                for r in rngs
            ]
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

    run.train(
        "vision",
        heads,
        [vision, model.model.connector],
        minutes=config.minutes * config.vision_share,
        loss=loss,
        evaluate=evaluate,
    )


def train(config: TrainConfig) -> None:
    """Both stages, then the folder `config.out`."""
    torch.set_num_threads(config.threads)
    run = Run(config)
    if run.progress.stage == "vision":
        train_vision(run)
    language_stage.train_language(run)
    export(run)


def export(run: Run) -> None:
    """Save model, processor and training record.

    The file holds float16, the config says float32: by default the model is then loaded, and
    computes, in float32, which every CPU does well.
    """
    out = run.config.out
    run.model.eval().to(torch.float16).save_pretrained(out)
    path = out / "config.json"
    settled = json.loads(path.read_text())
    for part in (settled, settled["text_config"], settled["vision_config"]):
        part["dtype"] = "float32"
    path.write_text(json.dumps(settled, indent=2, sort_keys=True) + "\n")
    run.processor.save_pretrained(out)
    record = {
        "command": (
            "python -m linkedout_lightning.demo.train --out OUT "
            f"--minutes {run.config.minutes:g} --vision-share {run.config.vision_share:g} "
            f"--batch {run.config.batch} --clips {run.config.clips} --seed {run.config.seed}"
        ),
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "progress": asdict(run.progress),
        "hardware": f"{os.cpu_count()}-core {platform.machine()} CPU, {run.config.threads} thread",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n")


def main(argv: list[str] | None = None) -> None:
    """Command line: one option for each field of `TrainConfig`."""
    parser = argparse.ArgumentParser(
        prog="python -m linkedout_lightning.demo.train", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument(
        "--work", type=Path, default=TrainConfig.work, help="checkpoints and caches"
    )
    parser.add_argument(
        "--minutes", type=float, default=TrainConfig.minutes, help="wall-clock budget"
    )
    parser.add_argument("--vision-share", type=float, default=TrainConfig.vision_share)
    parser.add_argument("--batch", type=int, default=TrainConfig.batch, help="frames a step")
    parser.add_argument(
        "--clips", type=int, default=TrainConfig.clips, help="clips for the captions"
    )
    parser.add_argument("--seed", type=int, default=TrainConfig.seed)
    parser.add_argument("--threads", type=int, default=TrainConfig.threads)
    parser.add_argument("--held-out", type=int, default=TrainConfig.held_out, help="clips to check")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --work")
    train(TrainConfig(**vars(parser.parse_args(argv))))


if __name__ == "__main__":
    main()
