"""The lines to copy from an adapter's page: quoted for their language, and those for adapthub run as they stand."""

from __future__ import annotations

import ast
import html
import re
import shlex
from pathlib import Path

import torch

from adapthub.adapters.artifact import Artifact
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.registry import Facts
from adapthub.hub.server.pages.usage import snippets
from adapthub.runtime import Runtime
from tests import asking
from tests.adapters.peft_oracle import expected_logits, lora_config, save_adapter
from tests.hub.server.live import HubServer

TASK = "token-classification"


def test_usage_is_quoted_for_its_language() -> None:
    base = "org/x\"); __import__('os').system(\"touch hacked\") # '$(touch hacked)`\n"
    facts = Facts("lora", "text-generation", None, base, None, 9, ())
    made = {one.title: one for one in snippets("http://hub.local", "acme/sql", "v3", facts, private=True)}
    assert list(made) == ["adapthub", "peft", "vLLM", "hf", "curl"]
    for title in ("adapthub", "peft"):
        tree = ast.parse(made[title].text)
        assert base in [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    words = shlex.split(made["vLLM"].text)
    assert words[words.index("serve") + 1] == base
    assert words[words.index("--max-lora-rank") + 1] == "16"
    assert words[-1] == "sql=./sql"
    assert shlex.split(made["hf"].text)[:2] == ["HF_ENDPOINT=http://hub.local", "HF_TOKEN=ah_..."]
    assert "http://hub.local/acme/sql/resolve/v3/adapter_model.safetensors" in shlex.split(made["curl"].text)


def test_the_lines_for_adapthub_run_as_they_stand(
    hub_server: HubServer, tiny_base: Path, tmp_path: Path
) -> None:
    adapter = save_adapter(tiny_base, tmp_path / "made", TASK, lora_config(TASK))
    EmbeddedHub(hub_server.data, cache=tmp_path / "theirs").push(Artifact.read(adapter), "ada/ner")
    page = asking.get(f"{hub_server.url}/ada/ner").text
    found = re.search('aria-label="adapthub"><code>(.*?)</code>', page, re.DOTALL)
    assert found is not None
    names: dict[str, object] = {}
    exec(html.unescape(found[1]), names)
    text = "ada was born in london"
    runtime = names["runtime"]
    assert isinstance(runtime, Runtime)
    assert runtime.base.tokenizer is not None
    (ours,) = runtime.logits([text], adapters=["ada/ner@v1"])
    row = {"input_ids": runtime.base.tokenizer(text)["input_ids"]}
    (theirs,) = expected_logits(tiny_base, adapter, TASK, [row])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
