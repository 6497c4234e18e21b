"""Tar and zip archives, read without trusting them, and written byte for byte the same."""
