"""Pictures as what a caller asks of: files, bytes, or Pillow's own, to what the base reads.

A str is never a picture here: of a server's client it would name a file of the server. Does not run the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapthub.adapters.errors import InvalidInput, InvalidSettings
from adapthub.adapters.picture_files import decode, encode, prepare

if TYPE_CHECKING:
    from adapthub.adapters.base import Base

TOKENS = 256
"""What a picture counts as where tokens bound a pass or are counted as used."""


@dataclass(frozen=True)
class Picture:
    """A picture to classify: its file, its bytes, or an image of Pillow."""

    source: Any = field(repr=False)

    @classmethod
    def of(cls, value: object) -> object:
        """A Picture of what is one; anything else as it is."""
        is_pillow = hasattr(value, "getexif") and hasattr(value, "save")
        return cls(value) if isinstance(value, (Path, bytes, bytearray)) or is_pillow else value

    def not_here(self, place: int) -> InvalidInput:
        """What to say where a text is wanted."""
        if isinstance(self.source, (bytes, bytearray)):
            return InvalidInput(f"text {place} is bytes, not str", hint="Decode it: text.decode('utf-8').")
        return InvalidInput(f"text {place} is a picture, not str", hint="This adapter reads text.")


def read_picture(picture: Picture, base: Base, place: int) -> tuple[str, dict[str, Any]]:
    """The picture's name and what the base reads of it.

    Raises InvalidInput, naming the picture, for one that is not there or does not decode; InvalidSettings for a base that
    reads no pictures.
    """
    if base.processor is None:
        raise InvalidSettings(f"{base.ref} has no image processor, so it reads no pictures")
    name = str(picture.source) if isinstance(picture.source, Path) else f"picture {place}"
    return name, {"pixel_values": prepare(decode(_bytes(picture.source, name), name), base.processor)}


def _bytes(source: Any, name: str) -> bytes:
    if isinstance(source, (bytes, bytearray)):
        return bytes(source)
    if isinstance(source, Path):
        try:
            return source.read_bytes()
        except OSError as error:
            raise InvalidInput(f"{name}: {error.strerror or error}") from error
    return encode(source, name)
