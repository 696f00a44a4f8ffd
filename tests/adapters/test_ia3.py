"""IA3 where BERT and Llama do not show it: layers with transposed weights, and vectors that do not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import load_base
from adapthub.adapters.errors import AdmissionError, TensorMismatch, UnsupportedAdapter
from tests.adapters.causal_pass import CAUSAL, causal_logits, write_causal_base
from tests.adapters.peft_oracle import expected_logits, ia3_config, lora_config, save_adapter
from tests.adapters.test_attach import close

TOKENS = "token-classification"
ROWS = [[2, 5, 6, 7, 8, 9, 3], [2, 10, 3]]
KEY = "base_model.model.bert.encoder.layer.0.attention.self.key.ia3_l"


def test_conv1d_beside_lora_and_the_base(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"vocab_size": 160, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
    base = write_causal_base(tmp_path / "base", GPT2Config(**sizes, initializer_range=0.2, pad_token_id=0))
    ia3 = ia3_config(CAUSAL, target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"])
    paths = [
        save_adapter(base, tmp_path / "i", CAUSAL, ia3),
        save_adapter(base, tmp_path / "l", CAUSAL, lora_config(CAUSAL, target_modules=["c_attn", "c_fc"])),
    ]
    adapted = AdaptedBase(load_base(str(base), device="cpu"))
    first, second = (((1.0, adapted.attach(Artifact.read(path))),) for path in paths)
    rows = [ROWS[0], ROWS[1], ROWS[1], ROWS[0]]
    mixed = causal_logits(adapted, rows, [first, (), second, second])
    features = [{"input_ids": row} for row in ROWS]
    expected = [expected_logits(base, path, CAUSAL, features) for path in paths]
    for ours, theirs in zip(
        [mixed[0], mixed[2], mixed[3]], [expected[0][0], expected[1][1], expected[1][0]], strict=True
    ):
        close(ours, theirs)


def test_feed_forward_of_a_layer_with_a_bias_takes_it_once(tiny_base: Path, tmp_path: Path) -> None:
    """A bias of size: counted twice or left out, it would show."""
    adapted = AdaptedBase(load_base(str(tiny_base), device="cpu"))
    layer = adapted.base.model.get_submodule("encoder.layer.0.output.dense")
    path = save_adapter(tiny_base, tmp_path / "a", TOKENS, ia3_config(TOKENS))
    digest = adapted.attach(Artifact.read(path))
    (update,) = adapted.attached[digest].updates["encoder.layer.0.output.dense"]
    bias = layer.bias
    assert isinstance(bias, torch.Tensor)
    with torch.no_grad():
        bias.fill_(3.0)
    assert update(torch.zeros(2, 128), torch.zeros(2, 64)).abs().max() == 0


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        ({KEY: torch.ones(64)}, TensorMismatch, r"ia3_l of .* is \[64\]; here it is \[64, 1\]"),
        ({KEY: None}, TensorMismatch, r"targets 'bert.*0\.attention\.self\.key' and has no weights"),
        (
            {KEY.replace("key", "query"): torch.ones(64, 1)},
            TensorMismatch,
            r"IA3 weights for 'bert.*query', which its configuration does not target",
        ),
        ({KEY.replace(".key", ".wrong"): torch.ones(64, 1)}, TensorMismatch, "has no module 'bert.*wrong'"),
        ({KEY.replace("model.bert.", "model."): torch.ones(64, 1)}, TensorMismatch, "under two names"),
        ({KEY.replace("ia3_l", "other"): torch.ones(64, 1)}, TensorMismatch, "key.other' that nothing uses"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(
    tiny_base: Path,
    tmp_path: Path,
    tensors: Mapping[str, torch.Tensor | None],
    error: type[Exception],
    message: str,
) -> None:
    path = save_adapter(tiny_base, tmp_path / "a", TOKENS, ia3_config(TOKENS))
    weights = path / "adapter_model.safetensors"
    changed = {**load_file(weights), **tensors}
    save_file({key: value for key, value in changed.items() if value is not None}, weights)
    adapted = AdaptedBase(load_base(str(tiny_base), device="cpu"))
    with pytest.raises(error, match=message):
        adapted.attach(Artifact.read(path))
    assert not adapted.attached


def test_a_configuration_that_does_not_say_what_it_scales_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    path = save_adapter(tiny_base, tmp_path / "a", TOKENS, ia3_config(TOKENS))
    fields = json.loads((path / "adapter_config.json").read_text())
    adapted = AdaptedBase(load_base(str(tiny_base), device="cpu"))
    (path / "adapter_config.json").write_text(json.dumps(fields | {"feedforward_modules": None}))
    with pytest.raises(UnsupportedAdapter, match="no feedforward_modules"):
        adapted.attach(Artifact.read(path))
    (path / "adapter_config.json").write_text(json.dumps(fields | {"feedforward_modules": "(a+)+"}))
    with pytest.raises(AdmissionError, match="feedforward_modules"):
        Artifact.read(path)
