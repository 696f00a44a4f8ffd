"""What LoRAs add to q, k and v on a GPU: our kernels, PEFT's loop, and other servers' kernels where their folders are given.

    python -m benchmarks.low_rank [--vllm DIR] [--sglang DIR] [--tokens 64 512]

DIR holds the package as it is installed (`pip install --no-deps --target DIR vllm`); its kernels run with the defaults of
the package (`benchmarks.foreign`). Llama-3.1-8B's shapes, bfloat16, tokens in the order of their adapters; `mixed` ranks
are 8, 16, 32 and 64 in turn, which the servers pad to 64. Each product on other matrices than the one before, so that no
cache has them, many in one CUDA graph; PEFT's loop without one, as PEFT runs. `ours` is what passes of so many tokens run;
`tokens us` our kernels token by token, `runs us` by runs. `floor us` is what reading each adapter in
use once, x, and y twice, takes at the speed of a copy; the last columns are the others' time over ours, and `error` ours,
of the norm, from float64.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from torch.nn import functional as F

from adapthub.adapters.kernels import low_rank, low_rank_runs
from adapthub.adapters.token_runs import runs_of, tile_for
from benchmarks.common import print_table, write_results
from benchmarks.foreign import load
from benchmarks.nf4 import copy_speed, seconds

SIZE, OUTS = 4096, (4096, 1024, 1024)
ADAPTERS = (1, 8, 32, 64)
_CHUNK = 16  # tokens of one adapter that SGLang's kernels take at once
_COLD = 256 << 20
_MIXED = (8, 16, 32, 64)
Way = Callable[[int], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vllm", type=Path)
    parser.add_argument("--sglang", type=Path)
    parser.add_argument("--tokens", nargs="*", type=int, default=[64, 512])
    options = parser.parse_args()
    device = torch.device("cuda")
    speed = copy_speed()
    rows = []
    for tokens, ranks in ((tokens, ranks) for tokens in options.tokens for ranks in ((16,), _MIXED)):
        for count in ADAPTERS:
            batch = Batch(tokens, count, ranks, SIZE, OUTS, torch.bfloat16, device)
            ways: dict[str, Way] = {"ours": batch.ours, "tokens": batch.by_token, "runs": batch.by_runs}
            if options.sglang:
                ways["sglang"] = sglang(options.sglang, batch)
            if options.vllm:
                ways["vllm"] = vllm(options.vllm, batch)
            for name, way in ways.items():
                if (error := batch.error(way)) > _AGREES:
                    raise SystemExit(f"{name} with {count} adapters is {error:.3g} from what it should give")
            times = {name: seconds(way, batch.copies) for name, way in ways.items()}
            times["peft"] = _eagerly(batch.loop, batch.copies)
            floor = batch.bytes / speed
            rows.append(
                {
                    "tokens": tokens,
                    "ranks": "16" if len(ranks) == 1 else "mixed",
                    "adapters": count,
                    "floor us": round(1e6 * floor, 2),
                    **{f"{name} us": round(1e6 * each, 2) for name, each in times.items()},
                    "of floor": floor / times["ours"],
                    "error": batch.error(batch.ours),
                    **{
                        f"{name} / ours": each / times["ours"]
                        for name, each in times.items()
                        if name not in ("ours", "tokens", "runs")
                    },
                }
            )
    command = f"python -m benchmarks.low_rank --tokens {' '.join(map(str, options.tokens))}"
    print(write_results("low_rank", command, rows, copy_gb_per_second=round(speed / 1e9)))
    print_table(rows)


_AGREES = 2e-2  # of the norm: some round what the first half gives


class Batch:
    """Tokens by adapter, as many copies of all matrices as no cache holds; `a` [copies, adapters, slices, rank, in] and
    `b`, a slice each, [copies, adapters, out, rank], zero beyond an adapter's own rank."""

    def __init__(
        self,
        tokens: int,
        count: int,
        ranks: tuple[int, ...],
        size: int,
        outs: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        copies: int | None = None,
    ) -> None:
        self.ranks = [ranks[index % len(ranks)] for index in range(count)]
        self.most, self.outs, self.size, self.dtype, self.device = max(ranks), outs, size, dtype, device
        read = sum(rank * (len(outs) * size + sum(outs)) for rank in self.ranks) * dtype.itemsize
        self.copies = copies or min(512, max(2, -(-_COLD // read)))
        self.bytes = read + tokens * (size + 2 * sum(outs)) * dtype.itemsize
        self.row_of = torch.arange(tokens, device=device) * count // tokens
        self.x = torch.randn(tokens, size, device=device).to(dtype)
        self.y = torch.randn(tokens, sum(outs), device=device).to(dtype)
        self.a = torch.randn(self.copies, count, len(outs), self.most, size, device=device).to(dtype)
        self.b = [torch.randn(self.copies, count, out, self.most, device=device).to(dtype) for out in outs]
        for index, rank in enumerate(self.ranks):
            self.a[:, index, :, rank:] = 0
            for b in self.b:
                b[:, index, :, rank:] = 0
        self._own: list[torch.Tensor] = []
        self._told = [self._tell(copy) for copy in range(self.copies)]
        self._of_tokens = [(table[self.row_of], factors[self.row_of]) for table, factors in self._told]
        self._tile = tile_for(tokens) or 16
        counts = torch.bincount(self.row_of, minlength=count).tolist()
        names = [f"adapter {index}" for index in range(count)]
        self._runs = torch.from_numpy(runs_of(names, counts, self._tile)).to(device)
        self._ys = [part.contiguous() for part in self.y.split(outs, 1)]

    def _tell(self, copy: int) -> tuple[torch.Tensor, torch.Tensor]:
        table = torch.zeros(len(self.ranks), 1, len(self.outs), 6, dtype=torch.int64)
        for index, rank in enumerate(self.ranks):
            for slice_, b in enumerate(self.b):
                own = b[copy, index, :, :rank].contiguous()  # at its own rank, as the bank has it
                self._own.append(own)
                starts = self.a[copy, index, slice_].data_ptr(), own.data_ptr()
                table[index, 0, slice_] = torch.tensor([*starts, 0, 0, 0, rank])
        factors = torch.ones(len(self.ranks), 1, len(self.outs), 2)
        return table.to(self.device), factors.to(self.device)

    def ours(self, copy: int) -> list[torch.Tensor]:
        return self.by_runs(copy) if tile_for(len(self.x)) else self.by_token(copy)

    def by_token(self, copy: int) -> list[torch.Tensor]:
        table, factors = self._of_tokens[copy]
        places = [*range(len(self.outs))]
        low = low_rank.shrink(self.x, table, factors, places, self.most)
        low_rank.expand_(self._ys, low, table, factors, places)
        return self._ys

    def by_runs(self, copy: int) -> list[torch.Tensor]:
        told = *self._told[copy], self._runs
        places = [*range(len(self.outs))]
        low = low_rank_runs.shrink(self.x, *told, places, self.most, self._tile)
        low_rank_runs.expand_(self._ys, low, *told, places, self._tile)
        return self._ys

    def loop(self, copy: int) -> None:
        """As PEFT's mixed batches: an adapter and a module at a time."""
        for index in range(len(self.ranks)):
            places = (self.row_of == index).nonzero()[:, 0]
            for slice_, b in enumerate(self.b):
                low = F.linear(self.x[places], self.a[copy, index, slice_])
                self._ys[slice_][places] += F.linear(low, b[copy, index])

    def error(self, way: Way) -> float:
        """Of what it adds, of the norm, from float64."""
        self._ys = [torch.zeros_like(part) for part in self._ys]
        self.y = torch.zeros_like(self.y)
        given = way(0)
        found = torch.cat(given, 1) if isinstance(given, list) else given
        a, x = self.a[0].double()[self.row_of], self.x.double()
        low = torch.einsum("ti,tsri->tsr", x, a)
        wanted = torch.cat(
            [
                torch.einsum("tr,tor->to", low[:, slice_], b[0].double()[self.row_of])
                for slice_, b in enumerate(self.b)
            ],
            1,
        )
        return float((found.double() - wanted).norm() / wanted.norm())


def sglang(folder: Path, batch: Batch) -> Way:
    """SGLang's chunked kernels."""
    shrink = load(folder, "sglang", "chunked_sgmv_shrink.py").chunked_sgmv_lora_shrink_forward
    expand = load(folder, "sglang", "chunked_sgmv_expand.py").chunked_sgmv_lora_expand_forward
    starts, adapters = [0], []
    for index in range(len(batch.ranks)):
        for stop in _chunks(int((batch.row_of < index).sum()), int((batch.row_of <= index).sum())):
            starts.append(stop)
            adapters.append(index)
    ints = partial(torch.tensor, dtype=torch.int32, device=batch.device)
    info = SimpleNamespace(
        use_cuda_graph=False,
        bs=len(adapters),
        num_segments=len(adapters),
        seg_indptr=ints(starts),
        weight_indices=ints(adapters),
        lora_ranks=ints([batch.most] * len(batch.ranks)),
        scalings=torch.ones(len(batch.ranks), device=batch.device),
        max_len=_CHUNK,
        seg_lens=ints([stop - start for start, stop in pairwise(starts)]),
        permutation=torch.arange(len(batch.x), dtype=torch.int32, device=batch.device),
    )
    edges = [sum(batch.outs[:place]) for place in range(len(batch.outs) + 1)]
    a = batch.a.flatten(2, 3)
    b, offsets = torch.cat(batch.b, 2), ints(edges)

    def way(copy: int) -> torch.Tensor:
        low = shrink(batch.x, a[copy], info, len(batch.outs))
        result: torch.Tensor = expand(low, b[copy], info, offsets, max(batch.outs), batch.y)
        return result

    return way


def _chunks(start: int, stop: int) -> Iterator[int]:
    while start < stop:
        start = min(start + _CHUNK, stop)
        yield start


def vllm(folder: Path, batch: Batch) -> Way:
    """vLLM's kernels, with the metadata that it makes."""
    supplied = {"tl": triton.language, "triton": triton, "async_tensor_h2d": torch.tensor}
    shrink = load(folder, "vllm", "lora_shrink_op.py", **supplied)._lora_shrink
    expand = load(folder, "vllm", "lora_expand_op.py", **supplied)._lora_expand
    count, tokens = len(batch.ranks), len(batch.x)
    meta = load(folder, "vllm", "lora_kernel_metadata.py").LoRAKernelMeta.make(count, tokens, batch.device)
    meta.prepare_tensors(batch.row_of.int())
    told = meta.meta_args(tokens, True)
    low = torch.empty(len(batch.outs), tokens, batch.most, dtype=torch.float32, device=batch.device)
    a = [
        [batch.a[copy, :, slice_].contiguous() for slice_ in range(len(batch.outs))]
        for copy in range(batch.copies)
    ]
    b = [[each[copy] for each in batch.b] for copy in range(batch.copies)]

    def way(copy: int) -> torch.Tensor:
        shrink(batch.x, a[copy], low, *told, 1.0)
        expand(low, b[copy], batch.y, *told, 0, True)
        return batch.y

    return way


def _eagerly(way: Way, copies: int) -> float:
    """Seconds of one, on the host's clock."""
    way(0)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for copy in range(copies):
        way(copy)
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / copies


if __name__ == "__main__":
    with torch.inference_mode():
        main()
