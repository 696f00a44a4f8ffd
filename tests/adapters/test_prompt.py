"""Prompt tuning as a prefix: over families against PEFT, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPTNeoXConfig, MistralConfig, PreTrainedConfig

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import load_base
from adapthub.adapters.errors import InvalidExpression, TensorMismatch, UnsupportedAdapter
from tests.adapters.causal_pass import CAUSAL, SIZES, causal_logits, write_causal_base
from tests.adapters.peft_oracle import expected_logits, lora_config, prompt_config, save_adapter
from tests.adapters.test_attach import close

ROWS = [[2, 5, 6, 7, 8, 9, 3], [2, 10, 3]]
FEATURES = [{"input_ids": row} for row in ROWS]
FAMILIES: dict[str, PreTrainedConfig] = {
    # A window shorter than prompt and text: a cache that forgets would lose the first virtual tokens.
    "mistral": MistralConfig(**SIZES, sliding_window=5),
    "gpt2": GPT2Config(
        vocab_size=160, n_embd=64, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2, pad_token_id=0
    ),
    "neox": GPTNeoXConfig(**{key: SIZES[key] for key in SIZES if key != "num_key_value_heads"}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_to_peft_beside_the_base(family: str, tmp_path: Path) -> None:
    base = write_causal_base(tmp_path / "base", FAMILIES[family])
    path = save_adapter(base, tmp_path / "a", CAUSAL, prompt_config(CAUSAL, 8))
    adapted = AdaptedBase(load_base(str(base), device="cpu"))
    selection = ((1.0, adapted.attach(Artifact.read(path))),)
    adapted.selections.check_generation(selection)
    assert adapted.selections.longest(selection) == (adapted.selections.longest(()) or 0) - 8
    expected = expected_logits(base, path, CAUSAL, FEATURES)
    mixed = causal_logits(adapted, [ROWS[0], ROWS[1], ROWS[1]], [selection, (), selection])
    close(mixed[0], expected[0])
    close(mixed[2], expected[1])
    assert not torch.allclose(mixed[1], mixed[2], rtol=0.01)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_causal_base(tmp_path_factory.mktemp("llama") / "base")


def test_a_prompt_is_not_summed(llama: Path, tmp_path: Path) -> None:
    adapted = AdaptedBase(load_base(str(llama), device="cpu"))
    prompt, lora = (
        adapted.attach(Artifact.read(save_adapter(llama, tmp_path / str(i), CAUSAL, config)))
        for i, config in enumerate((prompt_config(CAUSAL), lora_config(CAUSAL, target_modules=["q_proj"])))
    )
    with pytest.raises(InvalidExpression, match="prompt-tuning adapter cannot be summed with others"):
        adapted.selections.check_generation(((1.0, prompt), (0.5, lora)))
    with pytest.raises(InvalidExpression, match=r"cannot be weighted, here by 0\.5"):
        adapted.selections.check_generation(((0.5, prompt),))


def test_a_prompt_is_not_run_on_an_encoder(tiny_base: Path, llama: Path, tmp_path: Path) -> None:
    path = save_adapter(llama, tmp_path / "a", CAUSAL, prompt_config(CAUSAL))
    adapted = AdaptedBase(load_base(str(tiny_base), device="cpu"))
    with pytest.raises(UnsupportedAdapter, match="base models of type 'bert': they have no causal language"):
        adapted.attach(Artifact.read(path))
    path = save_adapter(
        tiny_base, tmp_path / "b", "token-classification", prompt_config("token-classification")
    )
    with pytest.raises(UnsupportedAdapter, match="prompt tuning for token-classification|modules_to_save"):
        adapted.attach(Artifact.read(path))


def test_a_base_whose_tokens_look_ahead_is_found_out(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_adapter(llama, tmp_path / "a", CAUSAL, prompt_config(CAUSAL))
    base = load_base(str(llama), device="cpu")
    adapted = AdaptedBase(base)
    forward = base.backbone.layers[0].mlp.forward  # type: ignore[union-attr, index]
    monkeypatch.setattr(
        base.backbone.layers[0].mlp,  # type: ignore[union-attr, index]
        "forward",
        lambda hidden: forward(hidden) + hidden.mean(1, keepdim=True),
    )
    with pytest.raises(UnsupportedAdapter, match="their tokens attend to what follows"):
        adapted.attach(Artifact.read(path))


def test_tensors_must_be_the_prompt(llama: Path, tmp_path: Path) -> None:
    adapted = AdaptedBase(load_base(str(llama), device="cpu"))
    path = save_adapter(llama, tmp_path / "a", CAUSAL, prompt_config(CAUSAL))
    weights = path / "adapter_model.safetensors"
    prompt = load_file(weights)["prompt_embeddings"]
    save_file({"prompt_embeddings": prompt, "more": prompt.clone()}, weights)
    with pytest.raises(TensorMismatch, match="a tensor 'more' that nothing uses"):
        adapted.attach(Artifact.read(path))
    save_file({"prompt_embeddings": prompt[:, :32].contiguous()}, weights)
    with pytest.raises(TensorMismatch, match=r"is \[5, 32\]; this base and prompt length need \[5, 64\]"):
        adapted.attach(Artifact.read(path))
    save_file({"prompts": prompt}, weights)
    with pytest.raises(TensorMismatch, match="no tensor 'prompt_embeddings'"):
        adapted.attach(Artifact.read(path))
    save_file({"prompt_embeddings": prompt}, weights)
    fields = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(fields | {"modules_to_save": ["norm"]}))
    with pytest.raises(UnsupportedAdapter, match="modules_to_save"):
        adapted.attach(Artifact.read(path))
