"""`adapt feedback`: what users said of answers, and that as data to train on. Storing and converting are the library's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapthub.cli.output import announce, json_option, show_json, show_table

if TYPE_CHECKING:
    from adapthub.runtime.feedback import Feedback


@click.group()
def feedback() -> None:
    """What users said of a server's answers (POST /v1/feedback).

    Texts are there where the server logged requests (adapt serve --log-requests); else a rating stands alone.

    \b
    Example:
      $ adapt feedback list
    """


@feedback.command("list")
@click.option("--adapter", metavar="NAME", help="Only of this adapter, such as acme/ner or acme/ner@v2.")
@json_option
def list_feedback(adapter: str | None, as_json: bool) -> None:
    """List the ratings, the latest last.

    \b
    Example:
      $ adapt feedback list --adapter acme/ner --json
    """
    records = [_record(one) for one in _chosen(adapter)]
    if as_json:
        show_json(records)
    else:
        columns = ("when", "tenant", "adapter", "kind", "rating", "input", "correction", "comment")
        show_table(records, columns, empty="no feedback")


@feedback.command()
@click.option("--task", required=True, metavar="TASK", help="A task that adapt train knows: ner, sentiment.")
@click.option(
    "--out",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A file that is not there: .jsonl, or .csv for a task with one label a text.",
)
@click.option("--adapter", metavar="NAME", help="Only of this adapter, such as acme/ner or acme/ner@v2.")
@json_option
def export(task: str, out: Path, adapter: str | None, as_json: bool) -> None:
    """Write examples that adapt train --data reads: corrections, and answers that were called good.

    Of requests that the server logged. What was only called bad is left out: it does not say what is right. For prefer it
    counts: answers are written as good or bad, and a correction as preferred to what was answered.

    \b
    Example:
      $ adapt feedback export --task ner --out feedback.jsonl
    """
    from adapthub.adapters.errors import InvalidData
    from adapthub.recipes.catalog import find_recipe
    from adapthub.recipes.recipe import PreferringRecipe
    from adapthub.runtime.examples import examples, preferences

    recipe = find_recipe(task)
    chosen = _chosen(adapter)
    found = preferences(chosen) if isinstance(recipe, PreferringRecipe) else examples(chosen, recipe.task)
    if not found:
        raise InvalidData(
            f"there is no feedback to train {task} on",
            hint="It takes requests that were logged (adapt serve --log-requests), and corrected or called good.",
        )
    _write(out, found)
    if as_json:
        show_json({"path": str(out), "examples": len(found)})
    else:
        announce(f"{len(found)} examples in {out}")


def _chosen(adapter: str | None) -> list[Feedback]:
    from adapthub.runtime.feedback import FeedbackStore

    return [one for one in FeedbackStore().all() if adapter is None or _is_of(one, adapter)]


def _is_of(one: Feedback, adapter: str) -> bool:
    return one.request is not None and adapter in (one.request.adapter, one.request.adapter.partition("@")[0])


def _record(one: Feedback) -> dict[str, Any]:
    request = one.request
    return {
        "when": one.when.isoformat(timespec="seconds"),
        "request_id": one.rating.request_id,
        "tenant": one.rating.tenant,
        "kind": request.kind if request else None,
        "adapter": request.adapter if request else None,
        "rating": one.rating.rating,
        "input": request.input if request else None,
        "output": request.output if request else None,
        "correction": one.rating.correction,
        "comment": one.rating.comment,
    }


def _write(out: Path, examples: list[dict[str, Any]]) -> None:
    """Raises Conflict for a file that is there, InvalidSettings for a suffix that does not fit, StorageError."""
    import csv
    import json

    from adapthub.adapters.errors import Conflict, InvalidSettings, StorageError

    tabular = all(isinstance(value, str) for example in examples for value in example.values())
    suffix = out.suffix.lower()
    if suffix != ".jsonl" and not (tabular and suffix == ".csv"):
        raise InvalidSettings(
            f"{out}: these examples are not written as {suffix or 'a file without suffix'}",
            hint="Use .jsonl.",
        )
    try:
        with out.open("x", encoding="utf-8", newline="") as file:
            if suffix == ".csv":
                writer = csv.DictWriter(file, [*examples[0]])
                writer.writeheader()
                writer.writerows(examples)
            else:
                file.writelines(json.dumps(example, ensure_ascii=False) + "\n" for example in examples)
    except FileExistsError:
        raise Conflict(f"{out} is there already", hint="Give another file.") from None
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error.strerror or error}") from error
