"""docs/serving.md is true: its clients' examples run as they stand, but for addresses and the base's name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from adapthub.runtime.server.lifecycle import Running

DOCUMENT = Path(__file__).parents[3] / "docs" / "serving.md"
BLOCKS = re.findall(r"^```py\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)


def run(block: str, server: Running) -> None:
    code = block.replace("http://127.0.0.1:8000", server.address)
    exec(code.replace("package:smollm2-135m", server.serving.catalog.base_name), {})


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the examples' clients close with the program
def test_the_examples_of_both_clients_run(
    server: Running, encoder: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tests are offline; this client then refuses to ask even this machine.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    openai, hugging_face = BLOCKS
    run(openai, server)
    run(hugging_face, encoder)
