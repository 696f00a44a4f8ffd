"""A real server on loopback, in a thread of its own, over a tiny causal base with adapters in a hub of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from adapthub.adapters.artifact import Artifact
from adapthub.hub import open_hub
from adapthub.hub.registry import Registry
from adapthub.runtime.generation import Limits
from adapthub.runtime.server.lifecycle import Running, ServerSettings, serve
from adapthub.runtime.tenants.gate import Gate
from tests.adapters.causal_pass import CAUSAL, write_causal_base
from tests.adapters.peft_oracle import save_adapter
from tests.runtime.generating import lora
from tests.runtime.test_text_stream import tokenizer
from tests.web.live import in_a_thread

BASE_CONTEXT = 512
# Roles as words that the tiny tokenizer knows, one after another.
_TEMPLATE = (
    "{% for message in messages %}{{ message.role }} : {{ message.content }} . {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)
_TOOLS_TEMPLATE = (
    "{% if tools %}tools: {{ tools | tojson }}\n{% endif %}"
    "{% for message in messages %}{{ message.role }}: {{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def write_base(folder: Path) -> Path:
    """A tiny Llama of 512 positions whose tokenizer has a chat template."""
    write_causal_base(folder, max_position_embeddings=BASE_CONTEXT)
    (folder / "chat_template.jinja").write_text(_TEMPLATE)
    return folder


def write_spelling_base(folder: Path) -> Path:
    """The same with a byte-level tokenizer, which can follow grammars, and a template that has tools, as Qwen's."""
    made = tokenizer("byte-level")
    write_causal_base(
        folder, max_position_embeddings=BASE_CONTEXT, vocab_size=len(made), eos_token_id=made.eos_token_id
    )
    made.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(_TOOLS_TEMPLATE)
    return folder


def write_hub(base: Path, folder: Path) -> Registry:
    """acme/sql (v1, v2; prod means v1), acme/tone and zeta/own: random LoRAs that differ."""
    hub = open_hub(folder / "hub")
    for index, (name, alias) in enumerate(
        [("acme/sql", "prod"), ("acme/sql", None), ("acme/tone", "prod"), ("zeta/own", None)]
    ):
        adapter = save_adapter(base, folder / f"adapter-{index}", CAUSAL, lora(r=2 + index), seed=index)
        hub.push(Artifact.read(adapter), name, alias=alias)
    return hub


@contextmanager
def live(settings: ServerSettings, hub: Registry, gate: Gate | None = None) -> Iterator[Running]:
    """Within: the server runs."""
    with in_a_thread(partial(serve, settings, hub=hub, gate=gate)) as running:
        yield running


def settings_for(base: Path, **options: object) -> ServerSettings:
    """Small and on any free port."""
    given: dict[str, object] = {"port": 0, "limits": Limits(kv_tokens=8192, max_rows=16)}
    return ServerSettings(base=str(base), **(given | options))  # type: ignore[arg-type]
