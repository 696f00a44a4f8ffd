"""Encoder-decoders of text, such as T5, under the engine: an encoder reads a prompt whole, a decoder writes a token a step.

Their passes see no rows of tokens that could be told apart, so rows that begin in one step on the same adapters are read
together, and from then on written together: a pass a step for each such company. Pages only count what the rows hold: keys
and values lie with the company. Nothing of a prompt is computed in parts or used again, and prefix adapters, which belong to
rows of tokens, are refused. Does not sample or choose what runs (the engine does).
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
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
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
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
"""Tokens of a prompt, and of its answer, where positions know no end: an encoder's attention grows with their square. So
many tokens, padding included, are read together at most."""


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
    reads, writes = _positions(config, "encoder"), _positions(config, "decoder")
    return Serving((LayerShape(heads, size, size),) * (2 * layers), model.dtype, reads + writes, reads)


def _positions(config: Any, side: str) -> int:
    """How many an encoder or a decoder has; most families say it once for both, each of which has so many of its own."""
    names = (f"max_{side}_position_embeddings", "max_position_embeddings")
    found = (getattr(config, name, None) for name in names)
    return next((bound for bound in found if bound), _CONTEXT)


class WholePrompts(Paging):
    """Pages that are counted and not written. A prompt has at most `reads` tokens, an answer at most `writes`."""

    def __init__(
        self, adapted: AdaptedBase, pages: Pages, *, reads: int, writes: int, page_size: int
    ) -> None:
        super().__init__(adapted, cast(KV, _Counted(adapted, page_size)), pages, reads + writes)
        self._reads, self._writes = reads, writes

    def room(self, prefix: int = 0, prompt: int = 0) -> int:
        """See Paging."""
        if prompt > self._reads:
            return self._reads - prompt
        return min(self._writes, super().room(prefix, prompt))

    def bounds(self, prefix: int = 0) -> str:
        """See Paging."""
        apart = f"at most {self._reads} are read and {self._writes} written"
        return f"{apart}, and {super().bounds(prefix)}"

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
        """The rows at `places`, in that order: itself, or a company of their own."""
        if list(places) == list(range(len(self.hidden))):
            return self
        at = torch.tensor(places, device=self.hidden.device)
        cache = _beside(self.cache)
        cache.batch_select_indices(at)
        return _Company(self.hidden[at], self.mask[at], cache)


def _beside(cache: Any) -> Any:
    """Another with the same keys and values, which its layers replace and never write into."""
    other = copy.copy(cache)
    other.is_updated = dict(cache.is_updated)
    for name in ("self_attention_cache", "cross_attention_cache"):
        inner = copy.copy(getattr(cache, name))
        inner.layers = [copy.copy(layer) for layer in inner.layers]
        setattr(other, name, inner)
    return other


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
        self._padding = int(config.pad_token_id or 0)
        starts = (getattr(place, "decoder_start_token_id", None) for place in (told, config))
        self._start = next((id for id in starts if id is not None), self._padding)
        self._processors = _processors(told, str(self._device))
        self.penalty = float(told.repetition_penalty or 1.0)
        self._ends = _ids(told.eos_token_id)
        self._least = (told.min_length or 0) if self._ends else 0
        self._last = _ids(told.forced_eos_token_id)

    def check(self, selection: Selection) -> None:
        """See Forward; a company is on one selection, so its modules may see what they will."""
        self._adapted.selections.check_generation(selection, by_token=False)

    def read(self, request: Request) -> Sequence[int]:
        """See Forward: the token that a decoder begins with; the prompt is the encoder's."""
        return (self._start,)

    def compute(self, parts: Sequence[Part]) -> Results:
        """See Forward; of a prompt the last part computes all."""
        for row in [row for row in self._companies if not row.held.length]:  # preempted: it is read anew
            del self._companies[row]
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
        going: dict[int, list[Part]] = defaultdict(list)
        beginning: dict[Any, list[Part]] = defaultdict(list)
        for part in parts:
            if part.row in self._companies:
                going[id(self._companies[part.row][0])].append(part)
            else:
                beginning[part.row.request.selection, part.row.generated].append(part)
        return [*going.values(), *(some for group in beginning.values() for some in _read_together(group))]

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
            known = self._companies.get(rows[0])
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
            logits = self._as_told(rows, written, output.logits[:, -1].float())
        for place, row in enumerate(rows):
            self._companies[row] = company, place
        return {row.request.id: one for row, one in zip(rows, logits, strict=True)}

    def _as_told(self, rows: Sequence[Row], written: Tensor, logits: Tensor) -> Tensor:
        """Logits as the base's generation configuration bends them in transformers' `generate`; what it says of ends does
        not hold for texts whose end a grammar or the asker decides."""
        logits = self._processors(cast(Any, written), logits)
        for place, row in enumerate(rows):
            asked = row.request.sampling
            if asked.ignore_eos or row.request.constraint is not None:
                continue
            if written.shape[1] < self._least:
                logits[place, self._ends] = -torch.inf
            if self._last and row.generated + 1 == asked.max_new_tokens > asked.min_new_tokens:
                logits[place] = -torch.inf
                logits[place, self._last] = 0
        return logits

    def _read(self, rows: Sequence[Row]) -> _Company:
        prompts = [torch.tensor(row.request.prompt_ids) for row in rows]
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        ids = pad_sequence(prompts, batch_first=True, padding_value=self._padding)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long().to(self._device)
        encoder: Any = cast(Any, self._model).get_encoder()
        hidden = encoder(input_ids=ids.to(self._device), attention_mask=mask).last_hidden_state
        return _Company(hidden, mask, None)


def _processors(told: Any, device: str) -> LogitsProcessorList:
    """What a generation configuration says of single tokens, in transformers' order; but for its repetition penalty, which
    is the sampler's: none of the others minds what it makes of their zeros and infinities."""
    found = LogitsProcessorList()
    if told.no_repeat_ngram_size:
        found.append(NoRepeatNGramLogitsProcessor(told.no_repeat_ngram_size))
    if told.bad_words_ids:
        found.append(NoBadWordsLogitsProcessor(told.bad_words_ids, told.eos_token_id))
    if told.forced_bos_token_id is not None:
        found.append(ForcedBOSTokenLogitsProcessor(told.forced_bos_token_id))
    if told.suppress_tokens:
        found.append(SuppressTokensLogitsProcessor(told.suppress_tokens, device))
    if told.begin_suppress_tokens:
        begin = 1 if told.forced_bos_token_id is None else 2
        found.append(SuppressTokensAtBeginLogitsProcessor(told.begin_suppress_tokens, begin, device))
    return found


def _ids(told: int | Sequence[int] | None) -> list[int]:
    """One token, several or none."""
    return [] if told is None else [told] if isinstance(told, int) else list(told)


def _read_together(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Parts in groups whose prompts, padded to the longest, have at most _CONTEXT tokens, or one prompt."""
    some: list[Part] = []
    for part in sorted(parts, key=lambda part: len(part.row.request.prompt_ids)):
        if some and len(part.row.request.prompt_ids) * (len(some) + 1) > _CONTEXT:
            yield some
            some = []
        some.append(part)
    if some:
        yield some
