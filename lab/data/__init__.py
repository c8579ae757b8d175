"""Faces for the lab: sets of pictures, embedders, caches of embeddings, and who is in which split."""
