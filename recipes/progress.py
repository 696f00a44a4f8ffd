"""How a run goes while it trains: step, loss, metric, time left. A bar on a terminal; where there is none, a plain line
at each evaluation and every half minute. Does not log or store.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_SECONDS_BETWEEN_LINES = 30.0


class _View(Protocol):
    """Where progress is shown. `begin` comes first; `loss` and `metric` belong to the last `step`."""

    def begin(self, step: int, steps: int) -> None: ...
    def step(self, step: int) -> None: ...
    def loss(self, words: str) -> None: ...
    def evaluating(self) -> None: ...
    def metric(self, words: str) -> None: ...
    def close(self) -> None: ...


class ProgressBar(TrainerCallback):
    """Shows the run on `console` while it trains: a bar on a terminal, else lines. `clock` counts seconds."""

    def __init__(
        self, console: Console, metric: str | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._metric = metric
        self._view: _View = _Bar(console) if console.is_terminal else _Lines(console, clock)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._view.begin(state.global_step, state.max_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._view.step(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "loss" in logs:
            self._view.loss(f"loss {logs['loss']:.3f}")

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._view.evaluating()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        value = (metrics or {}).get(f"eval_{self._metric}")
        if value is not None:
            self._view.metric(f"validation {self._metric} {value:.4f}")

    def close(self) -> None:
        """Leave the last state on the screen and give the terminal back. Also after an error."""
        self._view.close()


class _Bar:
    """rich's bar on a terminal."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TextColumn("{task.fields[metric]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self._task: TaskID | None = None

    def begin(self, step: int, steps: int) -> None:
        self._bar.start()
        self._task = self._bar.add_task("training", total=steps, completed=step, loss="", metric="")

    def step(self, step: int) -> None:
        self._update(description="training", completed=step)

    def loss(self, words: str) -> None:
        self._update(loss=words)

    def evaluating(self) -> None:
        self._update(description="evaluating")

    def metric(self, words: str) -> None:
        self._update(description="training", metric=words)

    def close(self) -> None:
        self._bar.stop()

    def _update(self, **fields: Any) -> None:
        if self._task is not None:
            self._bar.update(self._task, **fields)


class _Lines:
    """A line of plain text at each evaluation, and where those are rare every half minute."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._loss = ""

    def begin(self, step: int, steps: int) -> None:
        self._first = self._step = step
        self._steps = steps
        self._began = self._said = self._clock()

    def step(self, step: int) -> None:
        self._step = step

    def loss(self, words: str) -> None:
        self._loss = words
        if self._clock() - self._said >= _SECONDS_BETWEEN_LINES:
            self._say()

    def evaluating(self) -> None:
        pass

    def metric(self, words: str) -> None:
        self._say(words)

    def close(self) -> None:
        pass

    def _say(self, metric: str = "") -> None:
        parts = (f"step {self._step} of {self._steps}", self._loss, metric, self._left())
        line = ", ".join(part for part in parts if part)
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._said = self._clock()

    def _left(self) -> str:
        """The time that the steps to come take at the pace of those taken, evaluations included."""
        if self._step in (self._first, self._steps):
            return ""
        pace = (self._clock() - self._began) / (self._step - self._first)
        seconds = pace * (self._steps - self._step)
        return f"about {round(seconds / 60)} min left" if seconds >= 60 else f"{seconds:.0f} s left"
