"""DICOM files as pictures: windows, inverted grey, 16 bits, colours, and what is refused."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import pytest

from adapthub.adapters import picture_files
from adapthub.adapters.errors import InvalidInput, MissingDependency
from adapthub.adapters.picture_files import check, decode

pydicom = pytest.importorskip("pydicom")

RAMP = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)


DEFLATED = "1.2.840.10008.1.2.1.99"


def dicom(pixels: Any, packed: Any = "1.2.840.10008.1.2.1", **fields: Any) -> bytes:
    """A file that is as small as the standard allows; 12 of 16 bits, unless `fields` say otherwise. `packed`: how it is."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(packed)
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    given = {
        "Rows": pixels.shape[-2] if pixels.ndim == 2 else pixels.shape[0],
        "Columns": pixels.shape[-1] if pixels.ndim == 2 else pixels.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        **fields,
    }
    for name, value in given.items():
        setattr(made, name, value)
    made.PixelData = pixels.tobytes()
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def grey(data: bytes) -> np.ndarray:
    """Of three like channels."""
    picture = np.asarray(decode(data, "scan"))
    assert picture.dtype == np.uint8
    assert picture.shape == (16, 16, 3)
    assert (picture == picture[..., :1]).all()
    check(data, "scan")
    return picture[..., 0]


def test_without_a_window_all_values_are_seen() -> None:
    found = grey(dicom(RAMP))
    assert (found[0, 0], found[-1, -1]) == (0, 255)
    assert (np.diff(found.ravel().astype(int)) >= 0).all()
    assert len(np.unique(found)) == 256  # of 12 bits: the eight highest of 16 would be 16 levels


def test_the_window_is_the_files_own_after_rescaling() -> None:
    """Hounsfield units: stored - 1024, a soft-tissue window of 400 around 40."""
    window = {
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "WindowCenter": [40, 600],
        "WindowWidth": [400, 2000],
    }
    found = grey(dicom(RAMP, **window)).ravel()
    units = RAMP.ravel().astype(int) - 1024
    assert (found[units < -160] == 0).all()
    assert (found[units > 240] == 255).all()
    wanted = np.clip(((units - 39.5) / 399 + 0.5) * 255, 0, 255)
    assert np.abs(found - wanted).max() <= 1


def test_windows_by_other_functions_and_by_a_table() -> None:
    exact = grey(dicom(RAMP, WindowCenter=2048, WindowWidth=1024, VOILUTFunction="LINEAR_EXACT")).ravel()
    assert np.abs(exact - np.clip((RAMP.ravel() - 1536.0) / 1024 * 255, 0, 255)).max() <= 1
    sigmoid = grey(dicom(RAMP, WindowCenter=2048, WindowWidth=1024, VOILUTFunction="SIGMOID")).ravel()
    assert np.abs(sigmoid - 255 / (1 + np.exp(-4 * (RAMP.ravel() - 2048.0) / 1024))).max() <= 1
    from pydicom.dataset import Dataset

    table = Dataset()
    table.LUTDescriptor = [4096, 0, 16]
    table.LUTData = np.minimum(np.arange(4096) * 32, 65535).astype("<u2").tobytes()
    by_table = grey(dicom(RAMP, VOILUTSequence=[table])).ravel()
    assert by_table[RAMP.ravel() >= 2048].min() == 255
    assert 120 < by_table[64] < 136


def test_monochrome1_is_turned_round() -> None:
    assert (grey(dicom(RAMP, PhotometricInterpretation="MONOCHROME1")) == 255 - grey(dicom(RAMP))).all()


