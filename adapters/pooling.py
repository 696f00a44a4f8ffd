"""How the last hidden states of a text become its vector: their mean, the first token's or the last one's.

Bases that sentence-transformers made say which in their files; names are its own. Its other ways (max, weighted means,
several side by side) and its other modules (dense layers behind the pooling) are named here and not computed, so that nobody
takes a vector without them for the base's. Does not load models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapthub.adapters.errors import InvalidInput

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
# Of sentence-transformers' modules those that are the backbone, the pooling, or change no vector's direction.
_COMPUTED = ("Transformer", "Pooling", "Normalize", "Dropout")


def pooling_of(base: Path) -> str | None:
    """What the files of a base say: one of POOLINGS, or the name of what is not computed here, such as "max", "cls+mean" or
    "mean and Dense (2_Dense)"; None where they say nothing."""
    config = _configuration(base)
    modes = config.get("pooling_mode")  # as sentence-transformers writes since 5.0; flags before
    if not isinstance(modes, str | list):
        modes = [name for flag, name in _FLAGS.items() if config.get(flag) is True]
    said = modes if isinstance(modes, str) else "+".join(map(str, modes))
    others = (f"{kind} ({path})" if path else kind for kind, path in _modules(base) if kind not in _COMPUTED)
    return " and ".join([*([said] if said else []), *others]) or None


def leaves_prompts_out(base: Path) -> bool:
    """Whether the files of a base say that what is put before a text is read and not pooled."""
    return _configuration(base).get("include_prompt") is False


def check_pooling(pooling: str) -> None:
    """Raises InvalidInput for a way to a vector that is not computed here."""
    if pooling not in POOLINGS:
        raise InvalidInput(
            f"the base makes a vector of hidden states by {pooling}, which is not computed here",
            hint=f"Train an adapter on it that is pooled otherwise (recipe embed, pooling={MEAN}), or take another base.",
        )


def vector_of(hidden: torch.Tensor, pooling: str) -> torch.Tensor:
    """The vector [hidden] of one text by its last hidden states [T, hidden]. Raises what `check_pooling` does."""
    check_pooling(pooling)
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


def _configuration(base: Path) -> dict[str, Any]:
    """That of the module that pools; {} where there is none."""
    inside = (
        path for kind, path in _modules(base) if kind == "Pooling" and path and ".." not in Path(path).parts
    )
    folder = next((path for path in inside if not Path(path).is_absolute()), "1_Pooling")
    config = _document(base / folder / "config.json")
    return config if isinstance(config, dict) else {}


def _modules(base: Path) -> Iterator[tuple[str, str]]:
    """Class and folder of each module that makes a vector, in order."""
    modules = _document(base / "modules.json")
    for module in modules if isinstance(modules, list) else ():
        if isinstance(module, dict):
            yield str(module.get("type", "")).rpartition(".")[2], str(module.get("path", ""))


def _document(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
