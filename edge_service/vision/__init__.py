"""Pixels in, raw embeddings out: decode, detect, align, measure quality, embed.

No galleries, keys or network here; no picture is kept.
"""
