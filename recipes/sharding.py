"""A frozen base in parts: each process holds a share of every layer's weights, and has a layer whole while it computes it.

By torch's FSDP2 (`fully_shard`), layer by layer. The adapter stays whole in every process, so what is saved, resumed
and averaged is as without. 4-bit weights are cut as the bytes they are: frozen weights need no common dtype, so
bitsandbytes' quant_storage may stay as it is; what turns bytes into numbers stays whole beside each layer. Embeddings
and the output layer stay whole too. Does not put a base together again: it is loaded anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from adapthub.adapters.errors import InvalidSettings

if TYPE_CHECKING:
    from peft import PeftModel

    from adapthub.adapters.base import Base

_LEAST_LAYERS = 2


def check_shardable(base: Base) -> None:
    """Raises InvalidSettings for a base that cannot be cut, before anything is trained."""
    if base.quantization == "int8":
        raise InvalidSettings(
            "an int8 base cannot be cut into parts: bitsandbytes holds its weights in two places",
            hint="Use quantize='nf4' or none, or launch without --use_fsdp.",
        )
    if not _layers(base.model):
        raise InvalidSettings(
            f"{base.ref} has no list of like layers to cut into parts", hint="Launch without --use_fsdp."
        )


def shard(model: PeftModel, base: Base) -> None:
    """Cut what is frozen in the layers of `base`, which `model` adapts, over all processes. Not to be undone."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if base.quantization:
        for module in base.model.modules():
            state = getattr(getattr(module, "weight", None), "quant_state", None)
            if state is not None:
                cast(Any, module).quant_state = state  # a parameter that is cut loses it
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    mesh = init_device_mesh(base.device.type, (torch.distributed.get_world_size(),))
    for layer in _layers(base.model).values():
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
    # Of itself it holds nothing: it lets the layers' weights be fetched while the layer before computes.
    fully_shard(model, mesh=mesh, ignored_params=set(model.parameters()))


def _layers(model: nn.Module) -> Mapping[str, nn.Module]:
    """The layers of every list of like ones that is in no other, by name."""
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) >= _LEAST_LAYERS
        and len({type(layer) for layer in module}) == 1
    }
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    return {f"{name}.{at}": layer for name in outer for at, layer in enumerate(lists[name])}
