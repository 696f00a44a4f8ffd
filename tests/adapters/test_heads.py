"""Heads of families that differ: ALBERT's bare pooler equals PEFT's, bases with an encoder and a decoder are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AlbertConfig, AutoModel, OPTConfig, PreTrainedConfig, T5Config

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import load_base
from adapthub.adapters.errors import InvalidSettings
from adapthub.adapters.heads import task_model
from tests.adapters.peft_oracle import expected_logits, lora_config, save_adapter
from tests.conftest import write_tokenizer

TOKENS, TEXT = "token-classification", "text-classification"
ROWS = [{"input_ids": [2, *range(5, 5 + n), 3]} for n in (9, 2, 14)]


@pytest.fixture(scope="module")
def albert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    config = AlbertConfig(
        vocab_size=160,
        hidden_size=64,
        embedding_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    folder = tmp_path_factory.mktemp("albert")
    AutoModel.from_config(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.mark.parametrize("task", [TOKENS, TEXT])
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["query", "value"]},
        {"target_modules": ["query", "ffn"], "modules_to_save": ["classifier", "pooler"]},
        {"target_modules": "all-linear"},
        {"target_modules": ["query", "pooler"], "use_dora": True},
    ],
    ids=["attention", "pooler saved whole", "all linear layers", "DoRA on the pooler"],
)
def test_albert_equals_peft_alone_and_mixed(
    albert: Path, tmp_path: Path, task: str, settings: dict[str, Any]
) -> None:
    adapted = AdaptedBase(load_base(str(albert), device="cpu"))
    digests, expected = [], []
    for rank in (2, 6):
        config = lora_config(task, r=rank, **{"modules_to_save": ["classifier"]} | settings)
        path = save_adapter(albert, tmp_path / str(rank), task, config, seed=rank)
        digests.append(adapted.attach(Artifact.read(path)))
        expected.append(expected_logits(albert, path, task, ROWS))
    for digest, theirs in zip(digests, expected, strict=True):
        close(adapted.logits(ROWS, [((1.0, digest),)] * len(ROWS)), theirs)
    rows = [row for row in ROWS for _ in digests]
    selections = [((1.0, digest),) for _ in ROWS for digest in digests]
    mixed = [logits for pair in zip(*expected, strict=True) for logits in pair]
    close(adapted.logits(rows, selections), mixed)


def close(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).abs().max() / other.abs().max() <= 1e-5


def write_base(folder: Path, config: PreTrainedConfig) -> Path:
    AutoModel.from_config(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.mark.parametrize("task", [TOKENS, TEXT])
def test_an_encoder_with_a_decoder_is_refused_in_training_and_at_attach(tmp_path: Path, task: str) -> None:
    config = T5Config(vocab_size=160, d_model=64, d_kv=16, d_ff=96, num_layers=1, num_heads=4)
    config.classifier_dropout = 0.0
    folder = write_base(tmp_path / "base", config)
    base = load_base(str(folder), device="cpu")
    with pytest.raises(InvalidSettings, match="'t5' have an encoder and a decoder"):
        task_model(base, task, ["a", "b"])
    heads = ["classifier"] if task == TOKENS else ["classification_head"]
    lora = lora_config(task, target_modules=["q", "v"], modules_to_save=heads)
    adapted = AdaptedBase(base)
    with pytest.raises(InvalidSettings, match="'t5' have an encoder and a decoder"):
        adapted.attach(Artifact.read(save_adapter(folder, tmp_path / "adapter", task, lora)))
    assert not adapted.attached


def test_a_family_without_a_head_for_tokens_is_refused_by_name(tmp_path: Path) -> None:
    config = OPTConfig(
        vocab_size=160,
        hidden_size=64,
        ffn_dim=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        word_embed_proj_dim=64,
    )
    base = load_base(str(write_base(tmp_path / "base", config)), device="cpu")
    with pytest.raises(InvalidSettings, match="'opt' have no token-classification class"):
        task_model(base, TOKENS, ["a", "b"])
