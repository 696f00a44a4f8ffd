"""Norms, gated products and rotary positions of a model that trains on a GPU, by Liger's kernels where these are installed.

A model's own code makes each of them of many small passes over its activations, which at the speed of a GPU's products take
as long as these do (Hsu et al. 2024, arXiv 2410.10989). What is alike is found by trying: a module is changed only where the
kernel gives what its own forward gives. Within the context, and for the model that it is given; the family's function for
rotary positions is one for all models of the family in the process, and goes by the kernel for tensors on a GPU alone.

Does not change what is computed, beyond rounding, or what is saved.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

import torch
from packaging.version import Version
from torch import Tensor, nn

from adapthub.adapters.kernel_trial import kernels_run
from adapthub.adapters.kernels.launching import on_its_device

_LOG = logging.getLogger(__name__)
_OLDEST = Version("0.8.5")  # before, rotary positions of a part of a head are all wrong
_ROPE = "apply_rotary_pos_emb"
_AGREES = 2e-2  # of the norm: both round to a dtype of 8 bits, in another order
_TOKENS, _HEAD = 6, 32
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Kernels(NamedTuple):
    """`norm(x, weight, eps, offset, rounding)`: x [..., size] over its root mean square, times weight + offset, rounded
    before that ("llama") or after ("gemma"). `silu_mul(gate, up)`: silu(gate) up. `rotate(q, k, cos, sin)`: q and k
    [rows, heads, tokens, size] by cos and sin [rows, tokens, size], in place where they can be. All differentiable."""

    norm: Callable[[Tensor, Tensor, float, float, str], Tensor]
    silu_mul: Callable[[Tensor, Tensor], Tensor]
    rotate: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def kernels_for(device: torch.device) -> Kernels | None:
    """Liger's; None where it is not installed, or Triton's kernels do not run."""
    if not kernels_run(device) or find_spec("liger_kernel") is None:
        return None
    try:
        if Version(version("liger_kernel")) < _OLDEST:
            _LOG.warning("Liger's kernels are left out: %s or later is needed", _OLDEST)
            return None
        from liger_kernel.ops import LigerRMSNormFunction, LigerRopeFunction, LigerSiLUMulFunction
    # A copy without a version, or one that was made for other libraries.
    except (ImportError, AttributeError, RuntimeError, ValueError):
        _LOG.warning("Liger's kernels are left out: they cannot be loaded", exc_info=True)
        return None

    def norm(x: Tensor, weight: Tensor, eps: float, offset: float, rounding: str) -> Tensor:
        # Not in place: a gradient may be another's too, as where a norm's output is added to what it was made of.
        made: Tensor = LigerRMSNormFunction.apply(x, weight, eps, offset, rounding, False)
        return made

    def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
        made: Tensor = LigerSiLUMulFunction.apply(gate, up)
        return made

    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        made: tuple[Tensor, Tensor] = LigerRopeFunction.apply(q, k, cos, sin)
        return made

    # Backward is torch's thread of the device.
    return Kernels(on_its_device(norm), on_its_device(silu_mul), on_its_device(rotate))


@contextmanager
def fused(model: nn.Module, kernels: Kernels) -> Iterator[None]:
    """Within: the model's layers go by `kernels` where they give the same."""
    forwards, rotations = _changes(model, kernels)
    own = [(family, getattr(family, _ROPE)) for family, _ in rotations]
    try:
        for module, forward in forwards:
            module.forward = forward
        for family, rotate in rotations:
            setattr(family, _ROPE, rotate)
        yield
    finally:
        for family, rotate in own:
            setattr(family, _ROPE, rotate)
        for module, _ in forwards:
            vars(module).pop("forward", None)


@torch.no_grad()
def _changes(
    model: nn.Module, kernels: Kernels
) -> tuple[list[tuple[Any, Any]], list[tuple[ModuleType, Any]]]:
    """Modules with what their forward becomes, and their families' Python modules with what rotates there."""
    found: dict[tuple[type, float], Callable[..., Tensor] | None] = {}
    forwards = []
    for module in model.modules():
        kind = type(module), _eps(module)
        if kind not in found:
            found[kind] = _forward_of(module, kernels)
        forward = found[kind]
        if forward is not None and "forward" not in vars(module):
            forwards.append((module, partial(forward, module)))
    families = [sys.modules[name] for name in {type(module).__module__ for module in model.modules()}]
    rotations = [
        (family, _rotating(getattr(family, _ROPE), kernels, _computed(model)[1].type))
        for family in families
        if hasattr(family, _ROPE) and _rotates_alike(getattr(family, _ROPE), kernels, model)
    ]
    return forwards, rotations


