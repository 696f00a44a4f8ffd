"""Trees of modules copied in part: what is not named is shared. Knows no model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

from torch import nn


def without_modules(module: nn.Module, names: Sequence[str]) -> nn.Module:
    """A shallow copy of `module` whose direct children `names` are None; every other child is shared."""
    if not names:
        return module
    clone = copy.copy(module)
    clone._modules = {name: None if name in names else child for name, child in module._modules.items()}
    return clone


def with_module(tree: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """A shallow copy of `tree` with `module` at `name`; every other module is shared."""
    clone = copy.copy(tree)
    clone._modules = dict(tree._modules)
    first, _, rest = name.partition(".")
    inner = cast(nn.Module, clone._modules[first])
    clone._modules[first] = with_module(inner, rest, module) if rest else module
    return clone


def absent_children(loaded: nn.Module, wanted: nn.Module) -> list[str]:
    """Children that `loaded` has and `wanted` does not."""
    return [
        name
        for name, child in loaded.named_children()
        if child is not None and wanted._modules.get(name) is None
    ]


def own_parameters(module: nn.Module) -> nn.Module:
    """A copy of a module tree whose parameters can be set apart, and its buffers; the configuration is shared."""
    clone = copy.copy(module)
    clone._parameters, clone._buffers = dict(module._parameters), dict(module._buffers)
    clone._modules = {
        name: None if child is None else own_parameters(child) for name, child in module._modules.items()
    }
    return clone
