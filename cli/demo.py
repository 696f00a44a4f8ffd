"""`adapt demo`: the main job on a real model and real data: train, publish, pull by name, run mixed.

Calls what the library offers to everybody; here are only choices (data, steps) and words.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapthub.cli.output import announce, json_option, show_json, show_table
from adapthub.cli.predictions import prediction_record, show_predictions
from adapthub.cli.quiet import quiet_libraries
from adapthub.cli.records import estimate_text
from adapthub.cli.text import duration, size
from adapthub.cli.train import headline, result_record, show_curve

if TYPE_CHECKING:
    from adapthub.adapters.base import Base
    from adapthub.hub.registry import Registry
    from adapthub.recipes import TrainingResult
    from adapthub.runtime import Prediction

MODEL = "minilm"
QUANTIZE = "nf4"


@dataclass(frozen=True)
class Lesson:
    """One adapter of the demo: what it learns, from which sample, for how long."""

    name: str
    task: str
    sample: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Learnt:
    """What became of a lesson, and the seconds that it took."""

    result: TrainingResult
    seconds: float


COLUMNS = ("adapter", "measured", "size", "trained_and_measured")
LESSONS = (
    Lesson("demo/ner", "ner", "conll2003", {"max_steps": 200}),
    Lesson("demo/sentiment", "sentiment", "movie-reviews", {"max_steps": 100}),
)
ROWS = (
    ("Ada Lovelace was born in London and wrote to Charles Babbage.", "demo/ner"),
    ("A warm, funny and beautifully acted film.", "demo/sentiment"),
    ("Reuters reports that Germany beat Brazil in Belo Horizonte.", "demo/ner"),
    ("Two hours of tired jokes and a plot that goes nowhere.", "demo/sentiment"),
    ("Volkswagen will build a new plant in Chattanooga, Tennessee.", "demo/ner"),
    ("The story is thin, but the performances carry it.", "demo/sentiment"),
)


@click.command()
@json_option
def demo(as_json: bool) -> None:
    """Train two adapters, publish them, run them mixed in one batch.

    Named entities from CoNLL-2003 and sentiment from movie reviews, on all-MiniLM-L6-v2 in nf4. Fetches the
    model and the data once and says under which licence. Takes minutes on two cores; each run publishes the
    next versions.

    \b
    Example:
      $ adapt demo
    """
    quiet_libraries()
    began = time.perf_counter()

    from adapthub.adapters.base import load_base
    from adapthub.hub import open_hub
    from adapthub.runtime import Runtime

    folders = {sample: fetch_sample(sample) for sample in (MODEL, *(lesson.sample for lesson in LESSONS))}
    hub = open_hub()
    base = load_base(f"package:{MODEL}", quantize=QUANTIZE)
    learnt = [learn(lesson, folders[lesson.sample], base, hub, quiet=as_json) for lesson in LESSONS]

    announce("Pulling both by name, and running them mixed in one batch")
    mixing = time.perf_counter()
    runtime = Runtime(base, hub=hub)
    for lesson in LESSONS:
        runtime.attach(lesson.name)
    predictions = runtime.predict([text for text, _ in ROWS], adapters=[name for _, name in ROWS])
    ended = time.perf_counter()
    show(learnt, predictions, base, mixed=ended - mixing, total=ended - began, as_json=as_json)


def fetch_sample(name: str) -> Path:
    """The sample's folder; says what it is, where it came from and under which licence."""
    from adapthub.adapters.samples import describe, fetch

    folder = fetch(name)
    announce(describe(name))
    return folder


def learn(lesson: Lesson, data: Path, base: Base, hub: Registry, *, quiet: bool) -> Learnt:
    """Train one adapter and publish it. A fixed number of steps, and no validation, keep the time in hand."""
    from adapthub.recipes import train

    announce(f"Training {lesson.name}: {lesson.settings['max_steps']} steps on {lesson.sample}")
    began = time.perf_counter()
    result = train(
        lesson.task,
        data,
        validation=False,
        base=base,
        name=lesson.name,
        hub=hub,
        push=True,
        message="adapt demo",
        quiet=quiet,
        report=announce,
        **lesson.settings,
    )
    if not quiet:
        show_curve(result)
    return Learnt(result, time.perf_counter() - began)


def show(
    learnt: Sequence[Learnt],
    predictions: Sequence[Prediction],
    base: Base,
    *,
    mixed: float,
    total: float,
    as_json: bool,
) -> None:
    """Entities and sentiments in their texts, then the two adapters in a table, then the time."""
    texts = [text for text, _ in ROWS]
    if as_json:
        rows = [prediction_record(*pair) for pair in zip(predictions, texts, strict=True)]
        adapters = [{**result_record(each.result), "seconds": round(each.seconds, 1)} for each in learnt]
        show_json({"adapters": adapters, "predictions": rows, "seconds": round(total, 1)})
        return
    click.echo()
    show_predictions(predictions, texts, as_json=False)
    click.echo()
    show_table([learnt_row(each, base) for each in learnt], COLUMNS)
    click.echo(f"\n{len(texts)} rows, {len(learnt)} adapters, one batch, pulling included: {duration(mixed)}")
    click.echo(f"Everything: {duration(total)}")
    click.echo(f'Next: adapt show {LESSONS[0].name}, or adapt run {LESSONS[0].name} "some text"')


def learnt_row(learnt: Learnt, base: Base) -> dict[str, Any]:
    """One adapter for a person, by COLUMNS."""
    result = learnt.result
    metric = headline(result)[0]
    weights = sum(path.stat().st_size for path in base.path.glob("*.safetensors"))
    assert result.version is not None  # it was pushed
    return {
        "adapter": f"{result.version.name}@v{result.version.number}",
        "measured": f"test {metric} {estimate_text(result.metrics['test'][metric])}",
        "size": f"{size(result.artifact.size)} ({result.artifact.size / weights:.1%} of the base)",
        "trained_and_measured": duration(learnt.seconds),
    }
