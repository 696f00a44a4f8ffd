"""Training a LoRA on a GPU over a random nf4 base of Llama-3.1-8B's shapes: ours against PEFT and bitsandbytes, in one
process.

    python -m benchmarks.train_nf4 [--batch 1 4] [--tokens 1024] [--layers 32] [--steps 3] [--rounds 2]

The same layers, LoRA (r16, all linear, kept in float32), autocast to bfloat16 and fused AdamW in every way, in turn; each
adds to the one before. `peft`: PEFT's layers over bitsandbytes', and the model's own loss, as the plain script has them,
without the Trainer. `products`: bitsandbytes' products replaced (`kernels.nf4_training`). `joined`: with the LoRA in the
same function, and layers of one input in one (`recipes.joined_layers`). `fused`: norms, gated products and rotary positions
by Liger's kernels (`recipes.fused_layers`), where it is installed. `parts`: the loss by parts (`recipes.language_loss`).
`ours`: layers replayed as CUDA graphs (`recipes.captured_layers`).
`tokens/s` is the median of all steps but the first three of each round, `faster` the median of the rounds' ratios to `peft`,
`peak GB` what torch took of the device at most, `loss` the last step's. Needs bitsandbytes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from contextlib import ExitStack
from typing import Any

import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.bnb import Linear4bit as PeftLinear4bit
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from adapthub.adapters.kernels.nf4_lookup import CODE
from adapthub.adapters.quantized import WeightOnlyNf4, steady
from adapthub.recipes.captured_layers import captured
from adapthub.recipes.fused_layers import fused, kernels_for
from adapthub.recipes.joined_layers import JoinedLinear4bit, join
from adapthub.recipes.language_loss import LanguageLoss
from adapthub.recipes.layer_graphs import Cuda
from benchmarks.common import print_table, write_results

RANK = 16
SHAPE = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=8192,
)
WAYS = ("peft", "products", "joined", "fused", "parts", "ours")
_UNCOUNTED = 3  # in the last, passes are captured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", nargs="*", type=int, default=[1, 4])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    SHAPE.num_hidden_layers = options.layers
    model = adapted(SHAPE, torch.device("cuda"))
    rows: list[dict[str, Any]] = []
    for batch in options.batch:
        found: dict[str, list[tuple[list[float], float, float]]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way, runs in found.items():
                runs.append(train(model, way, batch, options.tokens, options.steps))
        theirs = [statistics.median(times) for times, _, _ in found["peft"]]
        for way, runs in found.items():
            ours = [statistics.median(times) for times, _, _ in runs]
            seconds = statistics.median([time for times, _, _ in runs for time in times])
            rows.append(
                {
                    "batch": batch,
                    "way": way,
                    "tokens/s": batch * options.tokens / seconds,
                    "faster": statistics.median(map(float.__truediv__, theirs, ours)),
                    "peak GB": max(peak for _, peak, _ in runs) / 1e9,
                    "loss": runs[-1][2],
                }
            )
    command = " ".join(["python -m benchmarks.train_nf4", *sys.argv[1:]])
    print(
        write_results(
            "train_nf4", command, rows, base=f"Llama-3.1-8B's shapes, {options.layers} layers, random"
        )
    )
    print_table(rows)


def adapted(config: LlamaConfig, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> PeftModel:
    """A random model whose linear layers, but the last, are bitsandbytes' with LoRAs by PEFT."""
    with torch.device("meta"):
        model = LlamaForCausalLM._from_config(config, dtype=dtype)
    for path, module in [*model.named_modules()]:
        if type(module) is nn.Linear and module is not model.lm_head:
            parent, _, name = path.rpartition(".")
            layer = _layer(module.in_features, module.out_features, device, dtype)
            setattr(model.get_submodule(parent), name, layer)
    for name, parameter in [*model.named_parameters()]:
        if parameter.is_meta:
            owner, _, last = name.rpartition(".")
            ones = last == "weight" and "norm" in owner
            value = torch.ones if ones else torch.randn
            made = value(parameter.shape, device=device).mul_(1 if ones else 0.02).to(dtype)
            model.get_submodule(owner).register_parameter(last, nn.Parameter(made, requires_grad=False))
    rotary: Any = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(config).to(device)
    targets = sorted(
        {path.rpartition(".")[2] for path, m in model.named_modules() if isinstance(m, Linear4bit)}
    )
    lora = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets, task_type="CAUSAL_LM")
    wrapped: PeftModel = get_peft_model(model, lora).train()
    return wrapped


