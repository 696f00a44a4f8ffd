"""The tasks: data, base, budget, metric. Each budget is small, the same for every way, and named in the results.

Where no real set of a kind is in reach, a set composed of real data stands in, and says so. Does not train.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapthub.adapters.base import resolve_base
from adapthub.adapters.samples import fetch
from adapthub.recipes.catalog import find_recipe
from adapthub.recipes.widths import rate_by_width
from benchmarks.quality import examples
from benchmarks.quality.examples import Example

MINILM, E5 = "package:minilm", "package:e5-small"
SMOLLM2, WHISPER = "package:smollm2-135m", "package:whisper-base"
EFFICIENTNET = "package:efficientnet-lite0"
_MEASURED = 600  # rows of validation and test that are read at most
FULL_HEAD = 1e-3
"""The rate of a head in full fine-tuning."""
FULL_WARMUP = 0.06
"""As RoBERTa is fine-tuned (Liu et al. 2019)."""


@dataclass(frozen=True)
class Task:
    """One row of the table.

    `data`: what `prepare` takes, with three splits. `budget`: settings and reading options of every way. `rates`: the
    learning rates that full fine-tuning tries; `examples`: of PEFT; `rows`: how many rows of validation and test are
    measured, spread evenly, None for all. `point`: what "one point" of `metric` is; negative where lower is better.
    `untrained`: whether the base alone does the task. `about`: what the data are, where that is not plain.
    """

    recipe: str
    base: str
    data: Callable[[], Any]
    metric: str
    budget: Mapping[str, Any]
    rates: tuple[float, ...]
    examples: tuple[Example, ...]
    rows: tuple[int | None, int | None] = (200, 500)
    point: float = 0.01
    untrained: bool = False
    about: str = ""

    @property
    def rate(self) -> float:
        """The learning rate that the recipe's LoRA has on this base, with this budget."""
        defaults = find_recipe(self.recipe).defaults("lora")
        rate = defaults.short_rate(self.budget["max_steps"]) or defaults.learning_rate
        return rate_by_width(rate, resolve_base(self.base).config) if defaults.by_width else rate


def _sample(name: str) -> Callable[[], Path]:
    return lambda: fetch(name)


