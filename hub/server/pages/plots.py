"""Where the marks of plots lie: metrics over versions, and intervals side by side. Templates draw them.

Coordinates are in the units of a view box that begins at 0, 0, rounded to a tenth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from adapthub.hub.registry import Metric

_TICKS = 3


@dataclass(frozen=True)
class Mark:
    """A measured value: `at` along the axis of what was measured, `value`, `low` and `high` along that of values. `label`
    says it in words."""

    at: float
    value: float
    low: float | None
    high: float | None
    label: str


@dataclass(frozen=True)
class Tick:
    """A place on an axis, and what is written there."""

    at: float
    label: str


@dataclass(frozen=True)
class Plot:
    """One metric over versions: values upwards in the box from `left`, `top` to `right`, `bottom`. `line` joins them."""

    title: str
    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    marks: tuple[Mark, ...]
    rows: tuple[Tick, ...]
    columns: tuple[Tick, ...]
    line: str


@dataclass(frozen=True)
class Intervals:
    """One metric of several adapters: a row each, values to the right between `left` and `right`."""

    width: float
    height: float
    left: float
    right: float
    bottom: float
    marks: tuple[Mark, ...]
    columns: tuple[Tick, ...]


def over_versions(title: str, measured: Sequence[tuple[int, Metric]]) -> Plot:
    """The plot of what each version, by number and in order, came to."""
    width, height = 360.0, 184.0
    left, right, top, bottom = 52.0, width - 16, 12.0, height - 28
    axis = _Axis([metric for _, metric in measured], bottom, top)
    step = (right - left) / max(len(measured), 1)
    places = [left + step * (index + 0.5) for index in range(len(measured))]
    marks = tuple(
        _mark(round(place, 1), metric, axis, f"v{number}")
        for place, (number, metric) in zip(places, measured, strict=True)
    )
    every = math.ceil(len(measured) / 10)  # numbers that have room
    columns = tuple(
        Tick(mark.at, f"v{number}")
        for index, (mark, (number, _)) in enumerate(zip(marks, measured, strict=True))
        if index % every == 0
    )
    line = "M" + "L".join(f"{mark.at} {mark.value}" for mark in marks) if len(marks) > 1 else ""
    return Plot(title, width, height, left, right, top, bottom, marks, axis.ticks(), columns, line)


def side_by_side(measured: Sequence[tuple[str, Metric]]) -> Intervals:
    """The intervals of what each, by name, came to."""
    width, row = 360.0, 24.0
    left, right = 12.0, width - 16
    bottom = row * len(measured) + 4
    axis = _Axis([metric for _, metric in measured], left, right)
    marks = tuple(
        _mark(row * (index + 0.5) + 2, metric, axis, name) for index, (name, metric) in enumerate(measured)
    )
    return Intervals(width, bottom + 24, left, right, bottom, marks, axis.ticks())


_MOST = 1e307  # what lies beyond is at the edge: the span of two numbers must be one


class _Axis:
    """Values between `start` and `end`, with some room, from the least bound to the greatest."""

    def __init__(self, metrics: Sequence[Metric], start: float, end: float) -> None:
        values = [
            min(max(value, -_MOST), _MOST)
            for metric in metrics
            for value in (metric.value, metric.low, metric.high)
            if value is not None
        ]
        low, high = min(values), max(values)
        # At least what can be divided into ticks: below are numbers that lose their digits.
        room = max((high - low) * 0.1 or abs(high) * 0.05 or 0.05, 1e-290)
        self._low, self._high = low - room, high + room
        self._start, self._end = start, end

    def place(self, value: float) -> float:
        share = (min(max(value, -_MOST), _MOST) - self._low) / (self._high - self._low)
        return round(self._start + (self._end - self._start) * min(max(share, 0.0), 1.0), 1)

    def ticks(self) -> tuple[Tick, ...]:
        """A few round numbers."""
        span = self._high - self._low
        power = 10.0 ** math.floor(math.log10(span / _TICKS))
        step = next(
            (power * one for one in (1, 2, 2.5, 5, 10) if span <= power * one * (_TICKS + 1)), power * 10
        )
        first = math.ceil(self._low / step)
        values = [step * (first + index) for index in range(_TICKS + 2)]
        return tuple(Tick(self.place(value), f"{value:.4g}") for value in values if value <= self._high)


def _mark(at: float, metric: Metric, axis: _Axis, what: str) -> Mark:
    low, high = metric.low, metric.high
    between = f", 95 % {low:.4g} to {high:.4g}" if low is not None and high is not None else ""
    return Mark(
        at,
        axis.place(metric.value),
        None if low is None else axis.place(low),
        None if high is None else axis.place(high),
        f"{what}: {metric.value:.4g}{between}",
    )
