"""Readers of labelled data: CoNLL, JSONL, CSV, Parquet, datasets; label schemes; splits."""
