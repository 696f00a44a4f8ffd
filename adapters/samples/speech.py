"""Asterisk's telephone prompts: 8 kHz mono recordings of one speaker, with their transcripts.

Written as `datasets` reads audio folders: train/, validation/ and test/, each with its .wav files and a
metadata.csv of file_name and transcription. Does not resample.
"""

from __future__ import annotations

import gzip
from pathlib import Path

from adapthub.adapters.samples.members import SPLITS, one, split_by, write_csv


def asterisk(unpacked: Path, target: Path, language: str) -> None:
    """Every recording that has a transcript; of several with one transcript the first by name."""
    said = transcripts(unpacked / f"asterisk-core-sounds-{language}")
    voice = one(unpacked / f"asterisk-core-sounds-{language}-wav", "usr/share/asterisk/sounds/*")
    recorded = {str(path.relative_to(voice).with_suffix("")): path for path in sorted(voice.rglob("*.wav"))}
    splits = split_by(sorted(said.keys() & recorded.keys()), said.__getitem__)
    for split in SPLITS:
        (target / split).mkdir()
        rows = [(f"{name.replace('/', '-')}.wav", said[name], recorded[name]) for name in splits[split]]
        for file, _, path in rows:
            path.rename(target / split / file)
        write_csv(target / split / "metadata.csv", [row[:2] for row in rows], ("file_name", "transcription"))
    keep_copyrights(unpacked, target)


def keep_copyrights(unpacked: Path, target: Path) -> None:
    """Move each Debian package's copyright file beside the data, as LICENSE-<package>."""
    for path in sorted(unpacked.glob("*/usr/share/doc/*/copyright")):
        path.rename(target / f"LICENSE-{path.parent.name}")


def transcripts(package: Path) -> dict[str, str]:
    """What is said by the name of the recording. Notes in brackets (silence, beeps) are no transcripts."""
    text = gzip.decompress(one(package, "usr/share/doc/*/core-sounds-*.txt.gz").read_bytes()).decode("utf-8")
    said = {}
    for line in text.splitlines():
        name, colon, words = line.partition(":")
        words = " ".join(words.split())
        if colon and words and not line.startswith(";") and not words.startswith(("[", "<", "(")):
            said[name.strip()] = words
    return said
