"""docs/benchmarks.md from the committed results: every figure with its command, machine and versions.

    python -m benchmarks.report [FILE]

Measures nothing.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS

SECTIONS = {
    "mixed_predict": (
        "Rows that use many adapters, in one batch",
        "32 rows, other ones each round, LoRA of ranks 8 to 64 on all linear layers, MiniLM on the CPU. `base` is our runtime with every row on the base alone, "
        "`base padded` transformers' own model, `ours` each row on its adapter, `peft` PEFT's `adapter_names`. `ours/base` is what "
        "adapters cost, `peft/ours` how often faster we are; both are medians of the rounds' ratios. `error` is the largest difference "
        "of logits from PEFT's, relative to the row's largest. `ours/base padded` compares with the base as transformers runs it, without "
        "adapters. On the H200 a random BERT of 12 layers stands in, and cuDNN's attention prepares itself for every new length: in `base "
        "padded`, whose preparations `peft` then finds done; ours does without it.",
    ),
    "attach": (
        "Attaching one more adapter",
        "LoRA r16 over MiniLM. `read` is safetensors' `load_file` with every tensor touched; `attach` admits and hashes every byte, checks "
        "the adapter against the base and puts it in. PEFT's `load_adapter` checks no digest; it cannot have none loaded, so 0 stands "
        "for 1.",
    ),
    "quality": (
        "Adapters against full fine-tuning and PEFT's examples",
        "For every task: the recipe's LoRA at its defaults (`lora`), every weight trained at the best of two rates (`full`), and LoRA with "
        "the hyperparameters of PEFT's own example for that kind of task (`peft`; benchmarks/quality/examples.py names the file of each), "
        "and the `base` alone where it can do the task. Base, data, order of batches, number of steps and loop are the same in a task; the "
        "budgets are small, a minute or a few of one core a run, so figures are below what the bases reach with time (the section after "
        "this has longer runs). What is chosen is chosen on the validation split with seed 0. `mean` is over as many seeds as the column "
        "says, on the test split; `low` and `high` are the means of the runs' 95 % bootstrap intervals over test rows, and `spread` the "
        "largest seed less the smallest. `over full` and `over peft` are differences of means in points: a hundredth, of chrF one, of a "
        "loss a hundredth of a nat a token, and positive where ours is better. `minutes` are processor minutes a run, evaluation included. "
        "The tasks' data and bases are in benchmarks/quality/tasks.py: `qa`, `summarize` and `medical-image` are composed of real data "
        "(questions over CoNLL-2003's news; first sentences of paragraphs; a rare digit in place of a finding), as no real set was in reach. "
        "`prefer` is told by its loss, as how many of 26 pairs are told apart says too little. "
        "Full fine-tuning warms up over 6 % of the steps, `peft` as its example does, ours as the recipe does. "
        "Tasks and ways without a row have not been run yet: `python -m benchmarks.quality` goes on where it was.",
    ),
    "recipe-budgets": (
        "Adapters against full fine-tuning, with more steps",
        "The same base (MiniLM-L6), data, order of batches, number of steps and loop, bfloat16 under autocast. NER on CoNLL-2003 and "
        "sentiment on movie reviews at the recipes' own budgets, 5 epochs of 32 sentences (2,195 steps) and 3 of 32 (789 steps); topics on "
        "Reuters R8 by the recipe `sentiment`, 3 epochs of 32, the first 64 sub-tokens of a text (459 steps). `rate` is the learning rate "
        "and `LoRA+` how many times faster B learns than A: the first row of a way has the settings that were best on the validation split "
        "with seed 0, further rows are other settings that were run with several seeds, and the results file lists all that were tried. "
        "`mean` is over as many seeds as the column says, on the test split; `spread` is the largest less the smallest; `minutes` are "
        "processor minutes a run, evaluation included. The curves below are on validation. "
        "With twice the steps (NER, batches of 16, same epochs; "
        "`results/recipe-budgets-batch-16`) full fine-tuning gains more than LoRA does: .876 with one seed, against .856 with three. "
        "Measured by the benchmark of before, whose ways were those of the section above.",
    ),
    "train": (
        "Training against the plain script",
        "The same LoRA of the recipe (all linear layers) on the same rows with the same optimiser and number of steps: `chat` on SmolLM2-135M "
        "(instructions, 4 conversations of at most 256 tokens a step, only answers learnt), `ner` on MiniLM (CoNLL-2003, 32 sentences a step). "
        "`plain` is the script as PEFT's examples write it, with transformers' Trainer; `plain bf16` the same with bf16=True, in which ours "
        "computes by itself where the processor has it. Each run is a process of its own, in turn, and time is its processor time on one thread. `tokens/s`: supervised tokens a second; "
        "`ours/this` how often faster we are; `padding` the share of a batch that is padding before it is packed; `peak MB` the process's "
        "largest resident memory, where ours begins with the batch of the longest row and the plain script may not come to it in so few "
        "steps; `first loss` of the first batch, which is another one for ours; `validation` the loss on the same rows "
        "after the last step.",
    ),
    "first-step": (
        "From `adapt train` to the first step",
        "The command in a process of its own, over files of 100,000 rows: `sentiment` and `ner` on MiniLM, `chat` on SmolLM2-135M, batches of 8 "
        "rows of at most 64 tokens, ended after the first optimiser step. `first`: the file was never seen; `again`: it was read and tokenised "
        "before. `imports` is a process that only imports torch, PEFT and transformers' Trainer: no program that trains with these begins sooner. "
        "`seconds` by the clock, `processor` of the process and its threads.",
    ),
    "waiting": (
        "Beside another process",
        "On a CPU torch's threads wait for each other after every product: `awake` they spin, as GNU's OpenMP has it, `briefly` for some microseconds "
        "before they sleep (GOMP_SPINCOUNT=2000), `asleep` not at all (OMP_WAIT_POLICY=passive). `step`: a training step "
        "of 32 CoNLL sentences on MiniLM, in bfloat16 where the processor has it; `token`: of a text that SmolLM2-135M writes greedily, alone. A neighbour is a process "
        "that counts. Each run is a process of its own, in turn; `awake/briefly` is the median of the rounds' ratios.",
    ),
    "generate-mixes": (
        "Generating under many adapters at once",
        "SmolLM2-135M, or the random base that the command names; requests of 16 to 64 tokens that generate 32 each, at most 64 at once, "
        "LoRA r16 on all linear layers. `base` is our engine with every request on the base alone, `ours` each on its adapter; `peft in turn` PEFT's `generate`, "
        "one adapter after the other; `peft mixed` its `adapter_names`; `transformers` its own continuous batching with its manager "
        "kept, without adapters. `ceiling` is the part of base's speed that is left once the adapters' products are paid for, timed by themselves. `same tokens`: "
        "the share of requests that give PEFT's tokens; padded batches round differently, and a tie may fall otherwise.",
    ),
    "generate-slots": (
        "More adapters than slots",
        "SmolLM2-135M; 128 requests over 32 adapters, Zipf.",
    ),
    "generate-registered": (
        "Thousands registered",
        "SmolLM2-135M; the same five adapters in use, of five and of 2,000 registered.",
    ),
    "generate-misses": (
        "What a miss costs the others",
        "SmolLM2-135M; the times between tokens of 8 steady requests while a short one comes by after every 8 tokens: its adapter (19.5 MB) "
        "is loaded already, or is `missing`, on disk alone. The thread that loads needs a core of its own.",
    ),
    "generate-pages": (
        "Pages and the tokens in them",
        "SmolLM2-135M; 32 requests of 16 to 64 tokens that generate 32 each, counted after every step in which all run.",
    ),
    "serve-overhead": (
        "What HTTP costs",
        "SmolLM2-135M; 96 requests of 16 to 64 tokens that generate 32 each, 32 at a time, each on an adapter of its own (LoRA r16): by "
        "`Runtime.generate`, and streamed by a server over the same Runtime to clients in another process.",
    ),
    "serve-load": (
        "A server under open load",
        "SmolLM2-135M on one thread; requests come by a Poisson process whether earlier ones have ended or not, of 20 tenants, on 200 adapters "
        "by Zipf's law, 16 to 64 tokens each that generate 32. `transformers` is `transformers serve --continuous-batching` on the base alone; "
        "`PEFT` one request at a time behind FastAPI, its adapter loaded when asked for and kept among 25. `goodput/s`: requests a second whose first text came "
        "within 2 s of when they were due and the others within 0.25 s each on average; times are in milliseconds.",
    ),
    "serve-flood": (
        "One tenant floods",
        "The same server, which does about six requests a second. `steady` asks for one a second, `flooder` for three, its half, and then for 60. "
        "`p99 against calm` is what `steady` notices.",
    ),
    "hub-pull": (
        "Pulling an adapter from the hub",
        "Hugging Face's `snapshot_download` of 20 MB into an empty cache, on loopback: from our server, and from a plain server of static "
        "files that looks nothing up and answers the same requests from memory and the disk.",
    ),
    "hub-push": (
        "Pushing an adapter to the hub",
        "A new adapter of 20 MB, by Hugging Face's `upload_folder` and by our client, against copying its weights to the disk (synced) and "
        "hashing them once. `to nowhere` is the same client with a server that keeps nothing, not even a hash: what client and HTTP take alone. "
        "`huggingface_hub` hashes the file before it sends it, and by Xet cuts and packs it too; our client leaves the hashing to the hub. "
        "The hub hashes and writes what comes while more of it comes, syncs it, and then commits in 33 statements of SQL.",
    ),
    "hub-many": (
        "A hundred pulls at once",
        "Every file of one adapter of 20 MB, a hundred times at once by threads of one other process, which hash what comes and throw it "
        "away. Times are from when all begin until one has everything; `MB before` and `MB at most` are the resident memory of the server's process.",
    ),
    "hub-small": (
        "Pulling many small adapters",
        "200 adapters of 100 kB, one after the other, into an empty cache: by our client, which verifies every byte, and by "
        "`snapshot_download`.",
    ),
    "hub-dedupe": (
        "What a new version moves",
        "All bytes over the wire, both ways, requests and headers too, of `upload_folder` of a 20 MB adapter: at first, and again with "
        "another card.",
    ),
    "hub-scale": (
        "A large hub",
        "Ten versions an adapter on average, so 1,000,000 versions at 100,000 adapters; filled by bulk with the rows that real publishes "
        "leave. One client with a token over one connection, requests of every kind in turn, in milliseconds until the whole answer was "
        "there; `list` is the protocol's /api/models, `search` /api/adapters, `page` a page in the browser, of 100 or 30 adapters; "
        "words, bases, tasks and namespaces follow Zipf's law, and trigrams are few, because all words are of the same 70 syllables. "
        "PostgreSQL 15 with `shared_buffers=2GB`, `random_page_cost=1.1` and `effective_cache_size=8GB`, after `VACUUM ANALYZE`, its "
        "pages in memory. The processor was a slow one when this was measured, two to three times as slow as that of the parts above, and "
        "shared: training ran beside it at the lowest priority, in PostgreSQL's part at an equal one. How times grow from 1,000 to 100,000 is what it shows.",
    ),
    "hub-refusals": (
        "What is made to hurt a hub",
        "In one process, from memory, until it is refused, or read where it is just small enough: the bound is 100 ms. On the same slow processor "
        "as the large hub; `first` is a cold one.",
    ),
    "decode": (
        "A decode step over pages",
        "A random Llama of 4 layers. `paged` is our attention over pages that were taken together, `scattered` over pages that all lie "
        "apart, `plain` transformers' own cache, which pads requests of unlike lengths.",
    ),
    "products": (
        "Float32 products",
        "One linear layer: torch's own product (MKL) and oneDNN's, each shape again and again; at a shape that is new oneDNN prepares "
        "itself, which costs up to a millisecond. `ours` takes one of the two by a fixed rule.",
    ),
    "graphs": (
        "Generation on a GPU, as CUDA graphs",
        "32 requests of 16 to 64 tokens that generate 32 each, on random weights of the shapes of Qwen2.5-0.5B or Llama-3.1-8B in bfloat16 or "
        "nf4: all on the base, or over 8 or 32 LoRAs (r16, all linear layers). `load ms` attaches the adapters, `first ms` is the first call, in which "
        "passes are captured and kernels compiled; `replay ms` a decode pass of 32 rows, and `GPU ms` all passes of a call, by events; "
        "`rest ms/step` is what the host adds to a step.",
    ),
    "roofline": (
        "What a GPU's memory allows, by count",
        "Counted, not measured: an H100's data sheet and Llama-3.1-8B's shapes in nf4, LoRA on all linear layers, keys and values left out. "
        "`base ms` is the greater of what the bytes and the products take, `adapters ms` what reading each adapter once takes beyond, `ceiling` "
        "the share of the base's speed that is left, and `8 bit` the same with adapters of a byte a weight. `epilogue ms` is what adding to the "
        "outputs within the base's products would save, if no cache held them. `cache ms` is what the reading of adapters' matrices takes of the "
        "cache when each token does its own, and `by runs` when runs of tokens share theirs: why prompts go by runs.",
    ),
    "nf4": (
        "Products with nf4 and int8 weights on a GPU",
        "One linear layer with the shapes of Llama-3.1-8B, in bfloat16, weights double-quantised as bitsandbytes stores them, as CUDA graphs over "
        "more weights than the cache holds. `floor us` is what the bytes of weights, scales and activations take at the speed of a copy; "
        "`error` is against float64. Above 128 rows (256 in int8) layers go bitsandbytes' way.",
    ),
    "nf4_pairs": (
        "Products of one input with several nf4 matrices at once",
        "Shapes of Llama-3.1-8B in bfloat16: `apart` each matrix by our nf4 product, `together` in one launch, `follows` where a launch begins "
        "while the one before it ends. Layers go together only where that was found faster on the very GPU. Plans that ask for 16 to 48 KiB of "
        "shared memory beside the table's 32 could not be launched then, and can since.",
    ),
    "low_rank": (
        "Adding adapters to a layer's outputs on a GPU",
        "Rows of many adapters (r16, or ranks from 4 to 64) in one launch: `tokens` each token by itself, `runs` runs of one adapter's tokens, "
        "`ours` what is taken, `peft` one adapter after another.",
    ),
    "train_nf4": (
        "Training over nf4 on a GPU",
        "A LoRA (r16, all linear layers) on rows of 1,024 tokens over a random nf4 base of Llama-3.1-8B's shapes. `peft`: PEFT's layers over "
        "bitsandbytes', without the Trainer; each way adds to the one before: our `products`, LoRA layers `joined` to the layers beneath, norms and "
        "gated products `fused` by Liger, the loss by `parts`, and `ours`, layers replayed as CUDA graphs. `peak GB` is what torch took of the "
        "device. The last three ways saw other random rows than the first three when this ran, hence their losses.",
    ),
    "delta": (
        "Ways to compute the update",
        "One linear layer, 32 rows, as a share of the base's own product: why the fast path is a loop over sorted segments.",
    ),
}


def main() -> None:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/benchmarks.md")
    target.write_text("\n".join(_lines()))


def _lines() -> list[str]:
    lines = [
        "# Measurements",
        "",
        "Generated by `make docs` from `benchmarks/results/`; do not edit. Each benchmark runs ours and the peer in the same process, in",
        "turn, one thread each: with more, small-operator loops stall on shared cores. Trust the ratios before the absolutes.",
    ]
    for name, (title, text) in SECTIONS.items():
        for path in sorted((*RESULTS.glob(f"{name}.json"), *RESULTS.glob(f"{name}-*.json"))):
            document = json.loads(path.read_text())
            lines += ["", f"## {title}", "", text, "", f"`{document['command']}`", ""]
            lines += _table(document["rows"])
            lines += ["", _machine(document["machine"])]
        if name in ("quality", "recipe-budgets"):
            for picture in sorted(RESULTS.glob(f"{name}-*.png")):
                lines += ["", f"![learning curves](../benchmarks/results/{picture.name})"]
    return [*lines, ""]


def _table(rows: list[dict[str, Any]]) -> list[str]:
    columns = list(rows[0])
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    return [_row(columns), _row(["---"] * len(columns)), *map(_row, cells)]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _machine(machine: dict[str, Any]) -> str:
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    device = machine["gpu"] or f"{machine['processor']}, {machine['threads']} thread(s)"
    return f"{device}; Python {machine['python']}, {libraries}; {machine['date']}."


if __name__ == "__main__":
    main()
