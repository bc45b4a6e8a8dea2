"""First stage of training: the vision tower and the connector learn single frames.

Targets are what a frame shows (shape, colours, scene, ...), where things are (position, size,
angle, the backdrop's offset, so that motion can later be read from differences between frames),
and, for each patch, how much of it the subject and its companion cover. The last one is what lets a
small transformer find silhouettes at all.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linkedout_lightning.demo.model import DEMO_SIZE, PATCH, VISUAL_TOKENS, normalize
from linkedout_lightning.demo.render import render, trajectory
from linkedout_lightning.demo.shapes import SYMMETRY
from linkedout_lightning.demo.world import ATTRIBUTES, Clips, sample_clips

if TYPE_CHECKING:
    from transformers import Idefics3ForConditionalGeneration

SEEN_IN_A_FRAME = (
    "shape",
    "color",
    "fill",
    "size",
    "companion",
    "companion_color",
    "scene",
    "light",
)
OF_SUBJECT = SEEN_IN_A_FRAME[:4]
GEOMETRY = 13
CELLS = 3  # the covered shares of a patch are told on a 3 x 3 grid


class FrameHeads(nn.Module):
    """Linear readers of one frame; they are thrown away after the stage."""

    def __init__(self, *, vision_dim: int, text_dim: int) -> None:
        super().__init__()
        width = VISUAL_TOKENS * text_dim
        self.norm = nn.LayerNorm(width)
        self.attributes = nn.ModuleDict(
            {name: nn.Linear(width, len(ATTRIBUTES[name])) for name in SEEN_IN_A_FRAME}
        )
        self.geometry = nn.Linear(width, GEOMETRY)
        self.cover = nn.Linear(vision_dim, 2 * CELLS * CELLS)

    def forward(self, patches: Tensor, tokens: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Read patches (F, P, vision_dim) and connector tokens (F, 4, text_dim)."""
        flat = self.norm(tokens.flatten(1))
        logits = {name: head(flat) for name, head in self.attributes.items()}
        return logits, self.geometry(flat), self.cover(patches)


class FrameBatch:
    """`n` frames of `n` clips at random instants, with their targets."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        clips = sample_clips(n, rng)
        instants = rng.random((n, 1), dtype=np.float32)
        frames, covers = render(clips, instants, size=DEMO_SIZE, masks=True)
        self.pixels = augment(normalize(torch.from_numpy(frames[:, 0])), rng)  # (n, 3, 96, 96)
        self.codes = {name: torch.from_numpy(clips.code(name).copy()) for name in SEEN_IN_A_FRAME}
        self.geometry, self.visible = _geometry(clips, instants)
        self.cover = _cover(torch.from_numpy(covers[:, 0]))


def augment(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur, brightness and noise as H.264 and resizing make them; `pixels` (F, 3, H, W)."""
    n = len(pixels)
    blurred = F.avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)
    share = torch.from_numpy((rng.random((n, 1, 1, 1)) * 0.6).astype(np.float32))
    gain = torch.from_numpy((0.95 + 0.1 * rng.random((n, 1, 1, 1))).astype(np.float32))
    noise = torch.from_numpy(rng.standard_normal(pixels.shape[1:], dtype=np.float32))
    strength = torch.from_numpy((rng.random((n, 1, 1, 1)) * 0.06).astype(np.float32))
    mixed = torch.lerp(pixels, blurred, share)
    return ((mixed + 1) * gain - 1 + noise * strength).clamp_(-1, 1)


def _geometry(clips: Clips, instants: np.ndarray) -> tuple[Tensor, Tensor]:
    """Regression targets (n, 13) of about unit size, and whether the subject is seen (n,)."""
    at = trajectory(clips, instants)
    symmetry = np.array([SYMMETRY[name] for name in ATTRIBUTES["shape"]])[clips.code("shape")]
    angle = at.angle[:, 0] * symmetry
    offset = at.offset[:, 0] * math.pi
    columns = [
        3 * at.x[:, 0],
        3 * at.y[:, 0],
        3 * np.log(at.half[:, 0] / 0.45),
        np.sin(angle),
        np.cos(angle),
        2 * at.visible[:, 0] - 1,
        1.5 * at.companion_x[:, 0],
        1.5 * at.companion_y[:, 0],
        3 * np.log(at.companion_half[:, 0] / 0.23),
        np.sin(offset),
        np.cos(offset),
        3 * np.log(at.zoom[:, 0]),
        2.0 * at.palette[:, 0] - 1,
    ]
    return torch.from_numpy(np.stack(columns, 1).astype(np.float32)), torch.from_numpy(
        at.visible[:, 0]
    )


