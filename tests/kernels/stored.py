"""Random nf4 weights as bitsandbytes would store them, and what they are in float64. Import where Triton is."""

from __future__ import annotations

import torch

from adapthub.adapters.kernels import nf4, nf4_lookup

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Stored:
    """Random weights [outputs, size] as bitsandbytes would store them, and in float64."""

    def __init__(self, outputs: int, size: int, nested: bool) -> None:
        codes = torch.randint(16, (outputs * size,))
        self.packed = (codes[::2] << 4 | codes[1::2]).to(torch.uint8)[:, None].to(DEVICE)
        blocks = outputs * size // 64
        if nested:
            absmax = torch.randint(256, (blocks,), dtype=torch.uint8)
            outer = torch.rand((blocks + 255) // 256) * 0.01
            code, offset = torch.linspace(-1, 1, 256), torch.tensor(0.02)
            scale = code.double()[absmax.long()] * outer.double().repeat_interleave(256)[:blocks] + offset
            told = [absmax, outer, code, offset]
        else:
            absmax = torch.rand(blocks) * 0.05
            scale = absmax.double()
            told = [absmax]
        self.scales = nf4.Scales(*(tensor.to(DEVICE) for tensor in told))
        weights = torch.tensor(nf4_lookup.CODE, dtype=torch.float64)[codes] * scale.repeat_interleave(64)
        self.weights = weights.view(outputs, size)
