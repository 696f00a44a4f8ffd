"""Preference tuning of a causal base: pairs of a better and a worse answer (DPO), or answers judged good or bad (KTO).

The base with the adapter switched off is the reference, or the adapter that a run goes on from: no second model. Does not
train (preference_trainer) or know the formulas (objectives).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapthub.adapters.errors import InvalidData, InvalidSettings
from adapthub.recipes.answer_rows import answer_collator, asked, encode_answers, sequences
from adapthub.recipes.batches import check_length
from adapthub.recipes.completions import longest_target, preview_completion
from adapthub.recipes.conversations import Conversation, choose_template, named_template, turn_end
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.recipes.data.groups import GROUP_COLUMN
from adapthub.recipes.data.preferences import COLUMNS, is_pair, judged, read_preferences
from adapthub.recipes.objectives import (
    JUDGED,
    OBJECTIVES,
    PAIRS,
    check_numbers,
    class_weights,
    find_objective,
    judged_losses,
    judged_statistics,
    pair_losses,
    pair_statistics,
)
from adapthub.recipes.recipe import Collator, Defaults, Encoded, Preview
from adapthub.runtime.chat_templates import BASE, TEMPLATES
from adapthub.runtime.instructions import SOURCE

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments

    from adapthub.recipes.metrics import Statistics

_ROLES = {role: f"{role}_column" for role in COLUMNS}


@dataclass(frozen=True)
class Prefer:
    """The recipe `prefer`. Examples are as data.preferences reads them."""

    name: str = "prefer"
    task: str = "text-generation"
    description: str = "answers that people prefer, learnt from pairs or from judged answers"
    formats: tuple[str, ...] = ("JSONL", "CSV", "TSV", "Parquet")
    metrics: tuple[str, ...] = ("reward_accuracy", "reward_margin", "loss")
    group: str = "prompt"

    @property
    def options(self) -> Mapping[str, str]:
        objectives = "; ".join(f"{one.name}: {one.summary}" for one in OBJECTIVES.values())
        betas = ", ".join(f"{one.beta.value:g} for {one.name}" for one in OBJECTIVES.values())
        return {
            "objective": f"{objectives} (default: {PAIRS} for pairs, {JUDGED} for judged answers)",
            "beta": f"how strongly the adapter is held to the base (default: {betas})",
            "label_smoothing": "dpo: the share of pairs that may be the wrong way round (default 0)",
            "template": f"the chat template: {BASE}, {', '.join(TEMPLATES)}, or a file (default: the base's, if it has one)",
            **{
                option: f"the column (default: the first of {', '.join(COLUMNS[role])})"
                for role, option in _ROLES.items()
            },
            "group_column": f"{GROUP_COLUMN} (default: prompts)",
            "delimiter": "CSV: what separates cells (default: found in the header)",
            "encoding": "text encoding of the file (default utf-8)",
        }

    def defaults(self, method: str) -> Defaults:
        if method == "prefix":
            return Defaults(1e-3, None, epochs=1, batch_size=8, max_length=1024, warmup=0.1)
        return Defaults(5e-5, None, epochs=1, batch_size=8, max_length=1024, warmup=0.1, by_width=True)

    def reasons(self, settings: Mapping[str, Any]) -> Mapping[str, str]:
        """Why settings have their defaults."""
        objective = OBJECTIVES[settings["objective"]]
        kind = "pairs" if objective.pairs else "judged answers"
        return {
            "objective": f"the data are {kind}",
            "beta": objective.beta.reason,
            "label_smoothing": "every pair is taken to be the right way round",
            "good_weight": "good and bad answers weigh the same in all",
            "bad_weight": "good and bad answers weigh the same in all",
            "learning_rate": "a tenth of what supervised tuning takes, for bases 2,000 wide: it shall stay near its start",
        }

    def read(
        self,
        source: str | Path | Any,
        *,
        objective: str | None = None,
        beta: float | None = None,
        label_smoothing: float | None = None,
        template: str | None = None,
        prompt_column: str | None = None,
        chosen_column: str | None = None,
        rejected_column: str | None = None,
        answer_column: str | None = None,
        label_column: str | None = None,
        group_column: str | None = None,
        delimiter: str | None = None,
        encoding: str = "utf-8",
    ) -> Dataset:
        """See Recipe.read. For an objective of single answers a pair becomes two."""
        given = (prompt_column, chosen_column, rejected_column, answer_column, label_column)
        dataset = read_preferences(
            source,
            dict(zip(COLUMNS, given, strict=True)),
            group=group_column,
            encoding=encoding,
            delimiter=delimiter,
        )
        chosen = find_objective(objective or (PAIRS if all(map(is_pair, dataset)) else JUDGED))
        smoothing = 0.0 if label_smoothing is None else label_smoothing
        settings = {
            "objective": chosen.name,
            "beta": chosen.beta.value if beta is None else beta,
            **({"label_smoothing": smoothing} if chosen.name == "dpo" or smoothing else {}),
            **({"template": named_template(template)} if template else {}),
        }
        check_numbers(chosen.name, settings["beta"], smoothing)
        if not chosen.pairs:
            return replace(judged(dataset), settings=settings)
        for example in dataset:
            if not is_pair(example):
                raise InvalidData(
                    f"{example.source}: an answer without another; {chosen.name} learns from pairs",
                    hint=f"Set objective={JUDGED}.",
                )
        return replace(dataset, settings=settings)

    def labels_of(self, example: Example) -> frozenset[str]:
        return frozenset() if is_pair(example) else frozenset(("good" if example.fields["good"] else "bad",))

    def labels(self, train: Dataset) -> tuple[str, ...]:
        """(): an adapter without a head. Raises InvalidData where all answers are judged alike."""
        if not is_pair(train[0]) and len(kinds := {example.fields["good"] for example in train}) == 1:
            raise InvalidData(
                f"{train.source}: every answer is {'good' if kinds.pop() else 'bad'}",
                hint="Add answers of the other kind; only a difference can be learnt.",
            )
        return ()

    def check(self, dataset: Dataset, labels: Sequence[str]) -> None:
        """Nothing: what is wrong with a row is said when it is read."""

    def check_batch(self, batch_size: int, train: Dataset) -> None:
        """Raises InvalidSettings for judged answers one at a time: each is held against another prompt's."""
        if batch_size == 1 and not OBJECTIVES[train.settings["objective"]].pairs:
            raise InvalidSettings(
                f"{train.settings['objective']} compares the answers of a batch, and batch_size is 1",
                hint="Set batch_size to at least 2.",
            )

    def resolve(
        self, tokenizer: PreTrainedTokenizerBase, train: Dataset, *, max_length: int
    ) -> dict[str, Any]:
        """max_length, the objective and its settings, and how the adapter shall be asked: by a chat template, as `chat`
        records it, or as instructions are."""
        weights = {} if is_pair(train[0]) else class_weights([example.fields["good"] for example in train])
        return {
            **train.settings,
            **weights,
            **_asked(tokenizer, train),
            "max_length": check_length(tokenizer, max_length),
        }

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset,
        labels: Sequence[str],
        settings: Mapping[str, Any],
    ) -> Encoded:
        """Only answers are asked for. What is longer than max_length tokens is cut at the end, and counted."""
        return encode_answers(tokenizer, dataset, settings)

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        """Batches of both sequences of each row: all first ones, then all others."""
        return answer_collator(tokenizer)

    def training(
        self, tokenizer: PreTrainedTokenizerBase, settings: Mapping[str, Any], *, goes_on: bool = False
    ) -> tuple[Callable[..., Trainer], Callable[..., TrainingArguments]]:
        """TRL's trainer of the objective, and its arguments."""
        from adapthub.recipes.preference_trainer import judged_training, pair_training

        kind = pair_training if OBJECTIVES[settings["objective"]].pairs else judged_training
        return kind(tokenizer, settings, goes_on=goes_on)

    def measure(
        self,
        outputs: Sequence[NDArray[Any]],
        dataset: Dataset,
        encoded: Encoded,
        labels: Sequence[str],
    ) -> Statistics:
        """`outputs`: see PreferringRecipe. Without a loss where the data are of another kind than was trained on."""
        likelihoods = np.asarray(outputs, dtype=np.float64).reshape(-1, 2, 2)
        gains = likelihoods[:, 0] - likelihoods[:, 1]
        settings = encoded.settings
        pairs, fits = is_pair(dataset[0]), OBJECTIVES[settings["objective"]].pairs == is_pair(dataset[0])
        if pairs:
            lengths = np.array([list(map(asked, sequences(row))) for row in encoded.rows], dtype=np.float64)
            losses = pair_losses(gains, lengths, {"label_smoothing": 0.0, **settings}) if fits else None
            return pair_statistics(gains, losses, settings["beta"])
        good = np.array([example.fields["good"] for example in dataset])
        losses = judged_losses(gains[:, 0], gains[:, 1], good, settings) if fits else None
        return judged_statistics(gains[:, 0], gains[:, 1], losses, good, settings["beta"])

    def preview(
        self,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset,
        encoded: Encoded,
        labels: Sequence[str],
        index: int,
    ) -> Preview:
        """A row for each sub-token of the chosen answer, or the only one, and whether it counts."""
        example = dataset[index]
        text = str(example.fields["prompt"][-1]["content"])
        return preview_completion(tokenizer, example.source, text, encoded.rows[index])


def _asked(tokenizer: PreTrainedTokenizerBase, train: Dataset) -> dict[str, Any]:
    wanted = train.settings.get("template")
    if wanted is None and tokenizer.chat_template is None:
        longest = longest_target(
            tokenizer, train, lambda example: str(example.fields["chosen" if is_pair(example) else "answer"])
        )
        return {"prompt": SOURCE, "max_new_tokens": longest}
    template = choose_template(tokenizer, wanted)
    talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    return {
        "template": template,
        "turn_end": turn_end(tokenizer, template, Conversation(talk, (), train.source)),
    }