def _cover(covers: Tensor) -> Tensor:
    """Covered shares (n, P, 2 * 9) of each patch from masks uint8 (n, 2, 96, 96)."""
    side = DEMO_SIZE // PATCH
    cells = F.avg_pool2d(covers.float() / 255, PATCH // CELLS)  # (n, 2, 24, 24)
    cells = cells.reshape(len(cells), 2, side, CELLS, side, CELLS)  # n 2 r a c b
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def see(model: Idefics3ForConditionalGeneration, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Patches (F, 64, vision_dim) and tokens (F, 4, text_dim) of frames (F, 3, 96, 96)."""
    patches = model.model.vision_model(pixels).last_hidden_state
    return patches, model.model.connector(patches)


def frame_loss(
    model: Idefics3ForConditionalGeneration, heads: FrameHeads, batch: FrameBatch
) -> tuple[Tensor, dict[str, float]]:
    """The stage's loss and, for the log, accuracy by attribute and the geometry's error."""
    with torch.autocast("cpu", torch.bfloat16):
        patches, tokens = see(model, batch.pixels)
        logits, geometry, cover = heads(patches, tokens)
    seen = batch.visible
    loss = torch.zeros(())
    report = {}
    for name, scores in logits.items():
        weight = seen if name in OF_SUBJECT else torch.ones_like(seen)
        entropy = F.cross_entropy(scores.float(), batch.codes[name], reduction="none")
        part = (entropy * weight).sum() / weight.sum()
        # Silhouettes are the slowest to come; the size is told by the geometry as well.
        loss = loss + part * {"shape": 1.5, "size": 0.5}.get(name, 1.0)
        hit = (scores.argmax(-1) == batch.codes[name]).float()
        report[name] = float((hit * weight).sum() / weight.sum())
    error = (geometry.float() - batch.geometry).square()
    hidden = torch.ones_like(error)
    hidden[:, :5] = seen[:, None]  # an unseen subject has no place
    spatial = (error * hidden).mean(0)
    covered = F.mse_loss(cover.float(), batch.cover)
    report["cover"] = float(covered.detach())
    told = spatial.detach()
    report.update(xy=float(told[:2].mean()), angle=float(told[3:5].mean()))
    report.update(backdrop=float(told[9:12].mean()), geometry=float(told.mean()))
    return loss / len(logits) + spatial.mean() + 4 * covered, report


def start_well(model: Idefics3ForConditionalGeneration) -> None:
    """Patch filters from low cosine frequencies and positions from sines, to save finding them."""
    embeddings = model.model.vision_model.embeddings
    grid = (torch.arange(PATCH) + 0.5) / PATCH
    filters: list[Tensor] = []
    for total in range(2 * PATCH):
        for fy in range(total + 1):
            wave = torch.cos(math.pi * fy * grid)[:, None] * torch.cos(
                math.pi * (total - fy) * grid
            )
            filters.extend(wave * torch.eye(3)[channel][:, None, None] for channel in range(3))
    dim = embeddings.embed_dim
    weight = torch.stack(filters[:dim])
    side = DEMO_SIZE // PATCH
    place = (torch.arange(side) + 0.5) / side * math.pi
    waves = torch.cat(
        [f(place[:, None] * k) for k in range(1, dim // 8 + 1) for f in (torch.sin, torch.cos)], 1
    )
    half = waves[:, : dim // 2]
    table = torch.cat(
        [half[:, None].expand(side, side, -1), half[None].expand(side, side, -1)], -1
    ).flatten(0, 1)
    with torch.no_grad():
        embeddings.patch_embedding.weight.copy_(
            weight / weight.flatten(1).norm(dim=1)[:, None, None, None] / 4
        )
        embeddings.position_embedding.weight.zero_()
        embeddings.position_embedding.weight[:, : table.shape[1]].add_(0.3 * table)
