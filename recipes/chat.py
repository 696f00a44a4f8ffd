"""Chat: instructions, customer service, calls of functions; conversations in, an assistant that answers like them out.

Learns the assistant's turns alone, under a chat template that serving applies again. Does not train or generate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapthub.adapters.errors import InvalidData, InvalidSettings
from adapthub.recipes import answered as written
from adapthub.recipes.batches import check_length, completion_collator
from adapthub.recipes.completions import longest_target, preview_completion
from adapthub.recipes.conversations import (
    Conversation,
    choose_template,
    encode_conversations,
    named_template,
    prompt_of,
    turn_end,
)
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.recipes.data.groups import GROUP_COLUMN
from adapthub.recipes.data.messages import (
    ANSWERS,
    PROMPTS,
    Message,
    conversation_of,
    read_conversations,
    with_system,
)
from adapthub.recipes.metrics import Statistics
from adapthub.recipes.recipe import Collator, Defaults, Encoded, Preview
from adapthub.recipes.text_metrics import answer_statistics
from adapthub.runtime.chat_templates import BASE, TEMPLATES, token_id

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from adapthub.runtime import Runtime

_REASONS = {
    "learning_rate": "ten times full fine-tuning's, for bases 2,000 wide (LoRA Without Regret)",
    "batch_size": "LoRA learns less from large batches than full fine-tuning does: 32 or fewer (LoRA Without Regret)",
}
_ANSWERED = 32
_MOST_NEW_TOKENS = 256  # of an answer that is measured


@dataclass(frozen=True)
class Chat:
    """The recipe `chat`. Examples hold `messages`, the `target` that follows them, and `tools` where there are some."""

    name: str = "chat"
    task: str = "text-generation"
    description: str = "answers in conversations: instructions, customer service, calls of functions"
    formats: tuple[str, ...] = ("JSONL", "CSV", "Parquet")
    metrics: tuple[str, ...] = ("perplexity", "loss", "rougeL")

    @property
    def options(self) -> Mapping[str, str]:
        return {
            "messages_column": "the column of conversations (default: messages or conversations)",
            "prompt_column": f"the column of prompts (default: instruction, or the first of {', '.join(PROMPTS)})",
            "answer_column": f"the column of answers (default: output, or the first of {', '.join(ANSWERS)})",
            "system": "the system message of conversations that have none (default: none)",
            "template": f"the chat template: {BASE}, {', '.join(TEMPLATES)}, or a file"
            " (default: the base's, or chatml where it has none)",
            "turns": "which answers are learnt: all, or last where the template rewrites earlier ones, as Qwen3's does"
            " (default all)",
            "answered": f"examples whose last answer is generated and measured (default {_ANSWERED}), or {written.ALL}",
            "group_column": GROUP_COLUMN,
            "delimiter": "CSV: what separates cells (default: found in the header)",
            "encoding": "text encoding of the file (default utf-8)",
        }

    def defaults(self, method: str) -> Defaults:
        if method == "prefix":
            return Defaults(1e-2, None, epochs=3, batch_size=16, max_length=2048)
        return Defaults(5e-4, None, epochs=2, batch_size=16, max_length=2048, by_width=True, reasons=_REASONS)

    def read(
        self,
        source: str | Path | Any,
        *,
        messages_column: str | None = None,
        prompt_column: str | None = None,
        answer_column: str | None = None,
        system: str | None = None,
        template: str | None = None,
        turns: str = "all",
        answered: int | str = _ANSWERED,
        group_column: str | None = None,
        delimiter: str | None = None,
        encoding: str = "utf-8",
    ) -> Dataset:
        """See Recipe.read."""
        settings = written.setting(answered)
        if turns not in ("all", "last"):
            raise InvalidSettings(f"turns is all or last; {turns!r} is neither")
        settings |= {"turns": turns} if turns == "last" else {}
        settings |= {"system": system} if system else {}
        settings |= {"template": named_template(template)} if template else {}
        return read_conversations(
            source,
            messages_column=messages_column,
            prompt_column=prompt_column,
            answer_column=answer_column,
            group_column=group_column,
            encoding=encoding,
            delimiter=delimiter,
            settings=settings,
        )

    def labels_of(self, example: Example) -> frozenset[str]:
        return frozenset()

    def labels(self, train: Dataset) -> tuple[str, ...]:
        return ()

    def check(self, dataset: Dataset, labels: Sequence[str]) -> None:
        """Conversations of which nothing is learnt."""
        for example in dataset:
            if not any(map(_is_learnt, _turns(conversation_of(example), dataset.settings))):
                raise InvalidData(
                    f"{example.source}: no message of the assistant is to be learnt", hint="Remove the row."
                )

    def resolve(
        self, tokenizer: PreTrainedTokenizerBase, train: Dataset, *, max_length: int
    ) -> dict[str, Any]:
        """max_length, the template, the token that ends a turn, max_new_tokens of a measured answer, and the system message
        where one was given."""
        template = choose_template(tokenizer, train.settings.get("template"))
        longest = longest_target(tokenizer, train, lambda example: str(example.fields["target"]["content"]))
        return {
            **train.settings,
            "max_length": check_length(tokenizer, max_length),
            "template": template,
            "turn_end": turn_end(tokenizer, template, _conversation(train[0], train.settings)),
            "max_new_tokens": min(longest, _MOST_NEW_TOKENS),
        }

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset,
        labels: Sequence[str],
        settings: Mapping[str, Any],
    ) -> Encoded:
        rows, supervised, asked, truncated = [], 0, 0, 0
        conversations = [_conversation(example, settings) for example in dataset]
        for turns in encode_conversations(
            tokenizer, settings["template"], settings["turn_end"], conversations
        ):
            row, learnt, cut = turns.row(settings["max_length"])
            rows.append(row)
            supervised, asked, truncated = supervised + learnt, asked + turns.asked, truncated + cut
        return Encoded(rows, supervised, asked, truncated)

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        return completion_collator(tokenizer)

    def answers(
        self, runtime: Runtime, adapter: str | None, dataset: Dataset, settings: Mapping[str, Any]
    ) -> list[str]:
        """Empty where no answer is asked for (`answered`), and where a prompt leaves no room for one (answered.write)."""
        tokenizer = runtime.base.tokenizer
        assert tokenizer is not None
        prompts = {
            at: prompt_of(
                tokenizer, settings["template"], _conversation(dataset[at], settings, to_answer=True)
            )
            for at in written.places(dataset)
        }
        stops = [token_id(tokenizer, settings["turn_end"])]
        most = settings["max_new_tokens"]
        return written.write(runtime, adapter, prompts, len(dataset), most=most, stops=stops)

    def measure_texts(
        self, texts: Sequence[str], losses: Sequence[NDArray[Any]], dataset: Dataset
    ) -> Statistics:
        references = [example.fields["target"]["content"] for example in dataset]
        asked = [at for at in written.places(dataset) if references[at].strip()]
        return answer_statistics(texts, references, losses, asked)

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
        said = next(message["content"] for message in conversation_of(example) if message["role"] == "user")
        return preview_completion(tokenizer, example.source, said, encoded.rows[index])


def _conversation(example: Example, settings: Mapping[str, Any], *, to_answer: bool = False) -> Conversation:
    """All of an example, or what leads to its target."""
    messages = example.fields["messages"] if to_answer else conversation_of(example)
    messages = with_system(_turns(messages, settings), settings.get("system"))
    return Conversation(messages, example.fields.get("tools", ()), example.source)


def _turns(messages: Sequence[Message], settings: Mapping[str, Any]) -> Sequence[Message]:
    """Messages, of which the answers before the last are left unlearnt where `turns` says so."""
    if settings.get("turns") != "last":
        return messages
    unlearnt = [{**one, "train": False} if one["role"] == "assistant" else one for one in messages[:-1]]
    return [*unlearnt, messages[-1]]


def _is_learnt(message: Message) -> bool:
    return message["role"] == "assistant" and message.get("train") is not False
