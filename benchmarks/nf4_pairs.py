"""Products of 1 to 16 rows with nf4 weights, several matrices a launch: `nf4_pairs` by each of its plans, and `nf4`.

    python -m benchmarks.nf4_pairs [--rows 1 8 16] [--dtype bfloat16] [--forget]

Llama-3.1-8B's q, k and v as one, o, gate and up as one, and down, nf4 double-quantised; each product on another copy of
the weights, many in one CUDA graph. `apart us` is `nf4`, a launch or two a matrix; `together us` the best plan that gives
what `nf4` gives; `follows us` the best that starts while the kernel before it ends, here one of its own kind. `of floor`
says what part of together reading weights, x and y takes at the speed of a copy; `bfloat16 / together` compares with
cuBLAS on weights that are not quantised.

The best plans are kept for this device in `kernels.json` under ADAPTHUB_HOME, where serving finds them; not by `--forget`.
A plan that fails, or whose product differs, is said and left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from adapthub.adapters.kernels import nf4_choice, nf4_pairs
from adapthub.adapters.kernels.nf4_pairs import Matrix, PairsPlan
from benchmarks.common import print_table, write_results
from benchmarks.nf4 import Weights, copy_speed, on_all_cores, seconds

GROUPS = {
    "q, k, v": ((4096, 1024, 1024), 4096),
    "o": ((4096,), 4096),
    "gate, up": ((14336, 14336), 4096),
    "down": ((4096,), 14336),
}
ROWS = (1, 8, 16)
_AGREES = 1e-2  # of the norm: both round to the activations' dtype
_FASTER = 0.97  # of the time of `nf4`, or its plans stay


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="*", type=int, default=ROWS)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16"])
    parser.add_argument("--forget", action="store_true", help="keep no plans for serving")
    options = parser.parse_args()
    dtype: torch.dtype = getattr(torch, options.dtype)
    _compile_ahead(dtype)
    speed = copy_speed()
    rows, kept = [], []
    for name, (outputs, size) in GROUPS.items():
        group = Group(outputs, size, dtype)
        best: dict[int, dict[PairsPlan, list[float]]] = {}
        for count in options.rows:
            row, times, apart = _measure(name, group, count, speed, options.dtype)
            rows.append(row)
            padded = next(most for most in nf4_choice.ROWS if count <= most)
            for plan, time in times.items():
                best.setdefault(padded, {}).setdefault(plan, []).append(time / apart)
        for padded, plans in best.items():
            most = max(map(len, plans.values()), default=0)
            everywhere = {plan: sum(ratios) / most for plan, ratios in plans.items() if len(ratios) == most}
            fastest, ratio = min(everywhere.items(), key=lambda item: item[1], default=(None, 1.0))
            case = nf4_choice.Case(padded, outputs, size, True, str(dtype))
            kept.append((case, fastest if ratio < _FASTER else None))
        del group
    command = " ".join(["python -m benchmarks.nf4_pairs", *sys.argv[1:]])
    path = write_results(f"nf4_pairs-{options.dtype}", command, rows, copy_gb_per_second=round(speed / 1e9))
    print(f"a copy moves {speed / 1e12:.2f} TB/s, read and written; {path}")
    if not options.forget:
        print(f"plans kept in {nf4_choice.keep(kept, torch.device('cuda', torch.cuda.current_device()))}")
    print_table(rows)


class Group:
    """Matrices with one input, as many copies of all as no cache holds."""

    def __init__(self, outputs: Sequence[int], size: int, dtype: torch.dtype) -> None:
        self.outputs, self.size, self.dtype = outputs, size, dtype
        self.weights = [Weights(count, size, dtype, True) for count in outputs]
        self.copies = min(weights.copies for weights in self.weights)

    def matrices(self, index: int) -> list[Matrix]:
        return [
            Matrix(of.packed[index], of.scales(index), count)
            for of, count in zip(self.weights, self.outputs, strict=True)
        ]

    def apart(self, x: torch.Tensor, index: int) -> list[torch.Tensor]:
        return [of.multiply(x, index) for of in self.weights]

    def together(self, x: torch.Tensor, plan: PairsPlan, index: int) -> list[torch.Tensor]:
        return nf4_pairs.multiply(x, self.matrices(index), plan)

    def bytes(self, rows: int) -> int:
        """That the products must read or write; x once."""
        whole = sum(of.bytes(rows) for of in self.weights)
        return whole - (len(self.weights) - 1) * rows * self.size * self.dtype.itemsize


def _measure(
    name: str, group: Group, count: int, speed: float, dtype: str
) -> tuple[dict[str, Any], dict[PairsPlan, float], float]:
    x = torch.randn(count, group.size, dtype=group.dtype, device="cuda")
    apart = seconds(partial(group.apart, x), group.copies)
    expected = torch.cat(group.apart(x, 0), 1).double()
    times: dict[PairsPlan, float] = {}
    for plan in _plans(count):
        try:
            found = torch.cat(group.together(x, plan, 0), 1).double()
            error = float((found - expected).norm() / expected.norm())
            if error < _AGREES:
                times[plan] = seconds(partial(group.together, x, plan), group.copies)
            else:
                print(f"{name}, {count} rows: {plan} is {error:.3g} from what it should give")
        except Exception as error:
            print(f"{name}, {count} rows: {plan} fails: {error}")
    plain = {plan: time for plan, time in times.items() if not plan.follows}
    following = {plan: time for plan, time in times.items() if plan.follows}
    dense = torch.randn(
        max(2, group.copies // 4), sum(group.outputs), group.size, dtype=group.dtype, device="cuda"
    )
    unquantised = seconds(lambda index: F.linear(x, dense[index]), len(dense))
    floor = group.bytes(count) / speed
    together = min(plain.values(), default=float("nan"))
    row = {
        "matrices": name,
        "rows": count,
        "floor us": round(1e6 * floor, 2),
        "apart us": round(1e6 * apart, 2),
        "together us": round(1e6 * together, 2),
        "follows us": round(1e6 * min(following.values(), default=float("nan")), 2),
        f"{dtype} us": round(1e6 * unquantised, 2),
        "of floor": floor / together,
        "apart / together": apart / together,
        f"{dtype} / together": unquantised / together,
        "plan": " ".join(map(str, min(plain, key=plain.__getitem__)[:6])) if plain else "",
    }
    return row, times, apart


def _plans(rows: int) -> list[PairsPlan]:
    padded = next(most for most in nf4_choice.ROWS if rows <= most)
    return [plan for plan in nf4_choice.CANDIDATES if plan.rows == padded]


def _compile_ahead(dtype: torch.dtype) -> None:
    """Compile what is measured, on all cores, into Triton's cache; what fails there fails again where it is measured."""
    jobs = [
        (len(outputs), size, plan, dtype)
        for outputs, size in GROUPS.values()
        for plan in nf4_choice.CANDIDATES
    ]
    on_all_cores(_compile, jobs)


def _compile(count: int, size: int, plan: PairsPlan, dtype: torch.dtype) -> None:
    group = Group([32] * count, size, dtype)
    group.together(torch.randn(plan.rows, size, dtype=dtype, device="cuda"), plan, 0)
    torch.cuda.synchronize()


if __name__ == "__main__":
    with torch.inference_mode():
        main()