def test_monochrome1_of_sixteen_bits_is_turned_round_with_and_without_a_window() -> None:
    wide = (RAMP.astype(np.uint32) * 16).astype(np.uint16)
    bits = {"BitsStored": 16, "HighBit": 15, "PhotometricInterpretation": "MONOCHROME1"}
    assert (grey(dicom(wide, **bits)) == 255 - grey(dicom(RAMP))).all()
    found = grey(dicom(wide, **bits, WindowCenter=32768, WindowWidth=65536)).ravel()
    assert np.abs(found - (255 - wide.ravel() / 65535 * 255)).max() <= 1


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_widens_no_range(kind: str) -> None:
    """Around the circle of a scanner, far below what is measured."""
    signed = (RAMP.astype(np.int32) // 4 - 512).astype(np.int16)
    fields = {"PixelRepresentation": 1, "PhotometricInterpretation": kind}
    plain, padded = grey(dicom(signed, **fields)), signed.copy()
    padded[:, 1:3], padded[0, 5:7] = -2000, -1990
    low, high = padded == -2000, padded == -1990
    found = grey(dicom(padded, **fields, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1990))
    assert (found[low | high] == 0).all()
    rest = ~(low | high)
    assert np.array_equal(found[rest], plain[rest])
    alone = grey(dicom(padded, **fields, PixelPaddingValue=-2000))
    assert (alone[low] == 0).all()
    assert len(np.unique(alone[rest])) < len(np.unique(found[rest]))  # -1990 is taken for a measure
    window = {"RescaleSlope": 1, "RescaleIntercept": 0, "WindowCenter": 0, "WindowWidth": 1024}
    shown = grey(dicom(padded, **fields, **window, PixelPaddingValue=-1990, PixelPaddingRangeLimit=-2000))
    assert (shown[low | high] == 0).all()
    assert np.array_equal(shown[rest], grey(dicom(padded, **fields, **window))[rest])


def test_a_picture_that_is_all_padding_or_has_none_is_shown_as_it_is() -> None:
    assert np.array_equal(grey(dicom(RAMP, PixelPaddingValue=7)), grey(dicom(RAMP)))
    flat = np.full_like(RAMP, 9)
    assert np.array_equal(grey(dicom(flat, PixelPaddingValue=9)), grey(dicom(flat)))


def test_signed_values_and_several_frames() -> None:
    signed = (RAMP.astype(np.int32) - 2048).astype(np.int16)
    assert (grey(dicom(signed, PixelRepresentation=1)) == grey(dicom(RAMP))).all()
    frames = np.concatenate([RAMP, RAMP[::-1]])
    assert (grey(dicom(frames, Rows=16, NumberOfFrames=2)) == grey(dicom(RAMP))).all()


def test_of_an_enhanced_file_the_first_frame_has_its_own_window() -> None:
    from pydicom.dataset import Dataset

    def group(**fields: Any) -> Dataset:
        made = Dataset()
        for name, value in fields.items():
            setattr(made, name, value)
        return made

    def windowed(centre: int) -> Dataset:
        return group(FrameVOILUTSequence=[group(WindowCenter=centre, WindowWidth=400)])

    units = group(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")
    frames = np.concatenate([RAMP, RAMP])
    enhanced = dicom(
        frames,
        Rows=16,
        NumberOfFrames=2,
        SharedFunctionalGroupsSequence=[group(PixelValueTransformationSequence=[units])],
        PerFrameFunctionalGroupsSequence=[windowed(40), windowed(600)],
    )
    plain = dicom(RAMP, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400)
    assert (grey(enhanced) == grey(plain)).all()


def test_windows_narrower_than_one_value_are_some_where_values_are_fractions() -> None:
    shares = {"RescaleSlope": 1 / 4096, "RescaleIntercept": 0, "WindowCenter": 0.5, "WindowWidth": 0.25}
    exact = grey(dicom(RAMP, **shares, VOILUTFunction="LINEAR_EXACT")).ravel()
    assert np.abs(exact - np.clip((RAMP.ravel() / 4096 - 0.375) / 0.25 * 255, 0, 255)).max() <= 1
    whole = grey(dicom(RAMP, **shares))  # a line over less than one value is none
    assert (whole == grey(dicom(RAMP))).all()


def test_luminance_and_chroma_become_colours_once() -> None:
    red = np.full((16, 16, 3), (76, 85, 255), np.uint8)
    stored = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "YBR_FULL"}
    data = dicom(red, **stored, BitsAllocated=8, BitsStored=8, HighBit=7)
    assert np.abs(np.asarray(decode(data, "scan")).astype(int) - (255, 0, 0)).max() <= 2


def test_a_deflated_file_is_found_however_much_stands_before() -> None:
    version = b"\2\0\1\0OB\0\0%s\0\0%s"
    short, long = version % (b"\2\0", b"\0\1"), version % (b"\x20\x4e", bytes(20_000))
    assert (grey(dicom(RAMP).replace(short, long)) == grey(dicom(RAMP))).all()
    deflated = dicom(RAMP, DEFLATED).replace(short, long)
    assert deflated.index(DEFLATED.encode()) > 4096
    with pytest.raises(InvalidInput, match="^scan is a deflated DICOM file"):
        decode(deflated, "scan")
    unlike = dicom(RAMP, ReferencedTransferSyntaxUIDInFile=DEFLATED)
    assert (grey(unlike) == grey(dicom(RAMP))).all()


def test_colours_stay() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    colours = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB"}
    data = dicom(pixels, **colours, BitsAllocated=8, BitsStored=8, HighBit=7)
    assert (np.asarray(decode(data, "scan")) == pixels).all()


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = dicom(RAMP)
    for data, words in (
        (whole[:400], "^scan is a DICOM file that cannot be read"),
        (whole[:132] + bytes(300), "^scan is a DICOM file that cannot be read"),
        (dicom(RAMP, DEFLATED), "^scan is a deflated DICOM file"),
        (dicom(RAMP, PhotometricInterpretation="HSV"), "^scan has HSV colours"),
        (dicom(RAMP, Rows=60000, Columns=60000), "^scan has more than 100,000,000 pixels"),
    ):
        with pytest.raises(InvalidInput, match=words):
            decode(data, "scan")
        with pytest.raises(InvalidInput, match=words):
            check(data, "scan")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingDependency, match=r"needs pydicom.*adapthub\[dicom\]"):
        decode(whole, "scan")


def test_files_are_found_by_their_names() -> None:
    assert {".dcm", ".png"} <= picture_files.SUFFIXES
