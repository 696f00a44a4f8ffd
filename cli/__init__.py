"""The command `adapt`: a thin door to the library. Holds no logic of training, storage or inference.

Importing this package, and asking for `--help`, imports neither torch nor transformers: a command
imports what it needs when it runs.
"""
