"""A pass's tokens as runs under one row's adapters, for kernels that read matrices once a run; and for which passes.

Does not know adapters, or kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Up to so many tokens, each reads its own matrices (`kernels.low_rank`): rows that decode mostly differ, and what is shared
# comes from the cache. Beyond, every token of a prompt would read all of its adapter: at 512 tokens and r16 some 40 GB of
# the cache a pass of an 8B model, about as long as the base takes. By count, not measured.
_APART = 64
_SOME = 1024  # tokens up to which short runs are enough programs to keep a GPU busy, and long ones are not


def tile_for(tokens: int) -> int:
    """The tokens that a run has at most in a pass of so many; 0 where each goes by itself."""
    if tokens <= _APART:
        return 0
    return 16 if tokens <= _SOME else 64


def most_runs(tokens: int, rows: int, tile: int) -> int:
    """That so many tokens of so many rows can be."""
    return min(tokens, tokens // tile + rows)


def runs_of(terms: Sequence[object], counts: Sequence[int], tile: int) -> NDArray[np.int64]:
    """Runs [3, n] of at most `tile` tokens: of each its row, first token and tokens, as `kernels.low_rank_runs` reads them.

    Row i has the next `counts[i]` tokens, under `terms[i]`; neighbours under the same run on, under the first one's row, and
    those under none are in no run.
    """
    pieces: list[tuple[int, int, int]] = []
    first, last = 0, None
    for row, (of_row, count) in enumerate(zip(terms, counts, strict=True)):
        if of_row and of_row == last:
            pieces[-1] = (*pieces[-1][:2], pieces[-1][2] + count)
        elif of_row:
            pieces.append((row, first, count))
        first, last = first + count, of_row
    whole = np.array(pieces, np.int64).reshape(-1, 3).T
    of_piece = -(-whole[2] // tile)
    row, start, count = whole.repeat(of_piece, axis=1)
    place = np.arange(len(row)) - np.repeat(np.cumsum(of_piece) - of_piece, of_piece)  # of a run in its piece
    return np.stack([row, start + place * tile, np.minimum(tile, count - place * tile)])
