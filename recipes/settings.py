"""The settings of a run: what was asked, completed by the recipe's defaults, checked before anything is
loaded.

Does not know adapter methods (rank, alpha, prefix length: adapters.methods checks those) and does not read
data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from adapthub.adapters.errors import InvalidSettings

if TYPE_CHECKING:
    from adapthub.recipes.recipe import Defaults

# "auto" is bf16 where that is fast: see adaptation.precision.
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
LORA_FA = "lora-fa"
# By transformers' names. 8-bit: the optimiser's moments as bytes (Dettmers et al. 2022); paged: they leave a full GPU.
OPTIMIZERS: Mapping[str, str] = {
    "adamw": "adamw_torch_fused",
    LORA_FA: "adamw_torch_fused",  # the same, but for what it leaves as it is
    "adamw-8bit": "adamw_bnb_8bit",
    "paged-adamw": "paged_adamw_32bit",
    "paged-adamw-8bit": "paged_adamw_8bit",
}
REASONS: Mapping[str, str] = {
    "max_steps": "epochs say how many",
    "batch_size": "LoRA learns less from large batches than full fine-tuning does: 32 or fewer (LoRA Without Regret)",
    "warmup": "the rate rises while the optimiser's moments settle",
    "weight_decay": "as RoBERTa is fine-tuned (Liu et al. 2019); vectors do not decay",
    "lora_plus_ratio": "B learns as fast as A, unlike LoRA+ (Hayou et al. 2024)",
    "eval_steps": "once an epoch, and at least five times a run",
    "eval_rows": "a metric wants many rows to tell steps apart; more than 1,000 tell little more",
    "patience": "so many looks without progress may be chance; then the run ends, and its best step is kept",
    "precision": "what the device computes fast; weights that learn stay float32",
    "packing": "rows run as one without padding where that is a tenth of a batch or more, and the base allows it exactly",
    "gradient_accumulation": "a step is one batch; more batches a step reach further with the same memory",
    "gradient_checkpointing": "activations are kept; computing them again saves most of their memory for a third more time",
    "optimizer": "an adapter's moments are small; adamw-8bit and paged-adamw save what memory they take",
}
"""Why settings are what they are by default, whatever the recipe."""
_EVALUATION_ROWS = 64
_WARMUP, _LEAST_WARMUP, _MOST_WARMUP = 0.06, 20, 0.2  # of all steps; steps; of all steps
MOST_EVALUATED = 1000
LEAST_EVALUATED = 64
_EVALUATIONS = 5  # at least so many in a run: a curve, and something for early stopping to see


@dataclass(frozen=True)
class Settings:
    """How long and how fast a run learns. None where a recipe has no such setting, and as said below.

    `max_steps` overrides `epochs`. `warmup` is a share of all steps. `eval_steps` None: once an epoch, and
    at least five times a run. `eval_rows` bounds the rows looked at during training, not those of the final
    evaluation; None: `affordable_rows` where a loss is looked at, else 1,000.
    `patience` counts evaluations without progress before the run stops; 0 never stops early.
    `packing`: rows of a batch without padding, where the base allows that exactly; "auto" where there is much of it. A step
    learns of `gradient_accumulation` batches of `batch_size` rows. `gradient_checkpointing`: activations are computed again
    for backward.
    `optimizer` is one of OPTIMIZERS; lora-fa is AdamW that leaves LoRA's A as it began (Zhang et al., arXiv:2308.03303).
    `precision` is what forward and backward compute in, one of PRECISIONS; weights that learn stay float32.
    """

    epochs: float
    max_steps: int | None
    batch_size: int
    learning_rate: float
    head_learning_rate: float | None
    lora_plus_ratio: float
    warmup: float
    weight_decay: float
    max_length: int | None
    eval_steps: int | None
    eval_rows: int | None
    patience: int
    precision: str
    packing: bool | Literal["auto"]
    gradient_accumulation: int
    gradient_checkpointing: bool
    optimizer: str

    @classmethod
    def resolve(cls, given: Mapping[str, Any], defaults: Defaults) -> Settings:
        """Complete `given` by `defaults`. Raises InvalidSettings naming the option that cannot work."""
        values: dict[str, Any] = {field.name: getattr(defaults, field.name, None) for field in fields(cls)}
        values |= {"precision": "auto", "optimizer": "adamw"}
        values |= {"packing": "auto", "gradient_accumulation": 1, "gradient_checkpointing": False}
        if values["warmup"] is None:
            values["warmup"] = _WARMUP
        values |= {name: value for name, value in given.items() if value is not None}
        for name in (
            "epochs",
            "batch_size",
            "learning_rate",
            "lora_plus_ratio",
            "gradient_accumulation",
        ):
            _check(name, values[name], at_least=None)
        for name in ("head_learning_rate", "max_length", "max_steps", "eval_steps", "eval_rows"):
            if values[name] is not None:
                _check(name, values[name], at_least=None)
        for name in ("warmup", "weight_decay", "patience"):
            _check(name, values[name], at_least=0.0)
        if values["warmup"] >= 1:
            raise InvalidSettings(f"warmup is a share of all steps, below 1; {values['warmup']!r} is not")
        whole = ("max_steps", "batch_size", "max_length", "eval_steps", "eval_rows", "patience")
        for name in (*whole, "gradient_accumulation"):
            if values[name] is not None and not isinstance(values[name], int):
                raise InvalidSettings(f"{name} is a whole number; {values[name]!r} is not")
        if values["precision"] not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise InvalidSettings(f"precision is one of {known}; {values['precision']!r} is not")
        if values["packing"] != "auto" and not isinstance(values["packing"], bool):
            raise InvalidSettings(f"packing is true, false or auto; {values['packing']!r} is none of these")
        if not isinstance(checkpointing := values["gradient_checkpointing"], bool):
            raise InvalidSettings(f"gradient_checkpointing is true or false; {checkpointing!r} is neither")
        if values["optimizer"] not in OPTIMIZERS:
            known = ", ".join(OPTIMIZERS)
            raise InvalidSettings(f"optimizer is one of {known}; {values['optimizer']!r} is not")
        return cls(**values)

    @property
    def eval_batch_size(self) -> int:
        """Rows at once where nothing is kept for backward; falls with batch_size, so that lowering that helps."""
        return min(_EVALUATION_ROWS, 2 * self.batch_size)

    def steps(self, rows: int) -> int:
        """Optimiser steps of the whole run on `rows` training examples."""
        if self.max_steps is not None:
            return self.max_steps
        return max(1, math.ceil(self.epochs * self.steps_per_epoch(rows)))

    def steps_per_epoch(self, rows: int) -> int:
        return max(1, math.ceil(rows / (self.batch_size * self.gradient_accumulation)))

    def warmup_steps(self, rows: int) -> int:
        return math.floor(self.warmup * self.steps(rows))

    def of_length(self, rows: int, given: Mapping[str, Any], defaults: Defaults) -> Settings:
        """The same with what a run of few steps changes, where who trains says nothing of it: the recipe's rate of short
        runs, and a warm-up of at least 20 steps, or a fifth of a run of fewer than 100, if the recipe says none."""
        steps, found = self.steps(rows), self
        rate = defaults.short_rate(steps)
        if rate is not None and given.get("learning_rate") is None:
            found = replace(found, learning_rate=rate)
        if given.get("warmup") is None and defaults.warmup is None:
            share = min(_MOST_WARMUP, math.ceil(_LEAST_WARMUP / steps * 1e4) / 1e4)
            found = replace(found, warmup=max(_WARMUP, share))
        return found

    def steps_between_evaluations(self, rows: int) -> int:
        """Steps from one evaluation, and its checkpoint, to the next."""
        if self.eval_steps is not None:
            return self.eval_steps
        return min(self.steps_per_epoch(rows), max(1, self.steps(rows) // _EVALUATIONS))

    def evaluations(self, rows: int) -> int:
        """How often a run that does not stop early is evaluated, and writes a checkpoint: after its last step, too."""
        return math.ceil(self.steps(rows) / self.steps_between_evaluations(rows))

    def affordable_rows(self, rows: int) -> int:
        """So many rows that looking at them takes about a quarter of the time of the steps before it: a row is computed
        forward alone, of an adapter's step about half; but no fewer than 64, for a mean, and no more than 1,000."""
        learned = self.steps_between_evaluations(rows) * self.batch_size * self.gradient_accumulation
        return min(MOST_EVALUATED, max(LEAST_EVALUATED, learned // 2))


SETTINGS = tuple(field.name for field in fields(Settings))
# What people call settings elsewhere (transformers, PEFT, shorthand), to ours.
OTHER_NAMES: Mapping[str, str] = {
    "lr": "learning_rate",
    "head_lr": "head_learning_rate",
    "loraplus_lr_ratio": "lora_plus_ratio",
    "bs": "batch_size",
    "batch": "batch_size",
    "train_batch_size": "batch_size",
    "per_device_train_batch_size": "batch_size",
    "epoch": "epochs",
    "num_epochs": "epochs",
    "num_train_epochs": "epochs",
    "steps": "max_steps",
    "num_steps": "max_steps",
    "max_len": "max_length",
    "maxlen": "max_length",
    "max_seq_len": "max_length",
    "max_seq_length": "max_length",
    "seq_len": "max_length",
    "seq_length": "max_length",
    "sequence_length": "max_length",
    "wd": "weight_decay",
    "warmup_ratio": "warmup",
    "early_stopping_patience": "patience",
    "dtype": "precision",
    "gradient_accumulation_steps": "gradient_accumulation",
    "grad_accum": "gradient_accumulation",
    "checkpointing": "gradient_checkpointing",
    "optim": "optimizer",
    "padding_free": "packing",
    "init_lora_weights": "init",
    "r": "rank",
    "lora_r": "rank",
    "lora_rank": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "modules": "target_modules",
    "targets": "target_modules",
    "lora_target_modules": "target_modules",
    "num_virtual_tokens": "prefix_length",
    "virtual_tokens": "prefix_length",
    "text": "text_column",
    "text_field": "text_column",
    "label": "label_column",
    "label_field": "label_column",
}


def _check(name: str, value: Any, *, at_least: float | None) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or (value <= 0 if at_least is None else value < at_least):
        wanted = "a number above 0" if at_least is None else f"a number of at least {at_least:g}"
        raise InvalidSettings(f"{name} is {wanted}; {value!r} is not")
