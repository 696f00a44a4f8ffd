"""Training a LoRA on a GPU over a random nf4 base of Llama-3.1-8B's shapes: our products against bitsandbytes', in one
process.

    python -m benchmarks.train_nf4 [--batch 1 4] [--tokens 1024] [--layers 32] [--steps 5]

The same layers, LoRA (r16, all linear, bfloat16) and AdamW in every way; what differs is who multiplies by the frozen
weights and makes the loss. `bitsandbytes`: `matmul_4bit` and the model's own loss, as PEFT's script has them, without the
Trainer. `products`: `kernels.nf4_training` in its place. `joined`: with the LoRA in the same function
(`kernels.low_rank_training`). `ours`: the loss by parts (`recipes.language_loss`) too.
`tokens/s` is the median of the steps after the first, `peak GB` what torch allocated at most, `loss` the last step's.
Without bitsandbytes its row is left out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from adapthub.adapters.kernels import low_rank_training, nf4_training
from adapthub.adapters.kernels.nf4 import Scales
from adapthub.adapters.kernels.nf4_lookup import CODE
from adapthub.adapters.kernels.nf4_pairs import Matrix
from adapthub.recipes.language_loss import LanguageLoss
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
_UNCOUNTED = 1
Product = Callable[[torch.Tensor, Matrix, int], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", nargs="*", type=int, default=[1, 4])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    SHAPE.num_hidden_layers = options.layers
    model = adapted(SHAPE, torch.device("cuda"), torch.bfloat16)
    ways = [*(["bitsandbytes"] if find_spec("bitsandbytes") else []), "products", "joined", "ours"]
    rows: list[dict[str, Any]] = []
    for batch in options.batch:
        first = None
        for way in ways:
            torch.cuda.reset_peak_memory_stats()
            seconds, loss = train(model, way, batch, options.tokens, options.steps)
            first = first or seconds
            rows.append(
                {
                    "batch": batch,
                    "way": way,
                    "tokens/s": batch * options.tokens / seconds,
                    "faster": first / seconds,
                    "peak GB": torch.cuda.max_memory_allocated() / 1e9,
                    "loss": loss,
                }
            )
    command = " ".join(["python -m benchmarks.train_nf4", *sys.argv[1:]])
    print(
        write_results(
            "train_nf4", command, rows, base=f"Llama-3.1-8B's shapes, {options.layers} layers, random"
        )
    )
    print_table(rows)


class Adapted(nn.Module):
    """A frozen nf4 layer with random weights, double-quantised, and a LoRA beside it: [..., size] to [..., outputs]."""

    product: Product
    joined = False

    def __init__(self, size: int, outputs: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        blocks = outputs * size // 64
        self.matrix = Matrix(
            torch.randint(256, (outputs * size // 2, 1), dtype=torch.uint8, device=device),
            Scales(
                torch.randint(256, (blocks,), dtype=torch.uint8, device=device),
                torch.full((-(-blocks // 256),), 0.01, device=device),
                torch.linspace(-1, 1, 256, device=device),
                torch.tensor(0.02, device=device),
            ),
            outputs,
        )
        self.size = size
        self.a = nn.Parameter(torch.randn(RANK, size, device=device).to(dtype) * size**-0.5)
        self.b = nn.Parameter(torch.zeros(outputs, RANK, dtype=dtype, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.joined:
            rows, adapter = x.reshape(-1, self.size), low_rank_training.Lora(self.a, self.b, 1.0)
            y = low_rank_training.linear(rows, low_rank_training.Nf4(self.matrix), [adapter])
            return y.view(*x.shape[:-1], -1)
        return type(self).product(x, self.matrix, self.size) + F.linear(F.linear(x, self.a), self.b)


def adapted(config: LlamaConfig, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """A random model whose linear layers, but the last, are adapted."""
    with torch.device("meta"):
        model = LlamaForCausalLM._from_config(config, dtype=dtype)
    for path, module in [*model.named_modules()]:
        if type(module) is nn.Linear and module is not model.lm_head:
            parent, _, name = path.rpartition(".")
            layer = Adapted(module.in_features, module.out_features, device, dtype)
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
    random: PreTrainedModel = model
    return random


def train(model: PreTrainedModel, way: str, batch: int, tokens: int, steps: int) -> tuple[float, float]:
    """The median step's seconds, and the last loss. Every way begins at the same weights, and sees the same rows."""
    Adapted.product = staticmethod(_by_bitsandbytes if way == "bitsandbytes" else _by_us)
    Adapted.joined = way in ("joined", "ours")
    torch.manual_seed(0)
    layers = [module for module in model.modules() if isinstance(module, Adapted)]
    for layer in layers:
        nn.init.zeros_(layer.b)
        nn.init.normal_(layer.a, std=layer.size**-0.5)
    optimizer = torch.optim.AdamW([p for layer in layers for p in (layer.a, layer.b)], lr=1e-4)
    sums = LanguageLoss(model) if way == "ours" else None
    device, times, loss = model.device, [], torch.zeros(())
    for _ in range(steps + _UNCOUNTED):
        ids = torch.randint(model.config.vocab_size, (batch, tokens), device=device)
        began = _now()
        if sums is None:
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        else:
            total, count = sums(
                lambda **inputs: model(**inputs, use_cache=False), {"input_ids": ids, "labels": ids}
            )
            loss = total / count
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(_now() - began)
    return statistics.median(times[_UNCOUNTED:]), float(loss.detach())


def _by_us(x: torch.Tensor, matrix: Matrix, size: int) -> torch.Tensor:
    return nf4_training.linear(x.reshape(-1, size), matrix).view(*x.shape[:-1], matrix.outputs)


def _by_bitsandbytes(x: torch.Tensor, matrix: Matrix, size: int) -> torch.Tensor:
    from bitsandbytes.autograd._functions import matmul_4bit
    from bitsandbytes.functional import QuantState

    absmax, nested, code, offset = matrix.scales
    outer = QuantState(nested, None, code, 256, None, torch.float32)
    values = torch.tensor(CODE, device=x.device)
    shape = torch.Size((matrix.outputs, size))
    state = QuantState(absmax, shape, values, 64, "nf4", x.dtype, offset=offset, state2=outer)
    result: torch.Tensor = matmul_4bit(x, matrix.packed.t(), state)
    return result


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
