"""Translation, learnt from pairs: chrF and BLEU by sacreBLEU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapthub.recipes.answered import places
from adapthub.recipes.data.dataset import Dataset
from adapthub.recipes.metrics import Statistics
from adapthub.recipes.text_metrics import translation_statistics
from adapthub.recipes.text_to_text import TextToText

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Translate(TextToText):
    """The recipe `translate`."""

    name: str = "translate"
    description: str = "a text into another language, learnt from pairs"
    metrics: tuple[str, ...] = ("chrf", "bleu", "loss")
    sources: tuple[str, ...] = ("source", "src", "input", "text")
    targets: tuple[str, ...] = ("target", "tgt", "translation", "output")
    prompt: str = "Translate: {source}"
    max_length: int = 512

    def measure_texts(
        self, texts: Sequence[str], losses: Sequence[NDArray[Any]], dataset: Dataset
    ) -> Statistics:
        references = [example.fields["target"] for example in dataset]
        return translation_statistics(texts, references, losses, places(dataset))
