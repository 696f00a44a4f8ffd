"""Embeddings for retrieval: pairs of a query and its passage in, or triplets with a hard negative; vectors that find each
other out.

Contrastive training with in-batch negatives (InfoNCE, van den Oord et al. 2018; sentence-transformers calls it
MultipleNegativesRankingLoss): each query shall find its own passage among all of its batch. Vectors are pooled as the
base's sentence-transformers files say (adapters/pooling), and served so. There is no head: the artifact is a plain PEFT
adapter of the backbone. Does not train.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from adapthub.adapters.errors import InvalidData, InvalidSettings
from adapthub.adapters.pooling import MEAN, POOLINGS, vectors_of
from adapthub.recipes.batches import check_length, contrastive_collator
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.recipes.data.groups import GROUP_COLUMN, grouped
from adapthub.recipes.data.pairs import text_of
from adapthub.recipes.data.records import Record, Records, repeated_ids
from adapthub.recipes.data.tables import read_records
from adapthub.recipes.metrics import Statistics
from adapthub.recipes.recipe import Collator, Defaults, Encoded, Preview, Row
from adapthub.recipes.retrieval import retrieval_statistics
from adapthub.recipes.text_rows import text_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

_QUERY = ("query", "question", "anchor", "source", "sentence1")
_PASSAGE = ("passage", "positive", "pos", "answer", "target", "sentence2")
_NEGATIVE = ("negative", "hard_negative", "neg")
_BESIDE_LISTS = ("pos_scores", "neg_scores", "prompt")  # FlagEmbedding's, which trains by them
_JUDGED = (
    "label",
    "score",
    "similarity",
    "similarity_score",
)  # of files of pairs, of which some do not belong together

_REASONS = {
    "learning_rate": "MRR@10 0.970 on interface-en-de (e5-small, 60 steps), 0.907 untrained; 0.960 at 3e-4",
    "batch_size": "each query is told apart from the other passages of its batch: more are harder, and take more memory",
}


@dataclass(frozen=True)
class PairRows(Sequence[Row]):
    """Rows with `texts`; `lengths` counts the tokens of all texts of each."""

    rows: Sequence[Row]

    @property
    def lengths(self) -> list[int]:
        """See recipe.lengths_of."""
        return [sum(len(text["input_ids"]) for text in row["texts"]) for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | Sequence[Row]:
        return self.rows[at]


@dataclass(frozen=True)
class Embed:
    """The recipe `embed`. Examples hold `query`, `passage` and perhaps `negative`, all str."""

    name: str = "embed"
    task: str = "feature-extraction"
    description: str = (
        "vectors by which a query finds its passage, from pairs, or triplets with a hard negative"
    )
    formats: tuple[str, ...] = ("CSV", "TSV", "JSONL", "Parquet")
    metrics: tuple[str, ...] = ("mrr@10", "ndcg@10", "recall@1", "recall@10")
    group: str = "query"

    @property
    def options(self) -> Mapping[str, str]:
        return {
            "query_column": f"the column of queries (default: the first of {', '.join(_QUERY)})",
            "passage_column": f"the column of passages (default: the first of {', '.join(_PASSAGE)})",
            "negative_column": f"a column of passages that do not answer (default: {' or '.join(_NEGATIVE)}, if there)",
            "query_prefix": 'put before what asks, in training and serving, such as "query: " for E5 (default none)',
            "passage_prefix": 'put before passages, such as "passage: " for E5 (default none)',
            "pooling": f"how hidden states become a vector: {', '.join(POOLINGS)}"
            " (default: as the base's files say, else mean)",
            "temperature": "what similarities are divided by in the loss (default 0.05)",
            "group_column": f"{GROUP_COLUMN} (default: queries)",
            "delimiter": "CSV: what separates cells (default: found in the header)",
            "encoding": "text encoding of the file (default utf-8)",
        }

    def defaults(self, method: str) -> Defaults:
        """LoRA's on validation data of interface-en-de (e5-small, 60 steps of 32): MRR@10 0.907 untrained, 0.970 at 1e-3 and
        temperature 0.05; at 3e-4 0.960, or 0.966 with 0.02: within each other's intervals. Prefix tuning's were not tried.
        """
        if method == "prefix":
            return Defaults(1e-2, None, epochs=5, batch_size=32, max_length=128)
        return Defaults(1e-3, None, epochs=3, batch_size=32, max_length=128, reasons=_REASONS)

    def read(
        self,
        source: str | Path | Any,
        *,
        query_column: str | None = None,
        passage_column: str | None = None,
        negative_column: str | None = None,
        query_prefix: str = "",
        passage_prefix: str = "",
        pooling: str | None = None,
        temperature: float = 0.05,
        group_column: str | None = None,
        delimiter: str | None = None,
        encoding: str = "utf-8",
    ) -> Dataset:
        """See Recipe.read. A row may leave its negative empty, and have lists of passages and negatives: see `_pairs`.
        A column that judges pairs is not read, and said; one that tells right from wrong ones, as 1 and 0, is refused."""
        _check_options(query_prefix, passage_prefix, pooling, temperature)
        records = read_records(source, encoding=encoding, delimiter=delimiter)
        columns = {
            "query": records.column("query", query_column, _QUERY),
            "passage": records.column("passage", passage_column, _PASSAGE),
        }
        if negative_column is not None or records.find(_NEGATIVE) is not None:
            columns["negative"] = records.column("negative", negative_column, _NEGATIVE)
        examples = []
        pairs = (pair for row in records.rows for pair in _pairs(row, columns))
        for row in pairs:
            given = {
                field: column
                for field, column in columns.items()
                if field != "negative" or not _is_empty(row.values.get(column))
            }
            fields = {field: text_of(records, row, column, field) for field, column in given.items()}
            examples.append(Example(fields, records.path, row.line, records.unit))
            if fields.get("negative") == fields["passage"]:
                raise InvalidData(
                    f"{examples[-1].source}: the negative is the passage itself", hint="Leave it empty."
                )
        settings = {
            "query_prefix": query_prefix,
            "passage_prefix": passage_prefix,
            "temperature": float(temperature),
            **({} if pooling is None else {"pooling": pooling}),
        }
        notes = (*_judged(records, columns), *_left(records, columns), *repeated_ids(records))
        read = Dataset(tuple(examples), records.path, columns, settings, notes)
        return grouped(read, records, group_column)

    def labels_of(self, example: Example) -> frozenset[str]:
        """None."""
        return frozenset()

    def labels(self, train: Dataset) -> tuple[str, ...]:
        """None. Raises InvalidData where every passage is the same: nothing tells queries apart."""
        first = train[0].fields["passage"]
        if all(example.fields["passage"] == first for example in train):
            raise InvalidData(
                f"{train.source}: every row has the same passage", hint="Give pairs with different passages."
            )
        return ()

    def check(self, dataset: Dataset, labels: Sequence[str]) -> None:
        """Raises InvalidData for a negative that is the passage of another row with the same query."""
        if "negative" not in dataset.columns:
            return
        right = {hash((one.fields["query"], one.fields["passage"])) for one in dataset}
        for example in dataset:
            if hash((example.fields["query"], example.fields.get("negative"))) in right:
                raise InvalidData(
                    f"{example.source}: the negative is the passage of another row with the same query",
                    hint="Leave it empty.",
                )

    def check_batch(self, batch_size: int, train: Dataset) -> None:
        """Raises InvalidSettings for batches of one row where one has no negative: it has nothing to be told apart from."""
        if batch_size > 1:  # the rows may be many
            return
        alone = next((example for example in train if "negative" not in example.fields), None)
        if alone is not None:
            raise InvalidSettings(
                f"{self.name} tells a passage apart from the others of its batch: batch_size is 1, and {alone.source} has no"
                " negative",
                hint="Set batch_size to at least 2, or give every row a negative.",
            )

    def resolve(
        self, tokenizer: PreTrainedTokenizerBase, train: Dataset, *, max_length: int
    ) -> dict[str, Any]:
        """max_length of each text, the prefixes, the loss's temperature, and pooling where it was asked for."""
        return {**train.settings, "max_length": check_length(tokenizer, max_length)}

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset,
        labels: Sequence[str],
        settings: Mapping[str, Any],
    ) -> Encoded:
        """Rows with `texts`: the query, its passage and perhaps a negative. `truncated` counts rows of which one is cut."""
        fields = ("query", "passage", "negative")
        prefixes = dict.fromkeys(fields, settings["passage_prefix"]) | {"query": settings["query_prefix"]}
        places = [
            (at, field) for at, example in enumerate(dataset) for field in fields if field in example.fields
        ]
        texts = [prefixes[field] + dataset[at].fields[field] for at, field in places]
        encoded, cut = text_rows(tokenizer, texts, settings["max_length"])
        rows: list[Row] = [{"texts": []} for _ in dataset]
        for (at, _), row in zip(places, encoded, strict=True):
            rows[at]["texts"].append(row)
        truncated = len({at for (at, _), one in zip(places, cut, strict=True) if one})
        return Encoded(PairRows(rows), supervised=len(rows), targets=len(rows), truncated=truncated)

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        return contrastive_collator(tokenizer)

    def loss(self, outputs: Tensor, batch: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Tensor:
        """The cross-entropy of each query's own passage among all passages and negatives of the batch, by cosine.

        outputs: last hidden states [texts, L, hidden], queries first. A passage that is also another row's own (the same
        text, or paired with the same query) is no negative for it.
        """
        import torch
        from torch.nn import functional as F

        rows = len(batch["labels"])
        pooling = settings.get("pooling", MEAN)
        vectors = F.normalize(vectors_of(outputs, batch["attention_mask"], pooling), dim=-1)
        scores = vectors[:rows] @ vectors[rows:].T / settings["temperature"]
        own = torch.arange(rows, device=scores.device)
        hidden = _also_right(batch, rows)
        hidden[own, own] = False
        return F.cross_entropy(scores.masked_fill(hidden, -torch.inf), own)

    def measure_vectors(self, vectors: Sequence[NDArray[Any]], dataset: Dataset) -> Statistics:
        """Retrieval among all passages and negatives of `dataset`, each text once; all passages of a query's text count, and
        a query that stands in several rows is one example, as in BEIR."""
        places: dict[str, int] = {}
        found: list[NDArray[Any]] = []
        queries: dict[str, NDArray[Any]] = {}
        wanted: dict[str, set[int]] = {}
        for example, own in zip(dataset, vectors, strict=True):
            for field, vector in zip(("passage", "negative"), own[1:], strict=False):
                if example.fields[field] not in places:
                    places[example.fields[field]] = len(found)
                    found.append(vector)
            queries.setdefault(example.fields["query"], own[0])
            wanted.setdefault(example.fields["query"], set()).add(places[example.fields["passage"]])
        relevant = [sorted(wanted[query]) for query in queries]
        return retrieval_statistics(np.stack(list(queries.values())), np.stack(found), relevant)

    def preview(
        self,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset,
        encoded: Encoded,
        labels: Sequence[str],
        index: int,
    ) -> Preview:
        """A row for each sub-token of every text, and which text it is of."""
        example = dataset[index]
        texts = [text["input_ids"] for text in encoded.rows[index]["texts"]]
        fields = ("query", "passage", "negative")[: len(texts)]
        begins = [
            field if at == 0 else ""
            for field, ids in zip(fields, texts, strict=True)
            for at in range(len(ids))
        ]
        whole = [token for ids in texts for token in ids]
        return Preview.of_tokens(tokenizer, whole, example.source, example.fields["query"], text=begins)


def _also_right(batch: Mapping[str, Tensor], rows: int) -> Tensor:
    """[rows, candidates]: candidate c is the same text as a passage that is paired with query r's text."""
    ids = batch["input_ids"] * batch["attention_mask"]
    queries, candidates = ids[:rows], ids[rows:]
    same_query = (queries[:, None] == queries[None]).all(-1)
    same_passage = (candidates[:rows, None] == candidates[None]).all(-1)
    return (same_query.float() @ same_passage.float()) > 0


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _pairs(row: Record, columns: Mapping[str, str]) -> Iterator[Record]:
    """The row, or where it has lists, as FlagEmbedding's, one for each of its passages. Each pair has one negative, the next
    of the row's, from the first again where there are fewer than passages."""
    if not _has_lists(row, columns):
        yield row
        return
    passage, negative = columns["passage"], columns.get("negative")
    if negative is None:
        yield from (replace(row, values={**row.values, passage: one}) for one in _each(row, passage))
        return
    for one, other in zip(_each(row, passage), cycle(_each(row, negative)), strict=False):
        yield replace(row, values={**row.values, passage: one, negative: other})


def _has_lists(row: Record, columns: Mapping[str, str]) -> bool:
    return any(isinstance(row.values.get(columns.get(field, "")), list) for field in ("passage", "negative"))


def _each(row: Record, column: str) -> list[Any]:
    """The parts of a cell that is a list, None alone of an empty one; else what it is."""
    cell = row.values.get(column)
    return (cell or [None]) if isinstance(cell, list) else [cell]


def _left(records: Records, columns: Mapping[str, str]) -> Iterator[str]:
    """Notes of what rows with lists have that nothing is learnt of."""
    rows = [row for row in records.rows if _has_lists(row, columns)]
    passage, negative = columns["passage"], columns.get("negative", "")
    more = [(row, len(_each(row, negative)) - len(_each(row, passage))) for row in rows]
    more = [(row, count) for row, count in more if count > 0]
    if more:
        yield (
            f"{sum(count for _, count in more)} negatives of {len(more)} rows are not read, as a pair has one; the first are"
            f" at {records.where(more[0][0])}"
        )
    for column in filter(None, (records.find((name,)) for name in _BESIDE_LISTS if rows)):
        yield f"the column {column!r} is not read"


def _judged(records: Records, columns: Mapping[str, str]) -> Iterator[str]:
    """A note of each column of numbers that differ, by which some pairs belong together less than others. Raises InvalidData
    where they are 0 and 1, or classes of which one is not the other, for then some do not at all."""
    for column in filter(None, (records.find((name,)) for name in _JUDGED)):
        if column in columns.values():
            continue
        said = [row.values.get(column) for row in records.rows]
        numbers = [_number(value) for value in said]
        wrong = 0 if set(numbers) == {0, 1} else _denial({value for value in said if isinstance(value, str)})
        if wrong is not None:
            places: list[Any] = numbers if wrong == 0 else said
            raise InvalidData(
                f"{records.where(records.rows[places.index(wrong)])}: {column!r} is {wrong}, as of texts that do not belong"
                " together, and every row is learnt as a pair that does",
                hint="Keep the rows of those that do, or leave the column out; a wrong passage can be its query's negative.",
            )
        if None not in numbers and len(set(numbers)) > 1:
            yield f"the column {column!r} is not read: every row is learnt as a pair that belongs together"


def _denial(names: Set[str]) -> str | None:
    """The class that another of `names` is denied by, such as not_equivalent; None where there is none."""
    return next((name for name in sorted(names) if name.removeprefix("not_") in names - {name}), None)


def _number(value: object) -> float | None:
    try:
        return float(value)  # type: ignore[arg-type]  # what it takes is asked of it
    except (TypeError, ValueError):
        return None


def _check_options(
    query_prefix: object, passage_prefix: object, pooling: object, temperature: object
) -> None:
    if pooling is not None and pooling not in POOLINGS:
        raise InvalidSettings(f"pooling is one of {', '.join(POOLINGS)}; {pooling!r} is not")
    for name, value in (("query_prefix", query_prefix), ("passage_prefix", passage_prefix)):
        if not isinstance(value, str):
            raise InvalidSettings(f"{name} is a text, not {value!r}")
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not temperature > 0:
        raise InvalidSettings(
            f"temperature is a number above 0, not {temperature!r}", hint="For example 0.05."
        )
