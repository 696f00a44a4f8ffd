"""Ctrl-C and SIGTERM end training at the next step boundary, with a checkpoint.

Does not write the checkpoint: transformers does.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from adapthub.recipes.processes import ALONE, Processes

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedAtStep(Exception):
    """Training was asked to stop and did, after saving a checkpoint at `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


class StopAtStep(TrainerCallback):
    """While entered, the first SIGINT or SIGTERM saves a checkpoint after the running step and raises
    StoppedAtStep.

    A second one is handled as before, by default ending the process at once with the previous checkpoint.
    Of several `processes` all stop at the same step, whichever was asked; a second signal is then ignored, as a launcher
    passes on what the terminal has sent already (and kills whoever takes too long).
    Only the main thread may handle signals; in another thread this does nothing.
    """

    def __init__(self, processes: Processes = ALONE) -> None:
        self.asked = False
        self._agreed = False
        self._processes = processes
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopAtStep:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if self._processes.count == 1:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._agreed = self._processes.any(self.asked)
        if self._agreed:
            control.should_save = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Raised rather than asked through `control`, which the checkpoint holds: a resumed run would stop
        # again.
        stopping = self.asked if self._processes.count == 1 else self._agreed
        if stopping and not control.should_training_stop:
            self._processes.any(True)  # all have written
            raise StoppedAtStep(state.global_step)