def _some(recipe: str, name: str, suffix: str, train: int) -> Callable[[], dict[str, Any]]:
    """So many training rows of a sample, spread evenly: reading and encoding all would take longer than the budget."""

    def rows() -> dict[str, Any]:
        folder, reader = fetch(name), find_recipe(recipe)
        read = {split: reader.read(folder / f"{split}.{suffix}") for split in ("train", "validation", "test")}
        kept = {
            split: min(len(dataset), train if split == "train" else _MEASURED)
            for split, dataset in read.items()
        }
        return {
            split: [_row(dataset[at * len(dataset) // kept[split]].fields) for at in range(kept[split])]
            for split, dataset in read.items()
        }

    return rows


def _row(fields: Mapping[str, Any]) -> dict[str, Any]:
    """An example as it is read, with answers as SQuAD has them."""
    if "answers" not in fields:
        return dict(fields)
    answers = [{"text": answer["text"], "answer_start": answer["start"]} for answer in fields["answers"]]
    return {**fields, "answers": answers}


def rare_digits() -> dict[str, list[dict[str, Any]]]:
    """Digits in place of medical pictures: an 8 is the finding, one picture in 20 of training, one in ten of the rest."""
    folder = fetch("mnist")
    rows: dict[str, list[dict[str, Any]]] = {}
    for split in ("train", "validation", "test"):
        found = {digit: sorted((folder / split / digit).glob("*.png")) for digit in "0123456789"}
        ill = found.pop("8")
        healthy = [path for paths in found.values() for path in paths]
        ill = ill[: len(healthy) // 19] if split == "train" else ill
        rows[split] = [{"image": path, "label": "none"} for path in healthy]
        rows[split] += [{"image": path, "label": "finding"} for path in ill]
    return rows


TASKS: Mapping[str, Task] = {
    "ner": Task(
        "ner",
        MINILM,
        _some("ner", "conll2003", "conll", 1600),
        "f1",
        {"max_steps": 100, "batch_size": 16, "max_length": 64, "eval_steps": 50},
        (1e-4, 3e-4),
        (examples.TOKENS,),
        rows=(100, 400),
    ),
    "sentiment": Task(
        "sentiment",
        MINILM,
        _some("sentiment", "movie-reviews", "csv", 2400),
        "accuracy",
        {"max_steps": 150, "batch_size": 16, "max_length": 48, "eval_steps": 50},
        (1e-4, 3e-4),
        (examples.SEQUENCES,),
        rows=(100, 400),
    ),
    "topics": Task(
        "classify",
        MINILM,
        _some("classify", "r8", "csv", 1920),
        "accuracy",
        {"max_steps": 120, "batch_size": 16, "max_length": 64, "eval_steps": 40},
        (1e-4, 3e-4),
        (examples.SEQUENCES,),
        rows=(80, 300),
    ),
    "spam": Task(
        "classify",
        MINILM,
        _some("classify", "spam", "csv", 1280),
        "macro_f1",
        {"max_steps": 80, "batch_size": 16, "max_length": 64, "eval_steps": 40},
        (1e-4, 3e-4),
        (examples.SEQUENCES,),
        rows=(80, 300),
    ),
    "chinese": Task(
        "classify",
        E5,
        _some("classify", "chinese-reviews", "csv", 1280),
        "macro_f1",
        {"max_steps": 80, "batch_size": 16, "max_length": 48, "eval_steps": 40},
        (5e-5, 2e-4),
        (examples.SEQUENCES,),
        rows=(80, 300),
        about="Chinese reviews",
    ),
    "qa": Task(
        "qa",
        MINILM,
        _some("qa", "entity-questions", "json", 1200),
        "f1",
        {"max_steps": 120, "batch_size": 8, "max_length": 128, "eval_steps": 60},
        (1e-4, 3e-4),
        (examples.TOKENS,),
        rows=(60, 250),
        about="composed: fixed questions over CoNLL-2003's news",
    ),
    "embed": Task(
        "embed",
        E5,
        _sample("interface-en-de"),
        "mrr@10",
        {"max_steps": 30, "batch_size": 16, "max_length": 32, "eval_steps": 15},
        (5e-5, 2e-4),
        (examples.VECTORS,),
        rows=(None, None),
        untrained=True,
        about="an English text of an interface finds its German one",
    ),
    "image": Task(
        "image",
        EFFICIENTNET,
        _sample("emoji"),
        "macro_f1",
        {"max_steps": 80, "batch_size": 16, "eval_steps": 40},
        (3e-4, 1e-3),
        (examples.PICTURES, examples.CONVOLUTIONS),
        rows=(60, 200),
        about="emoji in ten categories",
    ),
    "medical-image": Task(
        "medical-image",
        EFFICIENTNET,
        rare_digits,
        "balanced_accuracy",
        {"max_steps": 80, "batch_size": 16, "eval_steps": 40},
        (3e-4, 1e-3),
        (examples.PICTURES, examples.CONVOLUTIONS),
        rows=(60, 200),
        about="composed, no medical pictures: is a handwritten digit an 8, one in 20",
    ),
    "prefer": Task(
        "prefer",
        SMOLLM2,
        _sample("preferences"),
        "loss",
        {"max_steps": 16, "batch_size": 2, "max_length": 96, "eval_steps": 16},
        (5e-6, 5e-5),
        (examples.PREFERENCES,),
        rows=(12, 32),
        point=-0.01,
        about="the better of two answers; DPO's loss, as how many of 26 pairs are told apart says too little",
    ),
    "translate": Task(
        "translate",
        SMOLLM2,
        _sample("interface-en-de"),
        "chrf",
        {
            "max_steps": 20,
            "batch_size": 4,
            "max_length": 96,
            "eval_steps": 10,
            "prompt": "Translate into German: {source}",
        },
        (1e-4, 5e-4),
        (examples.TEXTS,),
        rows=(12, 30),
        point=1.0,
        untrained=True,
        about="English to German, texts of an interface",
    ),
    "summarize": Task(
        "summarize",
        SMOLLM2,
        _sample("openings"),
        "rougeL",
        {"max_steps": 16, "batch_size": 2, "max_length": 224, "eval_steps": 16},
        (1e-4, 5e-4),
        (examples.TEXTS,),
        rows=(8, 30),
        untrained=True,
        about="composed: the first sentence of a paragraph from the rest of it",
    ),
    "chat": Task(
        "chat",
        SMOLLM2,
        _sample("instructions-en"),
        "loss",
        {"max_steps": 24, "batch_size": 2, "max_length": 160, "eval_steps": 12, "answered": 0},
        (1e-4, 5e-4),
        (examples.CONVERSATIONS,),
        rows=(12, 40),
        point=-0.01,
        untrained=True,
        about="English instructions; the loss of the answers, in nats a token",
    ),
    "speech": Task(
        "speech",
        WHISPER,
        _sample("speech-es"),
        "wer",
        {"max_steps": 12, "batch_size": 2, "eval_steps": 12, "language": "es", "max_seconds": 30},
        (1e-5, 5e-5),
        (examples.SPEECH,),
        rows=(4, 20),
        point=-0.01,
        untrained=True,
        about="Spanish telephone prompts",
    ),
}
