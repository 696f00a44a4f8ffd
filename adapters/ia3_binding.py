"""An IA3 adapter's vectors, each put to its module: it scales the output, or, of a feed-forward module, the input.

Liu et al. 2022, "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning". Follows PEFT
0.21 for what a configuration means by asking PEFT itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from adapthub.adapters.binder import Binding, TargetBinder
from adapthub.adapters.delta import Scaled, ScaledInput
from adapthub.adapters.errors import TensorMismatch, UnsupportedAdapter
from adapthub.adapters.layers import bare, sizes
from adapthub.adapters.names import inner_name
from adapthub.adapters.served_heads import Heads

if TYPE_CHECKING:
    from adapthub.adapters.artifact import Artifact
    from adapthub.adapters.base import Base

_VECTOR = ".ia3_l"


class Ia3Binder(TargetBinder):
    kind = "IA3"

    def __init__(
        self, artifact: Artifact, base: Base, modules: Mapping[str, nn.Module], heads: Heads
    ) -> None:
        from peft import IA3Config

        super().__init__(artifact, base, modules, heads, IA3Config)
        if self.config.feedforward_modules is None:
            raise UnsupportedAdapter(
                "adapter_config.json has no feedforward_modules, so it does not say which modules scale their input",
                hint="Save the adapter again with PEFT, which writes them.",
            )

    def bind(self) -> Binding:
        for key, tensor in self._tensors().items():
            name = inner_name(key)
            if name.endswith(_VECTOR):
                self._bind_vector(name.removesuffix(_VECTOR), tensor)
            else:
                self._bind_other(name, tensor)
        return self._finish()

    def _bind_vector(self, name: str, vector: torch.Tensor) -> None:
        from peft import IA3Model

        path = self._target(name)
        module = self.modules[path]
        if isinstance(module, nn.Embedding):
            raise UnsupportedAdapter(f"IA3 under an embedding ({name!r}) is not computed here")
        features_in, features_out = sizes(module, path)
        scales_input = IA3Model._check_target_module_feedforward(self.config, name)
        shape = (1, features_in) if scales_input else (features_out, 1)
        if tuple(vector.shape) != shape:
            raise TensorMismatch(f"ia3_l of {name!r} is {list(vector.shape)}; here it is {list(shape)}")
        change = self._move(vector.flatten().float() - 1)
        self._add(path, ScaledInput(change, bare(module)) if scales_input else Scaled(change))
