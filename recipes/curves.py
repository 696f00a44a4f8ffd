"""The loss and the metric of a run over its steps: a PNG file, and text for a terminal; a reliability curve.

Does not read run folders.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapthub.recipes.medical_metrics import Reliability

_POINTS = 400  # more than this is noise on a page and ink in a terminal
_TICKS = 7


@dataclass(frozen=True)
class Curves:
    """What is drawn: (step, value) pairs. `metric` names what `metric_values` holds; higher is better."""

    loss: tuple[tuple[int, float], ...]
    eval_loss: tuple[tuple[int, float], ...]
    metric: str | None
    metric_values: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, history: Iterable[Mapping[str, Any]], metric: str | None) -> Curves:
        """Read a run's history: entries with `step` and `loss`, `eval_loss` or `eval_<metric>`. What is no finite number has
        no place on an axis and is left out."""
        entries = list(history)

        def series(name: str) -> tuple[tuple[int, float], ...]:
            points = ((int(entry["step"]), float(entry[name])) for entry in entries if name in entry)
            return tuple(point for point in points if math.isfinite(point[1]))

        values = series(f"eval_{metric}") if metric else ()
        return cls(_smoothed(series("loss")), series("eval_loss"), metric, values)


def png(curves: Curves, title: str) -> bytes:
    """A PNG of about 900x500 pixels: losses on the left axis, the metric on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7.5, 4.2), dpi=120)
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.09, right=0.91, bottom=0.12, top=0.92)
    axes = figure.add_subplot()
    lines = []
    if curves.loss:
        lines += axes.plot(*_columns(curves.loss), color="tab:blue", linewidth=1.2, label="training loss")
    if curves.eval_loss:
        lines += axes.plot(
            *_columns(curves.eval_loss), color="tab:orange", marker="o", label="validation loss"
        )
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    if curves.metric_values:
        right = axes.twinx()
        lines += right.plot(
            *_columns(curves.metric_values),
            color="tab:green",
            marker="s",
            label=f"validation {curves.metric}",
        )
        right.set_ylabel(curves.metric or "")
        right.set_ylim(0, _top([value for _, value in curves.metric_values]))
    if lines:
        axes.legend(lines, [str(line.get_label()) for line in lines], loc="center right")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def reliability_png(reliability: Reliability, title: str) -> bytes:
    """A PNG of about 550x500 pixels: accuracy over confidence, each bin's dot as large as its share of the examples."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.2), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot((0, 1), (0, 1), color="tab:gray", linewidth=0.8, linestyle="dashed", label="as sure as right")
    axes.plot(reliability.confidence, reliability.accuracy, color="tab:blue", linewidth=1.2)
    sizes = [10 + 300 * count / sum(reliability.count) for count in reliability.count]
    axes.scatter(
        reliability.confidence, reliability.accuracy, sizes, color="tab:blue", label="bins of confidence"
    )
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy", title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def text(curves: Curves, *, width: int = 80, colour: bool = False) -> str:
    """The same as lines of text, at most `width` columns: loss on the left axis, on the right the metric, or the validation
    loss where there is none."""
    import plotext

    figure = plotext.figure
    figure.clear()
    figure.theme("default" if colour else "colorless")
    figure.plot_size(width, 15)
    figure.label("step", axis="x")
    other = (curves.metric_values, curves.metric or "", "right")
    if not curves.metric_values:
        other = (curves.eval_loss, "validation loss", "right")
    drawn = [(curves.loss, "loss", "left"), other]
    steps = [step for points, _, _ in drawn for step, _ in points]
    first, last = min(steps, default=0), max(steps, default=1)
    figure.ruler("x").lim(first, max(last, first + 1)).ticks(_whole_ticks(first, last))
    for points, label, side in drawn:
        if points:
            top = _top([value for _, value in points])
            figure.draw(figure.signal(*_columns(points), marker="braille", yside=side).lines().label(label))
            figure.ruler("y", side).lim(0, top)
            figure.legend(
                x=max(last, first + 1), y=top / 2, ha="right", va="center", relative=True, yside=side
            )
    lines: str = figure.build().string(not colour)
    return "\n".join(line.rstrip() for line in lines.splitlines())


def _top(values: Sequence[float]) -> float:
    """Where an axis from 0 ends: at 1 for what stays within it, else at the largest value."""
    return max(1.0, *values)


def _whole_ticks(first: int, last: int) -> list[int]:
    """Whole steps between `first` and `last`, at most seven: multiples of 1, 2 or 5 times a power of ten."""
    strides = (factor * 10**power for power in range(20) for factor in (1, 2, 5))
    stride = next(stride for stride in strides if last // stride - (first - 1) // stride <= _TICKS)
    return list(range(-(-first // stride) * stride, last + 1, stride)) or [last]


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]


def _smoothed(points: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Means of consecutive points where there are many, each at its last step."""
    size = -(-len(points) // _POINTS) or 1
    chunks = [points[at : at + size] for at in range(0, len(points), size)]
    return tuple((chunk[-1][0], sum(value for _, value in chunk) / len(chunk)) for chunk in chunks)
