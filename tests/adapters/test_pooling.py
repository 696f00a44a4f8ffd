"""Vectors out of hidden states, and what the files of bases say of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from adapthub.adapters.pooling import POOLINGS, pooling_of, vector_of, vectors_of

FLAGS = {
    "word_embedding_dimension": 8,
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": False,
    "pooling_mode_max_tokens": False,
    "pooling_mode_lasttoken": False,
    "include_prompt": True,
}


def write(folder: Path, config: Any, where: str = "1_Pooling") -> Path:
    (folder / where).mkdir(parents=True, exist_ok=True)
    (folder / where / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({**FLAGS, "pooling_mode_cls_token": True}, "cls"),
        ({**FLAGS, "pooling_mode_mean_tokens": True}, "mean"),
        ({**FLAGS, "pooling_mode_lasttoken": True}, "lasttoken"),
        ({**FLAGS, "pooling_mode_max_tokens": True}, "max"),
        ({**FLAGS, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls+mean"),
        ({"embedding_dimension": 8, "pooling_mode": "lasttoken"}, "lasttoken"),
        ({"embedding_dimension": 8, "pooling_mode": ["mean", "max"]}, "mean+max"),
        (FLAGS, None),
        ([], None),
    ],
)
def test_what_sentence_transformers_writes_is_read(config: Any, pooling: str | None, tmp_path: Path) -> None:
    assert pooling_of(write(tmp_path, config)) == pooling


def test_the_module_that_pools_is_found_by_its_list(tmp_path: Path) -> None:
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "2_Other", "type": "sentence_transformers.models.Pooling"},
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert pooling_of(tmp_path) is None
    assert pooling_of(write(tmp_path, {"pooling_mode": "cls"}, "2_Other")) == "cls"
    modules[1]["path"] = "../elsewhere"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert pooling_of(write(tmp_path, {"pooling_mode": "mean"})) == "mean"
    (tmp_path / "1_Pooling" / "config.json").write_text("{")
    assert pooling_of(tmp_path) is None


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_its_texts_whatever_side_is_padded(pooling: str, side: str) -> None:
    torch.manual_seed(0)
    texts = [torch.randn(length, 5) for length in (1, 4, 3)]
    hidden, mask = torch.randn(3, 4, 5), torch.zeros(3, 4, dtype=torch.long)
    for at, text in enumerate(texts):
        own = slice(4 - len(text), None) if side == "left" else slice(len(text))
        hidden[at, own], mask[at, own] = text, 1
    expected = torch.stack([vector_of(text, pooling) for text in texts])
    torch.testing.assert_close(vectors_of(hidden, mask, pooling), expected)
    assert torch.equal(
        vector_of(texts[1], pooling),
        {"mean": texts[1].mean(0), "cls": texts[1][0], "lasttoken": texts[1][3]}[pooling],
    )
