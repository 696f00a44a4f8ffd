"""Several labels of a text at once: the words that training records and serving reads. Computes nothing."""

from __future__ import annotations

MULTI_LABEL = "multi_label_classification"
"""transformers' `problem_type` of a head whose labels hold or not, each by its sigmoid."""

THRESHOLD = 0.5
"""A label holds above this probability."""
