"""Generation with 1 to 128 LoRA adapters (r16, all linear layers) in flight: ours against PEFT and transformers.

    python -m benchmarks.generate [--model smollm2 random] [--quantize none nf4] [--part mixes slots registered misses]

Peers, in the same process and in turn, on one set of adapter files; every request generates NEW tokens greedily:
  base           our engine, every request on the base alone
  ours           our engine, each request on its adapter
  peft in turn   PEFT, one adapter after the other: `generate` on the padded prompts of those who use it
  peft mixed     PEFT, `generate` on all padded prompts with `adapter_names`
  transformers   `generate_batch`, transformers' continuous batching, on the base alone

`mixes`: adapters in flight, uniform and Zipf. `ceiling`: the part of base's speed that is left once the adapters' own
products are paid for: those of one step are timed here by themselves, at their fastest, beside a step of base.
`slots`: fewer slots than adapters. `registered`: 5 adapters in use of 5 and of 2,000 registered. `misses`: the times between
tokens of 8 steady requests while short ones come by whose adapter is there, or must be read from disk.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from adapthub.adapters.base import load_base
from adapthub.adapters.samples import fetch
from adapthub.adapters.stacks import times
from adapthub.runtime import Runtime
from adapthub.runtime.generation import Limits
from adapthub.runtime.requests import Event
from adapthub.runtime.sampling import Sampling
from benchmarks.common import comparable, in_turn, print_table, ratio, write_results

REQUESTS, NEW = 32, 32
RANK = 16
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Prompts = list[list[int]]


@dataclass(frozen=True)
class Setting:
    """One base, adapters for it on disk, and how it is loaded."""

    path: Path
    adapters: Sequence[Path]
    quantize: str | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="*", default=["smollm2"], choices=["smollm2", "random"])
    parser.add_argument("--quantize", nargs="*", default=["none"], choices=["none", "nf4", "int8"])
    parser.add_argument("--adapters", nargs="*", type=int, default=[1, 8, 32, 128])
    parser.add_argument("--part", nargs="*", default=["mixes", "slots", "registered", "misses"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    parts: Mapping[str, Callable[..., list[dict[str, Any]]]] = {
        "mixes": _mixes,
        "slots": _slots,
        "registered": _registered,
        "misses": _misses,
    }
    for model in options.model:
        with tempfile.TemporaryDirectory() as folder:
            path = fetch("smollm2-135m") if model == "smollm2" else _random(Path(folder) / "base")
            adapters = _adapters(path, Path(folder), max(options.adapters))
            for part in options.part:
                rows = []
                for name in options.quantize:
                    setting = Setting(path, adapters, None if name == "none" else name)
                    rows += parts[part](setting, options.adapters, options.rounds, Path(folder))
                print_table(rows)
                results = f"generate-{part}" if model == "smollm2" else f"generate-{part}-{model}"
                command = " ".join(["python -m benchmarks.generate", *sys.argv[1:]])
                print(write_results(results, command, rows, base=path.name))


def _mixes(setting: Setting, counts: Sequence[int], rounds: int, _: Path) -> list[dict[str, Any]]:
    prompts = _prompts(setting.path)
    rows = []
    with _runtime(setting) as runtime:
        peft = _peft(setting)
        plain = _plain(setting)
        for count in counts:
            for spread in ("uniform", "zipf") if 1 < count < REQUESTS * 4 else ("uniform",):
                chosen = _chosen(count, spread)
                programs = {
                    "base": lambda: _ours(runtime, prompts, [None] * REQUESTS),
                    "ours": lambda chosen=chosen: _ours(
                        runtime, prompts, [setting.adapters[i] for i in chosen]
                    ),
                    "peft in turn": lambda chosen=chosen: _peft_in_turn(peft, prompts, chosen),
                    "peft mixed": lambda chosen=chosen: _peft_mixed(peft, prompts, chosen),
                    "transformers": lambda: _transformers(plain, prompts),
                }
                same = _same(programs["ours"](), programs["peft in turn"]())
                seconds = in_turn(programs, rounds)
                step = statistics.median(seconds["base"]) / NEW
                rows.append(
                    {
                        "quantize": setting.quantize or "none",
                        "adapters": len(set(chosen)),
                        "spread": spread,
                        "tokens/s": round(REQUESTS * NEW / sorted(seconds["ours"])[rounds // 2], 1),
                        "peft in turn / ours": ratio(seconds, "peft in turn", "ours"),
                        "peft mixed / ours": ratio(seconds, "peft mixed", "ours"),
                        "transformers / base": ratio(seconds, "transformers", "base"),
                        "base / ours": ratio(seconds, "base", "ours"),
                        "ceiling": step / (step + _products(runtime, chosen)),
                        "same tokens": same,
                    }
                )
                print_table(rows[-1:])
    return rows


def _slots(setting: Setting, counts: Sequence[int], rounds: int, _: Path) -> list[dict[str, Any]]:
    """32 adapters, Zipf, over 32, 24, 16 and 8 slots; 128 requests, so that what left comes back."""
    prompts = _prompts(setting.path) * 4
    chosen = [i for seed in range(4) for i in _chosen(32, "zipf", seed)]
    programs: dict[str, Callable[[], Any]] = {}
    runtimes = [(slots, _runtime(setting, slots=slots)) for slots in (32, 24, 16, 8)]
    for slots, runtime in runtimes:
        programs[str(slots)] = lambda runtime=runtime: _ours(
            runtime, prompts, [setting.adapters[i] for i in chosen]
        )
    seconds = in_turn(programs, rounds)
    for _, runtime in runtimes:
        runtime.close()
    return [
        {
            "quantize": setting.quantize or "none",
            "slots": slots,
            "adapters": len(set(chosen)),
            "speed against 32 slots": ratio(seconds, "32", str(slots)),
        }
        for slots, _ in runtimes
    ]


def _registered(setting: Setting, counts: Sequence[int], rounds: int, folder: Path) -> list[dict[str, Any]]:
    """The same five adapters in use, of five registered and of 2,000."""
    prompts = _prompts(setting.path)
    many = _copies(setting.adapters[0], folder / "many", 2000)
    programs: dict[str, Callable[[], Any]] = {}
    runtimes = {}
    for count in (5, 2000):
        runtimes[count] = _runtime(setting, slots=64)
        for path in many[:count]:
            runtimes[count].register(path)
        used = [many[i % 5] for i in range(REQUESTS)]
        programs[str(count)] = lambda runtime=runtimes[count], used=used: _ours(runtime, prompts, used)
    seconds = in_turn(programs, rounds)
    for runtime in runtimes.values():
        runtime.close()
    return [{"quantize": setting.quantize or "none", "speed at 2,000 against 5": ratio(seconds, "5", "2000")}]


def _misses(setting: Setting, counts: Sequence[int], rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Gaps between the tokens of 8 requests; a ninth comes after every 8 tokens and has a slot of its own.

    It uses one adapter all the time, or each time another one that is on disk alone; its prompt is never one seen before.
    """
    steady, tokens = 8, 192
    guests = _copies(setting.adapters[0], folder / "guests", 1 + (rounds + 1) * tokens // 8)
    prompts = _prompts(setting.path)
    base = load_base(str(setting.path), setting.quantize, dtype="float32")
    gaps: dict[str, list[float]] = {"there": [], "missing": []}
    with Runtime(base, slots=steady + 1, host_bytes=0, limits=Limits(kv_tokens=8192, max_rows=16)) as runtime:
        for guest in guests:
            runtime.register(guest)
        digests = [runtime.attach(adapter) for adapter in setting.adapters[:steady]]
        sampling = Sampling(max_new_tokens=tokens, ignore_eos=True)
        fresh, first = iter(guests[1:]), iter(range(len(guests) * 2))

        def run(kind: str) -> list[float]:
            ticks: list[list[float]] = [[] for _ in range(steady)]
            due: SimpleQueue[bool] = SimpleQueue()

            def note(place: int, event: Event) -> None:
                ticks[place].append(time.perf_counter())
                if place == 0 and (event.finish_reason or len(ticks[0]) % 8 == 0):
                    due.put(event.finish_reason is None)

            for place, digest in enumerate(digests):
                runtime.generation.submit(prompts[place], ((1.0, digest),), sampling, partial(note, place))
            waiting = []
            while due.get():
                adapter = next(fresh) if kind == "missing" else guests[0]
                prompt = [100 + next(first), *prompts[steady]]
                waiting.append(runtime.stream(prompt, adapter, max_new_tokens=2, ignore_eos=True))
            for stream in waiting:
                stream.result()
            return [b - a for row in ticks for a, b in pairwise(row[2:])]

        for counted in [False] + [True] * rounds:
            for kind in gaps:
                measured = run(kind)
                if counted:
                    gaps[kind] += measured
    row: dict[str, Any] = {"quantize": setting.quantize or "none"}
    for name, share in (("median", 50), ("p99", 99)):
        there, missing = (statistics.quantiles(found, n=100)[share - 1] for found in gaps.values())
        row |= {
            f"{name} ms": there * 1000,
            f"{name} ms, missing": missing * 1000,
            f"{name} ratio": missing / there,
        }
    return [row]


def _ours(runtime: Runtime, prompts: Prompts, adapters: Sequence[Path | None]) -> list[list[int]]:
    runtime.generation.engine.clear_cache()  # no peer keeps prompts from one round to the next
    results = runtime.generate(prompts, adapters, max_new_tokens=NEW, ignore_eos=True)
    return [result.token_ids for result in results]


def _peft_in_turn(peft: PeftModel, prompts: Prompts, chosen: Sequence[int]) -> list[list[int]]:
    results: dict[int, list[int]] = {}
    for adapter in sorted(set(chosen)):
        peft.set_adapter(f"a{adapter}")
        places = [place for place, other in enumerate(chosen) if other == adapter]
        results |= zip(places, _generate(peft, [prompts[place] for place in places]), strict=True)
    return [results[place] for place in range(len(prompts))]


def _peft_mixed(peft: PeftModel, prompts: Prompts, chosen: Sequence[int]) -> list[list[int]]:
    return _generate(peft, prompts, adapter_names=[f"a{i}" for i in chosen])


def _generate(model: Any, prompts: Prompts, **options: Any) -> list[list[int]]:
    """Left-padded, as decoders are."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0,
            **options,
        )
    return [row[longest:].tolist() for row in output]


def _transformers(model: Any, prompts: Prompts) -> None:
    model.generate_batch(
        inputs=prompts,
        generation_config=GenerationConfig(
            max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, eos_token_id=-1, pad_token_id=0
        ),
        progress_bar=False,
    )


def _same(ours: list[list[int]], theirs: list[list[int]]) -> float:
    """The share of requests whose tokens are PEFT's: padded batches round differently, and a tie may fall otherwise."""
    return sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)


