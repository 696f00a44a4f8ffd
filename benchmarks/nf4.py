"""Products with nf4 and int8 weights on a GPU: our kernels, bitsandbytes, and torch with the weights in bfloat16.

    python -m benchmarks.nf4 [--rows 1 2 4 8 16 32 64 128 256] [--dtype bfloat16] [--simple]

Linear layers of Llama-3.1-8B, nf4 double-quantised (`--simple`: not), each product on another copy of the weights so that
no cache has them, many in one CUDA graph. `floor us` is what reading the weights as stored, x and y takes at the speed at
which a kernel copies much, and `of floor` what part of our time it is; the last columns are the others' time over ours.
Without bitsandbytes its columns are empty; of its int8 products it is the one that does not round activations either.
`error` is ours, of the norm, from float64.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch.nn import functional as F

from adapthub.adapters.kernels import int8, nf4, nf4_lookup
from adapthub.adapters.kernels.few_rows import Plan, plan_for
from benchmarks.common import print_table, write_results

LAYERS = {"q, o": (4096, 4096), "k, v": (1024, 4096), "gate, up": (14336, 4096), "down": (4096, 14336)}
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_COLD = 256 << 20  # bytes of weights in turn: several times any GPU's cache
_REPLAYS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="*", type=int, default=ROWS)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16"])
    parser.add_argument("--simple", action="store_true")
    options = parser.parse_args()
    dtype: torch.dtype = getattr(torch, options.dtype)
    nested = not options.simple
    speed = copy_speed()
    layers = LAYERS.values()
    compile_ahead([(count, *layer, dtype, nested, None) for count in options.rows for layer in layers])
    rows = []
    for name, (outputs, size) in LAYERS.items():
        plain = torch.randn(_copies(outputs * size * 2), outputs, size, dtype=dtype, device="cuda")
        inputs = [torch.randn(count, size, dtype=dtype, device="cuda") for count in options.rows]
        dense = [seconds(partial(_dense, x, plain), len(plain)) for x in inputs]
        del plain
        for weights in (Weights(outputs, size, dtype, nested), Int8(outputs, size)):
            theirs = weights.theirs() if find_spec("bitsandbytes") else None
            for x, other in zip(inputs, dense, strict=True):
                ours = seconds(partial(weights.multiply, x), weights.copies)
                peer = seconds(partial(theirs, x), weights.copies) if theirs else float("nan")
                floor = weights.bytes(len(x)) / speed
                rows.append(
                    {
                        "weights": weights.name,
                        "layer": name,
                        "rows": len(x),
                        "floor us": round(1e6 * floor, 2),
                        "ours us": round(1e6 * ours, 2),
                        "of floor": floor / ours,
                        "bitsandbytes us": round(1e6 * peer, 2),
                        f"{options.dtype} us": round(1e6 * other, 2),
                        "error": weights.error(x),
                        "bitsandbytes / ours": peer / ours,
                        f"{options.dtype} / ours": other / ours,
                    }
                )
            del weights, theirs
    rows.sort(key=lambda row: row["weights"] != Weights.name)
    command = " ".join(["python -m benchmarks.nf4", *sys.argv[1:]])
    name = "-".join(["nf4", options.dtype, *(["simple"] if options.simple else [])])
    path = write_results(name, command, rows, copy_gb_per_second=round(speed / 1e9))
    print(f"a copy moves {speed / 1e12:.2f} TB/s, read and written; {path}")
    print_table(rows)


class Weights:
    """Random nf4 weights [outputs, size], as many copies as no cache holds."""

    name = "nf4"

    def __init__(self, outputs: int, size: int, dtype: torch.dtype, nested: bool) -> None:
        self.outputs, self.size, self.dtype = outputs, size, dtype
        self.copies = _copies(outputs * size // 2)
        blocks = outputs * size // 64
        self.packed = _bytes(self.copies, outputs * size // 2)
        self.nested = nested
        if nested:
            self.absmax = _bytes(self.copies, blocks)
            self.outer = torch.rand(self.copies, (blocks + 255) // 256, device="cuda") * 0.02
            self.code = torch.linspace(-1, 1, 256, device="cuda")
            self.offset = torch.tensor(0.04, device="cuda")
        else:
            self.absmax = torch.rand(self.copies, blocks, device="cuda") * 0.06

    def scales(self, index: int) -> nf4.Scales:
        if not self.nested:
            return nf4.Scales(self.absmax[index])
        return nf4.Scales(self.absmax[index], self.outer[index], self.code, self.offset)

    def multiply(self, x: torch.Tensor, index: int, plan: Plan | None = None, by: Any = nf4) -> torch.Tensor:
        scales = self.scales(index)
        result: torch.Tensor = by.multiply(x, self.packed[index], scales, self.outputs, None, plan)
        return result

    def bytes(self, rows: int) -> int:
        """That a product must read or write."""
        weights = self.packed[0].nbytes + self.absmax[0].nbytes + (self.outer[0].nbytes if self.nested else 0)
        return weights + rows * (self.size + self.outputs) * self.dtype.itemsize

    def theirs(self) -> Callable[[torch.Tensor, int], Any]:
        """bitsandbytes' product with the weights of an index."""
        from bitsandbytes.autograd._functions import matmul_4bit
        from bitsandbytes.functional import QuantState

        states = []
        for index in range(self.copies):
            inner = {}
            if self.nested:
                outer = QuantState(self.outer[index], None, self.code, 256, None, torch.float32)
                inner = {"offset": self.offset, "state2": outer}
            code = torch.tensor(nf4_lookup.CODE, device="cuda")
            shape = torch.Size((self.outputs, self.size))
            state = QuantState(self.absmax[index], shape, code, 64, "nf4", self.dtype, **inner)
            states.append((self.packed[index][:, None], state))
        return lambda x, index: matmul_4bit(x, *states[index])

    def error(self, x: torch.Tensor, plan: Plan | None = None, by: Any = nf4) -> float:
        """Of copy 0's product, from one of its weights in float64, over the norm."""
        scales = self.scales(0)
        scale = scales.absmax.double()
        if self.nested:
            outer = self.outer[0].double().repeat_interleave(256)[: len(scale)]
            scale = self.code.double()[scales.absmax.long()] * outer + self.offset.double()
        packed = self.packed[0].long()
        code = torch.tensor(nf4_lookup.CODE, dtype=torch.float64, device="cuda")
        weights = code[torch.stack([packed >> 4, packed & 15], 1)].view(-1, 64) * scale[:, None]
        expected = x.double() @ weights.view(self.outputs, self.size).T
        found = self.multiply(x, 0, plan, by).double()
        return float((found - expected).norm() / expected.norm())


