"""Silence what libraries say on every load or call although nothing is wrong, each by its exact words.

Other warnings of the same loggers pass. Does not change log levels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Without(logging.Filter):
    """Drops records whose message contains the given words."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    def filter(self, record: logging.LogRecord) -> bool:
        return self.words not in str(record.msg)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bar and no load report: the report's content is checked by the caller instead."""
    from transformers.utils import logging as transformers_logs

    bars: Any = transformers_logs
    logger = logging.getLogger("transformers.modeling_utils")
    silencer = Without("LOAD REPORT")
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    logger.addFilter(silencer)
    try:
        yield
    finally:
        logger.removeFilter(silencer)
        if shown:
            bars.enable_progress_bar()


def quiet_bitsandbytes() -> None:
    """Do not ask for a kernel that machines with AVX512-BF16 could fetch from a hub: it is not used here.

    bitsandbytes says so when it is imported, so this comes before, and for the rest of the process.
    """
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    if not any(isinstance(known, Without) for known in logger.filters):
        logger.addFilter(Without("Failed to load CPU gemm_4bit_forward"))
