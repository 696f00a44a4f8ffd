"""Pictures of every kind that people have, damaged ones, and ones made to do harm."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adapthub.adapters.errors import InvalidInput
from adapthub.adapters.picture_files import check, decode, encode


def saved(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)


def test_colours_stay() -> None:
    pixels = noise(6, 5, 3)
    for format in ("PNG", "BMP", "TIFF", "PPM"):
        picture = decode(saved(Image.fromarray(pixels), format), "x")
        assert picture.mode == "RGB"
        assert np.array_equal(np.asarray(picture), pixels)


def test_grey_becomes_three_equal_channels() -> None:
    pixels = noise(6, 5)
    assert np.array_equal(np.asarray(decode(saved(Image.fromarray(pixels)), "x")), np.stack([pixels] * 3, -1))


def test_sixteen_bits_keep_their_eight_highest() -> None:
    pixels = noise(6, 5, dtype=np.uint16)
    for format in ("PNG", "TIFF"):
        found = np.asarray(decode(saved(Image.fromarray(pixels), format), "x"))
        assert np.array_equal(found[..., 0], (pixels >> 8).astype(np.uint8))


def tiff(pixels: np.ndarray[Any, Any], photometric: int) -> bytes:
    """A file of one strip of grey values: Pillow writes none whose lowest is white."""
    (rows, columns), bits = pixels.shape, 8 * pixels.itemsize
    begins = 8 + 2 + 9 * 12 + 4
    said = {
        256: columns, 257: rows, 258: bits, 259: 1, 262: photometric, 273: begins, 277: 1, 278: rows, 279: pixels.nbytes
    }  # fmt: skip
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in said.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(said)) + entries + struct.pack("<I", 0) + pixels.tobytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_picture_whose_lowest_value_is_white_is_turned_round(dtype: type) -> None:
    """As radiographs are saved (MinIsWhite), of 16 bits too."""
    pixels = noise(6, 5, dtype=dtype)
    black = (pixels >> (8 * (pixels.itemsize - 1))).astype(np.uint8)
    for photometric, wanted in ((1, black), (0, 255 - black)):
        file = tiff(pixels, photometric)
        assert np.array_equal(np.asarray(decode(file, "x"))[..., 0], wanted)
        given = encode(Image.open(io.BytesIO(file)), "x")
        assert np.array_equal(np.asarray(decode(given, "x"))[..., 0], wanted)
    few = noise(6, 5, dtype=np.uint16) >> 4
    assert check(tiff(few, 0), "x")  # nearly white
    assert check(tiff(few, 1), "x")
    assert not check(tiff(65535 - few, 0), "x")  # as dark as what is under-exposed


def test_twelve_bits_in_sixteen_are_told() -> None:
    assert check(saved(Image.fromarray(noise(6, 5, dtype=np.uint16) >> 4)), "x")
    assert not check(saved(Image.fromarray(noise(6, 5, dtype=np.uint16))), "x")
    assert not check(saved(Image.fromarray(noise(6, 5))), "x")


def test_what_is_transparent_becomes_white() -> None:
    picture = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    picture.putpixel((1, 0), (200, 0, 0, 0))
    assert np.asarray(decode(saved(picture), "x")).tolist() == [[[200, 0, 0], [255, 255, 255]]]
    palette = picture.convert("P")
    assert (
        np.asarray(decode(saved(palette, transparency=palette.getpixel((1, 0))), "x"))[0, 1].tolist()
        == [255] * 3
    )


def test_a_turned_photograph_is_turned_back() -> None:
    picture = Image.new("RGB", (4, 2), (10, 20, 30))
    picture.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    turned = decode(saved(picture, exif=exif), "x")
    assert turned.size == (2, 4)
    assert turned.getpixel((1, 0)) == (255, 255, 255)


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (3, 3), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data, "x").getpixel((1, 1)) == (255, 0, 0)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
def test_damaged_pictures_are_refused_by_name(format: str) -> None:
    data = saved(Image.fromarray(noise(64, 64, 3)), format)
    for cut in (len(data) // 2, 40):
        for read in (decode, check):
            with pytest.raises(InvalidInput, match=r"cat\.img is (damaged|not a picture)"):
                read(data[:cut], "cat.img")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ],
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    for read in (decode, check):
        with pytest.raises(InvalidInput, match=r"cat\.img is not a picture that is read here"):
            read(data, "cat.img")


def test_floating_point_is_refused() -> None:
    data = saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    for read in (decode, check):
        with pytest.raises(InvalidInput, match="floating-point"):
            read(data, "x")


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    """A PNG of 60,000 x 60,000 pixels, whose few bytes would be 10 GB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
    for read in (decode, check):
        with pytest.raises(InvalidInput, match="more than 100,000,000 pixels"):
            read(bomb + chunk(b"IEND", b""), "x")
    # Between Pillow's own two bounds: it would only warn.
    header = struct.pack(">IIBBBBB", 12_000, 10_000, 8, 2, 0, 0, 0)
    with pytest.raises(InvalidInput, match="more than"):
        decode(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""), "x")


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16"]
)
def test_pillows_pictures_of_every_mode_are_read(mode: str) -> None:
    picture = Image.new(mode, (7, 5))
    assert decode(encode(picture, "x"), "x").size == (7, 5)
    with pytest.raises(InvalidInput, match="floating-point"):
        encode(Image.new("F", (2, 2)), "x")


def test_pillows_pictures_are_what_their_files_are() -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    for data in (
        saved(Image.fromarray(noise(6, 5, 3)), exif=exif),
        saved(Image.fromarray(noise(6, 5, dtype=np.uint16))),
    ):
        with Image.open(io.BytesIO(data)) as picture:
            assert np.array_equal(
                np.asarray(decode(encode(picture, "x"), "x")), np.asarray(decode(data, "x"))
            )


def test_damaged_metadata_leaves_a_picture_as_it_is() -> None:
    """The orientation is read, another field is no number: rewriting it would fail."""
    exif = Image.Exif()
    exif[0x112], exif[0x011A] = 6, 72.0
    data = saved(Image.fromarray(noise(6, 5, 3)), exif=exif)
    at = data.index(b"eXIf") + 4
    size = struct.unpack(">I", data[at - 8 : at - 4])[0]
    for place in range(at, at + size):
        broken = bytearray(data)
        broken[place] ^= 0xFF
        broken[at + size : at + size + 4] = struct.pack(">I", zlib.crc32(broken[at - 4 : at + size]))
        assert set(decode(bytes(broken), "x").size) == {5, 6}
        check(bytes(broken), "x")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
def test_whatever_is_changed_in_a_file_it_is_read_or_refused(format: str) -> None:
    draw = np.random.default_rng(0)
    data = saved(Image.fromarray(noise(24, 31, 3)), format)
    for _ in range(150):
        broken = bytearray(data)
        for place in draw.integers(0, min(len(data), 400), draw.integers(1, 5)):
            broken[place] = draw.integers(256)
        for read in (decode, check):
            with contextlib.suppress(InvalidInput):
                read(bytes(broken), "x")
