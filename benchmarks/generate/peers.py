"""The peers in the same process: PEFT on its adapters, and transformers on the base alone.

  peft in turn   PEFT, one adapter after the other: `generate` on the padded prompts of those who use it
  peft mixed     PEFT, `generate` on all padded prompts with `adapter_names`
  transformers   `generate_batch`, transformers' continuous batching, on the base alone; its manager is kept, as our engine
                 is, with as many tokens of keys and values, a step and a batch

Does not time anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    ContinuousBatchingConfig,
    GenerationConfig,
)

from benchmarks.common import comparable, in_dtype
from benchmarks.generate.common import KV_TOKENS, MAX_ROWS, NEW, STEP_TOKENS, Prompts, Setting

_PAGE = 256  # tokens: its default


def load_plain(setting: Setting) -> Any:
    """The base as transformers loads it."""
    dtype = getattr(torch, setting.dtype)
    options: dict[str, Any] = {"device_map": {"": setting.device}, "dtype": dtype}
    if setting.quantize == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    if setting.quantize == "int8":
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(setting.path, **options)
    comparable(model)
    return model.eval()


def load_peft(setting: Setting) -> PeftModel:
    """A base of its own with every adapter, "a0" and so on."""
    model = PeftModel.from_pretrained(load_plain(setting), str(setting.adapters[0]), adapter_name="a0")
    for index, adapter in enumerate(setting.adapters[1:], start=1):
        model.load_adapter(str(adapter), adapter_name=f"a{index}", low_cpu_mem_usage=True)
    in_dtype(model, getattr(torch, setting.dtype))
    return model.eval()


def peft_in_turn(peft: PeftModel, prompts: Prompts, chosen: Sequence[int]) -> list[list[int]]:
    results: dict[int, list[int]] = {}
    for adapter in sorted(set(chosen)):
        peft.set_adapter(f"a{adapter}")
        places = [place for place, other in enumerate(chosen) if other == adapter]
        results |= zip(places, _generate(peft, [prompts[place] for place in places]), strict=True)
    return [results[place] for place in range(len(prompts))]


def peft_mixed(peft: PeftModel, prompts: Prompts, chosen: Sequence[int]) -> list[list[int]]:
    return _generate(peft, prompts, adapter_names=[f"a{i}" for i in chosen])


def transformers(model: Any, prompts: Prompts) -> None:
    model.generate_batch(
        inputs=prompts,
        generation_config=GenerationConfig(
            max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, eos_token_id=-1, pad_token_id=0
        ),
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=_PAGE,
            num_blocks=KV_TOKENS // _PAGE,
            max_batch_tokens=STEP_TOKENS,
            max_requests_per_batch=MAX_ROWS,
            allow_block_sharing=False,  # no peer keeps prompts from one round to the next
        ),
        persistent_manager=True,
        progress_bar=False,
    )


def _generate(model: Any, prompts: Prompts, **options: Any) -> list[list[int]]:
    """Left-padded, as decoders are."""
    longest = max(map(len, prompts))
    paddings = [longest - len(prompt) for prompt in prompts]
    ids = [[0] * padding + prompt for padding, prompt in zip(paddings, prompts, strict=True)]
    mask = [[0] * padding + [1] * (longest - padding) for padding in paddings]
    with torch.inference_mode():
        output = model.generate(
            input_ids=torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0,
            **options,
        )
    return [row[longest:].tolist() for row in output]
