"""Reading text files: marks, encodings, and the line and byte that an error names."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import pytest

from adapthub.adapters.errors import InvalidData, InvalidSettings
from adapthub.recipes.data.text import read_lines, read_text


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbftext,label\n")
    assert read_text(path) == "text,label\n"


def test_another_encoding_is_named_with_line_byte_and_remedy(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("text,label\ncaf\xe9,good\n".encode("cp1252"))
    with pytest.raises(InvalidData) as caught:
        read_text(path)
    assert caught.value.message == f"{path}:2: byte 14 (0xe9) is not UTF-8"
    assert caught.value.hint == "Convert it (iconv -f CP1252 -t UTF-8 a.csv) or set encoding=cp1252."
    assert read_text(path, "cp1252") == "text,label\ncafé,good\n"


def test_utf16_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("text,label\n".encode("utf-16"))
    with pytest.raises(InvalidData, match=r"a\.csv:1: byte 0 .*iconv -f UTF-16 -t UTF-8"):
        read_text(path)
    assert read_text(path, "utf-16") == "text,label\n"


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(InvalidData, match=r"a\.csv: the file is empty"):
        read_text(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"gone\.csv: no such file"):
        read_text(tmp_path / "gone.csv")
    with pytest.raises(InvalidData, match="cannot be read: Is a directory"):
        read_text(tmp_path)


def test_an_unknown_encoding_is_a_setting(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a")
    with pytest.raises(InvalidSettings, match="unknown text encoding 'utf-9'"):
        read_text(path, "utf-9")
    with pytest.raises(InvalidSettings, match="unknown text encoding 'hex'"):  # bytes to bytes
        read_text(path, "hex")


def test_utf16_whose_ends_nothing_says_is_asked_for_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("text,label\n".encode("utf-16-le"))
    with pytest.raises(InvalidData, match=r"a\.csv: not UTF-16: .* Set encoding=utf-16-le, or -be"):
        list(read_lines(path, "utf-16", ends="any"))
    assert list(read_lines(path, "utf-16-le", ends="any")) == ["text,label\n"]


@pytest.mark.parametrize("whole", [True, False])
def test_packed_files_are_called_so(whole: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(gzip.compress(b"{}"))
    with pytest.raises(InvalidData, match=r"a\.jsonl: not a text but a gzip file\. Unpack it"):
        read_text(path) if whole else list(read_lines(path, ends="\n"))
    for name, data in (
        ("zstd", b"\x28\xb5\x2f\xfd"),
        ("bzip2", bz2.compress(b"{}")),
        ("xz", lzma.compress(b"{}")),
    ):
        path.write_bytes(data)
        with pytest.raises(InvalidData, match=f"not a text but an? {name} file"):
            read_text(path) if whole else list(read_lines(path, ends="\n"))
