"""How transcriptions look: the text of each recording, and its name where there are several; JSON. Transcribes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from adapthub.cli.output import show_json
from adapthub.cli.text import one_line

if TYPE_CHECKING:
    from adapthub.runtime import Transcription


def show_transcriptions(found: Sequence[Transcription], files: Sequence[str], *, as_json: bool) -> None:
    """Print what is said in each file, in order."""
    if as_json:
        show_json(
            [
                {
                    "file": file,
                    "task": "automatic-speech-recognition",
                    "adapter": one.adapter,
                    "digests": list(one.digests),
                    "seconds": round(one.seconds, 3),
                    "text": one.text,
                }
                for file, one in zip(files, found, strict=True)
            ]
        )
        return
    for file, one in zip(files, found, strict=True):
        name = f"{one_line(file)}: " if len(files) > 1 else ""
        click.echo(f"{name}{one_line(one.text)}")
