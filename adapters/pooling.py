"""How the last hidden states of a text become its vector: their mean, the first token's or the last one's.

Bases that sentence-transformers made say which in their files; names are its own. Its other ways (max, weighted means,
several side by side) are named here and not computed. Does not load models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MEAN, CLS, LAST = "mean", "cls", "lasttoken"
POOLINGS = (MEAN, CLS, LAST)
_FLAGS = {
    "pooling_mode_cls_token": CLS,
    "pooling_mode_mean_tokens": MEAN,
    "pooling_mode_lasttoken": LAST,
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}


def pooling_of(base: Path) -> str | None:
    """What the files of a base say: one of POOLINGS, or the name of what is not computed here, such as "max" or "cls+mean";
    None where they say nothing."""
    config = _document(base / _folder(base) / "config.json")
    if not isinstance(config, dict):
        return None
    modes = config.get("pooling_mode")  # as sentence-transformers writes since 5.0; flags before
    if isinstance(modes, str):
        return modes
    if not isinstance(modes, list):
        modes = [name for flag, name in _FLAGS.items() if config.get(flag) is True]
    return "+".join(map(str, modes)) or None


def vector_of(hidden: torch.Tensor, pooling: str) -> torch.Tensor:
    """The vector [hidden] of one text by its last hidden states [T, hidden]."""
    if pooling == MEAN:
        return hidden.mean(0)
    return hidden[0] if pooling == CLS else hidden[-1]


def vectors_of(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """The same of several [B, L, hidden], whose own tokens `mask` [B, L] shows on whatever side: [B, hidden]."""
    shown = mask.bool()
    if pooling == CLS:
        shown = shown & (mask.cumsum(1) == 1)
    elif pooling == LAST:
        shown = shown & (mask.flip(1).cumsum(1).flip(1) == 1)
    weights = shown[..., None].to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


def _folder(base: Path) -> str:
    """Where the module that pools has its configuration."""
    return next(_pooling_modules(_document(base / "modules.json")), "1_Pooling")


def _pooling_modules(modules: Any) -> Iterator[str]:
    for module in modules if isinstance(modules, list) else ():
        if isinstance(module, dict) and str(module.get("type", "")).endswith("Pooling"):
            path = str(module.get("path", ""))
            if path and not Path(path).is_absolute() and ".." not in Path(path).parts:
                yield path


def _document(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
