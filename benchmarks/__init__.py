"""Benchmarks: each a program that runs ours and the peer in one process, in turn, and prints ratios."""
