"""The server under load, as clients meet it: ours, `transformers serve` on the base, and PEFT behind FastAPI.

    python -m benchmarks.serve [--part overhead load flood] [--rates 1 2 4] [--seconds 60]

One file a part. Clients run in a process of their own, so that they take no time from the server's.
"""
