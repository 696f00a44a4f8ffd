"""One request for a recording to be written down. Does not know HTTP or any API's format."""

from __future__ import annotations

from collections.abc import Sequence

from adapthub.adapters.tasks import SPEECH
from adapthub.runtime.server.catalog import Target
from adapthub.runtime.server.passing import passed
from adapthub.runtime.server.serving import Serving
from adapthub.runtime.tenants.caller import Caller
from adapthub.runtime.transcriber import Heard, Spoken, Transcription


async def transcribe(
    serving: Serving, caller: Caller, target: Target, recording: bytes, language: str | None, *, id: str
) -> Transcription:
    """Decode, admit and write down one file's bytes; a tenth of a second counts as five tokens, its encoder's positions.

    Raises InvalidSettings for a base that does not write down speech or does not know `language`, InvalidInput for what
    does not decode or is too long, and what `passed` raises.
    """
    spoken = Spoken(recording, language, serving.limits.audio_seconds)
    answers, _ = await passed(
        serving, caller, target, SPEECH, serving.runtime.speech_batcher, [spoken], id=id, admitted=_positions
    )
    return answers[0]


def _positions(heard: Sequence[Heard]) -> int:
    return sum(one.tokens for one in heard)
