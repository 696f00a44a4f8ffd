"""The hyperparameters of PEFT's own examples, by kind of task, as its repository had them in August 2026.

Only what an example says of its adapter and its optimiser is taken. Data, base, order of batches, number of steps and loop
are the benchmark's, alike for every way; rates fall linearly, where `examples/sft` has a cosine, and of Whisper's example,
which warms up for 50 steps, the warm-up is a share. A head learns at the adapter's rate, as in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Example:
    """One example: its `file` in PEFT's repository (or TRL's), and what it trains with.

    `targets`: the modules that it names, or PEFT's default for the family; "all-linear" as PEFT means it.
    """

    file: str
    rate: float
    targets: tuple[str, ...] | str
    rank: int = 8
    alpha: int = 8
    dropout: float = 0.0
    warmup: float = 0.0
    weight_decay: float = 0.0

    def settings(self, *, head: bool) -> Mapping[str, Any]:
        """The same as settings of a run; `head`: whether the recipe has one."""
        return {
            "learning_rate": self.rate,
            **({"head_learning_rate": self.rate} if head else {}),
            "lora_plus_ratio": 1.0,
            "warmup": self.warmup,
            "weight_decay": self.weight_decay,
            "rank": self.rank,
            "alpha": self.alpha,
            "dropout": self.dropout,
            "target_modules": self.targets if isinstance(self.targets, str) else list(self.targets),
        }


_ENCODER = ("query", "value")  # PEFT's default for BERT
_DECODER = ("q_proj", "v_proj")  # and for Llama

SEQUENCES = Example(
    "examples/sequence_classification/LoRA.ipynb",
    3e-4,
    _ENCODER,
    rank=8,
    alpha=16,
    dropout=0.1,
    warmup=0.06,
    weight_decay=0.01,  # torch's AdamW
)
TOKENS = Example(
    "examples/token_classification/peft_lora_ner.ipynb", 2e-3, ("query", "key"), weight_decay=0.01
)
VECTORS = Example(
    "examples/feature_extraction/peft_lora_embedding_semantic_search.py",
    5e-5,
    ("key", "query", "value"),
    alpha=16,
)
TEXTS = Example(
    "examples/causal_language_modeling/peft_lora_clm_accelerate_ds_zero3_offload.py",
    3e-3,
    _DECODER,
    alpha=32,
    dropout=0.1,
    weight_decay=0.01,
)
CONVERSATIONS = Example(
    "examples/sft/run_peft.sh", 1e-4, "all-linear", alpha=16, dropout=0.1, weight_decay=1e-4
)
# PEFT has no example of preferences; this is TRL's, with PEFT.
PREFERENCES = Example("trl/scripts/dpo.py", 5e-6, _DECODER, rank=32, alpha=16, dropout=0.05)
# Of pictures PEFT has one example for a transformer and one for convolutions (its 1 x 1 ones): both are tried.
PICTURES = Example(
    "examples/image_classification/image_classification_peft_lora.ipynb",
    5e-3,
    ("expand_conv", "project_conv"),
    rank=16,
    alpha=16,
    dropout=0.1,
)
CONVOLUTIONS = Example(
    "examples/image_classification/image_classification_timm_peft_lora.ipynb",
    2e-4,
    ("expand_conv", "project_conv"),
)
SPEECH = Example(
    "examples/int8_training/peft_bnb_whisper_large_v2_training.ipynb",
    1e-3,
    ("q_proj", "v_proj"),
    rank=32,
    alpha=64,
    dropout=0.05,
    warmup=0.06,
)
