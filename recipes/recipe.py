"""What a task needs to be trained: readers, labels, encoding, collator, metric, defaults. Not a loop.

Two kinds. A LabellingRecipe's models answer with logits over labels, and its first metric selects the best step. A
GeneratingRecipe's models answer with text: the validation loss selects, and texts are generated once, at the end, as
they are served.

A run uses a recipe in this order (the training loop and the evaluation own the calls; a recipe keeps no
state):

    recipe   = find_recipe("ner")                                  # recipes/catalog.py
    train    = recipe.read("train.conll", scheme="bio")            # also validation, test
    labels   = recipe.labels(train)                                # ("O", "B-LOC", ...): the head's rows
    recipe.check(test, labels)                                     # InvalidData with file and line
    settings = recipe.resolve(tokenizer, train, max_length=128)    # as they are into the manifest
    encoded  = recipe.encode(tokenizer, train, labels, settings)   # .rows to the Trainer
    collate  = recipe.collator(tokenizer)
    counts   = recipe.measure(outputs, test, encoded, labels)      # outputs: unpadded logits; or, where it generates:
    texts    = recipe.answers(runtime, adapter, test, settings)
    counts   = recipe.measure_texts(texts, losses, test)
    counts.values()["f1"]; counts.estimates(seed=0)["f1"]          # value, low, high, n
    recipe.preview(tokenizer, test, encoded, labels, index=0)      # Preview for --dry-run

Does not load models, does not train, does not write files. Heads are built by adapters.heads from
`recipe.task`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload, runtime_checkable

import numpy as np

from adapthub.recipes.data.dataset import Dataset, Example

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments

    from adapthub.adapters.base import ResolvedBase
    from adapthub.recipes.metrics import Measured, Statistics
    from adapthub.runtime import Runtime

Row = dict[str, Any]
Collator = Callable[[list[Row]], "dict[str, Tensor]"]

SHORT_STEPS = 300
"""Fewer steps leave an adapter little time to learn: some recipes hurry it then (Defaults.in_short_runs)."""


@dataclass(frozen=True)
class Defaults:
    """Hyperparameters a recipe starts from. Learning rates are peaks of a linear schedule with warm-up.

    `lora_plus_ratio`: how many times faster LoRA's B learns than A (LoRA+, Hayou et al. 2024); 1 for equal rates.
    `warmup` is a share of all steps, None: more of few (Settings.of_length). `max_length` counts sub-tokens,
    `patience` evaluations without progress. None: the recipe has no such setting (no head, no tokens). `by_width`:
    learning_rate is that of bases widths.WIDTH wide, and follows the base's; kept as that rate, so that another in its place
    is taken as it is unless by_width=True comes with it. `in_short_runs`: (learning_rate, what takes its place in runs of
    fewer than SHORT_STEPS); nothing takes that of another rate. `reasons`: by setting, why it is what it is, for people.
    """

    learning_rate: float
    head_learning_rate: float | None
    epochs: float
    batch_size: int
    max_length: int | None
    warmup: float | None = 0.06
    weight_decay: float = 0.1
    patience: int = 3
    lora_plus_ratio: float = 1.0
    by_width: bool | float = False
    in_short_runs: tuple[float, float] | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.by_width is True:
            object.__setattr__(self, "by_width", self.learning_rate)

    @property
    def follows_width(self) -> bool:
        """Whether learning_rate is for bases widths.WIDTH wide."""
        return self.by_width is not False and self.by_width == self.learning_rate

    def short_rate(self, steps: int) -> float | None:
        """What takes learning_rate's place in a run of `steps`; None where nothing does."""
        if self.in_short_runs is None or steps >= SHORT_STEPS or self.in_short_runs[0] != self.learning_rate:
            return None
        return self.in_short_runs[1]


