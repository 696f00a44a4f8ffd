"""Adapter folders that PEFT itself wrote."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def saved_by_peft(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By method: a folder that PEFT's save_pretrained wrote. Do not change them."""
    from tests.adapters.saves import METHODS, adapted

    root = tmp_path_factory.mktemp("peft")
    for method in METHODS:
        adapted(method).save_pretrained(str(root / method))
    return {method: root / method for method in METHODS}


@pytest.fixture
def plain_folder(saved_by_peft: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of PEFT's LoRA folder, to spoil."""
    return Path(shutil.copytree(saved_by_peft["lora"], tmp_path / "plain"))
