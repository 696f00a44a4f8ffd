"""The command: which parts; prints each part's table and writes its results.

Does not measure: each part does.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0"}

from benchmarks import hub
from benchmarks.common import print_table, write_results
from benchmarks.hub import dedupe, many, pull, push, refusals, scale, small

Measure = Callable[[Path, int], list[dict[str, Any]]]
# Each part with its rounds: all of them together take two minutes.
PARTS: Mapping[str, tuple[Measure, int]] = {
    "pull": (pull.measure, 15),
    "push": (push.measure, 9),
    "many": (many.measure, 3),
    "small": (small.measure, 3),
    "dedupe": (dedupe.measure, 1),
    "refusals": (refusals.measure, 5),
}


def main() -> None:
    summary = (hub.__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hub", description=summary)
    parser.add_argument("--part", nargs="*", default=[*PARTS], choices=[*PARTS, "scale"])
    parser.add_argument("--rounds", type=int, help="Instead of each part's own number.")
    parser.add_argument(
        "--folder", type=Path, help="Where the part scale keeps its hubs for the next time; two GB or more."
    )
    parser.add_argument(
        "--postgres", metavar="URL", help="A server in which the part scale may make databases."
    )
    options = parser.parse_args()
    for part in options.part:
        with tempfile.TemporaryDirectory() as folder:
            if part == "scale":
                rows = scale.measure(options.folder or Path(folder), options.postgres)
            else:
                measure, rounds = PARTS[part]
                rows = measure(Path(folder), options.rounds or rounds)
        print_table(rows)
        command = " ".join(["python -m benchmarks.hub", *_without_places(sys.argv[1:])])
        print(write_results(f"hub-{part}", command, rows))


def _without_places(arguments: list[str]) -> list[str]:
    """The arguments without what is only this machine's."""
    return [
        {"--folder": "FOLDER", "--postgres": "URL"}.get(before, argument)
        for before, argument in zip(["", *arguments], arguments, strict=False)
    ]


if __name__ == "__main__":
    main()
