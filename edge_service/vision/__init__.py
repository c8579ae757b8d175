"""Pixels in, raw embeddings out: decode, detect, align, measure quality, embed.

Nothing here knows of galleries, keys or the network, and nothing here keeps a picture.
"""
