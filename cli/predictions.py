"""How predictions look: entities highlighted in their text, classes with bars, JSON. Predicts nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from adapthub.cli.output import announce, interactive, show_json
from adapthub.cli.text import one_line, width

if TYPE_CHECKING:
    from adapthub.runtime import Entity, Prediction

MAX_BARS = 5
MAX_VALUES = 8
BAR_WIDTH = 24
COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "red")


def show_predictions(predictions: Sequence[Prediction], texts: Sequence[str], *, as_json: bool) -> None:
    """Print each text with what was found in it, in order."""
    if as_json:
        show_json([prediction_record(*pair) for pair in zip(predictions, texts, strict=True)])
        return
    for prediction, text in zip(predictions, texts, strict=True):
        if prediction.task == "token-classification":
            _show_entities(text, prediction.entities)
        elif prediction.task == "question-answering":
            _show_answers(text, prediction)
        elif prediction.features is not None:
            _show_vector(text, prediction)
        else:
            _show_scores(text, prediction)
        if prediction.truncated:
            announce("The end of this text was not read: it is longer than the model takes.")


def prediction_record(prediction: Prediction, text: str) -> dict[str, Any]:
    """One prediction; `start` and `end` count characters of `text`, scores are probabilities."""
    record: dict[str, Any] = {
        "text": text,
        "task": prediction.task,
        "adapter": prediction.adapter,
        "digests": list(prediction.digests),
        "truncated": prediction.truncated,
    }
    if prediction.task == "token-classification":
        entities = [
            {"text": e.text, "label": e.label, "start": e.start, "end": e.end, "score": round(e.score, 6)}
            for e in prediction.entities
        ]
        return {**record, "entities": entities}
    if prediction.task == "question-answering":
        answers = [
            {"text": a.text, "start": a.start, "end": a.end, "score": round(a.score, 6)}
            for a in prediction.answers
        ]
        return {**record, "answers": answers}
    if prediction.features is not None:
        return {**record, "vector": prediction.vector.tolist()}
    scores = {label: round(score, 6) for label, score in prediction.scores.items()}
    if prediction.label is None:
        return {**record, "labels": list(prediction.labels), "scores": scores}
    return {**record, "label": prediction.label, "scores": scores}


def pieces(text: str, entities: Sequence[Entity]) -> Iterator[tuple[str, str | None]]:
    """`text` cut into (piece, label) in order; label None between the entities."""
    end = 0
    for entity in entities:
        if entity.start > end:
            yield text[end : entity.start], None
        yield text[entity.start : entity.end], entity.label
        end = entity.end
    if end < len(text):
        yield text[end:], None


def _show_entities(text: str, entities: Sequence[Entity]) -> None:
    if not interactive():
        marked = (piece if label is None else f"[{piece} {label}]" for piece, label in pieces(text, entities))
        click.echo(one_line("".join(marked)))
        return
    from rich.console import Console
    from rich.text import Text

    kinds = sorted({entity.label for entity in entities})
    line = Text()
    for piece, label in pieces(text, entities):
        words = one_line(piece) if label else _keep_spaces(piece)
        if label is None:
            line.append(words)
        else:
            colour = COLOURS[kinds.index(label) % len(COLOURS)]
            line.append(words, f"bold {colour}").append(f" {one_line(label)}", f"dim {colour}")
    Console(highlight=False).print(line)


def _show_answers(question: str, prediction: Prediction) -> None:
    click.echo(one_line(question))
    for answer in prediction.answers:
        click.echo(f"  {one_line(answer.text) or '(no answer)'}  {answer.score:.3f}")


def _show_vector(text: str, prediction: Prediction) -> None:
    values = prediction.vector.tolist()
    click.echo(one_line(text))
    click.echo(f"  {' '.join(f'{value:.4f}' for value in values[:MAX_VALUES])} ... ({len(values)} values)")


def _show_scores(text: str, prediction: Prediction) -> None:
    """The likeliest labels; where any number may hold, those that do are listed first."""
    click.echo(one_line(text))
    if prediction.label is None:
        click.echo(f"  labels: {', '.join(map(one_line, prediction.labels)) or '(none)'}")
    best = sorted(prediction.scores.items(), key=lambda item: -item[1])[:MAX_BARS]
    widest = max(width(label) for label, _ in best)
    for label, score in best:
        bar = "█" * round(BAR_WIDTH * score)
        click.echo(f"  {one_line(label)}{' ' * (widest - width(label))}  {score:.3f}  {bar}".rstrip())


def _keep_spaces(piece: str) -> str:
    """`piece` safe to print, with the spaces that part it from its neighbours."""
    left = " " if piece[:1].isspace() else ""
    right = " " if piece[-1:].isspace() and piece.strip() else ""
    return f"{left}{one_line(piece)}{right}"
