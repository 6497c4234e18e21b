"""Texts and media as vectors of one space: encoders of five modalities, tables of vectors, zero-shot formulas."""
