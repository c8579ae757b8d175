"""Embeddings of the sample pictures by the real embedder, as a deployed system would have stored them."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_service.settings import EdgeSettings
from edge_service.vision.reader import FaceReader, single_face
from shared.metrics import Metrics
from tests.support.edge import sample

STORED: Final = ("obama/portrait.jpg", "biden/standing.jpg")
# Two of somebody who is stored, and one of somebody who is not.
PROBES: Final = ("obama/speech.jpg", "obama/standing.jpg", "collins/portrait.png")


def write_faces(target: Path, home: Path) -> None:
    """Writes the arrays embeddings, names, probes and probe_names; rows are (n, 128) float32 of length 1."""
    reader = FaceReader(EdgeSettings(home=home), Metrics("edge"))

    def embedded(names: tuple[str, ...]) -> NDArray[np.float32]:
        faces = [single_face(reader.read(sample(name)), "none") for name in names]
        return np.concatenate([reader.embed([face]).unit for face in faces])

    np.savez(
        target,
        embeddings=embedded(STORED),
        names=np.array([name.split("/")[0] for name in STORED]),
        probes=embedded(PROBES),
        probe_names=np.array(PROBES),
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        write_faces(Path(sys.argv[1]), Path(home))
