"""What one job has done so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from linkedout_lightning.tap.pipeline import Clock
from linkedout_lightning.tap.plan import Work

if TYPE_CHECKING:
    from linkedout_lightning.tap.tap import VideoLLMTap


@dataclass
class Tally:
    """What one job has done so far; an engine fills it in.

    Attributes:
        tap: The tap; an engine elsewhere may have used others like it.
        work: What is to be done.
        clock: Where the time went.
        tokens: Tokens that the model has read.
        done: Items that got features.
        by_others: Items that other jobs did meanwhile.
        failures: Reason by item that got none.
        notes: What a person should know.
    """

    tap: VideoLLMTap
    work: Work
    clock: Clock = field(default_factory=Clock)
    tokens: int = 0
    done: int = 0
    by_others: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
