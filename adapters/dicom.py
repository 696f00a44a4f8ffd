"""DICOM files as pictures of 8 grey levels or colours a channel: what a radiologist's screen would show first.

Stored values become what they measure (rescale), the file's own window of them becomes black to white (VOI), and MONOCHROME1
(the lowest is white) is turned round. What pads a picture (PixelPaddingValue) is black and no measure of it. Of several
frames and windows the first; what an enhanced file says of that frame counts as the file's own. For strangers' bytes:
bounded before anything is unpacked. Needs pydicom. Of a patient nothing is read but a digest of the id, by which pictures of
one are told.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adapthub.adapters.errors import InvalidInput, MissingDependency

SUFFIXES = frozenset((".dcm", ".dicom"))
_MAGIC_AT = 128
_META_AT = _MAGIC_AT + 4
# Streams, of the whole file or of a frame, which say nowhere how large they become.
_DEFLATED = ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1")
_OF_PATIENT = ["IssuerOfPatientID", "PatientID"]
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "PALETTE COLOR")


def is_dicom(data: bytes) -> bool:
    """By the mark behind the preamble."""
    return data[_MAGIC_AT : _MAGIC_AT + 4] == b"DICM"


def read(data: bytes, name: str, most_pixels: int) -> Image.Image:
    """The picture in `data`, grey or RGB. Raises InvalidInput, which names it by `name`, for what is damaged, has more than
    `most_pixels` a frame or is packed in a way that is not read; MissingDependency without pydicom."""
    try:
        import pydicom
    except ImportError as error:
        raise MissingDependency(
            f"{name} is a DICOM file, which needs pydicom", hint="Run: pip install 'adapthub[dicom]'"
        ) from error
    try:
        packed = _transfer_syntax(data)
    except Exception as error:  # pydicom raises whatever its parsers meet in a stranger's bytes
        raise _damaged(name, error) from error
    if packed in _DEFLATED:
        raise InvalidInput(
            f"{name} is a deflated DICOM file, which is not read", hint="Save it uncompressed."
        )
    try:
        found = pydicom.dcmread(io.BytesIO(data), force=False)
        pixels = int(found.Rows) * int(found.Columns)
    except Exception as error:
        raise _damaged(name, error) from error
    if pixels > most_pixels:
        raise InvalidInput(f"{name} has more than {most_pixels:,} pixels", hint="Send a smaller copy.")
    kind = str(found.get("PhotometricInterpretation", ""))
    if kind not in (*_GREY, *_COLOURS):
        raise InvalidInput(f"{name} has {kind or 'no'} colours, which are not read", hint="Save it as RGB.")
    try:
        return _picture(found, kind)
    except Exception as error:
        raise _damaged(name, error) from error


def patient(data: bytes) -> str | None:
    """Hex sha256 of the id of whoever is in a picture that `read` takes, and of who gave the id: equal for one person's
    pictures. None where the file says no id, or nothing that can be read."""
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an id of a form that the standard does not allow is an id too
        try:
            found = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=_OF_PATIENT)
            by, said = (str(found.get(field) or "").strip() for field in _OF_PATIENT)
        except Exception:  # pydicom raises whatever its parsers meet in a stranger's bytes
            return None
    return hashlib.sha256(f"{by}\n{said}".encode()).hexdigest() if said else None


def _transfer_syntax(data: bytes) -> str:
    """How the file is packed, as pydicom will see it, read before anything is unpacked."""
    from pydicom.filereader import _read_file_meta_info

    stream = io.BytesIO(data)
    stream.seek(_META_AT)
    return str(_read_file_meta_info(stream).get("TransferSyntaxUID", ""))


def _picture(found: Any, kind: str) -> Image.Image:
    from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

    values = pixel_array(found, index=0)  # RGB where it was YBR
    padding = _padding(values, found) if kind in _GREY else None
    if kind == "PALETTE COLOR":
        values = apply_color_lut(values, found)
        return Image.fromarray(_eight(values, 0, np.iinfo(values.dtype).max), "RGB")
    if kind in _COLOURS:
        return Image.fromarray(_eight(values, 0, 2 ** int(found.BitsStored) - 1), "RGB")
    measures = found if "RescaleSlope" in found else _of_frame(found, "PixelValueTransformationSequence")
    window = found if "WindowCenter" in found else _of_frame(found, "FrameVOILUTSequence")
    shown = _windowed(apply_modality_lut(values, measures).astype(np.float32), window, padding)
    shown = 255 - shown if kind == "MONOCHROME1" else shown
    if padding is not None:
        shown[padding] = 0
    return Image.fromarray(shown, "L")


def _padding(values: NDArray[Any], found: Any) -> NDArray[np.bool_] | None:
    """Which stored values only make the picture a rectangle (PS3.3, C.7.5.1.1.2): one, or all up to a limit; None where none
    are, and where all are."""
    first, last = (_first(found.get(field)) for field in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    if first is None:
        return None
    low, high = sorted((first, first if last is None else last))
    padding = np.asarray((values >= low) & (values <= high))
    return padding if padding.any() and not padding.all() else None


def _of_frame(found: Any, sequence: str) -> Any:
    """The item of an enhanced file that says so of its first frame, or of all; else the file itself."""
    for groups in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        group: Any = next(iter(found.get(groups) or ()), {})
        for item in group.get(sequence) or ():
            return item
    return found


def _windowed(values: NDArray[Any], found: Any, padding: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    """By the file's first window, else by its table, else from the lowest value to the highest that is no padding (PS3.3,
    C.11.2)."""
    centre, width = (_first(found.get(field)) for field in ("WindowCenter", "WindowWidth"))
    function = str(found.get("VOILUTFunction", "LINEAR"))
    narrowest = 1 if function == "LINEAR" else 0
    if centre is None or width is None or width < narrowest or width == 0:
        if "VOILUTSequence" in found:
            from pydicom.pixels import apply_voi

            values = apply_voi(values.astype(np.int64), found, index=0).astype(np.float32)
        seen = values if padding is None else values[~padding]
        return _eight(values, float(seen.min()), float(seen.max()))
    if function == "SIGMOID":
        return _eight(1 / (1 + np.exp(-4 * (values - centre) / width)), 0, 1)
    if function == "LINEAR_EXACT":
        return _eight(values, centre - width / 2, centre + width / 2)
    low = centre - 0.5 - (width - 1) / 2
    return _eight(values, low, low + max(width - 1, 1e-6))


def _eight(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """`low` and below to 0, `high` and above to 255."""
    levels = values.astype(np.float32)  # and from here on in place: a large picture takes gigabytes
    levels -= low
    levels /= max(high - low, 1e-6)
    np.clip(levels, 0, 1, out=levels)
    levels *= 255
    return np.rint(levels, out=levels).astype(np.uint8)


def _first(value: Any) -> float | None:
    """Of one number or several."""
    if value is None or value == "":
        return None
    return float(value if isinstance(value, (int, float, str)) or not hasattr(value, "__len__") else value[0])


def _damaged(name: str, error: Exception) -> InvalidInput:
    reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
    return InvalidInput(
        f"{name} is a DICOM file that cannot be read: {reason}", hint="Save it uncompressed, or anew."
    )
