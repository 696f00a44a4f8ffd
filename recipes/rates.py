"""How fast what learns: rates of adapter and head, their schedule, and the groups of parameters that an optimiser gets.

The first step under a warm-up already learns. Does not step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class Rates:
    """How fast the parts learn: peak learning rates of adapter and head, the warm-up in steps, AdamW's
    weight decay, how many times faster LoRA's B learns than the rest of the adapter (LoRA+), and by which of
    settings.OPTIMIZERS.

    `head_modules` names the modules whose parameters count as head; `head` is None where there are none.
    """

    adapter: float
    head: float | None
    head_modules: tuple[str, ...]
    warmup_steps: int
    weight_decay: float
    lora_plus_ratio: float = 1.0
    optimizer: str = "adamw"

    def of(self, name: str) -> float:
        """The peak learning rate of the parameter `name`."""
        if self.head is not None and any(f".{module}." in f".{name}." for module in self.head_modules):
            return self.head
        return self.adapter * self.lora_plus_ratio if "lora_B" in name.split(".") else self.adapter


def schedule(step: int, warmup: int, total: int) -> float:
    """The learning rate of 0-based `step` as a share of its peak."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return max(0.0, (total - step) / max(1, total - warmup))


def parameter_groups(model: torch.nn.Module, rates: Rates) -> list[dict[str, Any]]:
    """AdamW's groups over the trainable parameters, in an order that a checkpoint can rely on."""
    groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((rates.of(name), _decays(name, parameter)), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": rate,
            "weight_decay": rates.weight_decay if decays else 0.0,
        }
        for (rate, decays), parameters in groups.items()
    ]


def _decays(name: str, parameter: torch.nn.Parameter) -> bool:
    """Vectors do not, nor the rows of trained tokens, which are no change but the embedding itself."""
    return parameter.ndim > 1 and "trainable_tokens_delta" not in name


def freeze_a(model: torch.nn.Module) -> None:
    """Leave LoRA's A as it is: what LoRA-FA does not train needs no gradient and no moments."""
    for name, parameter in model.named_parameters():
        if "lora_A" in name.split("."):
            parameter.requires_grad_(False)


def lora_fa(model: PeftModel, rates: Rates) -> torch.optim.Optimizer:
    """PEFT's LoRA-FA, whose one group of all parameters is cut by learning rate and decay as AdamW's groups are; an A stays
    beside its B, whose gradient it corrects."""
    from peft.optimizers.lorafa import LoraFAOptimizer, create_lorafa_optimizer

    config: Any = model.active_peft_config
    made = create_lorafa_optimizer(
        model, r=config.r, lora_alpha=config.lora_alpha, lr=rates.adapter, weight_decay=rates.weight_decay
    )
    (every,) = made.param_groups
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for parameter, name, scaling in zip(
        every["params"], every["names"], every["scaling_factors"], strict=True
    ):
        other = scaling is not None and str(model.active_adapter) not in name.split(".")
        if other or (not parameter.requires_grad and scaling is None):
            continue
        rate, decays = rates.of(name.replace("lora_A", "lora_B")), _decays(name, parameter)
        empty: dict[str, Any] = {"params": [], "names": [], "scaling_factors": []}
        decay = rates.weight_decay if decays else 0.0
        group = groups.setdefault((rate, decays), {**empty, "lr": rate, "weight_decay": decay})
        group["params"].append(parameter)
        group["names"].append(name)
        group["scaling_factors"].append(scaling)
    cut: Any = list(groups.values())
    return cast(torch.optim.Optimizer, LoraFAOptimizer(cut))
