from __future__ import annotations

import pytest
import torch

from linkedout_lightning.errors import ConfigError, LinkedOutError
from linkedout_lightning.tap.running import BatchRunner
from linkedout_lightning.tap.types import TapBatch, TapInput, TapOutput


class StandIn:
    """A tap whose batches fail as a test wishes."""

    def __init__(self, fault) -> None:
        self.fault = fault
        self.sizes: list[int] = []
        self.device = torch.device("cpu")

    def prepare(self, items) -> TapBatch:
        return TapBatch([item.item_id for item in items], [])

    def extract(self, batch: TapBatch) -> TapOutput:
        self.sizes.append(len(batch))
        self.fault(batch.item_ids)
        values = torch.tensor([float(i) for i in batch.item_ids])
        features = values[:, None, None, None].expand(-1, 1, 1, 2)
        return TapOutput(batch.item_ids, features, torch.ones(len(batch), 1).bool())


def run(fault, count: int = 12):
    tap = StandIn(fault)
    runner = BatchRunner(tap)  # type: ignore[arg-type]
    outputs, failures = runner.run([TapInput(str(i)) for i in range(count)])
    joined = TapOutput.cat(outputs) if outputs else TapOutput([], torch.zeros(0), torch.zeros(0))
    return joined, failures, tap, runner


def test_a_bad_item_costs_itself_alone() -> None:
    def fault(ids) -> None:
        if bad := [i for i in ids if i in ("3", "9")]:
            raise ValueError(f"token {bad} out of range")

    output, failures, _, _ = run(fault)
    assert output.item_ids == [str(i) for i in range(12) if i not in (3, 9)]
    assert output.features[:, 0, 0, 0].tolist() == [float(i) for i in output.item_ids]
    assert failures == {
        "3": "the model failed: ValueError: token ['3'] out of range",
        "9": "the model failed: ValueError: token ['9'] out of range",
    }


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"
        ),
    ],
)
def test_memory_that_runs_out_halves_the_batches_from_then_on(error: Exception) -> None:
    def fault(ids) -> None:
        if len(ids) > 3:
            raise error

    output, failures, tap, runner = run(fault)
    assert output.item_ids == [str(i) for i in range(12)]
    assert failures == {}
    assert tap.sizes == [12, 6, 3, 3, 3, 3]
    runner.run([TapInput(str(i)) for i in range(12)])
    assert tap.sizes[6:] == [3, 3, 3, 3]


def test_one_item_that_memory_has_no_room_for() -> None:
    def fault(ids) -> None:
        if "5" in ids:
            raise MemoryError

    output, failures, _, _ = run(fault)
    assert len(output) == 11
    assert list(failures) == ["5"]
    assert failures["5"].startswith("out of memory, alone")


def test_a_model_that_always_fails_ends_the_job() -> None:
    def fault(ids) -> None:
        raise KeyError("rope")

    with pytest.raises(LinkedOutError, match=r"16 items in a row.*rope"):
        run(fault, 40)


def test_what_concerns_every_item_is_raised_at_once() -> None:
    def config(ids) -> None:
        raise ConfigError("no visual token")

    def lost(ids) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(ConfigError, match="no visual token"):
        run(config)
    with pytest.raises(LinkedOutError, match="accelerator is lost"):
        run(lost)
