"""The hub's server as clients meet it, on loopback: how fast, against what, and how large it may grow.

    python -m benchmarks.hub [--part pull push many small dedupe refusals scale]

One file a part. Servers run in processes of their own.
"""
