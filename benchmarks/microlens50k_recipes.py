"""The rows of the study on MicroLens-50K, and what the trials of a tuning are drawn from."""

from __future__ import annotations

from typing import Any

FLOORS = ("popularity", "cooccurrence")
UNTUNED = (
    *FLOORS, "id", "linkedout", "linkedout+id", "last", "last+id", "random", "random+id",
    "shuffled", "id-dropout",
)  # fmt: skip
# The same for every row. Nine epochs keep the whole table within two hours of two cores; the
# validation still rises slowly by then. With 0.002 SASRec-ID learns more slowly than with 0.001.
BUDGET = {"dim": 128, "lr": 1e-3, "epochs": 9, "patience": 2}
# Batches of 128 need half the products of batches of 512 an epoch (a row's negatives are the batch)
# and reach the same validation in the same number of epochs.
TUNED: dict[str, Any] = {"epochs": 20, "patience": 2}
FIRST = {"batch_size": 128, "lr": 5e-4}
VALUES: dict[str, list[Any]] = {
    "loss": ["in_batch"],
    "lr": [3e-4, 5e-4, 1e-3, 2e-3],
    "batch_size": [128, 256, 512],
    "id/output_norm": ["none"],
}
# Neither normalises the item vectors, which start small: with SASRec's rates they learn too slowly,
# and their best epochs come early, so that they want more dropout. Both from trainings of the ID,
# as is the LayerNorm: with it the ID learns far better, and without it a control of random features
# that has one is ahead of the ID.
FASTER: dict[str, dict[str, Any]] = {
    "gru4rec": {
        "batch_size": 256,
        "lr": 1e-3,
        "weight_decay": 0.1,
        "dropout": 0.5,
        "item_dropout": 0.2,
    },
    "nextitnet": {"batch_size": 256, "lr": 2e-3, "weight_decay": 0.0, "dropout": 0.3},
}
VALUES_FASTER: dict[str, list[Any]] = {
    "lr": [1e-3, 2e-3, 4e-3],
    "dim": [128],
    "dropout": [0.1, 0.2, 0.3, 0.5],
    "batch_size": [256, 512],
    "item_dropout": [0.0, 0.1, 0.2],
    "id/output_norm": ["layer"],
}
FULL: dict[str, Any] = {"loss": "full", "precision": "bf16-mixed"}
# Its first trial is the in-batch recipe; the rates of 0.0003 and 0.002, which lose with that, are
# left out, as is its larger batch, which loses too.
VALUES_FULL = VALUES | {
    "loss": ["full"],
    "lr": [5e-4, 1e-3],
    "dim": [128],
    "batch_size": [128, 256],
    "id/item_dropout": [0.0, 0.1, 0.2],
}
ROWS = ("id", "linkedout", "linkedout+id")
# A control has the settings of the row whose gain it explains.
ALONE = (
    "random", "shuffled", "last", "layer:*", "mean", "concat", "weighted-sum", "mlp", "minilm",
)  # fmt: skip
BESIDE_ID = ("random+id", "shuffled+id", "last+id", "layer:*+id", "mean+id", "mlp+id", "minilm+id")


def search(backbone: str, *, full: bool) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Values to draw a trial's settings from, and the first trial's settings.

    Args:
        backbone: The sequence model.
        full: With the softmax over the full catalogue.
    """
    values, first = (VALUES_FULL, FIRST | FULL) if full else (VALUES, FIRST)
    if backbone in FASTER:
        values, first = values | VALUES_FASTER, first | FASTER[backbone]
    return values, first


def stands_for(encoder: str) -> str:
    """The tuned row whose settings an encoder has."""
    if encoder in ("id", "id-dropout", *ROWS):
        return encoder
    return "linkedout+id" if encoder.endswith("+id") or encoder == "dff" else "linkedout"
