"""``make bench-recall``: recall of the index among a million templates, for pictures of real people.

The gallery holds one embedding of each person, and others drawn with their mean and covariance up to the wanted size;
the probes are the people's other pictures. Told is how often the nearest template, found by plain products of all, is
among what is proposed, where it reaches the threshold: exactly searched, and by sketches.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from numpy.typing import NDArray

from cloud_service.index.flat import SegmentedIndex
from cloud_service.index.sketch import Sketch
from lab.data.embedders import embed_images, open_encoder, unit
from lab.data.images import read_tar
from lab.data.lfw import read_lfw
from shared.command import finite, run

Rows = NDArray[np.float32]
_BATCH: Final = 64
_WIDTH: Final = 32
_AT_A_TIME: Final = 32_768
app = typer.Typer()


@app.command()
def main(
    faces: Annotated[Path, typer.Option(help="Folder with lfw112.tar, lfw_pairs.txt and utkface112.tar.")],
    size: Annotated[int, typer.Option(min=40_000, help="Templates.")] = 1_000_000,
    embedder: Annotated[str, typer.Option(help="Name, or an ONNX file.")] = "sface_2021dec",
    tau: Annotated[float, typer.Option(callback=finite, help="Threshold.")] = 0.384,
) -> None:
    """Compare the index with plain products, on embeddings of real faces, sealed and not."""
    encoder = open_encoder(embedder)
    people, _ = read_lfw(faces)
    embedded = unit(embed_images(people, encoder))
    _, first = np.unique(people.people, return_index=True)
    others = unit(embed_images(read_tar(faces / "utkface112.tar"), encoder))
    random = np.random.default_rng(0)
    gallery = _filled_up(np.concatenate([embedded[first], others]), size, random)
    probes = np.delete(embedded, first, axis=0)
    for sealed in (False, True):
        seal = np.linalg.qr(random.standard_normal((gallery.shape[1],) * 2))[0] if sealed else np.eye(gallery.shape[1])
        for line in _measured(unit((gallery @ seal).astype(np.float32)), unit((probes @ seal).astype(np.float32)), tau):
            typer.echo(json.dumps({"size": size, "embedder": encoder.name, "tau": tau, "sealed": sealed} | line))


def _filled_up(real: Rows, size: int, random: np.random.Generator) -> Rows:
    """Real embeddings, and drawn ones of the same mean and covariance, in any order: (size, d) float32 unit rows."""
    mean = real.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov((real - mean).T))
    root = (vectors * np.sqrt(np.clip(values, 0, None))).astype(np.float32)
    drawn = mean + random.standard_normal((size - len(real), real.shape[1]), dtype=np.float32) @ root.T
    return random.permutation(np.concatenate([real, unit(drawn.astype(np.float32))]))


def _measured(gallery: Rows, probes: Rows, tau: float) -> list[dict[str, Any]]:
    index = SegmentedIndex(gallery.shape[1])
    nearest, score = np.zeros(len(probes), np.int64), np.full(len(probes), -1.0, np.float32)
    for start in range(0, len(gallery), _AT_A_TIME):
        block = gallery[start : start + _AT_A_TIME]
        index.add(np.arange(start, start + len(block), dtype=np.int64), block)
        scores = probes @ block.T
        best = scores.max(axis=1)
        nearest[best > score] = start + scores.argmax(axis=1)[best > score]
        score = np.maximum(score, best)
    wanted = np.flatnonzero(score >= tau)
    lines = [_proposed(index, probes, nearest, wanted, tau) | {"index": "exact"}]
    for segment in index.unsketched():
        index.sketch(segment, Sketch(segment))
    return [*lines, _proposed(index, probes, nearest, wanted, tau) | {"index": "approximate"}]


def _proposed(
    index: SegmentedIndex, probes: Rows, nearest: NDArray[np.int64], wanted: NDArray[np.int64], tau: float
) -> dict[str, Any]:
    found, began = 0, time.perf_counter()
    for start in range(0, len(wanted), _BATCH):
        mine = wanted[start : start + _BATCH]
        ids = index.search(probes[mine], _WIDTH, tau).ids
        found += int((ids == nearest[mine, np.newaxis]).any(axis=1).sum())
    seconds = time.perf_counter() - began
    return {
        "probes": len(wanted),
        "missed": len(wanted) - found,
        "recall_at_1": found / len(wanted),
        "searches_per_second": len(wanted) / seconds,
        "memory_bytes": index.nbytes,
    }


if __name__ == "__main__":
    run(app)