def _chosen(count: int, spread: str, seed: int = 0) -> list[int]:
    """The adapter of each request."""
    rng = random.Random(seed)
    if spread == "zipf":
        return rng.choices(range(count), weights=[1 / (rank + 1) for rank in range(count)], k=REQUESTS)
    chosen = [index % count for index in range(REQUESTS)]
    rng.shuffle(chosen)
    return chosen


def _products(runtime: Runtime, chosen: Sequence[int]) -> float:
    """Seconds that one token's LoRA products of every request take, nothing else: by the fastest way that torch has for rows
    of one token (a lookup of embeddings) or of several (a product)."""
    rows = Counter(chosen).values()
    single = sum(count == 1 for count in rows)
    layers = []
    for name, module in runtime.base.model.named_modules():
        if name.rpartition(".")[2] in LINEAR:
            for size, out in ((module.in_features, RANK), (RANK, module.out_features)):
                many = [(torch.randn(n, size), torch.randn(size, out)) for n in rows if n > 1]
                layers.append((torch.randn(single, size), torch.randn(single, size, out), many))

    def products() -> None:
        for one, matrices, many in layers:
            if len(one):
                times(one, matrices)
            for x, matrix in many:
                torch.mm(x, matrix)

    with torch.inference_mode():
        return min(in_turn({"products": products}, 5)["products"])


