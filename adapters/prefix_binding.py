"""A prefix adapter's tensors: keys and values a layer, in PEFT's layout, and its head."""

from __future__ import annotations

import torch

from adapthub.adapters.binder import Binder, Binding
from adapthub.adapters.errors import TensorMismatch
from adapthub.adapters.flat import Prefix


class PrefixBinder(Binder):
    def bind(self) -> Binding:
        tensors = self._tensors()
        prompts = tensors.pop("prompt_embeddings", None)
        if prompts is None:
            raise TensorMismatch("the prefix adapter has no tensor 'prompt_embeddings'")
        prefix = self._prefix(prompts)
        for key, tensor in tensors.items():
            name = key.removeprefix("base_model.")
            if name == key or not self._bind_whole(name, tensor):
                raise TensorMismatch(f"the adapter has a tensor {key!r} that nothing uses")
        return self._finish(prefix)

    def _prefix(self, prompts: torch.Tensor) -> Prefix:
        config = self.base.backbone.config
        count = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        layers = int(config.num_hidden_layers)
        length = int(self.artifact.config["num_virtual_tokens"])
        for name, here in (
            ("num_layers", layers),
            ("num_attention_heads", count),
            ("token_dim", count * size),
        ):
            if (there := self.artifact.config.get(name)) not in (None, here):
                raise TensorMismatch(f"the prefix has {name}={there}; this base has {here}")
        if tuple(prompts.shape) != (length, 2 * layers * count * size):
            raise TensorMismatch(
                f"'prompt_embeddings' is {list(prompts.shape)}; this base and prefix length need "
                f"{[length, 2 * layers * count * size]}"
            )
        # PEFT: [n, 2 * layers, count, size], keys and values in turn (PeftModel.get_prompt).
        values = self._move(prompts).view(length, 2 * layers, count, size).permute(1, 2, 0, 3)
        return Prefix(tuple(values[2 * layer : 2 * layer + 2].contiguous() for layer in range(layers)))
