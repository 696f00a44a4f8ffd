"""Speech recognition: recordings and their transcripts in, text out, by Whisper or a base with a CTC head; WER and CER by
jiwer.

Rows are made when they are asked for: no more than a batch is in memory as sound. Does not train or generate.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from adapthub.adapters.audio import read_sound
from adapthub.adapters.errors import InvalidData, InvalidInput, InvalidSettings
from adapthub.adapters.speech import IGNORED, POSITIONS_A_SECOND, Speech, Whisper, speech_by
from adapthub.recipes import answered as written
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.recipes.data.groups import GROUP_COLUMN
from adapthub.recipes.data.recordings import AUDIO_COLUMNS, TEXT_COLUMNS, Recording, read_recordings
from adapthub.recipes.metrics import Statistics
from adapthub.recipes.recipe import Collator, Defaults, Encoded, Preview, Row, Rows
from adapthub.recipes.speech_metrics import speech_statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from adapthub.adapters.base import ResolvedBase
    from adapthub.runtime import Runtime

_REASONS = {
    "learning_rate": "as in PEFT's example of Whisper, with its three epochs of 8; others were not tried",
}
_QUARTER = 0.25
_SHOWN = 10  # of what is not written
_AT_ONCE = 64  # files in memory while texts are made


@dataclass(frozen=True)
class SpeechRows(Sequence[Row]):
    """Rows of `samples` [frames], float32 at the base's rate, and what the model is trained on; decoded when asked for."""

    speech: Speech
    recordings: Sequence[Recording]
    targets: Sequence[Mapping[str, list[int]]]

    @property
    def lengths(self) -> list[int]:
        """Positions of the encoder: see `lengths_of`."""
        seconds = (self.speech.window or recording.seconds for recording in self.recordings)
        return [math.ceil(POSITIONS_A_SECOND * each) for each in seconds]

    def __len__(self) -> int:
        return len(self.recordings)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> Rows: ...
    def __getitem__(self, at: int | slice) -> Row | Rows:
        if isinstance(at, slice):
            return Rows(self, range(len(self))[at])
        recording = self.recordings[at]
        return {
            "samples": read_sound(recording.load(), self.speech.rate, recording.name).samples,
            **self.targets[at],
        }


