"""The FAISS index agrees with a plain model, whatever is added and removed, and from several threads."""

from __future__ import annotations

import threading

import faiss
import numpy as np
from cloud_client import random_units

from cloud_service.gallery.index import FaissIndex, VectorIndex

DIM = 32


def test_it_finds_what_a_plain_model_finds_after_additions_and_removals() -> None:
    index: VectorIndex = FaissIndex(DIM)
    vectors, probes = random_units(1, 300, DIM), random_units(2, 5, DIM)
    ids = np.arange(1000, 1300, dtype=np.int64)
    index.add(ids[:200], vectors[:200])
    index.remove(ids[50:150])
    index.add(ids[200:], vectors[200:])
    index.remove(np.array([7], dtype=np.int64))  # never there
    held = np.r_[0:50, 150:300]
    assert len(index) == len(held)
    hits = index.search(probes, 40)
    scores = probes.astype(np.float64) @ vectors[held].astype(np.float64).T
    best = np.argsort(-scores, axis=1)[:, :40]
    np.testing.assert_array_equal(hits.ids, ids[held][best])
    exact = np.take_along_axis(scores, best, axis=1)
    assert np.abs(hits.scores - exact).max() <= index.score_error < 1e-5


def test_it_returns_no_more_than_it_holds() -> None:
    index = FaissIndex(DIM)
    probes = random_units(2, 2, DIM)
    assert index.search(probes, 5).ids.shape == (2, 0)
    index.add(np.array([4, 9], dtype=np.int64), random_units(1, 2, DIM))
    assert index.search(probes, 5).ids.shape == (2, 2)


def test_each_thread_that_searches_uses_the_number_of_threads_that_was_set() -> None:
    index = FaissIndex(DIM, search_threads=1)
    index.add(np.array([1], dtype=np.int64), random_units(1, 1, DIM))
    seen: list[int] = []

    def search() -> None:
        index.search(random_units(2, 1, DIM), 1)
        seen.append(faiss.omp_get_max_threads())

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1, 1, 1]
