"""The clock of a run that is tried: when its steps begin and how long its parts take, and what memory they add.

Measures what transformers' Trainer calls back at; decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

if TYPE_CHECKING:
    from adapthub.recipes import run as runs
    from adapthub.recipes.peaks import Peak


class Clock(TrainerCallback):
    """Times of a run's parts, and what memory its first step added at most; where it `weighs_evaluation` also what the one
    after that step did, for which memory is given back that a run keeps."""

    def __init__(
        self, run: runs.Run, now: Callable[[], float], peak: Peak, *, weighs_evaluation: bool = False
    ) -> None:
        self.run = run
        self._now, self._peak, self._weighs_evaluation = now, peak, weighs_evaluation
        self.begins: list[float] = []
        self.seconds: list[float] = []
        self.added = 0
        self.evaluated: int | None = None
        self.evaluation: float | None = None
        self.saving = 0.0
        self._last = 0.0
        self._held = 0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if not self.begins:
            self._held = self._peak.rest()
        self.begins.append(self._now())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(self._now() - self.begins[-1])
        if len(self.seconds) == 1:
            self.added = self._peak.read() - self._held
        if self._weighs_evaluation:
            self._held = self._peak.rest()
        self._last = self._now()

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        self.evaluation = self._now() - self._last
        if self._weighs_evaluation:
            self.evaluated = self._peak.read() - self._held
        self._last = self._now()

    def on_save(self, *_: Any, **__: Any) -> None:
        self.saving = self._now() - self._last


def wall_clock(device: torch.device) -> Callable[[], float]:
    """Seconds since the process began."""
    psutil: Any = import_module("psutil")  # it publishes no types
    began = psutil.Process().create_time()

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.time() - float(began)

    return now
