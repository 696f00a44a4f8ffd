"""Adapters against full fine-tuning of the same base, and against PEFT's examples, on every task with data in reach."""
