"""A small comparison on ml-100k in RecBole."""

from __future__ import annotations

from linkedout_lightning.compare import CompareConfig

SMALL = {"user_inter_num_interval": [0, 30], "hidden_size": 16, "inner_size": 16}
ENCODERS = ("popularity", "id", "linkedout", "linkedout+id", "random")


def config_of(films, out, **changes):
    given = {
        "engine": "recbole", "dataset": "ml-100k", "recbole_config": ("ml-100k",),
        "recbole_settings": SMALL, "store": str(films), "missing": "mean", "rank": 8,
        "max_len": 10, "epochs": 2, "lr": 0.01, "batch_size": 512, "encoders": ENCODERS,
        "backbones": ("sasrec",), "seeds": (0, 1), "bootstrap": 200, "accelerator": "cpu",
        "threads": 1, "jobs": 2, "html": False, "out": str(out),
    }  # fmt: skip
    return CompareConfig(**(given | changes))
