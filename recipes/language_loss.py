"""The loss of a language model's targets, without ever holding the logits of all of its tokens.

Logits are made of the positions before a target only, which are few where prompts are not learnt, and of some of these at a
time: with a large vocabulary they, not the layers, are what training needs memory for. Where the head is not trained, its
gradient to the hidden states is computed with the loss, as in Liger (Hsu et al. 2024, arXiv 2410.10989), so nothing is
computed twice. The family's own class makes logits from hidden states, with its scaling and soft caps. For causal bases.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions as _Output

from adapthub.recipes.batches import IGNORED

_CHUNK_LOGITS = 1 << 24
"""Logits at a time: 64 MiB in float32."""
_CHUNKS_ON_A_GPU = 8
"""So many times as many: there a chunk costs what launching its passes costs."""


class LanguageLoss:
    """Sums the losses of a causal model's targets. `model`: the base, adapted or not, whose head is its own."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._backbone = cast(nn.Module, getattr(model, model.base_model_prefix))
        self._given = _Given()
        self._head = copy.copy(
            model
        )  # the same modules, with what was computed already in the backbone's place
        self._head._modules = {**model._modules, model.base_model_prefix: self._given}
        logits = _CHUNK_LOGITS * (_CHUNKS_ON_A_GPU if model.device.type == "cuda" else 1)
        self._chunk = max(1, logits // model.config.get_text_config().vocab_size)

    @classmethod
    def of(cls, model: PreTrainedModel) -> LanguageLoss | None:
        """None for a model that cannot leave logits out (no `logits_to_keep`), whose loss has other parts
        (balance of experts), or whose class makes no logits from hidden states alone: that is tried."""
        takes = inspect.signature(model.forward).parameters
        config = model.config
        if "logits_to_keep" not in takes or config.is_encoder_decoder:
            return None
        if getattr(config, "output_router_logits", False) or not hasattr(model, model.base_model_prefix):
            return None
        made, size = cls(model), config.get_text_config().hidden_size
        hidden = torch.zeros(1, size, dtype=model.dtype, device=model.device)
        try:
            with torch.no_grad():
                made._loss(hidden, torch.zeros(1, dtype=torch.long, device=model.device))
        except (TypeError, AttributeError, ValueError, RuntimeError):
            return None
        return made

    def __call__(self, forward: Callable[..., Any], inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The sum of the losses of a batch in nats, and how many targets it has: both scalars, the first float32.

        `forward` runs the model; `inputs` has `labels` [rows, tokens], -100 where nothing is asked, beside what it takes.
        """
        labels = inputs["labels"]
        kept: list[Tensor] = []
        hook = self._backbone.register_forward_hook(lambda module, given, output: kept.append(output[0]))
        try:
            forward(**{name: value for name, value in inputs.items() if name != "labels"}, logits_to_keep=1)
        finally:
            hook.remove()
        hidden = kept[0][:, -labels.shape[1] :]  # a prompt that is tuned stands before the tokens
        asked = labels[:, 1:] != IGNORED
        return self._sum(hidden[:, :-1][asked], labels[:, 1:][asked]), asked.sum()

    def _sum(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """hidden [targets, size], targets int64 [targets]"""
        if not torch.is_grad_enabled() or not hidden.requires_grad:
            return self._by_chunk(hidden, targets, self._loss)
        if any(parameter.requires_grad for parameter in self._head.parameters()):
            run: Any = checkpoint
            return self._by_chunk(
                hidden, targets, lambda part, asked: run(self._loss, part, asked, use_reentrant=False)
            )
        return cast(Tensor, _HiddenGradient.apply(hidden, targets, self._loss, self._chunk))  # type: ignore[no-untyped-call]

    def _by_chunk(self, hidden: Tensor, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        pairs = zip(hidden.split(self._chunk), targets.split(self._chunk), strict=True)
        return torch.stack([loss(part, asked) for part, asked in pairs]).sum()

    def _loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """The summed loss of one chunk, in float32 as transformers computes it."""
        self._given.output = _Output(last_hidden_state=hidden[None])
        try:
            logits = self._head(input_ids=None).logits[0]
        finally:
            self._given.output = None
        return F.cross_entropy(logits.float(), targets, reduction="sum")


class _Given(nn.Module):
    """Stands where the backbone stands, and returns what it was given."""

    output: _Output | None = None

    def forward(self, *_: Any, **__: Any) -> _Output:
        assert self.output is not None
        return self.output


class _HiddenGradient(torch.autograd.Function):
    """The loss, with the gradient to the hidden states and to nothing else computed at once, chunk by chunk."""

    @staticmethod
    def forward(
        context: Any, hidden: Tensor, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor], chunk: int
    ) -> Tensor:
        gradient = torch.empty_like(hidden)
        total = torch.zeros((), device=hidden.device)
        for start in range(0, len(hidden), chunk):
            part = hidden[start : start + chunk].detach().requires_grad_(True)
            with torch.enable_grad():
                found = loss(part, targets[start : start + chunk])
            (gradient[start : start + chunk],) = torch.autograd.grad(found, part)
            total += found.detach()
        context.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(context: Any, *outer: Any) -> tuple[Tensor, None, None, None]:
        (gradient,) = context.saved_tensors
        return gradient * outer[0].to(gradient.dtype), None, None, None
