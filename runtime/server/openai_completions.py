"""OpenAI's completions: texts or token ids, continued."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from transformers import PreTrainedTokenizerBase

from adapthub.runtime.requests import Event
from adapthub.runtime.sampling import Sampled
from adapthub.runtime.server.answering import begin
from adapthub.runtime.server.dependencies import TheCaller, TheRequestId, TheServing
from adapthub.runtime.server.disconnects import while_connected
from adapthub.runtime.server.openai_answers import (
    Delta,
    Reader,
    described,
    finite,
    head_of,
    read_whole,
    stream_of,
    token_text,
    usage_of,
)
from adapthub.runtime.server.openai_prompts import new_tokens, text_ids
from adapthub.runtime.server.openai_requests import CompletionRequest
from adapthub.runtime.server.serving import Serving
from adapthub.runtime.server.versions import versioned
from adapthub.runtime.tenants.caller import Caller
from adapthub.runtime.text_stream import TextStream

router = APIRouter(prefix="/v1", tags=["completions"])

_DEFAULT_NEW_TOKENS = 16  # OpenAI's
_ANSWERS = described("A text_completion; with `stream`, events that are such objects, then [DONE].")


@router.post("/completions", response_class=Response, responses=_ANSWERS)
async def completions(
    body: CompletionRequest, request: Request, serving: TheServing, caller: TheCaller, id: TheRequestId
) -> Response:
    """Continue texts, by 16 tokens unless max_tokens says otherwise."""
    return await while_connected(request, _answer(body, serving, caller, id))


async def _answer(body: CompletionRequest, serving: Serving, caller: Caller, id: str) -> Response:
    body.check()
    constraint = body.constraint()
    async with serving.catalog.admitted(body.model, caller, body.user or None) as target:
        prompts = await text_ids(serving, body.prompts)
        longest = max(map(len, prompts))
        most = new_tokens(serving, target, longest, body.max_tokens, "prompt", _DEFAULT_NEW_TOKENS)
        samplings = body.samplings(most, body.logprobs, constraint)
        service = serving.runtime.generation
        ends = (frozenset() if body.ignore_eos else service.eos_ids) | frozenset(body.stop_token_ids or ())
        choices = range(len(prompts) * body.choices)
        readers = [Reader(ends) for _ in choices]
        writers = [
            _Writer(choice, service.tokenizer if body.logprobs is not None else None) for choice in choices
        ]
        echoed = _echoed(body, service.tokenizer)
        head = head_of(serving, id, "cmpl", "text_completion", body.model)
        answer = await begin(
            serving, caller, target, "completion", prompts, samplings, id=id, priority=-body.priority
        )
        if body.stream:
            opening = [writers[choice].written([Delta(text, ())]) for choice, text in enumerate(echoed)]

            def chunks(choice: int, event: Event) -> list[dict[str, Any]]:
                delta = readers[choice].read(event)
                if not delta.text and delta.finish_reason is None and body.logprobs is None:
                    return []  # half a character, or of a stop string
                return [writers[choice].written([delta])]

            return versioned(await stream_of(answer, head, opening, chunks, body.include_usage), target)
        texts = await read_whole(answer, readers)
        for choice, text in enumerate(echoed):
            texts[choice].insert(0, Delta(text, ()))
        written = [writer.written(deltas) for writer, deltas in zip(writers, texts, strict=True)]
        whole = {**head, "choices": written, "usage": usage_of(answer)}
        return versioned(JSONResponse(whole), target)


def _echoed(body: CompletionRequest, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The prompt of each choice, where it is wanted in front of the text."""
    if not body.echo:
        return []
    texts = [prompt if isinstance(prompt, str) else str(tokenizer.decode(prompt)) for prompt in body.prompts]
    return [text for text in texts for _ in range(body.choices)]


class _Writer:
    """One choice's objects, of all of its text or of what is new; `tokenizer` where logprobs are asked for."""

    def __init__(self, index: int, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self._index = index
        self._tokenizer = tokenizer
        self._spelled = None if tokenizer is None else TextStream(tokenizer)

    def written(self, deltas: Sequence[Delta]) -> dict[str, Any]:
        """What these add."""
        tokens = [token for delta in deltas for token in delta.tokens]
        return {
            "index": self._index,
            "text": "".join(delta.text for delta in deltas),
            "logprobs": self._logprobs(tokens),
            "finish_reason": deltas[-1].finish_reason,
        }

    def _logprobs(self, tokens: Sequence[Sampled]) -> dict[str, Any] | None:
        if self._tokenizer is None or self._spelled is None:
            return None
        offsets = []
        for token in tokens:
            before = len(self._spelled.text)
            new = self._spelled.push(token.token_id)
            own, _ = token_text(self._tokenizer, token.token_id)
            # Half a character may have waited for this token's text.
            offsets.append(len(self._spelled.text) - len(own) if new.endswith(own) else before)
        return {
            "tokens": [token_text(self._tokenizer, token.token_id)[0] for token in tokens],
            "token_logprobs": [finite(token.logprob) for token in tokens],
            "top_logprobs": [
                {
                    token_text(self._tokenizer, id)[0]: finite(logprob)
                    for id, logprob in (*token.alternatives, (token.token_id, token.logprob))
                }
                for token in tokens
            ],
            "text_offset": offsets,
        }
