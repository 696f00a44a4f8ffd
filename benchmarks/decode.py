"""A decode step over paged keys and values beside transformers' plain cache: what paging, flattening and reading each
request's own length cost.

    python -m benchmarks.decode

A random Llama of 4 layers, float32, without adapters; each step appends one token to every request. Each way in turn:
  paged      `paged_batch`, a [1, requests] pass; pages taken while the requests grew together
  scattered  the same with every page apart from the next: what fragmented memory costs
  plain      `DynamicCache`, a [requests, 1] pass, all requests of one length as it needs them
With unlike lengths `plain` pads all to the longest, as `generate` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from adapthub.runtime.attention import PagedRow, Serving, paged_batch, positions, serves
from adapthub.runtime.generation import PAGE_SIZE
from adapthub.runtime.kv import KV, Held, Pages
from benchmarks.common import in_turn, milliseconds, print_table, ratio, write_results

ROUNDS = 9


def main() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=4096,
    )
    model = LlamaForCausalLM(config).eval()
    plain = LlamaForCausalLM(config).eval()
    plain.load_state_dict(model.state_dict())
    serving = serves(model)
    rows = [
        _measure(model, plain, serving, name, lengths)
        for name, lengths in (
            ("16 x 1024", [1024] * 16),
            ("16 x 128", [128] * 16),
            ("1 x 1024", [1024]),
            ("16 x 64 to 1984", [64 + 128 * i for i in range(16)]),
        )
    ]
    print_table(rows)
    print(write_results("decode", "python -m benchmarks.decode", rows))


@torch.inference_mode()
def _measure(model: Any, plain: Any, serving: Serving, name: str, lengths: Sequence[int]) -> dict[str, Any]:
    seconds = in_turn(
        {
            "paged": _paged(model, serving, lengths, scattered=False),
            "scattered": _paged(model, serving, lengths, scattered=True),
            "plain": _plain(plain, lengths),
        },
        ROUNDS,
    )
    return {
        "requests x context": name,
        **{f"{way} ms": milliseconds(seconds[way]) for way in seconds},
        "paged / plain": ratio(seconds, "paged", "plain"),
        "scattered / plain": ratio(seconds, "scattered", "plain"),
    }


def _paged(model: Any, serving: Serving, lengths: Sequence[int], *, scattered: bool) -> Callable[[], None]:
    count = sum(-(-(length + ROUNDS + 1) // PAGE_SIZE) for length in lengths)
    pages = Pages(2 * count)
    kv = KV(serving.shapes, pages.count, PAGE_SIZE, model.device, serving.dtype)
    for pool in kv.keys + kv.values:
        pool.normal_()
    held = [Held(length=length) for length in lengths]
    apart = iter(range(0, 2 * count, 2))
    for each in held:
        for _ in range(each.missing(0, PAGE_SIZE)):
            after = each.pages[-1] if each.pages else None
            each.pages += [next(apart)] if scattered else pages.take(1, after)
    tokens = torch.ones(1, len(lengths), dtype=torch.long)

    def step() -> None:
        for each in held:
            for _ in range(each.missing(1, PAGE_SIZE)):
                each.pages += [next(apart)] if scattered else pages.take(1, each.pages[-1])
        rows = [PagedRow(each, 1) for each in held]
        with torch.inference_mode(), paged_batch(kv, rows):
            model(input_ids=tokens, position_ids=positions(rows), use_cache=False)

    return step


def _plain(model: Any, lengths: Sequence[int]) -> Callable[[], None]:
    config, longest = model.config, max(lengths)
    size = config.hidden_size // config.num_attention_heads
    cache = DynamicCache(config=config)
    for layer in range(config.num_hidden_layers):
        shape = len(lengths), config.num_key_value_heads, longest, size
        cache.update(torch.randn(shape), torch.randn(shape), layer)
    tokens = torch.ones(len(lengths), 1, dtype=torch.long)
    # Left-padded, and without a mask where nothing is padded, as `generate` calls it.
    mask = torch.tensor([[0] * (longest - n) + [1] * n for n in lengths]) if len(set(lengths)) > 1 else None

    def step() -> None:
        nonlocal mask
        places = None
        if mask is not None:
            mask = torch.cat([mask, torch.ones(len(lengths), 1, dtype=torch.long)], dim=1)
            places = mask.sum(1, keepdim=True) - 1
        with torch.inference_mode():
            model(input_ids=tokens, attention_mask=mask, position_ids=places, past_key_values=cache)

    return step


if __name__ == "__main__":
    main()
