"""What is shown while cells run."""

from __future__ import annotations

import io
from pathlib import Path

from linkedout_lightning.compare.display import (
    Bars,
    Lines,
    Silent,
    choose_display,
    validated,
)
from linkedout_lightning.compare.plan import Cell

CELL = Cell(encoder="id", backbone="sasrec", seed=3, settings={}, inputs={}, folder=Path("x"))
DONE = {
    "metrics": {"HR@10": 0.125, "NDCG@10": 0.0625},
    "best_val": {"HR@10": 0.25, "NDCG@10": 0.1875},
    "seconds": 3.2,
}
PROGRESS = {
    "epochs_done": 4, "share_of_epoch": 0.5, "epochs": 10, "train_loss": 5.5, "last": 0.05,
    "best": 0.06, "best_epoch": 3, "monitor": "NDCG@10",
}  # fmt: skip


def test_log_gets_a_line_a_cell():
    stream = io.StringIO()
    lines = Lines(3, 1, stream=stream)
    lines.started(CELL, 0)
    lines.progressed(CELL, 0, PROGRESS)
    lines.finished(CELL, 0, DONE)
    lines.finished(CELL, 0, {"error": "DataError: no"})
    lines.close()
    assert stream.getvalue().splitlines() == [
        "compare: 1 of 3 cells are done already",
        "compare: [2/3] id · sasrec · seed 3: HR@10 0.1250, NDCG@10 0.0625 (3 s)",
        "compare: [3/3] id · sasrec · seed 3: FAILED, DataError: no",
    ]


def test_terminal_gets_epoch_loss_and_validation():
    stream = io.StringIO()
    bars = Bars(3, 1, 2, stream=stream)
    bars.started(CELL, 1)
    bars.progressed(CELL, 1, PROGRESS)
    bars.finished(CELL, 1, DONE)
    bars.close()
    shown = stream.getvalue()
    assert (
        "id · sasrec · seed 3  epoch 5/10  loss 5.500  val NDCG@10 0.0500 (best 0.0600, epoch 3)"
        in shown
    )
    assert "id · sasrec · seed 3: HR@10 0.1250, NDCG@10 0.0625 (3 s)\n" in shown
    assert "2/3" in shown


def test_a_tuning_shows_the_validation_and_never_the_test(capsys):
    stream = io.StringIO()
    bars = Bars(3, 1, 2, stream=stream, told=validated)
    bars.finished(CELL, 1, DONE)
    bars.close()
    display = choose_display(True, total=2, done=0, jobs=1, tuning=True)
    display.finished(CELL, 0, DONE)
    display.finished(CELL, 0, {"error": "DataError: no"})
    in_a_log = capsys.readouterr().err
    assert in_a_log.splitlines() == [
        "tune: [1/2] id · sasrec · seed 3: validation HR@10 0.2500, NDCG@10 0.1875 (3 s)",
        "tune: [2/2] id · sasrec · seed 3: FAILED, DataError: no",
    ]
    assert "validation HR@10 0.2500, NDCG@10 0.1875 (3 s)\n" in stream.getvalue()
    assert "0.1250" not in in_a_log + stream.getvalue()


def test_quiet_means_quiet(capsys):
    display = choose_display(False, total=2, done=0, jobs=1)
    assert isinstance(display, Silent)
    display.started(CELL, 0)
    display.finished(CELL, 0, DONE)
    display.close()
    assert capsys.readouterr() == ("", "")
