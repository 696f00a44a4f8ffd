"""Triton kernels: what adapters add for many tokens in a launch, attention of tokens over pages, and products of few rows
with quantised weights.

Imports nothing of the other packages, and Triton at once: import its modules where there is a CUDA device, or under Triton's
interpreter (TRITON_INTERPRET=1), which runs the same code on the CPU, slowly.
"""
