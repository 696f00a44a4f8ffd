"""Readers of labelled data: CoNLL, JSONL, CSV, Parquet, datasets; schemes, splits. One module each; imports nothing."""
