"""The peer that people write first: PEFT behind FastAPI, one request at a time, its adapter switched on before each.

An adapter is loaded when it is first asked for, and of 25 the one that was asked for longest ago goes: what PEFT takes to
load one grows with those that are loaded (benchmarks.attach).

    python -m benchmarks.serve.peft_server BASE PORT ADAPTER ...

Models are "acme/a0", "acme/a1" and so on, in the order given. OpenAI's completions, streaming. For measurements only.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer

_SLOTS = 25


def _app(base: str, adapters: list[str]) -> FastAPI:
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapters[0], adapter_name="a0"
    )
    loaded: OrderedDict[str, None] = OrderedDict(a0=None)

    def switch_to(name: str) -> None:
        if name not in loaded:
            model.load_adapter(adapters[int(name[1:])], adapter_name=name, low_cpu_mem_usage=True)
        loaded[name] = None
        loaded.move_to_end(name)
        model.set_adapter(name)
        if len(loaded) > _SLOTS:
            model.delete_adapter(loaded.popitem(last=False)[0])

    model.eval()
    one = threading.Lock()
    app = FastAPI()

    @app.post("/v1/completions")
    def completions(body: dict[str, Any]) -> StreamingResponse:
        def stream() -> Iterator[str]:
            with one:
                switch_to(body["model"].removeprefix("acme/"))
                texts = TextIteratorStreamer(tokenizer, skip_prompt=True)
                inputs = tokenizer(body["prompt"], return_tensors="pt")
                count = body["max_tokens"]
                options = {
                    "max_new_tokens": count,
                    "min_new_tokens": count,
                    "do_sample": False,
                    "pad_token_id": 0,
                }
                work = threading.Thread(
                    target=model.generate, kwargs={**inputs, "streamer": texts, **options}
                )
                work.start()
                for text in texts:
                    yield f"data: {json.dumps({'choices': [{'text': text}]})}\n\n"
                work.join()
            yield f"data: {json.dumps({'choices': [], 'usage': {'completion_tokens': count}})}\n\ndata: [DONE]\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


if __name__ == "__main__":
    uvicorn.run(_app(sys.argv[1], sys.argv[3:]), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
