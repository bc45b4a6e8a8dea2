"""The processes that train one model together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recbole_adapters.compat import distributed_on


@dataclass(frozen=True)
class Group:
    """This process among those that train together.

    Attributes:
        rank: Its number.
        size: How many there are.
        device: Its device.
    """

    rank: int
    size: int
    device: torch.device

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            torch.distributed.barrier()

    def mean(self, value: Any) -> Any:
        """The mean of a number, or of each number of a tuple, over the processes."""
        if self.size == 1:
            return value
        numbers = value if isinstance(value, tuple) else (value,)
        total = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        means = tuple((total / self.size).tolist())
        return means if isinstance(value, tuple) else means[0]

    def join(self, rows: Tensor) -> Tensor:
        """A tensor's rows from all processes, dealt back into the order of one process."""
        parts: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(parts, rows.cpu())
        return torch.cat(parts)

    @contextlib.contextmanager
    def wrapping(self) -> Iterator[None]:
        """While RecBole's trainer wraps its model."""
        if self.size == 1:
            yield
        else:
            with distributed_on(self.device):
                yield

    @contextlib.contextmanager
    def alone(self, config: Any) -> Iterator[None]:
        """Keep RecBole from averaging over processes what was joined already."""
        before = config["single_spec"]
        config["single_spec"] = True
        try:
            yield
        finally:
            config["single_spec"] = before

    @contextlib.contextmanager
    def joining(self, collector: Any) -> Iterator[None]:
        """Let an evaluation's collector hand out the rows of all processes."""
        if self.size == 1:
            yield
            return
        own = collector.get_data_struct

        def joined() -> Any:
            struct = own()
            for key, value in struct._data_dict.items():
                if key.startswith("rec.") or key == "data.label":
                    struct._data_dict[key] = self.join(value)
            return struct

        collector.get_data_struct = joined
        try:
            yield
        finally:
            del collector.get_data_struct
