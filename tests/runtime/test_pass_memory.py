"""What passes take, counted without memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from adapthub.runtime.pass_memory import aside_bytes, pass_bytes, peak_bytes

CONFIG = LlamaConfig(
    vocab_size=1000,
    hidden_size=64,
    intermediate_size=256,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_peak_is_what_is_alive_at_once(device: str) -> None:
    x = torch.ones(1000, device=device)

    def run() -> torch.Tensor:
        for _ in range(3):
            y = x + 1  # 4,000 bytes
            z = torch.cat([y, y])  # and 8,000
            del y
            x.view(10, 100)  # none
        return z

    assert peak_bytes(run, [x]) == 4000 + 8000 + 8000  # the last z, until the next is there


def test_parameters_are_no_part_of_a_pass() -> None:
    layer = nn.Linear(100, 50, bias=False, device="meta")
    x = torch.ones(4, 100, device="meta")
    with torch.inference_mode():
        assert peak_bytes(lambda: layer(x), [x, layer.weight]) == 4 * 50 * 4


def model(dtype: torch.dtype, device: str = "meta") -> LlamaForCausalLM:
    with torch.device(device):
        made: LlamaForCausalLM = LlamaForCausalLM._from_config(CONFIG, dtype=dtype).eval()
        return made


def test_a_pass_takes_what_its_widest_layer_does() -> None:
    tokens, wide = 512, 256
    taken = pass_bytes(model(torch.bfloat16), tokens, 4)
    assert 2 * tokens * wide * 2 < taken < 8 * tokens * wide * 2  # gate and up, and what is beside them
    assert pass_bytes(model(torch.float32), tokens, 4) > 1.8 * taken
    assert pass_bytes(model(torch.bfloat16), 2 * tokens, 4) > 1.8 * taken
    assert pass_bytes(model(torch.bfloat16), 1 << 20, 4) == pytest.approx((1 << 11) * taken, rel=0.1)


def test_it_is_counted_the_same_with_memory() -> None:
    tokens, there = 64, model(torch.float32, "cpu")
    ids = torch.ones(1, tokens, dtype=torch.long)
    mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool)
    kept = torch.zeros(4, dtype=torch.long)
    there.set_attn_implementation("sdpa")
    with torch.inference_mode():
        real = peak_bytes(
            lambda: there(
                input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=kept
            ).logits.float(),
            [ids, mask, kept, *there.parameters(), *there.buffers()],
        )
    assert pass_bytes(model(torch.float32), tokens, 4) == pytest.approx(real, rel=0.05)


def test_a_quantised_base_has_its_largest_weight_aside() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    made = model(torch.bfloat16)
    assert aside_bytes(made, quantized=False, device=cpu, dtype=torch.bfloat16) == 0
    assert aside_bytes(made, quantized=True, device=cpu, dtype=torch.float32) == 64 * 256 * 4
    on_a_gpu = aside_bytes(made, quantized=True, device=gpu, dtype=torch.bfloat16)
    assert on_a_gpu == 64 * 256 * 2 + (64 << 20)
