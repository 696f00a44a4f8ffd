"""Encoder-decoders of text, such as T5: the encoder reads a prompt and the decoder writes, by transformers' own generate.

Their passes see no rows of tokens that could be told apart, so prompts are grouped by the adapters that they run on, and a
group runs together. Greedy, on the caller's thread; does not stream or queue, and is not served over a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.nn.utils.rnn import pad_sequence

from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.errors import InvalidInput, InvalidSettings
from adapthub.adapters.memory import memory_errors
from adapthub.adapters.selections import Selection
from adapthub.runtime.generation import Prompt
from adapthub.runtime.names import Adapter, Names, one_each
from adapthub.runtime.requests import Generation, Usage
from adapthub.runtime.sampling import Sampled, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PASS_ROWS = 16  # prompts of one pass; bounds memory
_TAKEN = ("max_new_tokens", "min_new_tokens")


def is_encoder_decoder(model: PreTrainedModel) -> bool:
    """Whether a model reads text with an encoder and writes text with a decoder."""
    inputs = model.main_input_name == "input_ids"
    return bool(model.config.is_encoder_decoder) and inputs and model.get_output_embeddings() is not None


class EncoderDecoder:
    """Generates over one adapted base, under the adapters that `names` knows. Thread-safe."""

    def __init__(self, adapted: AdaptedBase, names: Names) -> None:
        self._adapted = adapted
        self._names = names

    def generate(
        self, prompts: Sequence[Prompt], adapters: Adapter | Sequence[Adapter], sampling: Sampling
    ) -> list[Generation]:
        """One a prompt, in order: texts, or token ids as they are.

        Raises InvalidInput for a prompt that is none or too long, and for settings other than how many tokens there may be.
        """
        _check(sampling)
        names = one_each(adapters, len(prompts), "prompts")
        rows = [self._read(prompt, place) for place, prompt in enumerate(prompts)]
        with self._names.taken(dict.fromkeys(names)) as selections:
            digests = sorted({digest for selection in selections.values() for _, digest in selection})
            chosen = [selections[name] for name in names]
            with (
                self._names.loaded(digests),
                memory_errors("generating", "Send fewer or shorter prompts, or quantise the base."),
            ):
                found: dict[int, Generation] = {}
                for group in _groups(rows, chosen):
                    made = self._pass([rows[at] for at in group], chosen[group[0]], sampling)
                    found |= dict(zip(group, made, strict=True))
        return [found[at] for at in range(len(rows))]

    @property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        base = self._adapted.base
        if base.tokenizer is None:
            raise InvalidSettings(f"{base.ref} has no tokenizer, so it cannot generate text")
        return base.tokenizer

    def _read(self, prompt: Prompt, place: int) -> list[int]:
        if isinstance(prompt, str):
            ids = list(self._tokenizer(prompt)["input_ids"])
        elif all(isinstance(token, int) for token in prompt):
            ids = list(cast("Sequence[int]", prompt))
        else:
            raise InvalidInput(f"prompt {place} is a conversation", hint="An encoder-decoder takes texts.")
        longest = self._adapted.selections.room(None)
        if not ids or (longest is not None and len(ids) > longest):
            raise InvalidInput(
                f"prompt {place} has {len(ids)} tokens; this base takes 1 to {longest or 'any number'}"
            )
        return ids

    def _pass(
        self, rows: Sequence[Sequence[int]], selection: Selection, sampling: Sampling
    ) -> list[Generation]:
        base = self._adapted.base
        model: Any = base.model
        ids = pad_sequence(
            [torch.tensor(row) for row in rows],
            batch_first=True,
            padding_value=int(model.config.pad_token_id or 0),
        )
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        with self._adapted.applying_to_all(selection), torch.inference_mode():
            written = model.generate(
                input_ids=ids.to(base.device),
                attention_mask=mask.to(base.device),
                max_new_tokens=sampling.max_new_tokens,
                min_new_tokens=sampling.min_new_tokens or None,
                do_sample=False,
                num_beams=1,
            ).tolist()
        return [self._generation(row, ids) for row, ids in zip(rows, written, strict=True)]

    def _generation(self, prompt: Sequence[int], written: Sequence[int]) -> Generation:
        """Without what the decoder begins with, up to the end token."""
        configured = cast(Any, self._adapted.base.model).generation_config.eos_token_id
        ends = {configured} if isinstance(configured, int) else {*(configured or ())}
        tokens = list(written[1:])
        stop = next((at for at, token in enumerate(tokens) if token in ends), None)
        kept = tokens if stop is None else tokens[: stop + 1]
        return Generation(
            text=str(self._tokenizer.decode(kept, skip_special_tokens=True)),
            tokens=tuple(Sampled(token) for token in kept),
            finish_reason="length" if stop is None else "stop",
            usage=Usage(len(prompt), 0, len(kept)),
        )


def _check(sampling: Sampling) -> None:
    plain = Sampling()
    for field in fields(Sampling):
        value = getattr(sampling, field.name)
        if field.name not in (*_TAKEN, "seed") and value != getattr(plain, field.name):
            raise InvalidInput(
                f"{field.name} = {value!r} is not done on an encoder-decoder",
                hint=f"It takes {' and '.join(_TAKEN)}, and is greedy.",
            )


def _groups(rows: Sequence[Sequence[int]], chosen: Sequence[Selection]) -> Iterator[list[int]]:
    """Places of the rows of each pass: of one selection, and of like length."""
    order = sorted(range(len(rows)), key=lambda at: (chosen[at], len(rows[at])))
    group: list[int] = []
    for at in order:
        if group and (chosen[group[0]] != chosen[at] or len(group) == _PASS_ROWS):
            yield group
            group = []
        group.append(at)
    if group:
        yield group
