"""Clips that are drawn: their scenes, and the drawing."""
