"""The command: which parts, at which rates; prints each part's table and writes its results.

Does not measure: each part does.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adapthub.adapters.samples import fetch
from benchmarks import serve
from benchmarks.common import print_table, write_results
from benchmarks.serve import flood, load, overhead
from benchmarks.serve.setting import Setting, make_setting

PARTS: Mapping[str, Callable[[Setting], list[dict[str, Any]]]] = {
    "overhead": overhead.measure,
    "load": load.measure,
    "flood": flood.measure,
}


def main() -> None:
    summary = (serve.__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=summary)
    parser.add_argument("--part", nargs="*", default=[*PARTS], choices=[*PARTS])
    parser.add_argument("--rates", nargs="*", type=float, default=[1.0, 2.0, 4.0], help="Requests a second.")
    parser.add_argument("--seconds", type=float, default=60.0, help="For which they come.")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        setting = make_setting(
            fetch("smollm2-135m"), Path(folder), options.rates, options.seconds, options.rounds
        )
        for part in options.part:
            rows = PARTS[part](setting)
            print_table(rows)
            command = " ".join(["python -m benchmarks.serve", *sys.argv[1:]])
            print(write_results(f"serve-{part}", command, rows))


if __name__ == "__main__":
    main()
