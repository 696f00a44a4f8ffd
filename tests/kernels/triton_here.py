"""Where kernels can be tested: on a GPU, or under Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

# `make test-gpu` leaves slow tests out, and on a GPU none of these is.
slow_when_interpreted = (
    pytest.mark.skipif(False, reason="fast on a GPU") if torch.cuda.is_available() else pytest.mark.slow
)


def interpreted_or_on_a_gpu() -> None:
    """Skip the module that calls this before it imports a kernel, where there is neither."""
    if not torch.cuda.is_available():
        pytest.importorskip(
            "triton", minversion="3.7", reason="Triton 3.6's interpreter does not take numpy 2.4"
        )
