"""Sound decoded as libsndfile and soxr do, and what is no sound refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapthub.adapters.audio import read_sound
from adapthub.adapters.errors import InvalidInput
from tests.adapters.speech_bases import tone, wav


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_formats_are_one_sound(form: str) -> None:
    samples = tone(0.5) / 2
    sound = read_sound(wav(samples, form=form), 16_000, "clip")
    assert (sound.rate, sound.own_rate, sound.channels, sound.cut) == (16_000, 16_000, 1, False)
    assert len(sound.samples) / 16_000 == pytest.approx(0.5, abs=0.1)  # MP3 adds silence
    assert np.abs(sound.samples).max() == pytest.approx(np.abs(samples).max(), rel=0.2)


def test_a_file_its_bytes_and_its_samples_are_one(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(tone(0.3)))
    file = read_sound(tmp_path / "a.wav", 16_000, "a")
    data = read_sound((tmp_path / "a.wav").read_bytes(), 16_000, "a")
    given = read_sound((file.samples.tolist(), 16_000), 16_000, "a")
    assert np.array_equal(file.samples, data.samples)
    assert np.array_equal(file.samples, given.samples)


def test_another_rate_is_resampled() -> None:
    """A pitch keeps its frequency and its length in seconds."""
    time = np.arange(8_000) / 8_000
    sound = read_sound((np.sin(2 * np.pi * 440 * time), 8_000), 16_000, "pitch")
    assert (sound.own_rate, sound.seconds) == (8_000, 1.0)
    assert int(np.abs(np.fft.rfft(sound.samples)).argmax()) == 440


def test_channels_are_mixed_down() -> None:
    left, right = tone(0.2, seed=1), tone(0.2, seed=2)
    sound = read_sound((np.stack([left, right], axis=1), 16_000), 16_000, "stereo")
    assert sound.channels == 2
    assert np.allclose(sound.samples, (left + right) / 2, atol=1e-6)


def test_no_more_is_decoded_than_was_asked_for() -> None:
    data = wav(tone(9, rate=48_000), 48_000)
    sound = read_sound(data, 16_000, "long", longest=2)
    assert (sound.cut, sound.seconds) == (True, 2.0)
    assert not read_sound(wav(tone(2)), 16_000, "exact", longest=2).cut


def test_a_header_that_lies_costs_nothing() -> None:
    data = bytearray(wav(tone(0.1)))
    data[40:44] = (0x7FFFFFF0).to_bytes(4, "little")  # the length of the samples
    assert read_sound(bytes(data), 16_000, "lies", longest=30).seconds == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (b"", "clip: not a recording that can be decoded"),
        (b"RIFF....WAVEnonsense", "clip: not a recording that can be decoded"),
        (b"\x00" * 5000, "clip: not a recording that can be decoded"),
        (b"<html>not found</html>", "clip: not a recording that can be decoded"),
        (wav(np.zeros(0, np.float32)), "clip: the recording is empty"),
        (([], 16_000), "clip: the recording is empty"),
        (([0.0, float("nan")], 16_000), "values that are not finite"),
        (([[[0.0]]], 16_000), r"of shape \[1, 1, 1\]"),
        ((["a"], 16_000), "its samples are no numbers"),
        (((tone(0.1) * 20_000).astype(np.int16), 16_000), r"whole numbers up to \d+, not -1 to 1"),
        (([0.0], 0), "a rate of 0 Hz"),
        (([0.0], None), "a rate of None Hz"),
        ("no/such.wav", "clip: no such file"),
    ],
)
def test_what_is_no_sound(source: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        read_sound(source, 16_000, "clip")
