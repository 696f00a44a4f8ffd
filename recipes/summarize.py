"""Summaries, headlines and titles, learnt from pairs of a text and what is short for it: ROUGE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapthub.recipes.answered import places
from adapthub.recipes.data.dataset import Dataset
from adapthub.recipes.metrics import Statistics
from adapthub.recipes.text_metrics import summary_statistics
from adapthub.recipes.text_to_text import TextToText

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Summarize(TextToText):
    """The recipe `summarize`."""

    name: str = "summarize"
    description: str = "a text made short: a summary, a headline, a title, learnt from pairs"
    metrics: tuple[str, ...] = ("rougeL", "rouge1", "rouge2", "loss")
    sources: tuple[str, ...] = ("document", "article", "text", "dialogue", "source", "input")
    targets: tuple[str, ...] = ("summary", "highlights", "headline", "title", "target", "output")
    prompt: str = "Summarize: {source}"
    max_length: int = 1024

    def measure_texts(
        self, texts: Sequence[str], losses: Sequence[NDArray[Any]], dataset: Dataset
    ) -> Statistics:
        references = [example.fields["target"] for example in dataset]
        return summary_statistics(texts, references, losses, places(dataset))