def _forward_of(module: Any, kernels: Kernels) -> Callable[..., Tensor] | None:
    """What may stand for the forward of all modules of this one's class, called with the module and its input."""
    scales = (0.0, 1.0, 1.0, 1e-3, 100.0)
    if type(module).__name__.endswith("RMSNorm") and isinstance(getattr(module, "weight", None), Tensor):
        if not _eps(module):
            return None
        candidates = [
            partial(_normed, kernels, _eps(module), *kind)
            for kind in ((0.0, "llama"), (1.0, "gemma"), (0.0, "gemma"))
        ]
        size = module.weight.shape[-1]
    elif all(isinstance(getattr(module, f"{name}_proj", None), nn.Module) for name in ("gate", "up", "down")):
        candidates, scales = [partial(_gated, kernels)], (0.0, 1.0, 1.0, 1.0, 100.0)
        size = getattr(module.gate_proj, "in_features", 0)
    else:
        return None
    dtype, device = _computed(module)
    if not size or dtype not in _DTYPES:
        return None
    x = torch.randn(1, len(scales), size, device=device, dtype=dtype, generator=_own_numbers(device))
    x *= torch.tensor(scales, device=device, dtype=dtype)[:, None]
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        return next((forward for forward in candidates if _agree(module, forward, x)), None)


def _agree(module: nn.Module, forward: Callable[..., Tensor], x: Tensor) -> bool:
    with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
        torch.manual_seed(0)  # units that a LoRA drops are the same
        own = _tried(module, x)
        torch.manual_seed(0)
        other = _tried(forward, module, x)
    if own is None or other is None:
        return False
    return bool(own.dtype == other.dtype and own.shape == other.shape and _near(other, own))


def _normed(kernels: Kernels, eps: float, offset: float, rounding: str, module: Any, x: Tensor) -> Tensor:
    return kernels.norm(x, module.weight, eps, offset, rounding)


def _gated(kernels: Kernels, module: Any, x: Tensor) -> Tensor:
    made: Tensor = module.down_proj(kernels.silu_mul(module.gate_proj(x), module.up_proj(x)))
    return made


def _rotating(own: Callable[..., Any], kernels: Kernels, kind: str) -> Callable[..., Any]:
    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs or q.device.type != kind:
            return own(q, k, cos, sin, *args, **kwargs)
        return kernels.rotate(q, k, cos, sin)

    return rotate


def _rotates_alike(own: Callable[..., Any], kernels: Kernels, model: nn.Module) -> bool:
    if [*inspect.signature(own).parameters][:4] != ["q", "k", "cos", "sin"]:
        return False
    dtype, device = _computed(model)
    if dtype not in _DTYPES:
        return False
    options: dict[str, Any] = {"device": device, "generator": _own_numbers(device)}
    q, k = (torch.randn(1, _TOKENS, heads, _HEAD, dtype=dtype, **options).transpose(1, 2) for heads in (4, 2))
    whole = False
    for rotated in (_HEAD, _HEAD // 2):  # some families turn a part of each head
        angles = torch.randn(1, _TOKENS, rotated // 2, **options)
        cos, sin = (torch.cat([of, of], dim=-1).to(dtype) for of in (angles.cos(), angles.sin()))
        if (wanted := _tried(own, q, k, cos, sin)) is None:
            continue  # this family does not
        made = _tried(kernels.rotate, q.clone(), k.clone(), cos, sin)
        if made is None or len(made) != len(wanted) or not all(map(_near, made, wanted)):
            return False
        whole = True
    return whole


def _tried(function: Callable[..., Any], *given: Any) -> Any:
    """What it returns; None where it raises, be it a compiler's, a driver's or a library's own error: what cannot do its
    part of a comparison is not compared, and nothing is changed."""
    try:
        return function(*given)
    except Exception:
        _LOG.debug("%s is left as it is", function, exc_info=True)
        return None


def _own_numbers(device: torch.device) -> torch.Generator:
    """The run's own random numbers stay as they are."""
    return torch.Generator(device).manual_seed(0)


def _computed(module: nn.Module) -> tuple[torch.dtype, torch.device]:
    """What passes compute in, and where: adapters are float32 over a base of fewer bits."""
    weights = [p for p in module.parameters() if p.is_floating_point()]
    if not weights:
        return torch.uint8, torch.device("cpu")
    return min((p.dtype for p in weights), key=lambda dtype: dtype.itemsize), weights[0].device


def _eps(module: nn.Module) -> float:
    return float(getattr(module, "variance_epsilon", getattr(module, "eps", 0.0)) or 0.0)


def _near(made: Tensor, wanted: Tensor) -> bool:
    """Row by row."""
    made, wanted = made.double(), wanted.double()
    return bool(((made - wanted).norm(dim=-1) <= _AGREES * wanted.norm(dim=-1)).all())
