"""LoRA's directions and ranks from the training data, before the first step: EVA, by PEFT.

Paischer et al. 2024, "Parameter Efficient Fine-tuning via Explained Variance Adaptation" (arXiv 2410.07170): A begins as the
leading right singular vectors of a layer's inputs, and the ranks of all layers together go where they explain most. Does
not train.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft import initialize_lora_eva_weights

from adapthub.adapters.base import Base
from adapthub.adapters.errors import InvalidSettings, TrainingError
from adapthub.recipes.adaptation import Adaptation, autocast
from adapthub.recipes.job import Job

_RHO = 2  # PEFT's default: how many times its share of the ranks one layer may take
_MOST_BATCHES = 200


def initialise(adaptation: Adaptation, job: Job, base: Base) -> None:
    """Give the fresh `adaptation` its ranks and its A from the job's training rows; the seed orders them.

    Raises InvalidSettings where there are fewer rows than directions to find, TrainingError where they do not settle.
    """
    config: Any = adaptation.model.active_peft_config
    rows = max(job.settings.batch_size, _RHO * config.r)
    if rows > job.rows:
        raise InvalidSettings(
            f"init=eva needs {rows} training rows for rank {config.r}; there are {job.rows}",
            hint="Lower rank, or set init=random.",
        )
    with torch.no_grad(), autocast(base):
        initialize_lora_eva_weights(
            adaptation.model,
            _Batches(job, rows),
            prepare_layer_inputs_fn=_layer_inputs,
            forward_fn=lambda model, inputs: model(
                **{k: v.to(base.device) for k, v in inputs.items() if k != "labels"}
            ),
            show_progress_bar=False,
        )
    for parameter in adaptation.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    # It has begun: whoever loads what is saved need not know the data.
    config.init_lora_weights, config.eva_config = True, None


class _Batches:
    """Batches of training rows in an order that the seed fixes, over and over, but not for ever: PEFT waits until
    directions settle."""

    def __init__(self, job: Job, rows: int) -> None:
        self._job = job
        self._rows = rows

    def __len__(self) -> int:
        return self._job.rows // self._rows

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        taught, collate = self._job.taught, self._job.recipe.collator(self._job.processor)
        generator = torch.Generator().manual_seed(self._job.seed)
        order: list[int] = []
        for _ in range(_MOST_BATCHES):
            if len(order) < self._rows:
                order = torch.randperm(self._job.rows, generator=generator).tolist()
            places, order = order[: self._rows], order[self._rows :]
            batch = dict(collate([dict(taught[at]) for at in places]))
            if batch["labels"].shape != batch["input_ids"].shape:  # PEFT would mask tokens by labels of rows
                del batch["labels"]
            yield batch
        raise TrainingError(
            f"EVA's directions have not settled after {_MOST_BATCHES} batches of {self._rows} rows",
            hint="Lower rank, or set init=random.",
        )


def _layer_inputs(layer_input: Any, indices: torch.Tensor, name: str) -> torch.Tensor:
    """What a layer reads of every token that is no padding [tokens, in]; a pooler reads one token a row [rows, in]."""
    states: torch.Tensor = layer_input if isinstance(layer_input, torch.Tensor) else layer_input[0]
    return states.contiguous() if states.dim() == 2 else states[indices.T.unbind()]
