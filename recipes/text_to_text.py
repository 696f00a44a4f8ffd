"""What recipes from a text to a text share: pairs in CSV, JSONL or Parquet, a prompt around the source, the target learnt.

The base is told what to do in words, by its chat template where it has one. Does not train, generate, or choose metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapthub.adapters.errors import InvalidSettings
from adapthub.recipes import answered as written
from adapthub.recipes.batches import check_length, completion_collator
from adapthub.recipes.completions import (
    answer_end,
    encode_completions,
    encode_sequences,
    longest_target,
    preview_completion,
)
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.recipes.data.groups import GROUP_COLUMN
from adapthub.recipes.data.pairs import read_texts
from adapthub.recipes.recipe import Collator, Defaults, Encoded, Preview
from adapthub.runtime.chat_templates import token_id
from adapthub.runtime.instructions import SOURCE, prompt_ids, read_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from adapthub.runtime import Runtime

_REASONS = {
    "learning_rate": "ten times full fine-tuning's, for bases 2,000 wide (LoRA Without Regret)",
    "batch_size": "LoRA learns less from large batches than full fine-tuning does: 32 or fewer (LoRA Without Regret)",
}


@dataclass(frozen=True)
class TextToText:
    """All of a recipe but its metrics. Examples hold `source` and `target`, both str.

    `sources` and `targets` are the usual names of their columns; `prompt` is what the base is told by default.
    """

    name: str
    description: str
    metrics: tuple[str, ...]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    prompt: str
    max_length: int
    task: str = "text-generation"
    formats: tuple[str, ...] = ("CSV", "TSV", "JSONL", "Parquet")

    @property
    def options(self) -> Mapping[str, str]:
        return {
            "source_column": f"the column of texts (default: the first of {', '.join(self.sources)})",
            "target_column": f"the column of what shall come of them (default: the first of {', '.join(self.targets)})",
            "prompt": f"what the base is told, with {SOURCE} in it (default: {self.prompt})",
            "answered": f"examples whose text is written and measured (default {written.DEFAULT}), or {written.ALL}",
            "group_column": GROUP_COLUMN,
            "delimiter": "CSV: what separates cells (default: found in the header)",
            "encoding": "text encoding of the file (default utf-8)",
        }

    def defaults(self, method: str) -> Defaults:
        if method == "prefix":
            return Defaults(1e-2, None, epochs=5, batch_size=16, max_length=self.max_length)
        length = self.max_length
        return Defaults(
            5e-4, None, epochs=3, batch_size=16, max_length=length, by_width=True, reasons=_REASONS
        )

    def read(
        self,
        source: str | Path | Any,
        *,
        source_column: str | None = None,
        target_column: str | None = None,
        prompt: str | None = None,
        answered: int | str = written.DEFAULT,
        group_column: str | None = None,
        delimiter: str | None = None,
        encoding: str = "utf-8",
    ) -> Dataset:
        """See Recipe.read."""
        prompt = self.prompt if prompt is None else prompt
        if SOURCE not in prompt:
            raise InvalidSettings(f"prompt={prompt!r} has no {SOURCE}", hint="Say where the text goes.")
        return read_texts(
            source,
            {"source": (source_column, self.sources), "target": (target_column, self.targets)},
            group=group_column,
            encoding=encoding,
            delimiter=delimiter,
            settings={"prompt": prompt, **written.setting(answered)},
        )

    def labels_of(self, example: Example) -> frozenset[str]:
        return frozenset()

    def labels(self, train: Dataset) -> tuple[str, ...]:
        return ()

    def check(self, dataset: Dataset, labels: Sequence[str]) -> None:
        """Nothing: there are no labels that could be unknown."""

    def resolve(
        self, tokenizer: PreTrainedTokenizerBase, train: Dataset, *, max_length: int
    ) -> dict[str, Any]:
        """max_length, the prompt, max_new_tokens: what an answer may have, and turn_end: what ends it, where that is not the
        tokenizer's end."""
        return {
            **train.settings,
            **answer_end(tokenizer),
            "max_length": check_length(tokenizer, max_length),
            "max_new_tokens": longest_target(tokenizer, train, lambda example: str(example.fields["target"])),
        }

    def decoding_from(self, start: int) -> dict[str, Any]:
        """See EncodingAndDecoding."""
        return {"decoder_start": start}

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset,
        labels: Sequence[str],
        settings: Mapping[str, Any],
    ) -> Encoded:
        prompts, targets = _prompts(dataset, settings), [example.fields["target"] for example in dataset]
        length, start = settings["max_length"], settings.get("decoder_start")
        if start is not None:
            return encode_sequences(tokenizer, prompts, targets, max_length=length, start=start)
        return encode_completions(
            tokenizer, prompts, targets, max_length=length, end=settings.get("turn_end")
        )

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        return completion_collator(tokenizer)

    def answers(
        self, runtime: Runtime, adapter: str | None, dataset: Dataset, settings: Mapping[str, Any]
    ) -> list[str]:
        """Empty where no text is asked for (`answered`), and where a prompt leaves no room for one (answered.write)."""
        tokenizer = runtime.base.tokenizer
        assert tokenizer is not None
        ids = read_ids if "decoder_start" in settings else prompt_ids
        asked = written.places(dataset)
        said = _prompts((dataset[at] for at in asked), settings)
        prompts = {at: ids(tokenizer, prompt) for at, prompt in zip(asked, said, strict=True)}
        end = settings.get("turn_end")
        stops = [] if end is None else [token_id(tokenizer, end)]
        most = settings["max_new_tokens"]
        return written.write(runtime, adapter, prompts, len(dataset), most=most, stops=stops)

    def preview(
        self,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset,
        encoded: Encoded,
        labels: Sequence[str],
        index: int,
    ) -> Preview:
        """A row for each sub-token, and whether it is learnt."""
        example = dataset[index]
        return preview_completion(tokenizer, example.source, example.fields["source"], encoded.rows[index])


def _prompts(examples: Iterable[Example], settings: Mapping[str, Any]) -> list[str]:
    return [settings["prompt"].replace(SOURCE, example.fields["source"]) for example in examples]
