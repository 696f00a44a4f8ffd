"""Which files travel with a commit, as text, and which by LFS. Does not read files."""

from __future__ import annotations

MOST_TEXT_BYTES = 2**20
SAMPLE_BYTES = 512
_LFS_SUFFIXES = (".safetensors", ".model", ".png", ".jpg", ".jpeg")


def is_text(path: str, size: int, sample: bytes) -> bool:
    """Whether a file of so many bytes, which begins with `sample`, travels with its commit. Empty files always do."""
    if size == 0:
        return True
    small = size <= MOST_TEXT_BYTES and not path.lower().endswith(_LFS_SUFFIXES)
    return small and b"\0" not in sample[:SAMPLE_BYTES]
