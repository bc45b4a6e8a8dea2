"""Optimiser of both training stages: Muon for the matrices of the blocks, AdamW for all else."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class Optimizers:
    """Two optimisers that step as one, with warm-up and cosine decay by the share of work done.

    Args:
        modules: Their matrices in attention and MLP blocks go to Muon (in a short trial it was well
            ahead of AdamW here), embeddings, norms, biases and heads to AdamW.
        muon_lr: Peak learning rate of Muon, its updates scaled to AdamW's size.
        adam_lr: Peak learning rate of AdamW.
    """

    def __init__(
        self, modules: Iterable[nn.Module], *, muon_lr: float = 4e-3, adam_lr: float = 1e-3
    ) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for module in modules:
            for name, parameter in module.named_parameters():
                inner = parameter.ndim == 2 and ("layers." in name or "modality_projection" in name)
                (matrices if inner else others).append(parameter)
        self.parameters = [*matrices, *others]
        self.all: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.01)
        ]
        if matrices:
            self.all.append(
                torch.optim.Muon(
                    matrices, lr=muon_lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
                )
            )
        self.peaks = [[group["lr"] for group in one.param_groups] for one in self.all]

    def step(self, progress: float, *, warmup: float = 0.02) -> None:
        """Clip, step and clear the gradients; `progress` in [0, 1] sets the learning rates."""
        factor = min(1.0, (progress + 1e-3) / warmup)
        factor *= 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer, peaks in zip(self.all, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """States of both."""
        return {"states": [one.state_dict() for one in self.all]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for one, saved in zip(self.all, state["states"], strict=True):
            one.load_state_dict(saved)
