"""Checkpoint formats of others: one module a format, each renaming its keys to ours and back."""
