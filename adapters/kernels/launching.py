"""Launches on the device of what they read: Triton launches on the thread's current one, wherever its arguments lie."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch

Given = ParamSpec("Given")
Result = TypeVar("Result")


def on_its_device(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Run a function whose first argument is a tensor, or several of one device, with that device as the current one."""

    @wraps(function)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        first: Any = args[0]
        with torch.cuda.device_of(first if isinstance(first, torch.Tensor) else first[0]):
            return function(*args, **kwargs)

    return run
