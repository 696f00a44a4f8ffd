"""How unlikely a language model under one adapter finds given tokens: the loss that training minimises, on the served path.

Rows run flattened and unpadded where the base's family allows, else one by one; logits are made of the tokens that are
asked for alone, in passes of bounded size. Rows of an encoder-decoder, which have `decoder_input_ids`, run padded, under
one selection. Does not generate or compute gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.delta import Segment
from adapthub.adapters.errors import InvalidInput
from adapthub.adapters.flat import flat_batch, positions
from adapthub.adapters.selections import Selection

IGNORED = -100
"""The label of a token that is not asked for: torch's default ignore_index."""

# Tokens of one pass, and tokens with logits of one pass: together they bound its memory.
_PASS_TOKENS = 8192
_PASS_TARGETS = 1024
_PASS_ROWS = 8  # of an encoder-decoder


def token_losses(
    adapted: AdaptedBase, rows: Sequence[Mapping[str, Sequence[int]]], selection: Selection
) -> list[torch.Tensor]:
    """For each row the negative log likelihood of every token that `labels` asks for, in nats: float32 [asked], on the CPU.

    `rows`: `input_ids` and equally long `labels`, -100 where nothing is asked; the first token has nothing before it and
    is never asked for. Raises InvalidInput for a row that is empty or too long, AdapterNotFound, InvalidExpression.
    """
    if rows and "decoder_input_ids" in rows[0]:
        return _decoder_losses(adapted, rows, selection)
    longest = adapted.selections.longest(selection)
    for place, row in enumerate(rows):
        length = len(row["input_ids"])
        if not length or (longest is not None and length > longest):
            raise InvalidInput(
                f"row {place} has {length} tokens; this base takes 1 to {longest or 'any number'}",
                hint="Truncate or split the text.",
            )
    losses: dict[int, torch.Tensor] = {}
    order = sorted(range(len(rows)), key=lambda at: -len(rows[at]["input_ids"]))
    with adapted.alone(), torch.inference_mode():
        for places in _passes(rows, order, together=adapted.layout == "flat"):
            found = _run(adapted, [rows[at] for at in places], selection)
            losses |= dict(zip(places, found, strict=True))
    return [losses[at] for at in range(len(rows))]


def _decoder_losses(
    adapted: AdaptedBase, rows: Sequence[Mapping[str, Sequence[int]]], selection: Selection
) -> list[torch.Tensor]:
    """The losses of rows whose `labels` are what the decoder shall write behind `decoder_input_ids`."""
    model, device = adapted.base.model, adapted.base.device
    order = sorted(range(len(rows)), key=lambda at: (len(rows[at]["input_ids"]), len(rows[at]["labels"])))
    losses: dict[int, torch.Tensor] = {}
    with adapted.applying_to_all(selection), torch.inference_mode():
        for start in range(0, len(order), _PASS_ROWS):
            places = order[start : start + _PASS_ROWS]
            padded = {
                name: pad_sequence([torch.tensor(rows[at][name]) for at in places], batch_first=True).to(
                    device
                )
                for name in ("input_ids", "decoder_input_ids")
            }
            lengths = torch.tensor([len(rows[at]["input_ids"]) for at in places])
            mask = torch.arange(padded["input_ids"].shape[1]) < lengths[:, None]
            logits = model(**padded, attention_mask=mask.long().to(device), use_cache=False).logits
            for at, row in zip(places, logits, strict=True):
                targets = torch.tensor(rows[at]["labels"], device=device)
                losses[at] = F.cross_entropy(row[: len(targets)].float(), targets, reduction="none").cpu()
    return [losses[at] for at in range(len(rows))]


def _passes(
    rows: Sequence[Mapping[str, Sequence[int]]], order: Sequence[int], *, together: bool
) -> Iterator[list[int]]:
    """Places of the rows of each pass."""
    places: list[int] = []
    tokens = targets = 0
    for at in order:
        length, asked = len(rows[at]["input_ids"]), len(_asked(rows[at]))
        if places and (not together or tokens + length > _PASS_TOKENS or targets + asked > _PASS_TARGETS):
            yield places
            places, tokens, targets = [], 0, 0
        places.append(at)
        tokens, targets = tokens + length, targets + asked
    if places:
        yield places


def _asked(row: Mapping[str, Sequence[int]]) -> list[int]:
    """Positions before the tokens that are asked for: there they are predicted."""
    return [at for at, label in enumerate(row["labels"][1:]) if label != IGNORED]


def _run(
    adapted: AdaptedBase, rows: Sequence[Mapping[str, Sequence[int]]], selection: Selection
) -> list[torch.Tensor]:
    device = adapted.base.device
    prefix = adapted.selections.prefix_of(selection)
    lengths = [len(row["input_ids"]) for row in rows]
    asked = [_asked(row) for row in rows]
    starts = [sum(lengths[:at]) for at in range(len(rows))]
    kept = [start + at for start, places in zip(starts, asked, strict=True) for at in places]
    if not kept:
        return [torch.zeros(0) for _ in rows]
    targets = [row["labels"][at + 1] for row, places in zip(rows, asked, strict=True) for at in places]
    flat = adapted.layout == "flat"
    if prefix is not None and not flat:
        raise adapted.no_prefix()
    prefixes = [prefix] * len(rows)
    inputs = {
        "input_ids": torch.tensor([[token for row in rows for token in row["input_ids"]]], device=device),
        "position_ids": positions(lengths, prefixes, adapted.offset).to(device),
    }
    segment, last = Segment(0, sum(lengths), selection), Segment(0, len(kept), selection)
    with (
        adapted.applying([segment], [last]),
        flat_batch(lengths, prefixes) if flat else nullcontext(),
    ):
        logits = adapted.base.model(
            **inputs, logits_to_keep=torch.tensor(kept, device=device), use_cache=False
        ).logits[0]
    losses = F.cross_entropy(logits.float(), torch.tensor(targets, device=device), reduction="none").cpu()
    return list(losses.split([len(places) for places in asked]))
