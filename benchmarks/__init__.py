"""Programs that measure: `python -m benchmarks.NAME`. One thread each, unless OMP_NUM_THREADS says otherwise: with more,
loops of small operators stall on cores that others share."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported
