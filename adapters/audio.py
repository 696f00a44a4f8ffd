"""Sound as models take it: files, bytes and arrays decoded to one channel at one rate.

libsndfile decodes (WAV, FLAC, Ogg, MP3, AIFF ...), soxr resamples. What is decoded is bounded while it is read, so that a
small file that claims hours costs nothing. Knows no model.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from adapthub.adapters.errors import InvalidInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Samples = NDArray[np.float32]

Audio: TypeAlias = "str | Path | bytes | tuple[Any, int]"
"""A file, a file's bytes, or samples ([frames] or [frames, channels], -1 to 1) with their rate in Hz."""

_BLOCK = 1 << 16  # frames that are decoded at once, of all channels
_LOWEST, _HIGHEST = 1_000, 768_000  # rates in Hz: beyond them nothing was recorded
_FORMATS = "It reads WAV, FLAC, Ogg, MP3 and AIFF."


@dataclass(frozen=True)
class Sound:
    """One recording: float32 `samples` [frames] of one channel at `rate` Hz, and what it was: its own rate and channels.

    `cut`: it was longer than what was asked for.
    """

    samples: Samples
    rate: int
    own_rate: int
    channels: int
    cut: bool = False

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


def read_sound(source: Audio, rate: int | None, where: str, *, longest: float | None = None) -> Sound:
    """Decode `source`, mix its channels down and resample to `rate` Hz (None: as it is); at most `longest` seconds of it.

    Raises InvalidInput, beginning with `where`, for what does not decode, is empty, or holds values that are not finite.
    """
    if isinstance(source, tuple):
        blocks, own_rate, channels = _given(source, where)
    else:
        blocks, own_rate, channels = _decoded(source, where)
    most = None if longest is None else int(longest * own_rate)
    mono, cut = _joined(blocks, most)
    if not len(mono):
        raise InvalidInput(f"{where}: the recording is empty")
    if not np.isfinite(mono).all():
        raise InvalidInput(f"{where}: the recording has values that are not finite")
    wanted = rate or own_rate
    return Sound(_resampled(mono, own_rate, wanted), wanted, own_rate, channels, cut)


def _decoded(source: str | Path | bytes, where: str) -> tuple[Iterator[Samples], int, int]:
    """Blocks of [frames, channels], the rate, the channels."""
    import soundfile

    try:
        file = soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else str(source))
    except (OSError, RuntimeError, TypeError) as error:  # TypeError: a format without a header
        if not isinstance(source, bytes) and not Path(source).is_file():
            raise InvalidInput(f"{where}: no such file") from None
        raise _undecodable(where, error) from error

    def blocks() -> Iterator[Samples]:
        with file:
            while len(block := _block(file, where)):
                yield block

    return blocks(), _checked_rate(file.samplerate, where), file.channels


def _block(file: Any, where: str) -> Samples:
    try:
        return cast("Samples", file.read(_BLOCK // file.channels or 1, dtype="float32", always_2d=True))
    except (OSError, RuntimeError) as error:
        raise _undecodable(where, error) from error


def _undecodable(where: str, error: Exception) -> InvalidInput:
    reason = str(error).strip().splitlines()[-1].partition(": ")[2] or str(error)
    return InvalidInput(f"{where}: not a recording that can be decoded ({reason})", hint=_FORMATS)


def _given(source: tuple[Any, int], where: str) -> tuple[Iterator[Samples], int, int]:
    values, rate = source
    try:
        given = np.asarray(values)
        samples = given.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{where}: its samples are no numbers") from error
    if given.dtype.kind in "iu" and np.abs(samples).max(initial=0) > 1:  # as scipy and ffmpeg give 16 bits
        raise InvalidInput(
            f"{where}: its samples are whole numbers up to {np.abs(samples).max():.0f}, not -1 to 1",
            hint="Divide them by what is loudest, 32768 for 16 bits.",
        )
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and not samples.shape[1]):
        raise InvalidInput(
            f"{where}: its samples are of shape {list(samples.shape)}",
            hint="Give [frames] or [frames, channels].",
        )
    columns = samples[:, None] if samples.ndim == 1 else samples
    return iter([columns]), _checked_rate(rate, where), columns.shape[1]


def _checked_rate(rate: object, where: str) -> int:
    if isinstance(rate, bool) or not isinstance(rate, int) or not _LOWEST <= rate <= _HIGHEST:
        raise InvalidInput(f"{where}: a rate of {rate!r} Hz", hint=f"Rates are {_LOWEST} to {_HIGHEST} Hz.")
    return rate


def _joined(blocks: Iterator[Samples], most: int | None) -> tuple[Samples, bool]:
    """One channel of at most `most` frames, and whether there were more."""
    parts: list[Samples] = []
    frames = 0
    for block in blocks:
        parts.append(block.mean(axis=1, dtype=np.float32))
        frames += len(block)
        if most is not None and frames > most:
            break
    mono = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return mono[:most], most is not None and frames > most


def _resampled(mono: Samples, own_rate: int, rate: int) -> Samples:
    if own_rate == rate:
        return mono
    import soxr

    return cast("Samples", soxr.resample(mono, own_rate, rate))
