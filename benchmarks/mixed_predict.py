"""32 rows that use 1, 8 and 32 LoRA adapters of ranks 8 to 64 over all linear layers: ours against PEFT's mixed batch.

    python -m benchmarks.mixed_predict [--device cuda] [--rounds 9]

Peers, in the same process and in turn, on one set of adapter files and one base:
  base         our runtime, every row on the base alone (flattened, unpadded)
  base padded  transformers' own model on the padded batch
  ours         our runtime, each row its adapter
  peft         PEFT's `adapter_names` on the padded batch

Rows are real CoNLL-2003 sentences (unlike lengths), and rows of 32 tokens (nothing to gain from padding). On CUDA, where
nothing is fetched, a random BERT of 12 layers of 1024 and random rows stand in. Every round has rows of its own, as in use:
libraries that prepare themselves for a shape gain nothing from its return. Each result is checked against PEFT's logits.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForTokenClassification, BertConfig, BertModel, BitsAndBytesConfig

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import Base, load_base
from adapthub.adapters.selections import Selection
from benchmarks.common import (
    BASES,
    comparable,
    in_dtype,
    in_turn,
    milliseconds,
    print_table,
    ratio,
    write_results,
)

ROWS, LABELS = 32, 9
RANKS = (8, 16, 32, 64)
COUNTS = (1, 8, 32)
LINEAR = ["query", "key", "value", "dense"]
Rows = list[list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quantize", nargs="*", default=BASES, choices=["none", "nf4", "int8"])
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        path, batches = _inputs(options.device, Path(folder), options.rounds + 2)
        adapters = _adapters(path, Path(folder), max(COUNTS))
        for name in options.quantize:
            quantize = None if name == "none" else name
            results += _measure(path, quantize, options.device, adapters, batches, options.rounds)
            command = " ".join(["python -m benchmarks.mixed_predict", *sys.argv[1:]])
            print(write_results("mixed_predict", command, results, base=path.name))
    print_table(results)


def _inputs(device: str, folder: Path, batches: int) -> tuple[Path, dict[str, list[Rows]]]:
    """The base's folder, and `batches` times 32 rows of token ids by name."""
    generator = random.Random(0)
    if device != "cpu":
        torch.manual_seed(0)
        config = BertConfig(
            hidden_size=1024, num_hidden_layers=12, num_attention_heads=16, intermediate_size=4096
        )
        BertModel(config).save_pretrained(folder / "bert-12x1024-random")
        ids = range(1000, 30000)
        lengths: dict[str, Callable[[], int]] = {
            "unlike": lambda: generator.randint(8, 96),
            "equal": lambda: 64,
        }
        return folder / "bert-12x1024-random", {
            name: [[generator.choices(ids, k=length()) for _ in range(ROWS)] for _ in range(batches)]
            for name, length in lengths.items()
        }
    from transformers import AutoTokenizer

    from adapthub.adapters.samples import fetch
    from adapthub.recipes.data.conll import read_conll

    path = fetch("minilm")
    tokenizer = AutoTokenizer.from_pretrained(path)
    sentences = [e.fields["tokens"] for e in read_conll(fetch("conll2003") / "test.conll", encoding="utf-8")]
    chosen = generator.sample(sentences, ROWS * batches)
    real = [tokenizer(words, is_split_into_words=True)["input_ids"] for words in chosen]
    text = [
        i
        for words in sentences
        for i in tokenizer(words, is_split_into_words=True, add_special_tokens=False)["input_ids"]
    ]
    equal = [[101, *text[30 * i : 30 * i + 30], 102] for i in range(ROWS * batches)]
    return path, {
        name: [rows[start : start + ROWS] for start in range(0, len(rows), ROWS)]
        for name, rows in {"CoNLL sentences": real, "32 tokens each": equal}.items()
    }


def _adapters(base: Path, folder: Path, count: int) -> list[Path]:
    paths: dict[int, Path] = {}
    for rank in RANKS[:count]:
        config = LoraConfig(task_type="TOKEN_CLS", r=rank, lora_alpha=rank, target_modules=LINEAR)
        model = get_peft_model(
            AutoModelForTokenClassification.from_pretrained(base, num_labels=LABELS), config
        )
        for index in range(RANKS.index(rank), count, len(RANKS)):
            generator = torch.Generator().manual_seed(index)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if "lora_A" in name:
                        parameter.normal_(std=1 / rank, generator=generator)
                    elif "lora_B" in name or "modules_to_save" in name:
                        parameter.normal_(std=0.02, generator=generator)
            paths[index] = folder / f"adapter-{index}"
            model.save_pretrained(str(paths[index]))
    return [paths[index] for index in range(count)]


