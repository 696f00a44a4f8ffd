"""The tools that people have, unchanged, with HF_ENDPOINT set: `hf`, peft and transformers, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from adapthub.hub.embedded import EmbeddedHub
from tests.adapters.causal_pass import write_causal_base
from tests.hub.adapters import contents, write_adapter
from tests.hub.server.live import HubServer

PEFT = """
import sys
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

base, folder = sys.argv[1:]
load = lambda: AutoModelForCausalLM.from_pretrained(base)
torch.manual_seed(1)
tuned = get_peft_model(load(), LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM"))
tuned.push_to_hub("ada/tone", commit_message="from peft")
tokens = torch.arange(12).view(1, -1)
expected = tuned(tokens).logits
assert torch.equal(PeftModel.from_pretrained(load(), "ada/tone")(tokens).logits, expected)
assert torch.equal(PeftModel.from_pretrained(load(), "ada/tone", revision="v1")(tokens).logits, expected)
assert torch.allclose(AutoModelForCausalLM.from_pretrained("ada/tone")(tokens).logits, expected, atol=1e-6)
assert not torch.equal(load()(tokens).logits, expected)
"""


def run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_hf_command(hub_server: HubServer, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "made", card="# A card")
    environment = hub_server.environment(tmp_path / "home", hub_server.token())
    hf = str(Path(sys.executable).with_name("hf"))
    assert "ada" in run([hf, "auth", "whoami"], environment)
    run([hf, "upload", "ada/ner", str(adapter.path), ".", "--commit-message", "by hf"], environment)
    assert EmbeddedHub(hub_server.data).resolve("ada/ner").digest == adapter.digest
    run([hf, "download", "ada/ner", "--revision", "v1", "--local-dir", str(tmp_path / "got")], environment)
    got = {name: data for name, data in contents_of(tmp_path / "got").items() if name in adapter.files}
    assert got == contents(adapter.path)


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.slow
def test_peft_and_transformers(hub_server: HubServer, tmp_path: Path) -> None:
    base = write_causal_base(tmp_path / "base")
    environment = hub_server.environment(tmp_path / "home", hub_server.token())
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run([sys.executable, "-c", PEFT, str(base), str(tmp_path)], environment)
    version = EmbeddedHub(hub_server.data).show("ada/tone@main").version
    assert (version.number, version.message.splitlines()[0]) == (1, "from peft")