@dataclass(frozen=True)
class SpeechRecognition:
    """The recipe `speech`. Examples hold `sound`, a Recording, and `target`, what is said in it."""

    name: str = "speech"
    task: str = "automatic-speech-recognition"
    description: str = "speech written down: recordings and their transcripts"
    formats: tuple[str, ...] = ("folder with metadata.csv", "CSV", "JSONL", "Parquet", "datasets with Audio")
    metrics: tuple[str, ...] = ("wer", "cer", "loss")

    @property
    def options(self) -> Mapping[str, str]:
        return {
            "language": "Whisper: what is spoken, such as es or spanish; must be given for multilingual bases",
            "audio_column": f"the column of recordings (default: the first of {', '.join(AUDIO_COLUMNS)})",
            "text_column": f"the column of transcripts (default: the first of {', '.join(TEXT_COLUMNS)})",
            "group_column": GROUP_COLUMN,
            "answered": f"recordings whose text is written and measured (default {written.DEFAULT}), or {written.ALL}",
            "max_seconds": "leave out recordings of more seconds (default: an error where the base reads less)",
            "encoding": "text encoding of the table (default utf-8)",
        }

    def defaults(self, method: str) -> Defaults:
        return Defaults(1e-3, 1e-3, epochs=3, batch_size=8, max_length=None, reasons=_REASONS)

    def read(
        self,
        source: str | Path | Any,
        *,
        language: str | None = None,
        audio_column: str | None = None,
        text_column: str | None = None,
        group_column: str | None = None,
        answered: int | str = written.DEFAULT,
        max_seconds: float | None = None,
        encoding: str = "utf-8",
    ) -> Dataset:
        """See Recipe.read. White space in transcripts becomes single spaces."""
        if max_seconds is not None and (not isinstance(max_seconds, (int, float)) or not max_seconds > 0):
            raise InvalidSettings(f"max_seconds is a number above 0; {max_seconds!r} is not")
        return read_recordings(
            source,
            audio_column=audio_column,
            text_column=text_column,
            group_column=group_column,
            encoding=encoding,
            max_seconds=max_seconds,
            settings={"language": language, **written.setting(answered)},
        )

    def labels_of(self, example: Example) -> frozenset[str]:
        return frozenset()

    def labels(self, train: Dataset) -> tuple[str, ...]:
        return ()

    def check(self, dataset: Dataset, labels: Sequence[str]) -> None:
        """Nothing: what a base cannot take is found when it is known."""

    def resolve(self, tokenizer: Any, train: Dataset, *, max_length: int) -> dict[str, Any]:
        """The language, by its code, and `answered`. Raises InvalidSettings where a multilingual base is not told any."""
        return {**train.settings, "language": speech_by(tokenizer).trained_in(train.settings["language"])}

    def unsaid(
        self, tokenizer: Any, base: ResolvedBase, dataset: Dataset, settings: Mapping[str, Any]
    ) -> str | None:
        """Rows whose transcript has tokens that the base's generation suppresses: serving keeps to the base there."""
        speech = speech_by(tokenizer)
        never = _suppressed(base.path) if isinstance(speech, Whisper) else frozenset[int]()
        if not never:
            return None
        needed = [
            never.intersection(_targets(speech, example, settings["language"])["labels"])
            for example in dataset
        ]
        counts = Counter(token for tokens in needed for token in tokens)
        if not counts:
            return None
        shown = dict.fromkeys(
            tokenizer.tokenizer.decode([token]).strip() for token, _ in counts.most_common()
        )
        marks = " ".join([*shown][:_SHOWN]) + (" ..." if len(shown) > _SHOWN else "")
        return (
            f"{sum(map(bool, needed))} of {len(dataset)} transcripts have what {base.ref}'s generation suppresses and no"
            f" adapter over it writes (suppress_tokens): {marks}"
        )

    def encode(
        self, tokenizer: Any, dataset: Dataset, labels: Sequence[str], settings: Mapping[str, Any]
    ) -> Encoded:
        """Raises InvalidData for a recording that is longer than the base's window, or too short for its transcript."""
        speech = speech_by(tokenizer)
        targets = [_targets(speech, example, settings["language"]) for example in dataset]
        supervised = sum(label != IGNORED for row in targets for label in row["labels"])
        left_out = sum(
            sum(map(example.fields["target"].count, speech.unwritten(example.fields["target"])))
            for example in dataset
        )
        rows = SpeechRows(speech, [example.fields["sound"] for example in dataset], targets)
        return Encoded(rows, supervised, supervised + left_out, truncated=0)

    def collator(self, tokenizer: Any) -> Collator:
        import torch
        from torch.nn.utils.rnn import pad_sequence

        speech = speech_by(tokenizer)

        def collate(rows: list[Row]) -> dict[str, Tensor]:
            names = [name for name in rows[0] if name != "samples"]
            padded = {
                name: pad_sequence(
                    [torch.tensor(row[name]) for row in rows],
                    batch_first=True,
                    padding_value=speech.padding(name),
                )
                for name in names
            }
            return {**speech.inputs([row["samples"] for row in rows]), **padded}

        return collate

    def answers(
        self, runtime: Runtime, adapter: str | None, dataset: Dataset, settings: Mapping[str, Any]
    ) -> list[str]:
        """Empty where no text is asked for (`answered`)."""
        texts = [""] * len(dataset)
        asked = written.places(dataset)
        for start in range(0, len(asked), _AT_ONCE):
            some = asked[start : start + _AT_ONCE]
            sounds = [dataset[at].fields["sound"].load() for at in some]
            found = runtime.transcribe(sounds, adapter, language=settings["language"])
            for at, transcription in zip(some, found, strict=True):
                texts[at] = transcription.text
        return texts

    def measure_texts(
        self, texts: Sequence[str], losses: Sequence[NDArray[Any]], dataset: Dataset
    ) -> Statistics:
        references = [example.fields["target"] for example in dataset]
        return speech_statistics(texts, references, losses, written.places(dataset))

    def preview(
        self, tokenizer: Any, dataset: Dataset, encoded: Encoded, labels: Sequence[str], index: int
    ) -> Preview:
        """A row for each token of the prompt and the transcript, and whether it is learnt."""
        example, row = dataset[index], encoded.rows[index]
        recording: Recording = example.fields["sound"]
        asked = [label for label in row["labels"] if label != IGNORED]
        prompt = (
            row["decoder_input_ids"][: len(row["labels"]) - len(asked) + 1]
            if "decoder_input_ids" in row
            else []
        )
        text = f"{recording.name} ({recording.seconds:.1f} s): {example.fields['target']}"
        loss = [*("" for _ in prompt), *("learnt" for _ in asked)]
        return Preview.of_tokens(tokenizer.tokenizer, [*prompt, *asked], example.source, text, loss=loss)


def _suppressed(base: Path) -> frozenset[int]:
    """What a base's generation configuration suppresses: with OpenAI's Whispers brackets, colons and other marks, as no
    speech. transformers' generate, by which adapters are served, keeps to it."""
    from transformers import GenerationConfig

    try:
        told: Any = GenerationConfig.from_pretrained(base)
    except OSError:  # it has none
        return frozenset()
    return frozenset(getattr(told, "suppress_tokens", None) or ())


def _targets(speech: Speech, example: Example, language: str | None) -> dict[str, list[int]]:
    """What the model is trained on beside this recording. Raises InvalidData."""
    recording: Recording = example.fields["sound"]
    if speech.window is not None and recording.seconds > speech.window:
        raise InvalidData(
            f"{example.source}: {recording.name} has {recording.seconds:.1f} s; this base reads {speech.window:g}",
            hint=f"Cut it and its transcript, or set max_seconds={speech.window:g} to leave such out.",
        )
    try:
        targets = speech.targets(example.fields["target"], language)
    except InvalidInput as error:
        raise InvalidData(f"{example.source}: {error.message}", hint=error.hint) from error
    needed = speech.positions(targets["labels"])
    # A position sees 25 ms and comes every 20: the last quarter of one is none.
    if needed > math.floor(recording.seconds * POSITIONS_A_SECOND - _QUARTER):
        raise InvalidData(
            f"{example.source}: {recording.name} has {recording.seconds:.2f} s, too few for its transcript of"
            f" {len(targets['labels'])} characters",
            hint="Look whether they belong together.",
        )
    return targets