class Int8:
    """Random int8 weights [outputs, size], as many copies as no cache holds."""

    name = "int8"

    def __init__(self, outputs: int, size: int) -> None:
        self.copies = _copies(outputs * size)
        self.stored = torch.randint(-127, 128, (self.copies, outputs, size), dtype=torch.int8, device="cuda")
        self.scales = torch.rand(outputs, device="cuda")

    def multiply(self, x: torch.Tensor, index: int) -> torch.Tensor:
        return int8.multiply(x, self.stored[index], self.scales)

    def bytes(self, rows: int) -> int:
        """That a product must read or write."""
        return self.stored[0].nbytes + self.scales.nbytes + rows * sum(self.stored[0].shape) * 2

    def theirs(self) -> Callable[[torch.Tensor, int], Any]:
        """bitsandbytes' product with the weights of an index."""
        from bitsandbytes.autograd._functions import MatMul8bitFp, MatmulLtState

        states = []
        for stored in self.stored:
            state = MatmulLtState(CB=stored, SCB=self.scales)
            state.has_fp16_weights = False
            states.append(state)
        return lambda x, index: MatMul8bitFp.apply(x, states[index].CB, None, None, states[index])

    def error(self, x: torch.Tensor) -> float:
        """Of copy 0's product, from one of its weights in float64, over the norm."""
        expected = x.double() @ (self.stored[0].double() * self.scales.double()[:, None] / 127).T
        return float((self.multiply(x, 0).double() - expected).norm() / expected.norm())


def seconds(product: Callable[[int], Any], copies: int) -> float:
    """Of one product, given the index of each copy in turn, all in one CUDA graph: the median of some replays."""
    product(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(copies):
            product(index)
    times: list[float] = []
    for counted in [False] + [True] * _REPLAYS:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        if counted:
            times.append(start.elapsed_time(end) / 1e3 / copies)
    return statistics.median(times)


def copy_speed() -> float:
    """Bytes read and written in a second by a kernel that copies much, or by the copy engine if that is faster."""
    source = torch.randint(1 << 30, (1 << 28,), dtype=torch.int32, device="cuda")
    target = torch.empty_like(source)
    ways: list[Callable[[int], Any]] = [
        lambda _: torch.bitwise_not(source, out=target),
        lambda _: target.copy_(source),
    ]
    return 2 * source.nbytes / min(seconds(way, 3) for way in ways)


Job = tuple[int, int, int, torch.dtype, bool, "Plan | None"]


def compile_ahead(jobs: Iterable[Job], by: str = nf4.__name__) -> None:
    """Compile what products of (rows, outputs, size, dtype, nested, plan) run, on all cores, into Triton's cache."""
    unique = {(_plan(*job), *job[2:5]): (by, job) for job in jobs}
    on_all_cores(_compile, [*unique.values()])


def on_all_cores(function: Callable[..., None], jobs: Sequence[tuple[Any, ...]]) -> None:
    """Call it for each job, in processes. What is raised is left out, and so are all jobs once a compiler ends its process:
    where they are measured they fail again. A plain pool would wait for such a job for ever."""
    processes = min(len(jobs), max(1, (os.cpu_count() or 2) - 2))
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        wait([pool.submit(function, *job) for job in jobs])


def _plan(rows: int, outputs: int, size: int, dtype: torch.dtype, nested: bool, plan: Plan | None) -> Plan:
    return plan or plan_for(nf4.CUTS, rows, outputs, size)


def _compile(by: str, job: Job) -> None:
    from importlib import import_module

    rows, _, size, dtype, nested, _ = job
    # What is compiled knows nothing of how many outputs there are, but that they are a multiple of 16.
    weights = Weights(32, size, dtype, nested)
    weights.multiply(torch.randn(rows, size, dtype=dtype, device="cuda"), 0, _plan(*job), import_module(by))
    torch.cuda.synchronize()


def _dense(x: torch.Tensor, weights: torch.Tensor, index: int) -> torch.Tensor:
    return F.linear(x, weights[index])


def _copies(size: int) -> int:
    return min(128, max(2, -(-_COLD // size)))


def _bytes(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, device="cuda")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
