"""Vectors out of hidden states, and what the files of bases say of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from adapthub.adapters.errors import InvalidInput
from adapthub.adapters.pooling import POOLINGS, leaves_prompts_out, pooling_of, vector_of, vectors_of

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


def test_modules_that_are_not_computed_are_named_and_their_vectors_refused(tmp_path: Path) -> None:
    kinds = ["Transformer", "Pooling", "Dense", "Normalize"]
    modules = [
        {"idx": at, "name": str(at), "path": f"{at}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for at, kind in enumerate(kinds)
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert pooling_of(tmp_path) == "Dense (2_Dense)"
    pooling = pooling_of(write(tmp_path, {"pooling_mode_mean_tokens": True}))
    assert pooling == "mean and Dense (2_Dense)"
    with pytest.raises(InvalidInput, match=r"by mean and Dense \(2_Dense\), which is not computed here"):
        vector_of(torch.ones(2, 4), pooling)
    (tmp_path / "modules.json").write_text(json.dumps(modules[:2] + modules[3:]))
    assert pooling_of(tmp_path) == "mean"


@pytest.mark.parametrize(
    ("said", "left_out"), [({}, False), (FLAGS, False), ({"include_prompt": False}, True)]
)
def test_prompts_that_are_not_pooled_are_known(said: Any, left_out: bool, tmp_path: Path) -> None:
    assert not leaves_prompts_out(tmp_path)
    assert leaves_prompts_out(write(tmp_path, said)) == left_out


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
