"""Pictures as files hold them, to what a base's processor takes: decoded, upright, RGB, 8 bits a channel.

For strangers' bytes too: bounded in pixels before anything is decoded, and only by decoders of plain raster formats (PDF and
PostScript, which Pillow hands to programs, are not among them). Does not resize or normalise: `prepare` lets the base's
processor do that.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from adapthub.adapters import dicom
from adapthub.adapters.errors import InvalidInput

if TYPE_CHECKING:
    import torch
    from transformers import BaseImageProcessor

SUFFIXES = dicom.SUFFIXES | frozenset(
    ".png .jpg .jpeg .webp .gif .bmp .tif .tiff .ppm .pgm .avif".split()  # noqa: SIM905
)
"""Names of picture files end so."""

MAX_PIXELS = 100_000_000
"""Width times height that is decoded at most: 300 MB as RGB."""

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
_JPEG = b"\xff\xd8"
_LOW = 1 << 12  # what scanners of 12 bits stay below
_WIDE = ("I;16", "I;16B", "I;16L", "I")  # one channel of 16 bits, "I" from decoders that give 32 for them
_CLEAR = ("RGBA", "LA", "PA", "La", "RGBa")
_OF_PNG = ("1", "L", "LA", "P", "RGB", "RGBA")
# What Pillow's decoders raise of damaged bytes (AVIF's: RuntimeError).
_DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    ArithmeticError,
    LookupError,
    RuntimeError,
    struct.error,
    zlib.error,
)


_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # of TIFF's tags, and what it may say
_WHITE = 65535  # of 16 bits

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, name: str) -> Image.Image:
    """The picture in `data`, RGB, turned as its EXIF orientation says; of several frames the first.

    What is transparent becomes white. Grey values of 16 bits keep their eight highest. Raises InvalidInput, which names the
    picture by `name`, for what is no picture, is damaged, has over MAX_PIXELS, or has floating-point values.
    """
    with _whole(name), _opened(data, name) as picture:
        picture.load()
        upright = _positive(_upright(picture), picture)
    return _rgb(upright, name)


def check(data: bytes, name: str) -> bool:
    """Raise what `decode` would, for less work where the format allows: a JPEG is decoded at an eighth of its size.

    Whether the picture is one of 12 bits or fewer in 16, of which little is left in the eight highest: nearly black, or
    white where the lowest value is.
    """
    with _whole(name), _opened(data, name) as picture:
        picture.draft("RGB", (1, 1))
        picture.load()
        if picture.mode == "F":
            raise _floating(name)
        return picture.mode in _WIDE and 0 < int(np.asarray(picture).max(initial=0)) < _LOW


def has_more(data: bytes) -> bool:
    """Whether frames or pages come behind the first, which alone `decode` reads. Not asked of DICOM, nor of JPEG, where
    cameras put what belongs to the one picture."""
    if dicom.is_dicom(data) or data.startswith(_JPEG):
        return False
    with suppress(*_DAMAGED, Image.DecompressionBombError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bool(getattr(Image.open(io.BytesIO(data), formats=_FORMATS), "is_animated", False))
    return False


def encode(picture: Image.Image, name: str) -> bytes:
    """A picture of Pillow as a file that `decode` reads: PNG, upright. Raises InvalidInput as `decode` does."""
    with _whole(name):
        picture.load()
        upright = _positive(_upright(picture), picture)
    if upright.mode == "F":
        raise _floating(name)
    if upright.mode in _WIDE:
        upright = Image.fromarray(np.clip(np.asarray(upright), 0, _WHITE).astype(np.uint16))
    elif upright.mode not in _OF_PNG:
        upright = upright.convert("RGBA" if upright.mode in _CLEAR else "RGB")
    stream = io.BytesIO()
    upright.save(stream, "PNG", exif=b"")
    return stream.getvalue()


def prepare(picture: Image.Image, processor: BaseImageProcessor) -> torch.Tensor:
    """What the base reads of an RGB picture: float32 [channels, height, width]."""
    pixels = processor(picture, return_tensors="pt")["pixel_values"]
    return cast("torch.Tensor", pixels[0])


@contextmanager
def _whole(name: str) -> Iterator[None]:
    """Within: what a decoder raises of damaged bytes becomes InvalidInput, which is itself left as it is; damaged metadata,
    which are not read, warn nobody."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InvalidInput:
        raise
    except _DAMAGED as error:
        raise InvalidInput(f"{name} is damaged: {_reason(error)}", hint="Save it anew.") from error


def _positive(upright: Image.Image, picture: Image.Image) -> Image.Image:
    """`upright` of `picture`, turned round where that is one of 16 bits whose lowest is white: Pillow does so of 8 alone."""
    if upright.mode not in _WIDE or getattr(picture, "tag_v2", {}).get(_PHOTOMETRIC) != _WHITE_IS_ZERO:
        return upright
    values = np.clip(np.asarray(upright).astype(np.int64), 0, _WHITE)
    return Image.fromarray((_WHITE - values).astype(np.uint16))


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as its EXIF says; as it is where that cannot be read. Other fields, which may be damaged, are not looked at."""
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    except _DAMAGED:
        return picture
    method = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return picture if method is None else picture.transpose(method)


def _opened(data: bytes, name: str) -> Image.Image:
    if dicom.is_dicom(data):
        return dicom.read(data, name, MAX_PIXELS)
    try:
        picture = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        known = ", ".join(_FORMATS)
        raise InvalidInput(f"{name} is not a picture that is read here", hint=f"Read are {known}.") from None
    except Image.DecompressionBombError:
        raise _too_large(name) from None
    if picture.width * picture.height > MAX_PIXELS:
        raise _too_large(name)
    return picture


def _too_large(name: str) -> InvalidInput:
    return InvalidInput(f"{name} has more than {MAX_PIXELS:,} pixels", hint="Send a smaller copy.")


def _floating(name: str) -> InvalidInput:
    return InvalidInput(
        f"{name} has floating-point values, whose range nobody knows", hint="Save it with 8 or 16 bits."
    )


def _rgb(picture: Image.Image, name: str) -> Image.Image:
    if picture.mode == "F":
        raise _floating(name)
    if picture.mode in _WIDE:
        values = np.asarray(picture).astype(np.int64)
        return Image.fromarray(np.clip(values >> 8, 0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode in _CLEAR or "transparency" in picture.info:
        clear = picture.convert("RGBA")
        ground = Image.new("RGBA", clear.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, clear).convert("RGB")
    return picture.convert("RGB")


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
