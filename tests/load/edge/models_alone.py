"""The work that a picture cannot do without, with nothing around it, in a process of its own.

Reads lines ``{"way": ..., "threads": 2, "seconds": 3}``, and answers each with a line of JSON, see ``rate``. Each
thread takes one picture after the other. Of several threads, each runs its models alone; a lone one has all processors
for them.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_service.models.store import locate, model_file, models_dir
from edge_service.settings import DetectionSettings, InferenceSettings, PictureLimits
from edge_service.vision.align import align
from edge_service.vision.decode import Pixels, decode
from edge_service.vision.detect import FaceDetector
from edge_service.vision.sessions import OrtSession
from tests.load.edge.pictures import pictures

Floats = NDArray[np.float32]
# What the detector is given of a face before it is embedded (edge_service/vision/realign.py).
_ALIGNED: Final = np.zeros((1, 3, 384, 384), np.float32)
_FIRST_SIDE: Final = DetectionSettings().first_pass_side
# What is done with a picture; see ``Alone.ways``.
WAYS: Final = ("published", "decode, published", "converted", "decode, converted", "decode", "OpenCV")


@dataclass(frozen=True, slots=True)
class _Picture:
    data: bytes
    reduced: Pixels
    first: Floats
    face: Floats


@dataclass(slots=True)
class Alone:
    """The models, and the pictures as each step of the edge has them."""

    detector: OrtSession
    published: OrtSession
    converted: OrtSession
    embedder_file: Path
    limits: PictureLimits = field(default_factory=PictureLimits)

    def ways(self) -> dict[str, Callable[[_Picture], object]]:
        """What may be done with a picture, by name."""
        return {
            "published": self._as_published,
            "decode, published": _both(self._decode, self._as_published),
            "converted": self._as_converted,
            "decode, converted": _both(self._decode, self._as_converted),
            "decode": self._decode,
            "OpenCV": self._opencv(),
        }

    def prepared(self, data: bytes) -> _Picture:
        """A picture with one face."""
        pixels = decode(data, self.limits)
        height, width = pixels.shape[:2]
        scale = min(1.0, _FIRST_SIDE / max(height, width))
        reduced = cv2.resize(pixels, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
        first = np.zeros((1, 3, *(-(-side // 32) * 32 for side in reduced.shape[:2])), np.float32)
        first[0, :, : reduced.shape[0], : reduced.shape[1]] = reduced[:, :, ::-1].transpose(2, 0, 1)
        [found, *_] = FaceDetector(self.detector, DetectionSettings()).detect(pixels)
        face = align(pixels, found.landmarks).transpose(2, 0, 1)[None].astype(np.float32)
        return _Picture(data, np.asarray(reduced, np.uint8), first, np.ascontiguousarray(face))

    def _decode(self, picture: _Picture) -> None:
        decode(picture.data, self.limits)

    def _as_published(self, picture: _Picture) -> None:
        self.detector.run({"input": picture.first})
        self.published.rows(picture.face)

    def _as_converted(self, picture: _Picture) -> None:
        """All passes of a verification: the detector on the picture and on the aligned face, and the embedder."""
        self.detector.run({"input": picture.first})
        self.detector.run({"input": _ALIGNED})
        self.converted.rows(picture.face)

    def _opencv(self) -> Callable[[_Picture], object]:
        cv2.setNumThreads(1)
        own = threading.local()  # OpenCV's models are for one thread each

        def compare(picture: _Picture) -> None:
            if not hasattr(own, "models"):
                detector = str(models_dir() / "yunet_2023mar.onnx")
                own.models = (
                    cv2.FaceDetectorYN.create(detector, "", (32, 32), 0.8, 0.3, 5000),
                    cv2.FaceRecognizerSF.create(str(self.embedder_file), ""),
                )
            detector, recognizer = own.models
            pixels = np.asarray(cv2.imdecode(np.frombuffer(picture.data, np.uint8), cv2.IMREAD_COLOR), np.uint8)
            height, width = picture.reduced.shape[:2]
            reduced = np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
            detector.setInputSize((width, height))
            recognizer.feature(recognizer.alignCrop(reduced, detector.detect(reduced)[1][0]))

        return compare


def _both(first: Callable[[_Picture], object], second: Callable[[_Picture], object]) -> Callable[[_Picture], object]:
    def done(picture: _Picture) -> None:
        first(picture)
        second(picture)

    return done


def rate(work: Callable[[_Picture], object], given: list[_Picture], threads: int, seconds: float) -> dict[str, float]:
    """Pictures a second, the milliseconds of one in the median, and of its processor time in the mean.

    Args:
        work: on one picture.
        given: taken in turn.
        threads: how many work at once.
        seconds: for how long.
    """
    taken: list[float] = []
    began, used = time.perf_counter(), time.process_time()

    def take(first: int) -> None:
        at = first
        while (start := time.perf_counter()) - began < seconds:
            work(given[at % len(given)])
            taken.append(time.perf_counter() - start)
            at += 1

    workers = [threading.Thread(target=take, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return {
        "answered": len(taken) / (time.perf_counter() - began),
        "p50": float(np.median(taken)) * 1e3,
        "cpu_ms": (time.process_time() - used) / len(taken) * 1e3,
    }


def _alone(threads: int) -> Alone:
    settings = InferenceSettings(threads=threads)
    found = locate("face-embedder")
    published = model_file(found.entry.model_copy(update={"faster": None}), models_dir())
    return Alone(
        detector=OrtSession(locate("face-detector"), settings),
        published=OrtSession(published, settings),
        converted=OrtSession(found, settings),
        embedder_file=published.path,
    )


def main() -> None:
    """Answers the lines of standard input."""
    lone, beside = _alone(threads=0), _alone(threads=1)
    given = [lone.prepared(data) for data in pictures().values()]
    ways = {1: lone.ways()}
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        threads: int = asked["threads"]
        way = ways.setdefault(threads, beside.ways())[asked["way"]]
        sys.stdout.write(json.dumps(rate(way, given, threads, asked["seconds"])) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
