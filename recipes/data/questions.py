"""Questions over contexts: SQuAD's nested JSON (1.1 and 2.0), and records with the columns question, context and answers.

    {"question": "Who?", "context": "Ada slept.", "answers": {"text": ["Ada"], "answer_start": [0]}}
    {"question": "Who?", "context": "Ada slept.", "answer": "Ada", "answer_start": 0}

No answer is an empty list, or an empty `answer`. An answer that does not stand where its offset says is an error that shows
both texts, unless it stands in the context exactly once: then the offset is corrected, and how many were is noted. Does not
tokenise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapthub.adapters.errors import InvalidData
from adapthub.recipes.data.dataset import GROUP, Dataset, Example
from adapthub.recipes.data.groups import group_of, grouped
from adapthub.recipes.data.json_values import DECODER, RepeatedKey
from adapthub.recipes.data.records import Record
from adapthub.recipes.data.tables import read_records
from adapthub.recipes.data.text import read_text

_QUESTION = ("question", "query")
_CONTEXT = ("context", "passage", "paragraph", "text")
_ANSWERS = ("answers", "answer", "answer_text")
_START = ("answer_start", "start")
_ID, _TITLE = ("id",), "title"
_SHOWN = 60


@dataclass
class _Corrections:
    """How many offsets were wrong or missing, and where the first was."""

    wrong: int = 0
    missing: int = 0
    first: str = ""

    def notes(self) -> Iterator[str]:
        for count, what in (
            (self.wrong, "do not stand at their answer_start"),
            (self.missing, "have no answer_start"),
        ):
            if count:
                yield f"{count} answers {what} and were found where their text stands once, the first at {self.first}"


def read_questions(
    source: Any,
    *,
    question: str | None,
    context: str | None,
    answers: str | None,
    group: str | None,
    encoding: str,
    delimiter: str | None,
) -> Dataset:
    """Examples with fields `question`, `context` and `answers`, a list of {"text": str, "start": int}.

    Raises InvalidData with file and row: empty texts, answers that are not in the context, an id that stands twice.
    """
    corrections = _Corrections()
    nested = _nested(source, encoding)
    if nested is not None:
        return _from_squad(str(source), nested, group, corrections)
    records = read_records(source, encoding=encoding, delimiter=delimiter)
    columns = {
        "question": records.column("question", question, _QUESTION),
        "context": records.column("context", context, _CONTEXT),
        "answers": records.column("answer", answers, _ANSWERS),
    }
    start, named = records.find(_START), records.find(_ID)
    ids = _Ids()
    examples = []
    for row in records.rows:
        where = records.where(row)
        ids.add(row.values.get(named) if named else None, where)
        given = _given(row, columns["answers"], start, where)
        fields = _fields(
            row.values.get(columns["question"]), row.values.get(columns["context"]), given, where, corrections
        )
        examples.append(Example(fields, records.path, row.line, records.unit))
    read = Dataset(tuple(examples), records.path, columns, notes=tuple(corrections.notes()))
    return grouped(read, records, group)


def _nested(source: Any, encoding: str) -> dict[str, Any] | None:
    """The document of a file in SQuAD's form; None for anything else."""
    if not isinstance(source, (str, Path)) or Path(source).suffix.lower() != ".json":
        return None
    text = read_text(Path(source), encoding)
    try:
        document = DECODER.decode(text)
    except RepeatedKey as error:
        raise InvalidData(f"{source}: {error}", hint="Leave one out, or rename it.") from error
    except (ValueError, RecursionError):
        return None  # lines of JSON, or broken: the reader of lines says where
    return document if isinstance(document, dict) and isinstance(document.get("data"), list) else None


def _from_squad(
    path: str, document: Mapping[str, Any], group: str | None, corrections: _Corrections
) -> Dataset:
    if group not in (None, _TITLE):
        raise InvalidData(
            f"{path}: SQuAD's JSON has no column {group!r}",
            hint=f"Its documents are told apart by their title: set group_column={_TITLE}.",
        )
    ids = _Ids()
    examples = []
    for number, (title, context, asked) in enumerate(_asked(document, path), start=1):
        name = asked.get("id")
        where = f"{path}:question {number}" + (f" (id {name})" if name is not None else "")
        ids.add(name, where)
        answers = [] if asked.get("is_impossible") else asked.get("answers")
        given = [_pair(answer, where) for answer in _listed(answers, where)]
        fields = _fields(asked.get("question"), context, given, where, corrections)
        if group is not None and title is not None:
            fields[GROUP] = title
        examples.append(Example(fields, path, number, "question"))
    if not examples:
        raise InvalidData(f"{path}: there are no questions", hint="Give at least one with its context.")
    columns = {"question": "question", "context": "context", "answers": "answers"}
    columns |= {} if group is None else {GROUP: group}
    return Dataset(tuple(examples), path, columns, notes=tuple(corrections.notes()))


