"""Turns to token ids: prompts, tokenizers, how long a sample may be."""
