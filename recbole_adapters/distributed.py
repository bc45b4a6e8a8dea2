"""The processes that train one model together.

RecBole wraps its model for torch's DistributedDataParallel, which averages the gradients of equal
shares. Shares of a batch differ by a row where the batch cannot be divided, or are empty; here
each process's gradient counts by the rows that it was made from, which is the gradient of one
process with the whole batch wherever the loss is a mean over rows.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

# Functions of this module take the group of all processes that stands when it is imported as a
# default. Imported late, as by torch._dynamo, it would keep the group and gloo's threads beyond
# `destroy_process_group`, and these abort an interpreter that ends before them.
import torch.distributed.nn.functional
from torch import Tensor, nn

from linkedout_lightning.errors import ConfigError

_PATIENCE = datetime.timedelta(days=1)
"""How long a process waits for another; whoever started them ends all when one fails."""


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
            self.gather(None)

    def gather(self, value: Any) -> list[Any]:
        """What each process has, in the order of their numbers; every process must take part."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(found, value)
        return found

    def from_first(self, value: Any) -> Any:
        """What the first process has."""
        if self.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def copy_first(self, model: nn.Module) -> None:
        """Give a model the parameters and buffers that it has in the first process."""
        if self.size > 1:
            with torch.no_grad():
                for tensor in (*model.parameters(), *model.buffers()):
                    here = tensor.to(self.device).contiguous()
                    torch.distributed.broadcast(here, src=0)
                    tensor.copy_(here)

    def average_gradients(self, parameters: Iterable[nn.Parameter], rows: int) -> float:
        """Replace gradients by their mean over the rows of all processes.

        Args:
            parameters: The same ones in the same order in every process.
            rows: How many rows this process's gradients are the mean of; 0 for none.

        Returns:
            This process's part of the rows.
        """
        if self.size == 1:
            return 1.0
        wanted = [parameter for parameter in parameters if parameter.requires_grad]
        # A parameter that no process has a gradient of keeps none: an optimiser that saw zeros in
        # its place would decay it.
        found = [float(rows > 0 and parameter.grad is not None) for parameter in wanted]
        counts = torch.tensor([rows, *found], dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(counts)
        total, *found = counts.tolist()
        share: float = rows / total
        used = [parameter for parameter, any_has in zip(wanted, found, strict=True) if any_has]
        for dtype in dict.fromkeys(parameter.dtype for parameter in used):
            alike = [parameter for parameter in used if parameter.dtype == dtype]
            joint = torch.cat([_scaled(parameter, share) for parameter in alike])
            torch.distributed.all_reduce(joint)
            parts = torch.split(joint, [parameter.numel() for parameter in alike])
            for parameter, part in zip(alike, parts, strict=True):
                parameter.grad = part.view_as(parameter)
        return share


def _scaled(parameter: nn.Parameter, share: float) -> Tensor:
    gradient = parameter.grad
    if gradient is None or not share:
        return torch.zeros(parameter.numel(), dtype=parameter.dtype, device=parameter.device)
    dense = gradient.to_dense() if gradient.is_sparse else gradient
    return dense.flatten() * share


def devices_of(config: Any) -> tuple[torch.device, ...]:
    """The devices that a configuration lets a run use; the CPU alone, or GPUs.

    RecBole's ``gpu_id`` counts among the devices that ``CUDA_VISIBLE_DEVICES`` leaves; where the
    user did not set it, all of these may be used.

    Args:
        config: RecBole's configuration.

    Raises:
        ConfigError: ``gpu_id`` names a device that is not there.
    """
    named = [part.strip() for part in str(config["gpu_id"]).split(",") if part.strip()]
    if not named or not config["use_gpu"] or not torch.cuda.is_available():
        return (torch.device("cpu"),)
    count = torch.cuda.device_count()
    if "gpu_id" not in config.external_config_dict:
        named = [str(number) for number in range(count)]
    for part in named:
        if not part.isdigit() or int(part) >= count:
            raise ConfigError(
                f"`gpu_id` is {config['gpu_id']!r}, but the GPUs here are 0 to {count - 1}; "
                "`use_gpu: false` takes the CPU"
            )
    return tuple(torch.device("cuda", int(part)) for part in named)


def device_of(config: Any, place: int, of: int) -> torch.device:
    """The device of one of a machine's processes.

    Args:
        config: RecBole's configuration.
        place: The process's number on this machine.
        of: How many there are on it.

    Raises:
        ConfigError: There are fewer GPUs than processes.
    """
    devices = devices_of(config)
    if devices[0].type == "cpu":
        return devices[0]
    if of > len(devices):
        raise ConfigError(
            f"`nproc` is {of}, but the configuration leaves {len(devices)} GPU(s); give at most "
            f"{len(devices)}, name more by `gpu_id`, or take the CPU by `use_gpu: false`"
        )
    return devices[place]


@contextlib.contextmanager
def started(rank: int, size: int, device: torch.device, *, meeting: str) -> Iterator[Group]:
    """Join a process group, and leave it at the end.

    Args:
        rank: This process's number.
        size: How many there are.
        device: Its device.
        meeting: Where they meet: ``file://…``, or ``env://`` under torchrun.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group(
        # Gloo carries what lies on the CPU: row numbers, figures and errors.
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        init_method=meeting,
        rank=rank,
        world_size=size,
        timeout=_PATIENCE,
    )
    try:
        yield Group(rank, size, device)
    finally:
        torch.distributed.destroy_process_group()


def launched() -> tuple[int, int, int] | None:
    """Number, count and number on this machine of a process that torchrun started.

    Returns:
        None for a process that stands alone.

    Raises:
        ConfigError: The environment of torchrun is not complete.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1" or "RANK" not in os.environ:
        return None
    try:
        rank = int(os.environ["RANK"])
        return rank, int(size), int(os.environ.get("LOCAL_RANK", rank))
    except ValueError as error:
        raise ConfigError(
            f"RANK is {os.environ['RANK']!r} and WORLD_SIZE {size!r}, which are no numbers; start "
            "with torchrun, or clear them and give `nproc`"
        ) from error
