"""Families found by capability: which run flattened, that they equal transformers' padded pass, and that heads do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig
from transformers import (
    AutoModel,
    BertConfig,
    DebertaV2Config,
    Dinov2Config,
    DistilBertConfig,
    ElectraConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    PreTrainedConfig,
    Qwen3Config,
    RobertaConfig,
)

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import load_base
from adapthub.adapters.errors import InvalidSettings, TensorMismatch, UnsupportedAdapter
from adapthub.adapters.heads import head_modules, task_model
from adapthub.adapters.served_heads import Heads
from tests.adapters.peft_oracle import expected_logits, save_adapter
from tests.conftest import write_tokenizer

TOKENS, TEXT = "token-classification", "text-classification"
SIZES: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
GPT2: dict[str, Any] = {
    "vocab_size": 160,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 2,
}
FAMILIES: dict[str, tuple[PreTrainedConfig, str, list[str]]] = {
    "bert": (BertConfig(**SIZES), "flat", ["query", "value"]),
    "roberta": (RobertaConfig(**SIZES), "flat", ["query", "value"]),
    "electra": (ElectraConfig(**SIZES), "flat", ["query", "value"]),
    "modernbert": (
        ModernBertConfig(
            **SIZES, local_attention=8, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3
        ),
        "flat",
        ["Wqkv", "Wo"],
    ),
    "distilbert": (
        DistilBertConfig(vocab_size=160, dim=64, n_layers=2, n_heads=4, hidden_dim=96, initializer_range=0.2),
        "flat",
        ["q_lin", "v_lin"],
    ),
    "deberta": (
        # As DeBERTa v3: query and key also project relative positions, which belong to no row.
        DebertaV2Config(
            **SIZES
            | {"share_att_key": True, "position_buckets": 8}
            | {"initializer_range": 0.1},  # larger, and rounding in its attention shows
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
        ),
        "padded",
        ["query_proj", "key_proj", "value_proj"],
    ),
    "llama": (LlamaConfig(**SIZES, num_key_value_heads=2), "flat", ["q_proj", "v_proj"]),
    "mistral": (
        MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=6),
        "flat",
        ["q_proj", "v_proj"],
    ),
    "gemma2": (Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=16), "padded", ["q_proj", "v_proj"]),
    "gpt2": (GPT2Config(**GPT2, eos_token_id=3, pad_token_id=0, initializer_range=0.2), "flat", ["c_attn"]),
}
ROWS = [{"input_ids": [2, *range(5, 5 + n), 3]} for n in (9, 2, 14)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    result = {}
    for name, (config, _, _) in FAMILIES.items():
        torch.manual_seed(1)
        result[name] = tmp_path_factory.mktemp("families") / name
        AutoModel.from_config(config).save_pretrained(result[name])
        write_tokenizer(result[name])
    return result


@pytest.mark.parametrize("task", [TOKENS, TEXT])
@pytest.mark.parametrize("name", FAMILIES)
def test_mixed_rows_equal_peft(name: str, task: str, folders: dict[str, Path], tmp_path: Path) -> None:
    _, layout, targets = FAMILIES[name]
    adapted = AdaptedBase(load_base(str(folders[name]), device="cpu"))
    assert adapted.layout == layout
    task_type = {TOKENS: "TOKEN_CLS", TEXT: "SEQ_CLS"}[task]
    heads = list(head_modules(task_model(adapted.base, task, ["a", "b", "c"])))
    results = []
    for rank in (2, 6):
        config = LoraConfig(
            task_type=task_type,
            r=rank,
            target_modules=targets,
            modules_to_save=heads,
            init_lora_weights=False,
        )
        path = save_adapter(folders[name], tmp_path / str(rank), task, config, seed=rank)
        results.append(
            (adapted.attach(Artifact.read(path)), expected_logits(folders[name], path, task, ROWS))
        )
    rows = [*ROWS, *ROWS, *ROWS]
    selections = [((1.0, digest),) for digest, _ in results for _ in ROWS] + [()] * len(ROWS)
    order = [0, 3, 6, 1, 4, 7, 2, 5, 8]
    mixed = adapted.logits([rows[i] for i in order], [selections[i] for i in order])
    with torch.inference_mode():
        hidden = [adapted.base.backbone(input_ids=torch.tensor([row["input_ids"]]))[0][0] for row in ROWS]
    expected = [*results[0][1], *results[1][1], *hidden]
    for place, i in enumerate(order):
        error = (mixed[place] - expected[i]).abs().max() / expected[i].abs().max()
        assert error <= 1e-5, f"row {i}: relative error {error:.1e}"


def test_lora_under_an_embedding_that_scales(tmp_path: Path) -> None:
    config = Gemma3TextConfig(**SIZES, num_key_value_heads=2, head_dim=16)
    AutoModel.from_config(config).save_pretrained(tmp_path / "base")
    write_tokenizer(tmp_path / "base")
    lora = LoraConfig(task_type="SEQ_CLS", target_modules=["embed_tokens"], init_lora_weights=False)
    path = save_adapter(tmp_path / "base", tmp_path / "a", TEXT, lora)
    adapted = AdaptedBase(load_base(str(tmp_path / "base"), device="cpu"))
    selection = ((1.0, adapted.attach(Artifact.read(path))),)
    expected = expected_logits(tmp_path / "base", path, TEXT, ROWS)
    for ours, theirs in zip(adapted.logits(ROWS, [selection] * len(ROWS)), expected, strict=True):
        assert (ours - theirs).abs().max() / theirs.abs().max() <= 1e-5


def test_rows_under_modules_that_see_attention_heads(tmp_path: Path) -> None:
    """Qwen3 normalises each head: its norm sees [1, T, heads, size], which segments of tokens do not describe."""
    config = Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=16)
    AutoModel.from_config(config).save_pretrained(tmp_path / "base")
    write_tokenizer(tmp_path / "base")
    adapted = AdaptedBase(load_base(str(tmp_path / "base"), device="cpu"))
    lora = LoraConfig(
        task_type="TOKEN_CLS",
        target_modules=["q_proj"],
        modules_to_save=["q_norm", "score"],
        init_lora_weights=False,
    )
    expected, selections = [], []
    for seed, row in enumerate(ROWS):
        path = save_adapter(tmp_path / "base", tmp_path / str(seed), TOKENS, lora, seed=seed)
        selections.append(((1.0, adapted.attach(Artifact.read(path))),))
        expected += expected_logits(tmp_path / "base", path, TOKENS, [row])
    for ours, theirs in zip(adapted.logits(ROWS, selections), expected, strict=True):
        assert (ours - theirs).abs().max() / theirs.abs().max() <= 1e-5


@pytest.mark.parametrize(("configured", "tokenizer"), [(7, "[PAD]"), (None, "[PAD]"), (None, None)])
def test_rows_pool_their_own_last_token_whatever_pads(
    configured: int | None, tokenizer: str | None, tmp_path: Path
) -> None:
    config = LlamaConfig(**SIZES | {"pad_token_id": configured})
    AutoModel.from_config(config).save_pretrained(tmp_path / "base")
    write_tokenizer(tmp_path / "base")
    base = load_base(str(tmp_path / "base"), device="cpu")
    assert base.tokenizer is not None
    base.tokenizer.pad_token = tokenizer
    lora = LoraConfig(
        task_type="SEQ_CLS", target_modules=["q_proj"], modules_to_save=["score"], init_lora_weights=False
    )
    path = save_adapter(tmp_path / "base", tmp_path / "a", TEXT, lora)
    adapted = AdaptedBase(base)
    selection = ((1.0, adapted.attach(Artifact.read(path))),)
    expected = expected_logits(tmp_path / "base", path, TEXT, ROWS)
    for ours, theirs in zip(adapted.logits(ROWS, [selection] * len(ROWS)), expected, strict=True):
        assert (ours - theirs).abs().max() / theirs.abs().max() <= 1e-5


def test_positions_are_found_where_hidden_states_hardly_move_with_them(tmp_path: Path) -> None:
    """In bfloat16 another offset moves these hidden states by less than rounding is allowed to."""
    torch.manual_seed(0)
    model = AutoModel.from_config(RobertaConfig(**SIZES | {"pad_token_id": 1}))
    with torch.no_grad():
        model.embeddings.position_embeddings.weight.mul_(0.1)
        for layer in model.encoder.layer:
            layer.output.LayerNorm.bias[3] = 40.0
    model.save_pretrained(tmp_path / "base")
    write_tokenizer(tmp_path / "base")
    adapted = AdaptedBase(load_base(str(tmp_path / "base"), device="cpu", dtype="bfloat16"))
    assert adapted.layout == "flat"
    assert adapted.selections.longest(()) == model.config.max_position_embeddings - 2


@pytest.mark.parametrize("name", ["roberta", "llama", "gpt2"])
def test_prefix_adapters_of_other_families(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    adapted = AdaptedBase(load_base(str(folders[name]), device="cpu"))
    path = save_adapter(
        folders[name], tmp_path / "p", TOKENS, PrefixTuningConfig(task_type="TOKEN_CLS", num_virtual_tokens=4)
    )
    digest = adapted.attach(Artifact.read(path))
    expected = expected_logits(folders[name], path, TOKENS, ROWS)
    mixed = adapted.logits([*ROWS, ROWS[0]], [*[((1.0, digest),)] * len(ROWS), ()])
    for ours, theirs in zip(mixed, expected, strict=False):
        assert (ours - theirs).abs().max() / theirs.abs().max() <= 1e-5


def test_a_prefix_is_refused_where_rows_run_padded(folders: dict[str, Path], tmp_path: Path) -> None:
    config = PrefixTuningConfig(
        task_type="TOKEN_CLS", num_virtual_tokens=4, num_layers=2, token_dim=64, num_attention_heads=4
    )
    path = save_adapter(folders["bert"], tmp_path / "p", TOKENS, config)
    adapted = AdaptedBase(load_base(str(folders["deberta"]), device="cpu"))
    with pytest.raises(
        UnsupportedAdapter, match="prefix adapters are not run on base models of type 'deberta-v2'"
    ):
        adapted.attach(Artifact.read(path))


def test_a_family_or_task_without_a_head_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=64, num_hidden_layers=1, num_attention_heads=4, image_size=28)
    AutoModel.from_config(config).save_pretrained(tmp_path / "dino")
    with pytest.raises(InvalidSettings, match="'dinov2' have no token-classification class"):
        task_model(load_base(str(tmp_path / "dino"), device="cpu"), TOKENS, ["a", "b"])
    with pytest.raises(UnsupportedAdapter, match="no head for task 'translation'"):
        task_model(load_base(str(tiny_base), device="cpu"), "translation", ["a", "b"])


def test_head_tensors_are_all_needed_and_all_used(tiny_base: Path) -> None:
    base = load_base(str(tiny_base), device="cpu")
    heads = Heads(base)
    weight, bias = torch.zeros(3, 64), torch.zeros(3)
    assert heads.make(TOKENS, {"classifier.weight": weight, "classifier.bias": bias}).labels == 3
    with pytest.raises(TensorMismatch, match="lacks 'classifier.bias'"):
        heads.make(TOKENS, {"classifier.weight": weight})
    with pytest.raises(TensorMismatch, match="nothing uses: 'other'"):
        heads.make(TOKENS, {"classifier.weight": weight, "classifier.bias": bias, "other": bias})
    with pytest.raises(TensorMismatch, match="no head"):
        heads.make(TOKENS, {})
    with pytest.raises(TensorMismatch, match="classifier.bias"):
        heads.make(TOKENS, {"classifier.weight": weight, "classifier.bias": torch.zeros(4)})
