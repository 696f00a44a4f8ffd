"""Named-entity recognition: CoNLL, JSONL or Parquet in, one label a word, entity F1 by seqeval.

A word is labelled at one of its sub-tokens (adapters/words); the others are -100. Words that truncation cuts
off count as O when measured, so a short max_length lowers recall instead of hiding. Does not train.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapthub.adapters.errors import InvalidData, InvalidSettings
from adapthub.adapters.words import EncodedWords, choose_label_token, encode_words
from adapthub.recipes.batches import IGNORED, check_length, token_collator
from adapthub.recipes.data.annotations import read_annotations
from adapthub.recipes.data.conll import read_conll
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.recipes.data.groups import GROUP_COLUMN
from adapthub.recipes.data.records import is_datasets, suffix_of
from adapthub.recipes.data.schemes import LETTERS, Scheme, first_break, from_iob1, scheme_of, split_label
from adapthub.recipes.metrics import Statistics, entity_statistics
from adapthub.recipes.portions import portions
from adapthub.recipes.recipe import Collator, Defaults, Encoded, Preview

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

_RECORD_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
_SCHEMES = ("auto", *LETTERS)
_REASONS = {
    "learning_rate": "on CoNLL-2003's validation split (MiniLM) the best of 3e-4 to 3e-3 with 2,195 steps, as in PEFT's"
    " example; in runs of fewer than 300 steps 3e-3, which reaches 3 points more in 100",
    "head_learning_rate": "a head starts from nothing; at the adapter's rate whole runs label every word O",
    "batch_size": "LoRA learns less from large batches than full fine-tuning does: 32 or fewer (LoRA Without Regret)",
}
_LABEL_HINT = (
    "Labels are O, or a prefix and a type such as B-PER; set label_column or scheme if they are elsewhere, and remove a line"
    " that names columns."
)
_IOB1_HINT = "If the file is IOB1, where I- may begin an entity, set scheme=iob1; otherwise correct the line."


@dataclass(frozen=True)
class Ner:
    """The recipe `ner`. Examples hold `tokens` and `labels`, two equally long lists of str."""

    name: str = "ner"
    task: str = "token-classification"
    description: str = "named entities in text: persons, places, or whatever types your labels name"
    formats: tuple[str, ...] = ("CoNLL", "JSONL (tokens and labels, or text and entities)", "Parquet")
    metrics: tuple[str, ...] = ("f1", "precision", "recall")

    @property
    def options(self) -> Mapping[str, str]:
        return {
            "scheme": f"how labels mark entities: {', '.join(_SCHEMES)} (default auto)",
            "token_column": "CoNLL: number of the token column, from 0 (default: by a header, else 0); records: its name",
            "label_column": "CoNLL: number of the label column, -1 is the last (default); records: its name",
            "group_column": f"records: {GROUP_COLUMN}",
            "encoding": "text encoding of the file (default utf-8)",
        }

    def defaults(self, method: str) -> Defaults:
        if method == "prefix":
            return Defaults(1e-2, 1e-2, epochs=8, batch_size=32, max_length=128)
        return Defaults(
            2e-3,
            5e-3,
            epochs=5,
            batch_size=32,
            max_length=128,
            in_short_runs=(2e-3, 3e-3),
            reasons=_REASONS,
        )

    def read(
        self,
        source: str | Path | Any,
        *,
        scheme: str = "auto",
        token_column: str | int | None = None,
        label_column: str | int | None = None,
        group_column: str | None = None,
        encoding: str = "utf-8",
    ) -> Dataset:
        """See Recipe.read. IOB1 becomes BIO here; every other scheme stays as it is."""
        if scheme not in _SCHEMES:
            raise InvalidSettings(f"unknown scheme {scheme!r}", hint=f"Schemes: {', '.join(_SCHEMES)}.")
        suffix = suffix_of(source)
        if suffix in _RECORD_SUFFIXES or is_datasets(source) or not isinstance(source, (str, Path)):
            dataset = read_annotations(
                source,
                token_column=token_column,
                label_column=label_column,
                group_column=group_column,
                encoding=encoding,
            )
        elif suffix == ".csv":
            raise InvalidData(
                f"{source}: ner does not read CSV",
                hint=f"It reads {', '.join(self.formats)}. Save a table of words with tabs, as .tsv.",
            )
        elif group_column is not None:
            raise InvalidSettings(
                f"{source}: the columns of CoNLL files are of words, and group_column is one of rows",
                hint="Give JSONL or Parquet, with a column that says which rows belong together.",
            )
        else:
            tokens = None if token_column is None else _number("token_column", token_column)
            labels = -1 if label_column is None else _number("label_column", label_column)
            dataset = read_conll(Path(source), encoding=encoding, token_column=tokens, label_column=labels)
        if scheme == "iob1":
            return replace(dataset, examples=tuple(map(_as_bio, dataset)))
        for example in dataset:
            _check_labels(example, scheme)
        return dataset

    def labels_of(self, example: Example) -> frozenset[str]:
        return frozenset(example.fields["labels"])

    def labels(self, train: Dataset) -> tuple[str, ...]:
        """O first, then by type and prefix: O, B-LOC, I-LOC, B-PER, ..."""
        labels = {"O"} | {label for example in train for label in example.fields["labels"]}
        if labels == {"O"}:
            raise InvalidData(
                f"{train.source}: no entity: every label is O",
                hint="Check label_column, or give labelled data.",
            )
        _scheme(labels, train)
        return tuple(sorted(labels, key=lambda label: split_label(label)[::-1]))

    def check(self, dataset: Dataset, labels: Sequence[str]) -> None:
        """Labels unseen in training, and sequences that the scheme does not allow."""
        known = frozenset(labels)
        scheme = _scheme(labels, dataset)
        for example in dataset:
            sequence = example.fields["labels"]
            if unknown := [label for label in sequence if label not in known]:
                where = example.at(sequence.index(unknown[0]))
                raise InvalidData(
                    f"{where}: label {unknown[0]!r} is not in the training data",
                    hint=f"Known labels: {', '.join(labels)}.",
                )
            if broken := first_break(sequence, scheme):
                index, reason = broken
                raise InvalidData(
                    f"{example.at(index)}: broken {scheme.upper()} sequence: {reason}"
                    f" (token {example.fields['tokens'][index]!r})",
                    hint=_IOB1_HINT if scheme == "bio" else "Correct the line.",
                )

    def resolve(
        self, tokenizer: PreTrainedTokenizerBase, train: Dataset, *, max_length: int
    ) -> dict[str, Any]:
        """max_length, and label_token: the sub-token of a word that carries its label."""
        return {
            "max_length": check_length(tokenizer, max_length),
            "label_token": choose_label_token(tokenizer, (example.fields["tokens"] for example in train)),
        }

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset,
        labels: Sequence[str],
        settings: Mapping[str, Any],
    ) -> Encoded:
        ids = {label: index for index, label in enumerate(labels)}
        words: list[EncodedWords] = []
        for some in portions((example.fields["tokens"] for example in dataset), _characters):
            words += encode_words(
                tokenizer, some, label_token=settings["label_token"], max_length=settings["max_length"]
            )
        rows = []
        for example, encoded in zip(dataset, words, strict=True):
            targets = [IGNORED] * len(encoded.features["input_ids"])
            for label, position in zip(example.fields["labels"], encoded.positions, strict=True):
                if position >= 0:
                    targets[position] = ids[label]
            rows.append({**encoded.features, "labels": targets})
        positions = [encoded.positions for encoded in words]
        return Encoded(
            rows,
            supervised=sum(position >= 0 for row in positions for position in row),
            targets=sum(map(len, positions)),
            truncated=sum(encoded.truncated for encoded in words),
            positions=positions,
        )

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        return token_collator(tokenizer)

    def measure(
        self,
        outputs: Sequence[NDArray[Any]],
        dataset: Dataset,
        encoded: Encoded,
        labels: Sequence[str],
    ) -> Statistics:
        """outputs[r]: [sub-tokens of row r, labels]. Headline metrics, and f1/TYPE."""
        predicted = []
        for logits, positions in zip(outputs, encoded.positions, strict=True):
            best = np.argmax(logits, axis=-1)
            predicted.append([labels[best[position]] if position >= 0 else "O" for position in positions])
        types = dict.fromkeys(split_label(label)[1] for label in labels if label != "O")
        return entity_statistics(
            [example.fields["labels"] for example in dataset], predicted, tuple(types), scheme_of(labels)
        )

    def preview(
        self,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset,
        encoded: Encoded,
        labels: Sequence[str],
        index: int,
    ) -> Preview:
        """One row a sub-token: its text, and the word and label that it carries, if any."""
        example, row = dataset[index], encoded.rows[index]
        word_at = {position: word for word, position in enumerate(encoded.positions[index]) if position >= 0}
        ids, words = row["input_ids"], example.fields["tokens"]
        return Preview.of_tokens(
            tokenizer,
            ids,
            example.source,
            " ".join(words),
            word=(words[word_at[at]] if at in word_at else "" for at in range(len(ids))),
            label=(labels[row["labels"][at]] if at in word_at else "" for at in range(len(ids))),
        )


def _scheme(labels: Iterable[str], dataset: Dataset) -> Scheme:
    try:
        return scheme_of(labels)
    except ValueError as error:
        raise InvalidData(
            f"{dataset.source}: the labels mark no entities: {error}", hint=f"Schemes: {', '.join(_SCHEMES)}."
        ) from error


def _check_labels(example: Example, scheme: str) -> None:
    """Refuse what is no label at all, or no label of the scheme that the caller named."""
    for index, label in enumerate(example.fields["labels"]):
        try:
            split_label(label)
            if scheme != "auto" and label[0] not in LETTERS[scheme]:
                raise ValueError(f"{label} is not {scheme.upper()}")
        except ValueError as error:
            raise InvalidData(f"{example.at(index)}: {error}", hint=_LABEL_HINT) from error


def _characters(tokens: Sequence[str]) -> int:
    return sum(map(len, tokens))


def _as_bio(example: Example) -> Example:
    _check_labels(example, "iob1")
    return replace(example, fields={**example.fields, "labels": from_iob1(example.fields["labels"])})


def _number(setting: str, value: str | int) -> int:
    try:
        return int(value)
    except ValueError as error:
        raise InvalidSettings(
            f"{setting}={value!r} is not a column number",
            hint="CoNLL columns are numbered from 0; -1 is the last.",
        ) from error
