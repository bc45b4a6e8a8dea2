"""The two recipes: what the model is asked, and how the recommenders are trained.

What is known of the paper (arXiv 2512.16891) and what is not stands in ``docs/datasets.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"
"""28 blocks, hidden size 3584: the class of model whose four layers the paper can have tapped."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of an extraction and of a comparison.

    Attributes:
        summary: One sentence for the report.
        extraction: Options of ``linkedout extract``.
        comparison: Options of ``linkedout compare``.
    """

    summary: str
    extraction: Mapping[str, Any]
    comparison: Mapping[str, Any]


_ROWS = (
    "popularity",
    "cooccurrence",
    "id",
    "id-dropout",
    "linkedout",
    "linkedout+id",
    "last+id",
    "random+id",
    "shuffled",
)
_BACKBONES = ("sasrec", "gru4rec", "nextitnet")

# What the validation chose among five trials a row, on MicroLens-50K's titles through a small
# language model and with the softmax over the batch's items (benchmarks/results/microlens50k/tune):
# as near as can be had here to the videos.
_UNNORMALISED: dict[str, dict[str, Any]] = {
    "linkedout": {
        "lr": 1e-3, "batch_size": 256, "dropout": 0.5, "weight_decay": 0.01, "rank": 256,
        "queries": 4, "whitening_power": 0.5, "output_norm": "layer",
    },
    "linkedout+id": {
        "lr": 1e-3, "batch_size": 256, "dropout": 0.5, "weight_decay": 0.01, "rank": 256,
        "queries": 1, "whitening_power": 1.0, "output_norm": "layer", "id_fusion": "add",
        "id_dropout": 0.2,
    },
}  # fmt: skip
"""The same trials were the best with both models that do not normalise the item vectors."""
_TUNED: dict[str, dict[str, dict[str, Any]]] = {
    "sasrec": {
        "id": {"lr": 5e-4, "batch_size": 128, "dropout": 0.1, "weight_decay": 0.1},
        "id-dropout": {
            "lr": 5e-4, "batch_size": 256, "dropout": 0.1, "weight_decay": 0.0,
            "item_dropout": 0.2,
        },
        "linkedout": {
            "lr": 2e-3, "batch_size": 256, "dropout": 0.2, "weight_decay": 0.0, "rank": 256,
            "queries": 4, "whitening_power": 0.5, "output_norm": "layer",
        },
        "linkedout+id": {
            "lr": 5e-4, "batch_size": 256, "dropout": 0.1, "weight_decay": 0.01, "rank": 256,
            "queries": 4, "whitening_power": 1.0, "output_norm": "none", "id_fusion": "add",
            "id_dropout": 0.1,
        },
    },
    "gru4rec": {
        "id": {
            "lr": 1e-3, "batch_size": 256, "dropout": 0.5, "weight_decay": 0.01,
            "output_norm": "layer",
        },
        "id-dropout": {
            "lr": 1e-3, "batch_size": 256, "dropout": 0.5, "weight_decay": 0.1,
            "item_dropout": 0.2, "output_norm": "layer",
        },
        **_UNNORMALISED,
    },
    "nextitnet": {
        "id": {
            "lr": 2e-3, "batch_size": 256, "dropout": 0.3, "weight_decay": 0.0,
            "output_norm": "layer",
        },
        "id-dropout": {
            "lr": 4e-3, "batch_size": 512, "dropout": 0.1, "weight_decay": 0.1,
            "item_dropout": 0.2, "output_norm": "layer",
        },
        **_UNNORMALISED,
    },
}  # fmt: skip
# A control has the settings of the row that it stands for.
_STANDS_FOR = {
    "id": "id",
    "id-dropout": "id-dropout",
    **dict.fromkeys(("linkedout", "shuffled"), "linkedout"),
    **dict.fromkeys(("linkedout+id", "last+id", "random+id"), "linkedout+id"),
}

RECIPES = {
    "recommended": Recipe(
        summary="this package's own: layers evenly spaced to the last one, the title in the "
        "prompt, nothing generated, a learned ID beside the features",
        extraction={
            "model": MODEL,
            "layers": (7, 14, 21, 28),
            "groups": ("visual", "title", "last"),
            "prompt": "Describe this video. Title: {title}",
            "frames": 8,
            "dtype": "bfloat16",
        },
        comparison={
            "encoders": _ROWS,
            "backbones": _BACKBONES,
            "seeds": (0, 1, 2, 3, 4),
            "dim": 128,
            "rank": 256,
            "lr": 5e-4,
            "batch_size": 256,
            # Stronger than the batch's items for every row that was tried
            # (benchmarks/results/microlens50k/full_loss-bf16), and cheap on a GPU.
            "loss": "full",
            "epochs": 50,
            "patience": 5,
            "monitor": "HR@10",
            "missing": "mean",
            "overrides": {
                f"{row}/{backbone}": chosen[tuned]
                for backbone, chosen in _TUNED.items()
                for row, tuned in _STANDS_FOR.items()
            },
        },
    ),
    "paper": Recipe(
        summary="nearest to the paper: layers 8, 16, 24 and 27 of a 28-layer model, the prompt "
        "alone, 16 generated tokens as the new group beside the prefill's, and the MicroLens "
        "authors' settings for the ID rows",
        extraction={
            "model": MODEL,
            "layers": (8, 16, 24, 27),
            "groups": ("visual", "text", "generated:16"),
            "prompt": "Describe this video.",
            "frames": 8,
            "dtype": "bfloat16",
        },
        comparison={
            "encoders": _ROWS,
            "backbones": _BACKBONES,
            "seeds": (0, 1, 2),
            "compressor": "mlp",
            # The MicroLens authors' settings of recommenders over video features.
            "dim": 512,
            "lr": 1e-4,
            "batch_size": 120,
            "dropout": 0.1,
            "epochs": 50,
            "patience": 0,
            "monitor": "HR@10",
            "missing": "mean",
            "overrides": {
                f"{row}/{backbone}": settings
                for row in ("id", "id-dropout")
                for backbone, settings in {
                    "sasrec": {"lr": 1e-5, "dim": 2048, "batch_size": 512},
                    "gru4rec": {"lr": 1e-4, "dim": 2048, "batch_size": 512},
                    "nextitnet": {"lr": 1e-3, "dim": 2048, "batch_size": 64},
                }.items()
            },
        },
    ),
}
"""By name."""


def overrides_for(
    recipe: Mapping[str, Mapping[str, Any]],
    given: Mapping[str, Any],
    *,
    encoders: tuple[str, ...],
    backbones: tuple[str, ...],
) -> dict[str, dict[str, Any]]:
    """A recipe's overrides of rows that are there, without what a person asked for.

    Args:
        recipe: Settings by row.
        given: What a person asked for, by name; its own ``overrides`` win row by row.
        encoders: Rows of the comparison.
        backbones: Sequence models of the comparison.
    """
    there = {*encoders, *backbones, *(f"{e}/{b}" for e in encoders for b in backbones)}
    kept = {
        row: {name: value for name, value in changes.items() if name not in given}
        for row, changes in recipe.items()
        if row in there
    }
    for row, changes in (given.get("overrides") or {}).items():
        kept[row] = kept.get(row, {}) | changes
    return {row: changes for row, changes in kept.items() if changes}
