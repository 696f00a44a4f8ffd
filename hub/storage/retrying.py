"""Transactions of PostgreSQL in each other's way: one of them is undone, and made again. SQLite's wait in a queue."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from adapthub.adapters.errors import StorageError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_ATTEMPTS = 5
_FIRST_WAIT = 0.05  # seconds, doubled each time


class Collided(StorageError):
    """Two transactions were in each other's way, and this one was undone: whoever made it may make it again (`retried`)."""


def retried(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """`function`, called again where its transaction collided with another: up to four times, each after a short while.

    For functions that make one transaction and, besides it, only what may be done twice. Of several transactions in one
    function those before the collision would be made again."""

    @wraps(function)
    def called(*arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
        for attempt in range(_ATTEMPTS - 1):
            try:
                return function(*arguments, **options)
            except Collided:
                time.sleep(random.uniform(0.5, 1) * _FIRST_WAIT * 2**attempt)  # or they would meet again
        return function(*arguments, **options)

    return called