def _measure(
    path: Path,
    quantize: str | None,
    device: str,
    adapters: Sequence[Path],
    batches: dict[str, list[Rows]],
    rounds: int,
) -> list[dict[str, Any]]:
    base = load_base(
        str(path), quantize=quantize, device=device, dtype="float32" if device == "cpu" else "auto"
    )
    adapted = AdaptedBase(base)
    digests = [adapted.attach(Artifact.read(adapter)) for adapter in adapters]
    peft = _peft(path, quantize, base, adapters)
    results = []
    for name, of_name in batches.items():
        for used in COUNTS:
            row = {"quantize": quantize or "none", "rows": name, "adapters": used}
            results.append(row | _compare(adapted, digests, peft, of_name, used, rounds))
            print_table(results[-1:])
    adapted.close()
    return results


def _compare(
    adapted: AdaptedBase,
    digests: Sequence[str],
    peft: PeftModel,
    batches: list[Rows],
    adapters: int,
    rounds: int,
) -> dict[str, Any]:
    places = [index * adapters // ROWS for index in range(ROWS)]
    random.Random(1).shuffle(places)
    selections = [((1.0, digests[place]),) for place in places]
    names = [f"a{place}" for place in places]
    features = [[{"input_ids": row} for row in rows] for rows in batches]
    padded = [_padded(rows, adapted.base.device) for rows in batches]

    def ours(batch: int, chosen: Sequence[Selection]) -> list[torch.Tensor]:
        return adapted.logits(features[batch], chosen)

    def mixed_peft(batch: int) -> torch.Tensor:
        ids, mask = padded[batch]
        with torch.inference_mode():
            logits: torch.Tensor = peft(input_ids=ids, attention_mask=mask, adapter_names=names).logits
        return logits

    seconds = in_turn(
        {
            "base": _each_batch(lambda batch: ours(batch, [()] * ROWS)),
            "base padded": _each_batch(lambda batch: _plain(peft, *padded[batch])),
            "ours": _each_batch(lambda batch: ours(batch, selections)),
            "peft": _each_batch(mixed_peft),
        },
        rounds,
    )
    pairs = zip(ours(-1, selections), mixed_peft(-1).float().cpu(), strict=True)
    return {
        **{f"{name} ms": milliseconds(values) for name, values in seconds.items()},
        "ours/base": ratio(seconds, "ours", "base"),
        "ours/base padded": ratio(seconds, "ours", "base padded"),
        "peft/ours": ratio(seconds, "peft", "ours"),
        "error": max(float((a - b[: len(a)]).abs().max() / b.abs().max()) for a, b in pairs),
    }


def _each_batch(program: Callable[[int], Any]) -> Callable[[], Any]:
    """The program, on the next batch each time it is called."""
    batches = count()
    return lambda: program(next(batches))


def _peft(path: Path, quantize: str | None, base: Base, adapters: Sequence[Path]) -> PeftModel:
    options: dict[str, Any] = {"device_map": {"": base.device}, "dtype": base.dtype}
    if quantize == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=base.dtype,
            llm_int8_skip_modules=["classifier"],
        )
    if quantize == "int8":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_skip_modules=["classifier"]
        )
    model = AutoModelForTokenClassification.from_pretrained(path, num_labels=LABELS, **options)
    comparable(model)
    peft = PeftModel.from_pretrained(model, str(adapters[0]), adapter_name="a0")
    for index, adapter in enumerate(adapters[1:], start=1):
        peft.load_adapter(str(adapter), adapter_name=f"a{index}", low_cpu_mem_usage=True)
    in_dtype(peft, base.dtype)
    return peft.eval()


def _plain(peft: PeftModel, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode(), peft.disable_adapter():
        logits: torch.Tensor = peft(input_ids=ids, attention_mask=mask).logits
    return logits


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, (torch.arange(longest, device=device)[None] < lengths[:, None]).long()


if __name__ == "__main__":
    main()
