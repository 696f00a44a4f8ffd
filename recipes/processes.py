"""Several processes that train one adapter together, as `accelerate launch` and torchrun start them.

The adapter is whole in each of them. Each takes its share of the rows of every batch (shares), and gradients are averaged
once a step, in one message. The first process alone writes, shows and measures. Does not start processes, and does not
cut a base into parts (sharding does).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn

from adapthub.adapters.errors import InvalidSettings, TrainingError

_T = TypeVar("_T")
_PATIENCE = timedelta(days=7)  # others wait for the first one as long as it checks and measures
# How gloo and NCCL say that another process is gone.
_GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "Socket")


@dataclass(frozen=True)
class Processes:
    """This process among `count`, by 0-based `index`. `shards`: each is to hold a part of the base's layers alone.

    Every method but `first` is a meeting point: all processes call it, in the same order, and wait there for each other.
    """

    index: int = 0
    count: int = 1
    shards: bool = False

    @property
    def first(self) -> bool:
        """Whether this is the one that writes, shows and measures."""
        return self.index == 0

    def by_first(self, do: Callable[[], _T]) -> _T:
        """What `do` gives in the first process, in every one; it is called there alone.

        Raises what it raised, in the others a TrainingError of the same words.
        """
        if self.count == 1:
            return do()
        found: list[Any] = [None, None]
        error: Exception | None = None
        if self.first:
            try:
                found[0] = do()
            except Exception as raised:  # told to the others, then raised
                error, found[1] = raised, str(raised) or type(raised).__name__
        with self.together():
            distributed.broadcast_object_list(found, src=0)
        if error is not None:
            raise error
        if found[1] is not None:
            raise TrainingError(found[1])
        return cast(_T, found[0])

    def any(self, here: bool) -> bool:
        """Whether it is so in any process."""
        if self.count == 1:
            return here
        flag = torch.tensor(float(here), device=_meeting_device())
        distributed.all_reduce(flag)
        return bool(flag)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of all processes' `value`, of one shape."""
        if self.count == 1:
            return value
        total = value.detach().float().to(_meeting_device(), copy=True)
        distributed.all_reduce(total)
        return total / self.count

    def gather(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """All processes' rows, on the CPU, in turn: each one's first, then each one's second."""
        held: list[Any] = [None] * self.count
        distributed.all_gather_object(held, [row.cpu() for row in rows])
        longest = max(len(one) for one in held)
        return [one[at] for at in range(longest) for one in held if at < len(one)]

    def share_values(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give every process the first one's values."""
        with self.together():
            for parameter in parameters if self.count > 1 else ():
                distributed.broadcast(parameter.data, src=0)

    def average_gradients(self, parameters: Sequence[nn.Parameter], *, failed: bool) -> bool:
        """Make each gradient its mean over all processes; one that none has stays None. Whether `failed` is so in any."""
        flags = [parameter.grad is not None for parameter in parameters]
        parts = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in parameters
        ]
        device = parameters[0].device
        known = torch.tensor([*flags, failed], dtype=torch.float32, device=device)
        message = torch.cat([*(part.flatten().float() for part in parts), known]) / self.count
        distributed.all_reduce(message)
        *means, known = message.split([*(part.numel() for part in parts), len(known)])
        for parameter, mean, reached in zip(parameters, means, known[:-1].tolist(), strict=True):
            if reached:
                parameter.grad = mean.view_as(parameter).to(parameter.dtype)
        return bool(known[-1])

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within: where another process is gone, a TrainingError says so instead of a library's words on sockets."""
        try:
            yield
        except (RuntimeError, ConnectionError) as error:
            if self.count == 1 or isinstance(error, TrainingError):
                raise
            if not any(sign in str(error) for sign in _GONE):
                raise
            raise TrainingError(
                f"process {self.index} of {self.count} stops: another one of this run is gone",
                hint="What ended it stands where that process wrote; resume with --resume.",
            ) from error


ALONE = Processes()


def join(device: str) -> Processes:
    """Meet the other processes of this run, if it was started as one of several; `device` as in `load_base`.

    With `accelerate launch --use_fsdp --fsdp_version 2` we cut the base into parts: the words for it are taken out of the
    environment, where transformers would read them too. Raises InvalidSettings for what cannot work with several.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    shards = os.environ.pop("ACCELERATE_USE_FSDP", "false").lower() == "true"
    version = os.environ.pop("FSDP_VERSION", "2")
    if "RANK" not in os.environ or count == 1:
        return ALONE
    if shards and version != "2":
        raise InvalidSettings(
            f"FSDP version {version} is not supported", hint="Launch with --fsdp_version 2."
        )
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    if device not in ("auto", "cpu", "cuda"):
        raise InvalidSettings(
            f"{count} processes cannot all train on the one device {device!r}", hint="Use auto, cuda or cpu."
        )
    here, cards = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if not on_cpu and here >= cards:
        raise InvalidSettings(
            f"this machine has {cards} GPUs for {here + 1} or more processes",
            hint=f"Start at most {cards}, or train with --device cpu.",
        )
    from accelerate import PartialState

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="OMP_NUM_THREADS/MKL_NUM_THREADS unset")
        state = PartialState(cpu=on_cpu, timeout=_PATIENCE)
    return Processes(state.process_index, state.num_processes, shards)


def _meeting_device() -> torch.device:
    """Where tensors lie that processes exchange."""
    if distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
