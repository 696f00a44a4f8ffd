"""A tiny causal base, adapters of every kind that PEFT saved for it, and PEFT's own greedy text under each: the engine's
oracle.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from peft import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig
from safetensors.torch import load_file
from transformers import DynamicCache

from adapthub.adapters.artifact import Artifact
from tests.adapters.causal_pass import CAUSAL, write_causal_base
from tests.adapters.peft_oracle import load_plain, save_adapter

ALL = r".*\.(q|k|v|o|gate|up|down)_proj"
Logits = Callable[[Sequence[int]], torch.Tensor]


def lora(**options: Any) -> LoraConfig:
    """A LoRA with random A and B, by default of rank 4 under all linear layers."""
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ALL, "init_lora_weights": False}
    return LoraConfig(task_type="CAUSAL_LM", **(settings | options))


CONFIGS: Mapping[str, Any] = {
    "lora": lora(),
    "rslora": lora(r=8, use_rslora=True, target_modules=["q_proj", "down_proj"]),
    "dora": lora(r=2, use_dora=True),
    "lora-bias": lora(r=3, lora_bias=True, target_modules=["v_proj", "o_proj"]),
    "wide": lora(r=16, target_modules=["q_proj", "v_proj"]),
    "head": lora(r=4, target_modules=["q_proj", "lm_head"]),
    "embedding": lora(r=4, target_modules=["v_proj", "embed_tokens"]),
    "ia3": IA3Config(
        task_type="CAUSAL_LM",
        target_modules=["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
    ),
    "prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6),
    "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    "prefix-long": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=11),
}
EXPRESSIONS: Mapping[str, tuple[tuple[float, str], ...]] = {
    "sum": ((0.7, "lora"), (0.3, "wide")),
    "difference": ((1.0, "lora"), (-0.5, "wide")),
    "prefix and lora": ((1.0, "prefix"), (1.0, "lora")),
}
KINDS = ("base", *CONFIGS, *EXPRESSIONS)


@dataclass(frozen=True)
class Oracle:
    """What plain PEFT makes of a prompt under each kind of adapter, on the base in `folder`."""

    folder: Path
    adapters: Mapping[str, Path]
    quantize: str | None = None

    def terms(self, kind: str) -> tuple[tuple[float, str], ...]:
        """The (weight, adapter) terms of a kind."""
        if kind == "base":
            return ()
        return EXPRESSIONS.get(kind, ((1.0, kind),))

    def artifact(self, name: str) -> Artifact:
        return Artifact.read(self.adapters[name])

    def greedy(self, kind: str, prompt: Sequence[int], count: int) -> list[int]:
        """The `count` likeliest tokens, each from a full pass without any cache."""
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(self.logits(kind, tokens).argmax()))
        return tokens[len(prompt) :]

    @torch.inference_mode()
    def logits(self, kind: str, tokens: Sequence[int]) -> torch.Tensor:
        """The last token's logits [vocabulary]."""
        if kind not in self._models:
            self._models[kind] = self._model(kind)
        return self._models[kind](tokens)

    @cached_property
    def _models(self) -> dict[str, Logits]:
        return {}

    def _model(self, kind: str) -> Logits:
        if kind == "prefix and lora":
            return self._behind_prefix("prefix", self._load("lora"))
        if kind in EXPRESSIONS:
            model = load_plain(self.folder, CAUSAL, 0, quantize=self.quantize)
            assert self.quantize is None, "a sum of adapters has an oracle on dense weights only"
            for weight, name in EXPRESSIONS[kind]:
                self._add(model, weight, name)
        elif kind == "base":
            model = load_plain(self.folder, CAUSAL, 0, quantize=self.quantize)
        else:
            model = self._load(kind)
        return partial(_last_logits, model)

    def _load(self, name: str) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain = load_plain(self.folder, CAUSAL, 0, quantize=self.quantize)
            return PeftModel.from_pretrained(plain, str(self.adapters[name])).eval()

    def _add(self, model: Any, weight: float, name: str) -> None:
        """A plain LoRA summed into dense weights."""
        config = CONFIGS[name]
        tensors = load_file(self.adapters[name] / "adapter_model.safetensors")
        with torch.inference_mode():
            for key, b in tensors.items():
                if key.endswith("lora_B.weight"):
                    a = tensors[key.replace("lora_B", "lora_A")]
                    path = key.removeprefix("base_model.model.").removesuffix(".lora_B.weight")
                    model.get_submodule(path).weight += weight * config.lora_alpha / config.r * b @ a

    def _behind_prefix(self, name: str, model: Any) -> Logits:
        prompts = load_file(self.adapters[name] / "adapter_model.safetensors")["prompt_embeddings"]
        config = model.config
        length, layers = len(prompts), config.num_hidden_layers
        size = config.hidden_size // config.num_attention_heads
        parts = prompts.view(length, 2 * layers, config.num_key_value_heads, size).permute(1, 2, 0, 3)[
            :, None
        ]

        def logits(tokens: Sequence[int]) -> torch.Tensor:
            cache = DynamicCache()
            for layer in range(layers):
                cache.update(parts[2 * layer].to(model.device), parts[2 * layer + 1].to(model.device), layer)
            return _last_logits(
                model,
                tokens,
                use_cache=True,
                past_key_values=cache,
                position_ids=torch.arange(length, length + len(tokens), device=model.device)[None],
                attention_mask=torch.ones(1, length + len(tokens), dtype=torch.long, device=model.device),
            )

        return logits


def _last_logits(model: Any, tokens: Sequence[int], **options: Any) -> torch.Tensor:
    """Computed where the model is: bitsandbytes puts its own on a GPU where there is one."""
    ids = torch.tensor([list(tokens)], device=model.device)
    logits: torch.Tensor = model(input_ids=ids, **({"use_cache": False} | options)).logits[0, -1]
    return logits.float().cpu()


def write_oracle(folder: Path) -> Oracle:
    """A random base of 2 layers with grouped heads and 160 positions, and every adapter of CONFIGS saved by PEFT."""
    base = write_causal_base(folder / "base", max_position_embeddings=160)
    adapters = {
        name: save_adapter(base, folder / name, CAUSAL, config, seed=seed)
        for seed, (name, config) in enumerate(CONFIGS.items())
    }
    return Oracle(base, adapters)
