"""Short parallel texts as train/validation/test.csv with the columns source (English) and target.

From compiled gettext catalogues and from telephone prompts that are recorded in several languages. An English
text that occurs with several translations is kept with the first. Does not translate plural forms.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from adapthub.adapters.errors import AdmissionError
from adapthub.adapters.samples.members import keep_licences, split_by, write_csv
from adapthub.adapters.samples.speech import keep_copyrights, transcripts

_MO_MAGIC = 0x950412DE


def django(unpacked: Path, target: Path) -> None:
    """Django's interface, from every catalogue of the one language that was unpacked."""
    package = unpacked / "django"
    catalogues = sorted(package.rglob("*.mo"))
    _write(target, (pair for path in catalogues for pair in gettext_pairs(path.read_bytes())))
    keep_licences(package, target)


def prompts(unpacked: Path, target: Path, language: str) -> None:
    """Asterisk's prompts, aligned by the name of the recording."""
    english, other = (transcripts(unpacked / f"asterisk-core-sounds-{code}") for code in ("en", language))
    _write(target, ((english[name], other[name]) for name in sorted(english.keys() & other.keys())))
    keep_copyrights(unpacked, target)


def gettext_pairs(data: bytes) -> Iterator[tuple[str, str]]:
    """(message, translation) of a little-endian .mo file, without its header and plural forms.

    The format is GNU gettext's: magic, revision, count, and where the two tables of (length, offset) lie.
    """
    try:
        magic, _, count, originals, translations = struct.unpack_from("<5I", data)
        if magic != _MO_MAGIC:
            raise AdmissionError("not a little-endian gettext catalogue")
        for entry in range(count):
            message, translation = (_string(data, table + 8 * entry) for table in (originals, translations))
            if message and "\0" not in message:
                yield message.rpartition("\x04")[2], translation
    except struct.error as error:
        raise AdmissionError(f"a truncated gettext catalogue: {error}") from error


def _string(data: bytes, entry: int) -> str:
    length, offset = struct.unpack_from("<2I", data, entry)
    return data[offset : offset + length].decode("utf-8")


def _write(target: Path, pairs: Iterator[tuple[str, str]]) -> None:
    tidy = ((" ".join(source.split()), " ".join(text.split())) for source, text in pairs)
    for split, kept in split_by((pair for pair in tidy if all(pair)), lambda pair: pair[0]).items():
        write_csv(target / f"{split}.csv", kept, ("source", "target"))
