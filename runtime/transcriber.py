"""Speech written down: recordings under many adapters by name, a pass for each selection of adapters.

An encoder-decoder's passes see no rows of tokens that could be told apart, so recordings are grouped by what they run on;
all of one group run together. Does not read files (adapters.audio does), and knows no model (adapters.speech does).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.audio import Audio, read_sound
from adapthub.adapters.errors import InvalidExpression, InvalidInput
from adapthub.adapters.memory import memory_errors
from adapthub.adapters.selections import Selection
from adapthub.adapters.speech import POSITIONS_A_SECOND, Speech, speech_of
from adapthub.runtime.names import Adapter, Names, one_each

if TYPE_CHECKING:
    from adapthub.adapters.audio import Samples

# Recordings of one pass. Bounds memory; more would hardly be faster.
_PASS_ROWS = 8


@dataclass(frozen=True)
class Spoken:
    """What somebody wants written down. `language`: None for what the adapter was trained in, else what the base hears.

    `longest`: seconds that it may have, beside what the base reads at once; None for any.
    """

    audio: Audio
    language: str | None = None
    longest: float | None = None


@dataclass(frozen=True)
class Heard:
    """One recording, decoded, and its place among the others; `samples` [frames] at the base's rate."""

    place: int
    samples: Samples
    seconds: float
    name: str | None
    selection: Selection
    language: str | None
    part: int = 0

    @property
    def tokens(self) -> int:
        """Positions of the encoder that its sound takes, 20 ms each."""
        return max(1, round(POSITIONS_A_SECOND * self.seconds))


@dataclass(frozen=True)
class Transcription:
    """What was said in a recording of `seconds`. `adapter` is as the caller named it, `digests` what it meant; both empty
    for the base alone."""

    text: str
    seconds: float
    adapter: str | None
    digests: tuple[str, ...]


class Transcriber:
    """Writes down over one adapted base, under the adapters that `names` knows. Thread-safe.

    Raises InvalidSettings at the first use where the base does not write down speech.
    """

    def __init__(self, adapted: AdaptedBase, names: Names) -> None:
        self._adapted = adapted
        self._names = names

    @cached_property
    def speech(self) -> Speech:
        """How the base is asked. Raises InvalidSettings."""
        return speech_of(self._adapted.base)

    def transcribe(
        self, recordings: Sequence[Audio], adapters: Adapter | Sequence[Adapter], language: str | None
    ) -> list[Transcription]:
        """One a recording, in order; the adapters that the names meant at the beginning stay until the end."""
        _check(recordings)
        names = one_each(adapters, len(recordings), "recordings")
        language = self.speech.language(language)
        with self._names.taken(dict.fromkeys(names)) as selections:
            digests = sorted({digest for selection in selections.values() for _, digest in selection})
            with self._names.loaded(digests):
                read = {name: self.reader(name, selection) for name, selection in selections.items()}
                heard = [
                    one
                    for place, (audio, name) in enumerate(zip(recordings, names, strict=True))
                    for one in read[name](Spoken(audio, language), place)
                ]
                return self.answers(heard)

    def reader(self, name: str | None, selection: Selection) -> Callable[[Spoken, int], list[Heard]]:
        """How recordings are read for the adapters of an expression, which are loaded."""
        speech = self.speech
        self._adapted.selections.task_of(selection)
        trained = {self._language(digest) for _, digest in selection} - {None}

        def read(spoken: Spoken, place: int) -> list[Heard]:
            where = str(spoken.audio) if isinstance(spoken.audio, (str, Path)) else f"recording {place}"
            bounds = [bound for bound in (speech.window, spoken.longest) if bound is not None]
            longest = min(bounds, default=None)
            sound = read_sound(spoken.audio, speech.rate, where, longest=longest)
            if sound.cut:
                raise InvalidInput(f"{where} has more than {longest:g} s", hint="Cut it into shorter ones.")
            if spoken.language is None and len(trained) > 1:
                raise InvalidExpression(
                    f"the adapters of {name!r} were trained in unlike languages", hint="Say which is spoken."
                )
            language = speech.language(spoken.language) or next(iter(trained), None)
            return [Heard(place, sound.samples, sound.seconds, name, selection, language)]

        return read

    def answers(self, heard: Sequence[Heard]) -> list[Transcription]:
        """In order, of adapters that are loaded; recordings of one selection and language run together."""
        order = sorted(
            range(len(heard)),
            key=lambda at: (heard[at].selection, heard[at].language or "", heard[at].seconds),
        )
        texts: dict[int, str] = {}
        with memory_errors("transcribing", "Send fewer or shorter recordings, or quantise the base."):
            for group in _groups(order, heard):
                first = heard[group[0]]
                with self._adapted.applying_to_all(first.selection), torch.inference_mode():
                    made = self.speech.transcribe(
                        self._adapted.base.model, [heard[at].samples for at in group], first.language
                    )
                texts |= dict(zip(group, made, strict=True))
        return [
            Transcription(texts[at], one.seconds, one.name, tuple(digest for _, digest in one.selection))
            for at, one in enumerate(heard)
        ]

    def _language(self, digest: str) -> str | None:
        """What an adapter's manifest says that it was trained in."""
        manifest = self._names.artifact(digest).manifest
        language = manifest.hyperparameters.get("language") if manifest is not None else None
        return language if isinstance(language, str) else None


def _check(recordings: object) -> None:
    """Raises InvalidInput for what is no list. One recording alone may be a sequence too."""
    if isinstance(recordings, (str, bytes, Path, tuple)) or not hasattr(recordings, "__len__"):
        raise InvalidInput("a recording stands where a list of them is wanted", hint="Write [recording].")


def _groups(order: Sequence[int], heard: Sequence[Heard]) -> Iterator[list[int]]:
    group: list[int] = []
    for at in order:
        same = group and _key(heard[group[0]]) == _key(heard[at])
        if group and (not same or len(group) == _PASS_ROWS):
            yield group
            group = []
        group.append(at)
    if group:
        yield group


def _key(heard: Heard) -> tuple[Selection, str | None]:
    return heard.selection, heard.language
