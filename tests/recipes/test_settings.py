"""Settings of a run: completed, checked, and turned into steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from adapthub.adapters.errors import InvalidSettings
from adapthub.recipes.recipe import SHORT_STEPS, Defaults
from adapthub.recipes.settings import Settings

DEFAULTS = Defaults(1e-3, 5e-3, epochs=3, batch_size=8, max_length=64, warmup=None)


def resolve(**given: Any) -> Settings:
    return Settings.resolve(given, DEFAULTS)


def test_what_is_not_given_is_the_recipes() -> None:
    settings = resolve(batch_size=4, epochs=None)
    assert (settings.batch_size, settings.epochs, settings.learning_rate) == (4, 3, 1e-3)


@pytest.mark.parametrize(
    ("given", "rows", "steps", "between", "evaluations"),
    [
        ({}, 80, 30, 6, 5),
        ({"epochs": 10}, 80, 100, 10, 10),  # an epoch is shorter than a fifth of the run
        ({"max_steps": 7}, 80, 7, 1, 7),
        ({"epochs": 0.5}, 80, 5, 1, 5),
        ({"eval_steps": 4}, 80, 30, 4, 8),  # the last step is evaluated, too
        ({"batch_size": 100}, 3, 3, 1, 3),
    ],
)
def test_steps(given: dict[str, Any], rows: int, steps: int, between: int, evaluations: int) -> None:
    settings = resolve(**given)
    assert settings.steps(rows) == steps
    assert settings.steps_between_evaluations(rows) == between
    assert settings.evaluations(rows) == evaluations


@pytest.mark.parametrize(
    ("given", "rows", "affordable"),
    [
        ({}, 1000, 300),  # 75 steps of 8 rows between: half of 600, each half as dear
        ({"gradient_accumulation": 2}, 1000, 296),
        ({"epochs": 1, "batch_size": 32}, 100_000, 1000),
        ({"max_steps": 10}, 1000, 64),
    ],
)
def test_looking_at_the_validation_loss_takes_a_quarter_of_the_time(
    given: dict[str, Any], rows: int, affordable: int
) -> None:
    assert resolve(**given).affordable_rows(rows) == affordable


def test_warmup_is_a_share_of_the_steps() -> None:
    assert resolve(warmup=0.1).warmup_steps(80) == 3
    assert resolve(warmup=0).warmup_steps(80) == 0


@pytest.mark.parametrize(
    ("steps", "warm"), [(1, 0), (10, 2), (80, 16), (100, 20), (150, 20), (333, 20), (1000, 60)]
)
def test_a_short_run_warms_up_longer(steps: int, warm: int) -> None:
    given = {"max_steps": steps}
    assert resolve(**given).of_length(80, given, DEFAULTS).warmup_steps(80) == warm
    for chosen in (0, 0.01):
        asked = {**given, "warmup": chosen}
        assert resolve(**asked).of_length(80, asked, DEFAULTS).warmup == chosen
    own = replace(DEFAULTS, warmup=0.1)
    assert Settings.resolve(given, own).of_length(80, given, own).warmup == 0.1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", -1),
        ("batch_size", 1.5),
        ("batch_size", "8"),
        ("max_steps", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", True),
        ("weight_decay", -0.1),
        ("warmup", 1.0),
        ("patience", 0.5),
        ("eval_steps", 0),
        ("eval_rows", 0),
    ],
)
def test_what_cannot_work_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidSettings, match=name):
        resolve(**{name: value})


def test_a_short_run_may_learn_faster() -> None:
    hurried = replace(DEFAULTS, in_short_runs=(DEFAULTS.learning_rate, 3e-3))

    def rate(defaults: Defaults, **given: Any) -> float:
        return Settings.resolve(given, defaults).of_length(80, given, defaults).learning_rate

    assert rate(hurried, max_steps=SHORT_STEPS - 1) == 3e-3
    assert rate(hurried, max_steps=SHORT_STEPS) == hurried.learning_rate
    assert rate(DEFAULTS, max_steps=1) == DEFAULTS.learning_rate
    assert rate(hurried, max_steps=1, learning_rate=hurried.learning_rate) == hurried.learning_rate
    # Who replaces the rate means all runs.
    assert rate(replace(hurried, learning_rate=1e-4), max_steps=1) == 1e-4
