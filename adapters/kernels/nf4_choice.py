"""Which nf4 products `nf4_pairs` makes, and how they are cut: those that were measured faster by it, on this device.

`benchmarks.nf4_pairs` measures, and keeps what it found in a file under the home folder, by device and version of Triton;
what was never measured goes by `nf4`, whose plans were. A plan is kept only after its results were compared with `nf4`'s on
the device, since no interpreter runs the assembly. One that fails all the same (another driver, say) is given up, for the
life of the process. Does not measure.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton

from adapthub.adapters.files import write_bytes
from adapthub.adapters.home import home
from adapthub.adapters.kernels import nf4
from adapthub.adapters.kernels.nf4_pairs import MOST, Matrix, PairsPlan, multiply

_LOG = logging.getLogger(__name__)
# Rows are padded to these; for more, products are not bound by what a look-up takes.
ROWS = (8, 16)
FILE = "kernels.json"

# To be measured: of many, those that take the fewest instructions a weight, as compiled for a GPU of capability 9.0.
CANDIDATES = tuple(
    plan._replace(ahead=ahead, follows=follows)
    for plan in (
        PairsPlan(8, 32, 16, 16, 3, 0),
        PairsPlan(8, 32, 32, 16, 3, 0),
        PairsPlan(8, 32, 32, 8, 2, 0),
        PairsPlan(8, 64, 16, 8, 3, 0),
        PairsPlan(8, 64, 16, 16, 3, 0),
        PairsPlan(8, 16, 16, 8, 4, 0),
        PairsPlan(16, 32, 16, 16, 3, 0),
        PairsPlan(16, 32, 16, 8, 2, 0),
        PairsPlan(16, 64, 8, 8, 3, 0),
    )
    for ahead in (0, 8192)
    for follows in (False, True)
)


class Case(NamedTuple):
    """Products that are alike: of up to `rows` rows with matrices [outputs, size], nested or not."""

    rows: int
    outputs: tuple[int, ...]
    size: int
    nested: bool
    dtype: str

    @property
    def key(self) -> str:
        sides = "+".join(map(str, self.outputs))
        return f"{self.rows} x {self.size} to {sides}, {self.dtype}{', nested' if self.nested else ''}"


def case_of(x: torch.Tensor, matrices: Sequence[Matrix]) -> Case | None:
    """None for what is never measured: many rows, many matrices, some with quantised scales and some without."""
    nested = {matrix.scales.nested is not None for matrix in matrices}
    rows = next((most for most in ROWS if len(x) <= most), None)
    if rows is None or len(nested) > 1 or not 0 < len(matrices) <= MOST:
        return None
    return Case(rows, tuple(matrix.outputs for matrix in matrices), x.shape[1], nested.pop(), str(x.dtype))


def products(x: torch.Tensor, matrices: Sequence[Matrix]) -> list[torch.Tensor]:
    """x [rows, K] times each matrix, as `nf4_pairs.multiply` gives it: in one launch where that is known to be faster."""
    plan = together(x, matrices)
    made = None if plan is None else _tried(x, matrices, plan)
    if made is not None:
        return made
    return [nf4.multiply(x, matrix.packed, matrix.scales, matrix.outputs, matrix.bias) for matrix in matrices]


def together(x: torch.Tensor, matrices: Sequence[Matrix]) -> PairsPlan | None:
    """The plan by which one launch makes these products faster than `nf4` does; None where none is known to."""
    case = case_of(x, matrices)
    if case is None or x.device.type != "cuda" or (x.device, case) in _given_up:
        return None
    return _plan(os.environ.get("ADAPTHUB_HOME"), x.device, case)


def keep(found: Iterable[tuple[Case, PairsPlan | None]], device: torch.device) -> Path:
    """Keep what was measured, None where `nf4` is faster, beside what is known of other cases. Raises StorageError."""
    path = home() / FILE
    document = _read(path)
    of_device = document.setdefault(_device(device), {})
    of_device.update({case.key: plan for case, plan in found})
    write_bytes(path, (json.dumps(document, indent=1) + "\n").encode())
    _plan.cache_clear()
    return path


_given_up: set[tuple[torch.device, Case]] = set()


def _tried(x: torch.Tensor, matrices: Sequence[Matrix], plan: PairsPlan) -> list[torch.Tensor] | None:
    """None where the plan cannot be compiled or launched, now and from now on."""
    try:
        return multiply(x, matrices, plan)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a compiler or a driver raises
        case = case_of(x, matrices)
        assert case is not None
        _LOG.warning("products of %s go by themselves: %s fails", case.key, plan, exc_info=True)
        _given_up.add((x.device, case))
        return None


@cache
def _device(device: torch.device) -> str:
    return f"{torch.cuda.get_device_name(device)}, Triton {triton.__version__}"


@lru_cache(maxsize=4096)
def _plan(_: str | None, device: torch.device, case: Case) -> PairsPlan | None:
    """By the home that is set: asked for at every product, and read once."""
    return _known(home() / FILE, _device(device)).get(case.key)


def _known(path: Path, device: str) -> dict[str, PairsPlan]:
    found = _read(path).get(device, {})
    return {key: PairsPlan(*fields) for key, fields in found.items() if fields is not None}


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """What the file holds; nothing where it is missing or is not ours."""
    try:
        document = json.loads(path.read_bytes())
        for plans in document.values():
            for fields in plans.values():
                if fields is not None:
                    PairsPlan(*fields)
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    return document if isinstance(document, dict) else {}
