"""Curves as a picture and as text."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import pytest
from matplotlib.image import imread

from adapthub.recipes import curves
from adapthub.recipes.curves import Curves


@pytest.fixture
def history() -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [{"step": step, "loss": math.exp(-step / 300)} for step in range(1, 1001)]
    return [*steps, *({"step": step, "eval_loss": 0.5, "eval_f1": step / 1000} for step in (500, 1000))]


def test_a_long_history_is_averaged_to_what_can_be_seen(history: list[dict[str, Any]]) -> None:
    drawn = Curves.of(history, "f1")
    assert len(drawn.loss) <= 400
    step, loss = drawn.loss[0]
    assert step == 3
    assert loss == pytest.approx(sum(math.exp(-step / 300) for step in (1, 2, 3)) / 3)
    assert drawn.loss[-1][0] == 1000
    assert drawn.metric_values == ((500, 0.5), (1000, 1.0))


def test_the_picture_is_light_and_has_ink(history: list[dict[str, Any]]) -> None:
    data = curves.png(Curves.of(history, "f1"), "acme/ner")
    assert len(data) < 100_000
    pixels = imread(io.BytesIO(data), format="png")[..., :3]
    assert pixels.shape[:2] == (504, 900)
    assert pixels.mean() > 0.9
    assert pixels.min() < 0.2


def test_equal_histories_give_equal_pictures(history: list[dict[str, Any]]) -> None:
    drawn = Curves.of(history, "f1")
    assert curves.png(drawn, "x") == curves.png(drawn, "x")


@pytest.mark.parametrize("width", [40, 72, 100])
def test_the_text_stays_within_its_width_and_has_no_colour(history: list[dict[str, Any]], width: int) -> None:
    lines = curves.text(Curves.of(history, "f1"), width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert not any("\x1b" in line for line in lines)
    assert any("f1" in line for line in lines)
    assert any("step" in line for line in lines)
    assert "\x1b" in curves.text(Curves.of(history, "f1"), width=width, colour=True)


def test_drawing_again_draws_only_what_is_new(history: list[dict[str, Any]]) -> None:
    first = curves.text(Curves.of(history, "f1"))
    curves.text(Curves.of(history[:10], None))
    assert curves.text(Curves.of(history, "f1")) == first


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_left_out(odd: float) -> None:
    entries = [
        {"step": 1, "loss": odd},
        {"step": 1, "eval_loss": odd, "eval_f1": odd},
        {"step": 2, "loss": 0.5},
    ]
    drawn = Curves.of(entries, "f1")
    assert drawn == Curves(((2, 0.5),), (), "f1", ())
    assert "loss" in curves.text(drawn)
    assert curves.png(drawn, "odd").startswith(b"\x89PNG")


def test_a_run_without_evaluations_or_steps_can_be_drawn() -> None:
    for history in ([], [{"step": 1, "loss": 2.0}]):
        drawn = Curves.of(history, "f1")
        assert curves.png(drawn, "x").startswith(b"\x89PNG")
        assert curves.text(drawn)


def _axes(text: str) -> tuple[list[str], list[str], list[str]]:
    """What stands at the left, the right and the lower axis of a drawn plot."""
    *rows, ticks, _ = text.splitlines()
    left = [label for row in rows if (label := row.partition("┤")[0].strip()) and "┤" in row]
    right = [label for row in rows if (label := row.partition("├")[2].strip())]
    return left, right, ticks.split()


@pytest.mark.parametrize(
    ("steps", "ticks"),
    [
        ((1,), ["1"]),
        ((1, 2), ["1", "2"]),
        (range(1, 9), ["2", "4", "6", "8"]),
        (range(1, 301), ["50", "100", "150", "200", "250", "300"]),
        (range(7, 8), ["7"]),
        ((13, 19), ["13", "14", "15", "16", "17", "18", "19"]),
        ((99, 9001), ["2000", "4000", "6000", "8000"]),
    ],
)
def test_steps_are_marked_by_whole_numbers(steps: Sequence[int], ticks: list[str]) -> None:
    text = curves.text(Curves.of([{"step": step, "loss": 2 / step} for step in steps], None))
    assert _axes(text)[2] == ticks


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_flat_metric_has_the_axis_of_any_metric(value: float) -> None:
    history = [{"step": step, "loss": 3.0 / step, "eval_f1": value} for step in range(1, 9)]
    left, right, _ = _axes(curves.text(Curves.of(history, "f1")))
    assert (left[0], left[-1]) == ("3.0", "0.0")
    assert (right[0], right[-1]) == ("1.00", "0.00")


def test_a_metric_above_one_is_drawn() -> None:
    small, large = (
        curves.png(Curves((), (), "margin", ((1, top / 2), (2, top))), "one's own") for top in (3.0, 30.0)
    )
    assert small != large