def _layer(size: int, outputs: int, device: torch.device, dtype: torch.dtype) -> Linear4bit:
    """Random weights, double-quantised."""
    blocks = outputs * size // 64
    inner = QuantState(
        torch.full((-(-blocks // 256),), 0.01, device=device),
        None,
        torch.linspace(-1, 1, 256, device=device),
        256,
        None,
        torch.float32,
    )
    state = QuantState(
        torch.randint(256, (blocks,), dtype=torch.uint8, device=device),
        torch.Size((outputs, size)),
        torch.tensor(CODE, device=device),
        64,
        "nf4",
        dtype,
        torch.tensor(0.02, device=device),
        inner,
    )
    with torch.device("meta"):
        layer = Linear4bit(size, outputs, bias=False, compute_dtype=dtype, quant_type="nf4")
    layer.weight = Params4bit(
        torch.randint(256, (outputs * size // 2, 1), dtype=torch.uint8, device=device),
        requires_grad=False,
        quant_state=state,
        blocksize=64,
        quant_type="nf4",
        module=layer,
        bnb_quantized=True,
    )
    layer.quant_state = state
    return layer


def train(
    model: PeftModel, way: str, batch: int, tokens: int, steps: int
) -> tuple[list[float], float, float]:
    """Seconds of each step but the first three, bytes at the peak, and the last loss. Every way begins at the same
    weights, and sees the same rows."""
    base: Any = model.get_base_model()
    _go_by(model, way)
    torch.manual_seed(0)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in trained.items():
        nn.init.zeros_(parameter) if "lora_B" in name else nn.init.normal_(
            parameter, std=parameter.shape[1] ** -0.5
        )
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-4, fused=True)
    device, times, loss = base.device, [], torch.zeros(())
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with ExitStack() as saving:
        if way in WAYS[3:] and (kernels := kernels_for(device)) is not None:
            saving.enter_context(fused(model, kernels))
        sums = LanguageLoss(base) if way in WAYS[4:] else None
        if way == "ours" and device.type == "cuda":
            saving.enter_context(captured(model, lambda: Cuda(device)))
        saving.enter_context(torch.autocast(device.type, torch.bfloat16))
        torch.manual_seed(1)
        for _ in range(steps + _UNCOUNTED):
            ids = torch.randint(base.config.vocab_size, (batch, tokens), device=device)
            began = _now()
            loss = _loss(model, ids, sums)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            times.append(_now() - began)
    peak = torch.cuda.max_memory_reserved() if device.type == "cuda" else 0
    return times[_UNCOUNTED:], peak, float(loss.detach())


def _go_by(model: PeftModel, way: str) -> None:
    """Have the layers' classes be those of a way."""
    classes: dict[type, Any] = {WeightOnlyNf4: Linear4bit, JoinedLinear4bit: PeftLinear4bit}
    for module in model.modules():
        module.__class__ = classes.get(type(module), type(module))
    if way != "peft":
        steady(model)
    if way not in ("peft", "products"):
        join(model)


def _loss(model: PeftModel, ids: torch.Tensor, sums: LanguageLoss | None) -> torch.Tensor:
    if sums is None:
        whole: torch.Tensor = model(input_ids=ids, labels=ids, use_cache=False).loss
        return whole
    total, count = sums(lambda **inputs: model(**inputs, use_cache=False), {"input_ids": ids, "labels": ids})
    return total / count


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
