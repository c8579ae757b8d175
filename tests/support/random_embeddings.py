"""Writes random embeddings, for examples that a reader runs with their own: python -m … FILE.npy."""

import sys

import numpy as np

if __name__ == "__main__":
    np.save(sys.argv[1], np.random.default_rng(5).standard_normal((6, 128)).astype(np.float32))