@dataclass(frozen=True)
class Encoded:
    """One split as the model sees it, row for row with its Dataset (or several rows an example: see recipes.qa).

    `rows`: the model's inputs and `labels` (-100 where nothing is asked), plain ints, without attention_mask; or a sequence
    that makes such rows when they are asked for (pictures, sound) and says their `lengths`.
    `supervised`: how many targets the loss sees; `targets`: how many the data has; `truncated`: rows cut at
    max_length.
    `positions`: where recipes that label words find word i in row r (positions[r][i], or -1: cut off or
    invisible).
    `settings`: what they were encoded with, where a measure depends on it.
    """

    rows: Sequence[Row]
    supervised: int
    targets: int
    truncated: int
    positions: Sequence[Sequence[int]] = field(default=(), repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def select(self, places: Sequence[int]) -> Encoded:
        """The rows of the examples at `places`, made only when they are asked for. Counts stay those of all."""
        positions = [self.positions[at] for at in places] if self.positions else ()
        return replace(self, rows=Rows(self.rows, places), positions=positions)


@dataclass(frozen=True)
class Rows(Sequence[Row]):
    """Some rows of `rows`, in the order of `places`."""

    rows: Sequence[Row]
    places: Sequence[int]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """See `lengths_of`."""
        return lengths_of(self.rows)[np.asarray(self.places, np.int64)]

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> Rows: ...
    def __getitem__(self, at: int | slice) -> Row | Rows:
        return Rows(self.rows, self.places[at]) if isinstance(at, slice) else self.rows[self.places[at]]


def lengths_of(rows: Sequence[Row]) -> NDArray[np.int64]:
    """Tokens that the model reads of each row, int64 [rows], 1 where it reads none; known without making rows that are made
    when asked for."""
    known: Sequence[int] | None = getattr(rows, "lengths", None)
    if known is None:
        known = [len(row.get("input_ids", (0,))) for row in rows]
    return np.asarray(known, np.int64)


@dataclass(frozen=True)
class Preview:
    """One encoded example in words, for `--dry-run`: a table of `columns` with one tuple a sub-token."""

    source: str
    text: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @classmethod
    def of_tokens(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        ids: Sequence[int],
        source: str,
        text: str,
        /,
        **said: Iterable[str],
    ) -> Preview:
        """What is `said` of each of the tokens `ids`, a column each."""
        surfaces = tokenizer.convert_ids_to_tokens(list(ids))
        return cls(source, text, ("sub-token", *said), tuple(zip(surfaces, *said.values(), strict=True)))


class Recipe(Protocol):
    """How one task is read, encoded and measured.

    Invariants: every method is a pure function of its arguments; an error names file and line; nothing is
    dropped silently (what is cut is counted in Encoded). `options` are the keyword arguments that `read`
    takes, with their help; `metrics` the headline metrics. `tokenizer` is what `processors.load_processor` loads for the
    recipe's task: for pictures and sound it is their processor.
    """

    @property
    def name(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def formats(self) -> tuple[str, ...]: ...
    @property
    def options(self) -> Mapping[str, str]: ...
    @property
    def metrics(self) -> tuple[str, ...]: ...

    def defaults(self, method: str) -> Defaults:
        """Hyperparameters to start from with an adapter method ("lora", "rslora", "dora", "prefix", ...)."""
        ...

    def read(self, source: str | Path | Any, *_: Any, **options: Any) -> Dataset:
        """Read a file, a datasets.Dataset or a sequence of mappings. Raises InvalidData, InvalidSettings."""
        ...

    def labels_of(self, example: Example) -> frozenset[str]:
        """The labels that occur in one example."""
        ...

    def labels(self, train: Dataset) -> tuple[str, ...]:
        """The label set of the training split in a fixed order: the head's rows; () without one. Raises InvalidData."""
        ...

    def check(self, dataset: Dataset, labels: Sequence[str]) -> None:
        """Refuse a split the label set does not fit. Raises InvalidData naming file, line and label."""
        ...

    def resolve(
        self, tokenizer: PreTrainedTokenizerBase, train: Dataset, *, max_length: int
    ) -> dict[str, Any]:
        """The encoding settings of this run, decided once from the training split and stored in the manifest;
        `max_length`, if it is a setting, as it came out.

        Serving and evaluation must encode with the same ones. Raises InvalidSettings for a tokenizer that
        cannot work.
        """
        ...

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset,
        labels: Sequence[str],
        settings: Mapping[str, Any],
    ) -> Encoded:
        """Sub-tokens and aligned label ids. `settings`: resolve's answer or a manifest's hyperparameters."""
        ...

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        """Pads a list of rows into a batch of int64 tensors [rows, longest], labels with -100."""
        ...

    def preview(
        self,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset,
        encoded: Encoded,
        labels: Sequence[str],
        index: int,
    ) -> Preview:
        """Row `index` as the model will see it."""
        ...


@runtime_checkable
class LabellingRecipe(Recipe, Protocol):
    """A recipe whose models answer with logits. The first of `metrics` selects the best step: higher is better."""

    def measure(
        self,
        outputs: Sequence[NDArray[Any]],
        dataset: Dataset,
        encoded: Encoded,
        labels: Sequence[str],
    ) -> Measured:
        """What each example adds to the metrics, from each row's unpadded logits."""
        ...


@runtime_checkable
class PreferringRecipe(LabellingRecipe, Protocol):
    """A recipe that learns from judged answers, each row holding two sequences (answer_rows).

    `measure` is given for each row the log likelihoods, in nats, of both sequences under the adapter, then of both under
    the base alone: float [4].
    """

    def training(
        self, tokenizer: PreTrainedTokenizerBase, settings: Mapping[str, Any], *, goes_on: bool = False
    ) -> tuple[Callable[..., Trainer], Callable[..., TrainingArguments]]:
        """What makes the trainer in place of AdapterTrainer, with the same arguments, and what makes its `args`. `settings`
        as in `encode`; `goes_on`: from another adapter, against which is then learnt."""
        ...

    def reasons(self, settings: Mapping[str, Any]) -> Mapping[str, str]:
        """Of settings by name, why they are what they are where nobody chose them. `settings` as in `encode`."""
        ...


@runtime_checkable
class GeneratingRecipe(Recipe, Protocol):
    """A recipe whose models answer with text."""

    def answers(
        self, runtime: Runtime, adapter: str | None, dataset: Dataset, settings: Mapping[str, Any]
    ) -> list[str]:
        """What the served adapter makes of each example, its target unseen; None: the base alone. `settings` as in
        `encode`."""
        ...

    def measure_texts(
        self, texts: Sequence[str], losses: Sequence[NDArray[Any]], dataset: Dataset
    ) -> Statistics:
        """Per-example sufficient statistics of the metrics, from the texts and from the loss of every target token [tokens]
        of each row, in nats."""
        ...


@runtime_checkable
class EncodingAndDecoding(Protocol):
    """What a generating recipe has besides where it learns on encoder-decoders too."""

    def decoding_from(self, start: int) -> dict[str, Any]:
        """What `encode`'s settings say more of a base whose decoder begins with the token `start`; rows then have
        `decoder_input_ids`, as long as their `labels`."""
        ...


@runtime_checkable
class EmbeddingRecipe(Recipe, Protocol):
    """A recipe whose models answer with one vector a text, out of its last hidden states by adapters.pooling; which way is
    the encoding's `pooling`.

    A row has `texts`, a list of what the tokenizer made of each; its collator puts all of a batch's texts under one another.
    """

    def measure_vectors(self, vectors: Sequence[NDArray[Any]], dataset: Dataset) -> Statistics:
        """Per-example sufficient statistics of the metrics, from the vectors [texts, hidden] of each row."""
        ...


@runtime_checkable
class Grouping(Protocol):
    """What a recipe has besides where rows belong together though their inputs differ: answers to one prompt, questions on
    one context. No split that is made parts them."""

    @property
    def group(self) -> str:
        """The field whose equal values they share."""
        ...


@runtime_checkable
class Augmenting(Protocol):
    """What a recipe has besides where it learns from more than its examples."""

    def augmented(self, encoded: Encoded, settings: Mapping[str, Any], seed: int) -> Sequence[Row]:
        """The training rows as they are learned from. Rows with a method `set_epoch` are told the epoch before it begins,
        and are a function of `seed` and it."""
        ...


@runtime_checkable
class ChoosingAfterwards(Protocol):
    """What a labelling recipe has besides where a setting is chosen once training has ended, on the validation split."""

    def chosen(
        self, outputs: Sequence[NDArray[Any]], dataset: Dataset, encoded: Encoded
    ) -> tuple[dict[str, Any], str]:
        """Settings that are recorded with the adapter as `resolve`'s are, and measured with as `encoded.settings`; and what
        to tell of them. Arguments as of `measure`; ({}, "") where there is nothing to choose."""
        ...


@runtime_checkable
class Comparing(Protocol):
    """What a recipe has besides where its loss compares rows of a batch with each other."""

    def check_batch(self, batch_size: int, train: Dataset) -> None:
        """Raises InvalidSettings where batches of so few rows of `train` teach nothing."""
        ...


@runtime_checkable
class Unsaid(Protocol):
    """What a recipe has besides where a base's generation may suppress what its rows teach."""

    def unsaid(
        self, tokenizer: Any, base: ResolvedBase, dataset: Dataset, settings: Mapping[str, Any]
    ) -> str | None:
        """How many rows have what is never written, and what that is, in words; None where nothing is. `settings` as in
        `encode`."""
        ...


@runtime_checkable
class OwnLoss(Protocol):
    """What a recipe has besides where its models do not compute its loss."""

    def loss(self, outputs: Tensor, batch: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Tensor:
        """The mean loss of a batch. `outputs`: as heads.outputs_of has them; `settings`: as in `encode`."""
        ...


def selects(recipe: Recipe) -> str:
    """What of an evaluation chooses the best step: the first metric where the recipe labels, else the loss."""
    return recipe.metrics[0] if isinstance(recipe, LabellingRecipe) else "loss"
