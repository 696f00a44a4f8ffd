"""From `adapt train` to its first optimiser step, on files of 100,000 rows: the first time, and again.

    python -m benchmarks.first_step [--part sentiment] [--rounds 3]

Each run is the command in a process of its own, in an AdaptHub home of its own, ended after its first step: `first` on files
that were never seen, `again` with what that left under `prepared/`. `imports` is a process that only imports torch, PEFT and
transformers' Trainer, below which no program that trains with these can be. `seconds` are by the clock, `processor` of the
process and its threads. The files hold real rows again and again, made unlike by their words' order or a number.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from adapthub.adapters.home import home
from adapthub.adapters.samples import fetch
from benchmarks.common import print_table, write_results

ROWS = 100_000
_IMPORTS = "import torch, peft\nfrom transformers import Trainer\nimport time; print(time.process_time())"
_COMMAND = """
import sys, time
from torch.optim.optimizer import register_optimizer_step_post_hook
import os
def ended(*_):
    print(time.process_time(), flush=True)
    os._exit(0)
register_optimizer_step_post_hook(ended)
from adapthub.cli.main import adapt
adapt(sys.argv[1:])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    parts = options.part or list(PARTS)
    rows = [{"part": "imports", "rows": 0, "bytes": 0, **_run(["-c", _IMPORTS], {}, options.rounds)}]
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            rows += _measured(part, Path(folder), options.rounds)
    print_table(rows)
    named = "".join(f" --part {part}" for part in options.part or ())
    command = f"python -m benchmarks.first_step --rounds {options.rounds}{named}"
    name = "first-step" if options.part is None else f"first-step-{'-'.join(parts)}"
    print(write_results(name, command, rows))


def _measured(part: str, folder: Path, rounds: int) -> Iterator[dict[str, Any]]:
    base, write, suffix = PARTS[part]
    data = folder / f"{part}{suffix}"
    write(data)
    own = folder / f"{part}-home"
    own.mkdir()
    (own / "samples").symlink_to(home() / "samples")
    command = ["-c", _COMMAND, "train", "--task", part, "--data", str(data), "--base", base]
    command += ["--no-validation", "--max-length", "64", "--batch-size", "8", "--output"]
    for name in ("first", "again"):
        out = folder / f"{part}-{name}"
        found = _run([*command, str(out)], {"ADAPTHUB_HOME": str(own)}, 1 if name == "first" else rounds)
        yield {"part": f"{part}, {name}", "rows": ROWS, "bytes": data.stat().st_size, **found}


def _run(arguments: list[str], environment: dict[str, str], rounds: int) -> dict[str, float]:
    """The fastest of some runs, by the clock."""
    found = []
    for number in range(rounds):
        began = time.perf_counter()
        own = [f"{arguments[-1]}-{number}"] if environment else [arguments[-1]]
        ended = subprocess.run(
            [sys.executable, *arguments[:-1], *own],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - began
        if ended.returncode:
            raise SystemExit(ended.stderr)
        found.append((seconds, float(ended.stdout.splitlines()[-1])))
    seconds, processor = min(found)
    return {"seconds": seconds, "processor": processor}


def _reviews(path: Path) -> None:
    with (fetch("movie-reviews") / "train.csv").open(newline="", encoding="utf-8") as stream:
        _, *rows = csv.reader(stream)
    shuffled = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        for at in range(ROWS):
            text, label = rows[at % len(rows)]
            words = text.split()
            if at >= len(rows):
                shuffled.shuffle(words)
            writer.writerow([" ".join(words), label])


def _conversations(path: Path) -> None:
    rows = [json.loads(line) for line in (fetch("instructions-en") / "train.jsonl").open(encoding="utf-8")]
    with path.open("w", encoding="utf-8") as stream:
        for at in range(ROWS):
            first, *others = rows[at % len(rows)]["messages"]
            messages = [{**first, "content": f"{first['content']} ({at})"}, *others]
            stream.write(json.dumps({"messages": messages}) + "\n")


def _sentences(path: Path) -> None:
    text = (fetch("conll2003") / "train.conll").read_text(encoding="utf-8")
    sentences = [sentence for sentence in text.split("\n\n") if sentence.strip()]
    with path.open("w", encoding="utf-8") as stream:
        for at in range(ROWS):
            stream.write(f"{sentences[at % len(sentences)]}\n{at} -X- -X- O\n\n")


PARTS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "sentiment": ("package:minilm", _reviews, ".csv"),
    "ner": ("package:minilm", _sentences, ".conll"),
    "chat": ("package:smollm2-135m", _conversations, ".jsonl"),
}


if __name__ == "__main__":
    main()