def _prompts(path: Path) -> Prompts:
    """REQUESTS pieces of 16 to 64 tokens of a real text."""
    rng = random.Random(0)
    tokenizer = AutoTokenizer.from_pretrained(path)
    text = Path(__file__).parent.parent.joinpath("README.md").read_text()
    ids = tokenizer(text)["input_ids"]
    starts = [rng.randrange(0, len(ids) - 64) for _ in range(REQUESTS)]
    return [ids[start : start + rng.randint(16, 64)] for start in starts]


def _runtime(setting: Setting, slots: int | None = None) -> Runtime:
    base = load_base(str(setting.path), setting.quantize, dtype="float32")
    return Runtime(base, slots=slots, limits=Limits(kv_tokens=32768, max_rows=64))


def _plain(setting: Setting) -> Any:
    options: dict[str, Any] = {}
    if setting.quantize == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
    if setting.quantize == "int8":
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(setting.path, dtype=torch.float32, **options)
    comparable(model)
    return model.eval()


def _peft(setting: Setting) -> PeftModel:
    model = PeftModel.from_pretrained(_plain(setting), str(setting.adapters[0]), adapter_name="a0")
    for index, adapter in enumerate(setting.adapters[1:], start=1):
        model.load_adapter(str(adapter), adapter_name=f"a{index}")
    return model.eval()


def _adapters(path: Path, folder: Path, count: int) -> list[Path]:
    """Random ones that differ, small enough that the text stays text."""
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=RANK, target_modules=LINEAR),
    )
    paths = []
    for index in range(count):
        generator = torch.Generator().manual_seed(index)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.normal_(std=0.02, generator=generator)
        model.save_pretrained(str(folder / f"adapter-{index}"))
        paths.append(folder / f"adapter-{index}")
    return paths


def _copies(adapter: Path, folder: Path, count: int) -> list[Path]:
    """Adapters that are distinct by digest and share their weights' file on disk."""
    paths = []
    for index in range(count):
        path = folder / str(index)
        path.mkdir(parents=True)
        (path / "adapter_model.safetensors").hardlink_to(adapter / "adapter_model.safetensors")
        shutil.copy(adapter / "adapter_config.json", path)
        (path / "README.md").write_text(f"copy {index}\n")
        paths.append(path)
    return paths


def _random(path: Path) -> Path:
    """A random Llama of about 0.5B parameters, with SmolLM2's tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    AutoTokenizer.from_pretrained(fetch("smollm2-135m")).save_pretrained(path)
    return path


if __name__ == "__main__":
    main()
