"""Whether our Triton kernels run on a device, found by running the least of them, once a process.

That Triton is installed says little: it builds what launches kernels with a C compiler, which slim images leave out. Where
it fails, everything goes without kernels, as it does on a CPU, and the log says why.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib.util import find_spec

import torch

_LOG = logging.getLogger(__name__)


@cache
def kernels_run(device: torch.device) -> bool:
    """Whether kernels can be launched for tensors on `device`: on no CPU, whatever interprets them there."""
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    try:
        run_least(device)
    except Exception:  # whatever a compiler or a driver raises
        _LOG.warning("Triton's kernels do not run on %s: everything goes without", device, exc_info=True)
        return False
    return True


def run_least(device: torch.device) -> None:
    """Run the least kernel on `device`. Raises what a compiler or a driver does, and RuntimeError where it counts wrong."""
    with torch.inference_mode():
        if not _counts(device):
            raise RuntimeError("the least kernel there is computes something else")


def _counts(device: torch.device) -> bool:
    from adapthub.adapters.kernels.trial import increased

    return bool((increased(torch.arange(16, device=device)).cpu() == torch.arange(1, 17)).all())
