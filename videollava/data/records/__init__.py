"""Conversations about media, in the formats that people write them in."""
