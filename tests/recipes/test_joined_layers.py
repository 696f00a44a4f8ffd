"""LoRA layers that are one function with their frozen layer, against PEFT's own forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

from tests.kernels.triton_here import interpreted_or_on_a_gpu

interpreted_or_on_a_gpu()
pytest.importorskip("bitsandbytes")  # PEFT's own 4-bit layers are changed too

from adapthub.adapters.kernels import low_rank_training  # noqa: E402  # Triton may not be there
from adapthub.adapters.quantized import steady  # noqa: E402
from adapthub.recipes.joined_layers import join  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
IDS = torch.arange(24, device=DEVICE).view(2, 12) * 5 % 95
FUNCTIONS = 2 * 4  # q, k and v together, o, gate and up together, down
SIZES = LlamaConfig(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    attention_bias=True,
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The dtypes that the function was called with."""
    found: list[torch.dtype] = []
    linears = low_rank_training.linears

    def noted(x: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
        found.append(x.dtype)
        return linears(x, *args)

    monkeypatch.setattr(low_rank_training, "linears", noted)
    return found


def adapted(dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    torch.manual_seed(0)
    return with_lora(AutoModelForCausalLM.from_config(SIZES).to(DEVICE, dtype), **options)


def with_lora(base: Any, **options: Any) -> Any:
    config = LoraConfig(target_modules="all-linear", init_lora_weights=False, **options)
    model = get_peft_model(base, config).train()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def gradients(model: Any, ids: torch.Tensor = IDS) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)  # of dropout
    model.zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_gradients_are_those_of_pefts_forward(calls: list[torch.dtype]) -> None:
    model = adapted()
    plain = gradients(model)
    assert not calls
    join(model)
    joined = gradients(model)
    assert calls == [torch.float32] * FUNCTIONS
    assert joined.keys() == plain.keys()
    for name, gradient in joined.items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-4, atol=1e-6)


def test_in_the_format_that_training_computes_in(calls: list[torch.dtype]) -> None:
    model = adapted(torch.bfloat16)
    with torch.autocast(DEVICE, torch.bfloat16):
        plain = gradients(model)
        join(model)
        joined = gradients(model)
    assert calls == [torch.bfloat16] * FUNCTIONS
    for name, gradient in joined.items():
        assert gradient.dtype == torch.float32
        assert (gradient - plain[name]).norm() <= 0.05 * plain[name].norm(), name


@pytest.mark.gpu
@pytest.mark.parametrize("length", [12, 40], ids=["few rows", "many rows"])
def test_over_bitsandbytes_layers(length: int, tmp_path: Path, calls: list[torch.dtype]) -> None:
    sizes = LlamaConfig(**{**SIZES.to_dict(), "hidden_size": 128, "head_dim": 32, "intermediate_size": 192})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(sizes).bfloat16().save_pretrained(tmp_path)
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    base = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=quantised, device_map=DEVICE, dtype=torch.bfloat16
    )
    model, ids = with_lora(base), torch.arange(2 * length, device=DEVICE).view(2, -1) * 5 % 95
    with torch.autocast(DEVICE, torch.bfloat16):
        theirs = gradients(model, ids)
        steady(base)
        join(model)
        ours = gradients(model, ids)
    assert len(calls) == (FUNCTIONS if DEVICE == "cuda" else 0)
    for name, gradient in ours.items():
        assert (gradient - theirs[name]).norm() <= 0.05 * theirs[name].norm(), name


@pytest.mark.parametrize("options", [{"lora_dropout": 0.5}, {"use_dora": True}, {"bias": "all"}], ids=str)
def test_what_is_more_than_one_plain_lora_is_left_to_peft(
    options: dict[str, Any], calls: list[torch.dtype]
) -> None:
    model = adapted(**options)
    plain = gradients(model)
    join(model)
    again = gradients(model)
    assert len(calls) == (FUNCTIONS - 4 if "bias" in options else 0)  # q, k, v and o have biases
    for name, gradient in again.items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-4, atol=1e-6)


def test_without_gradients_or_adapters_it_is_pefts(calls: list[torch.dtype]) -> None:
    model = adapted()
    join(model)
    with torch.no_grad():
        model(input_ids=IDS)
    with model.disable_adapter():
        model(input_ids=IDS)
    assert not calls
    base = model.unload()
    assert {type(module) for module in base.model.layers[0].self_attn.children()} == {torch.nn.Linear}
