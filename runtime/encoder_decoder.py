"""Encoder-decoders of text, such as T5, under the engine: an encoder reads a prompt whole, a decoder writes a token a step.

Their passes see no rows of tokens that could be told apart, so rows that begin in one step on the same adapters are read
together, and from then on written together: a pass a step for each such company. Pages only count what the rows hold: keys
and values lie with the company. Nothing of a prompt is computed in parts or used again, and prefix adapters, which belong to
rows of tokens, are refused. Does not sample or choose what runs (the engine does).
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    ForcedBOSTokenLogitsProcessor,
    LogitsProcessorList,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
)
from transformers.modeling_outputs import BaseModelOutput

from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.memory import memory_errors
from adapthub.adapters.selections import Selection
from adapthub.runtime.attention import Serving
from adapthub.runtime.forward import Forward, Results, together
from adapthub.runtime.kv import KV, Held, LayerShape, Pages
from adapthub.runtime.paging import Paging
from adapthub.runtime.requests import Request, as_ours
from adapthub.runtime.rows import Part, Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from adapthub.adapters.errors import AdaptHubError

_CONTEXT = 4096
"""Tokens of a prompt and its answer where positions know no end: an encoder's attention grows with their square."""


def is_encoder_decoder(model: PreTrainedModel) -> bool:
    """Whether a model reads text with an encoder and writes text with a decoder."""
    inputs = model.main_input_name == "input_ids"
    return bool(model.config.is_encoder_decoder) and inputs and model.get_output_embeddings() is not None


def serves_whole(model: PreTrainedModel) -> Serving:
    """What a token of a row takes: keys and values of the decoder's layers, for itself and for what it reads of prompts."""
    config: Any = model.config
    heads = getattr(config, "num_heads", None) or config.decoder_attention_heads
    layers = getattr(config, "num_decoder_layers", None) or config.decoder_layers
    size = getattr(config, "d_kv", None) or config.d_model // heads
    bound = getattr(config, "max_position_embeddings", None)
    return Serving((LayerShape(heads, size, size),) * (2 * layers), model.dtype, bound or _CONTEXT)


class WholePrompts(Paging):
    """Pages that are counted and not written."""

    def __init__(self, adapted: AdaptedBase, pages: Pages, context: int, page_size: int) -> None:
        super().__init__(adapted, cast(KV, _Counted(adapted, page_size)), pages, context)

    def reuse(self, request: Request, tokens: Sequence[int], held: Held) -> int:
        """Nothing: a prompt is read whole."""
        return 0

    def keep(self, request: Request, tokens: Sequence[int], held: Held, ahead: int = 0) -> None:
        """Nothing, likewise."""


@dataclass(frozen=True)
class _Counted:
    adapted: AdaptedBase
    page_size: int

    def write_prefix(self, *_: Any) -> None:
        raise self.adapted.no_prefix()


@dataclass(frozen=True)
class _Company:
    """Rows that are written together: what the encoder made of their prompts [rows, longest, hidden], which of it is
    padding, and the decoder's keys and values."""

    hidden: Tensor
    mask: Tensor
    cache: Any

    def of(self, places: Sequence[int]) -> _Company:
        """Some of its rows, as a company of their own."""
        if len(places) == len(self.hidden):
            return self
        at = torch.tensor(places, device=self.hidden.device)
        cache = copy.deepcopy(self.cache)
        cache.batch_select_indices(at)
        return _Company(self.hidden[at], self.mask[at], cache)


class EncoderDecoderForward(Forward):
    """Passes of one adapted encoder-decoder."""

    def __init__(self, adapted: AdaptedBase) -> None:
        self._adapted = adapted
        self._model = adapted.base.model
        self._device = adapted.base.device
        self.graphs = None
        self._companies: WeakKeyDictionary[Row, tuple[_Company, int]] = WeakKeyDictionary()
        told: Any = self._model.generation_config
        config: Any = self._model.config
        starts = (getattr(place, "decoder_start_token_id", None) for place in (told, config))
        self._start = next((id for id in starts if id is not None), 0)
        self._padding = int(config.pad_token_id or 0)
        self._processors = LogitsProcessorList()
        if told.forced_bos_token_id is not None:
            self._processors.append(ForcedBOSTokenLogitsProcessor(told.forced_bos_token_id))
        if told.no_repeat_ngram_size:
            self._processors.append(NoRepeatNGramLogitsProcessor(told.no_repeat_ngram_size))
        if told.bad_words_ids:
            self._processors.append(NoBadWordsLogitsProcessor(told.bad_words_ids, told.eos_token_id))

    def check(self, selection: Selection) -> None:
        """See Forward; a company is on one selection, so its modules may see what they will."""
        self._adapted.selections.check_generation(selection, by_token=False)

    def compute(self, parts: Sequence[Part]) -> Results:
        """See Forward; of a prompt the last part computes all."""
        results: dict[str, Tensor | AdaptHubError] = {}
        for group in self._groups([part for part in parts if part.completes]):
            try:
                results |= self._pass(group)
            except Exception as error:
                ours = as_ours(error, "the pass failed")
                results |= {part.row.request.id: ours for part in group}
        for part in parts:
            part.row.held.length += part.count
        return together(results)

    def _groups(self, parts: Sequence[Part]) -> list[list[Part]]:
        """Those that go on together, and those that begin on the same adapters with as many tokens written."""
        groups: dict[Any, list[Part]] = defaultdict(list)
        for part in parts:
            found = self._companies.get(part.row) if part.count == 1 else None
            key = id(found[0]) if found else (part.row.request.selection, part.row.generated)
            groups[key].append(part)
        return [*groups.values()]

    def _pass(self, parts: Sequence[Part]) -> dict[str, Tensor | AdaptHubError]:
        rows = [part.row for part in parts]
        written = torch.tensor(
            [[self._start, *row.tokens[len(row.request.prompt_ids) :]] for row in rows], device=self._device
        )
        with (
            torch.inference_mode(),
            memory_errors("running a step", "Lower max_rows, or send shorter prompts."),
            self._adapted.applying_to_all(rows[0].request.selection),
        ):
            known = self._companies.get(rows[0]) if parts[0].count == 1 else None
            if known is None:
                company, new = self._read(rows), written
            else:
                company = known[0].of([self._companies[row][1] for row in rows])
                new = written[:, -1:]
            output: Any = self._model(
                encoder_outputs=BaseModelOutput(last_hidden_state=cast(Any, company.hidden)),
                attention_mask=company.mask,
                decoder_input_ids=new,
                past_key_values=company.cache,
                use_cache=True,
            )
            company = _Company(company.hidden, company.mask, output.past_key_values)
            logits = self._processors(cast(Any, written), output.logits[:, -1].float())
        for place, row in enumerate(rows):
            self._companies[row] = company, place
        return {row.request.id: one for row, one in zip(rows, logits, strict=True)}

    def _read(self, rows: Sequence[Row]) -> _Company:
        prompts = [torch.tensor(row.request.prompt_ids) for row in rows]
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        ids = pad_sequence(prompts, batch_first=True, padding_value=self._padding)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long().to(self._device)
        encoder: Any = cast(Any, self._model).get_encoder()
        hidden = encoder(input_ids=ids.to(self._device), attention_mask=mask).last_hidden_state
        return _Company(hidden, mask, None)