def _asked(document: Mapping[str, Any], path: str) -> Iterator[tuple[str | None, Any, Mapping[str, Any]]]:
    """The title of the article, the context and what is asked, of every question."""
    try:
        for article in document["data"]:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    yield group_of(article.get(_TITLE)), paragraph["context"], dict(asked)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidData(
            f"{path}: not SQuAD's form: {error!r} below 'data'",
            hint='It is {"data": [{"paragraphs": [{"context": ..., "qas": [...]}]}]}.',
        ) from error


def _given(row: Record, column: str, start: str | None, where: str) -> list[tuple[Any, Any]]:
    """(text, start or None) of each answer of a record, in any of the forms."""
    value = row.values.get(column)
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise InvalidData(
                f"{where}: {column!r} does not have as many texts as starts",
                hint='Write {"text": [...], "answer_start": [...]}.',
            )
        return list(zip(texts, starts, strict=True))
    if isinstance(value, list):
        return [_pair(answer, where) for answer in value]
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    return [(value, row.values.get(start) if start else None)]


def _pair(answer: Any, where: str) -> tuple[Any, Any]:
    if isinstance(answer, str):
        return answer, None
    if not isinstance(answer, Mapping):
        raise InvalidData(
            f"{where}: an answer is {answer!r}", hint='Write {"text": ..., "answer_start": ...}.'
        )
    return answer.get("text"), answer.get("answer_start")


def _listed(answers: Any, where: str) -> Sequence[Any]:
    if not isinstance(answers, list):
        raise InvalidData(
            f"{where}: 'answers' is {answers!r}, not a list", hint="No answer is an empty list."
        )
    return answers


def _fields(
    question: Any, context: Any, answers: Sequence[tuple[Any, Any]], where: str, corrections: _Corrections
) -> dict[str, Any]:
    for name, text in (("question", question), ("context", context)):
        if not isinstance(text, str) or not text.strip():
            shown = "empty" if text is None or isinstance(text, str) else f"{type(text).__name__}, not text"
            raise InvalidData(f"{where}: the {name} is {shown}", hint="Remove the row.")
    placed = [_placed(context, text, start, where, corrections) for text, start in answers]
    return {"question": question, "context": context, "answers": placed}


def _placed(context: str, text: Any, start: Any, where: str, corrections: _Corrections) -> dict[str, Any]:
    """An answer with the offset where its text stands."""
    if text is not None and not isinstance(text, str):
        raise InvalidData(
            f"{where}: an answer is {text!r:.60}, not text", hint="Answers are words of the context."
        )
    if text is None or not text.strip():
        raise InvalidData(f"{where}: an answer is empty", hint="No answer is an empty list of answers.")
    at = _whole(start, where)
    # White space around an answer is none of it; its offset is that of the text.
    at = None if at is None else at + len(text) - len(text.lstrip())
    text = text.strip()
    if at is not None and context[at : at + len(text)] == text:
        return {"text": text, "start": at}
    count = context.count(text)
    if count != 1:
        there = (
            f"the context has {_cut(context[at : at + len(text)])!r}"
            if at is not None
            else "no offset is given"
        )
        many = f"stands there {count} times" if count else "does not stand in the context"
        raise InvalidData(
            f"{where}: the answer {_cut(text)!r} {many}"
            + (f"; at its answer_start {at} {there}" if at is not None else f", and {there}"),
            hint="Correct answer_start, which counts characters from 0, or the text.",
        )
    corrections.first = corrections.first or where
    if at is None:
        corrections.missing += 1
    else:
        corrections.wrong += 1
    return {"text": text, "start": context.index(text)}


def _whole(start: Any, where: str) -> int | None:
    if start is None or start == "":
        return None
    if isinstance(start, str) and start.strip().isdecimal():
        return int(start)
    if isinstance(start, float) and start.is_integer():
        start = int(start)
    if isinstance(start, bool) or not isinstance(start, int) or start < 0:
        raise InvalidData(f"{where}: answer_start is {start!r}", hint="It counts characters from 0.")
    return start


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


class _Ids:
    """Ids of questions, each once: predictions are told apart by them."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}

    def add(self, name: Any, where: str) -> None:
        if name in (None, ""):
            return
        before = self._first.setdefault(str(name), where)
        if before != where:
            raise InvalidData(
                f"{where}: the id {name!r} also stands at {before}", hint="Give each question its own."
            )
