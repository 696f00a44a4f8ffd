"""A prompt-tuning adapter: virtual tokens before every row, kept as the keys and values that the base gives them.

In a causal base what stands behind the virtual tokens does not change their keys and values. So they are computed once,
when the adapter is bound, and from then on the adapter is a prefix (Lester et al. 2021, "The Power of Scale for
Parameter-Efficient Prompt Tuning"). They would change with other adapters under the base, so a prompt is summed with
none. Encoders are refused: there virtual tokens read the text.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache

from adapthub.adapters.binder import Binder, Binding
from adapthub.adapters.errors import TensorMismatch, UnsupportedAdapter
from adapthub.adapters.flat import Prefix


class PromptBinder(Binder):
    def bind(self) -> Binding:
        tensors = self._tensors()
        prompts = tensors.pop("prompt_embeddings", None)
        if prompts is None:
            raise TensorMismatch("the prompt-tuning adapter has no tensor 'prompt_embeddings'")
        if tensors:
            raise TensorMismatch(f"the adapter has a tensor {next(iter(tensors))!r} that nothing uses")
        if self.artifact.task not in (None, "text-generation"):
            raise UnsupportedAdapter(f"prompt tuning for {self.artifact.task} is not computed here")
        return self._finish(self._prefix(prompts), alone=True)

    def _prefix(self, prompts: torch.Tensor) -> Prefix:
        hidden = self.base.backbone.config.get_text_config().hidden_size
        shape = (int(self.artifact.config["num_virtual_tokens"]), hidden)
        if tuple(prompts.shape) != shape:
            raise TensorMismatch(
                f"'prompt_embeddings' is {list(prompts.shape)}; this base and prompt length need {list(shape)}"
            )
        embedded = self._move(prompts)[None]
        layers = self._keys_and_values(embedded)
        # One more token behind them: in a causal base nothing before it moves.
        longer = self._keys_and_values(torch.cat([embedded, embedded[:, :1]], dim=1))
        for layer, check in zip(layers, longer, strict=True):
            difference = (layer - check[:, :, : layer.shape[2]]).norm()
            if difference > (1e-4 if layer.dtype == torch.float32 else 0.05) * layer.norm():
                raise self._unsupported("their tokens attend to what follows")
        return Prefix(layers)

    @torch.inference_mode()
    def _keys_and_values(self, embedded: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """embedded [1, n, hidden] to one [2, kv heads, n, head size] a layer."""
        if self.base.backbone.config.is_encoder_decoder or self.base.model.get_output_embeddings() is None:
            raise self._unsupported("they have no causal language model")
        # A plain cache keeps all tokens, under sliding windows too.
        cache = DynamicCache()
        self.base.backbone(inputs_embeds=embedded, past_key_values=cache, use_cache=True)
        layers: list[Any] = [
            (getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in cache.layers
        ]
        if len(layers) != self.base.backbone.config.get_text_config().num_hidden_layers:
            raise self._unsupported("not every layer keeps keys and values of its own")
        if any(keys is None or keys.shape != values.shape for keys, values in layers):
            raise self._unsupported("their keys and values differ in size")
        return tuple(torch.cat([keys, values]) for keys, values in layers)

    def _unsupported(self, reason: str) -> UnsupportedAdapter:
        kind = self.base.model.config.model_type
        return UnsupportedAdapter(f"prompt tuning is not computed on base models of type {kind!r}: {reason}")
