"""Reads a picture: decodes it, finds, aligns and measures its faces, and embeds them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import cv2
import numpy as np

from edge_service.models.store import locate
from edge_service.picture_memory import open_picture_memory
from edge_service.settings import EdgeSettings
from edge_service.vision.align import ARCFACE, align
from edge_service.vision.decode import Pixels, decode_pixels, inspect
from edge_service.vision.detect import Face, FaceDetector
from edge_service.vision.embed import EmbedderSpec, Embeddings, faces_per_batch
from edge_service.vision.formats import PictureHeader
from edge_service.vision.own_embedders import open_embedder
from edge_service.vision.quality import ADVICE, measure, objections
from edge_service.vision.realign import realign
from edge_service.vision.sessions import OrtSession
from edge_service.vision.yunet import YuNet
from shared.errors import FaceRefused
from shared.http.request_context import check_caller
from shared.metrics import Metrics
from shared.names import QualityFilter
from shared.security.process_limits import usable_cpus
from shared.wire.edge import FaceQuality, FacesLeftOut

# A second face with this share of the first one's area may be the person who is meant; a smaller one is background.
_SECOND_FACE_SHARE = 0.25
# Memory of the detector for each pixel of its input: 48 bytes measured, in squares of up to 1,920 a side.
_SEARCH_BYTES = 50


@dataclass(frozen=True, slots=True, eq=False)
class AlignedFace:
    """A face, aligned to (side, side, 3) uint8 RGB; and the number of faces in its picture."""

    face: Face
    aligned: Pixels
    quality: FaceQuality
    faces_found: int


@dataclass(frozen=True, slots=True)
class PictureFaces:
    """The faces of a picture; the picture itself is not kept.

    Attributes:
        width: in pixels.
        height: in pixels.
        faces: the largest faces, at most ``MAX_FACES``, largest first.
        faces_found: how many were found.
        quarter_turns: quarter turns counterclockwise that make the picture upright, 0 to 3.
    """

    width: int
    height: int
    faces: list[AlignedFace]
    faces_found: int
    quarter_turns: int


class FaceReader:
    """Decode, detect, align, measure; and embed.

    Args:
        settings: of the edge; says which models run, and within which limits.
        metrics: where steps are timed.

    Raises:
        SetupError: there is no such embedder, or a model is missing or not what the manifest says.
    """

    def __init__(self, settings: EdgeSettings, metrics: Metrics) -> None:
        cv2.setNumThreads(usable_cpus())
        session = OrtSession(locate("face-detector"), settings.inference)
        self.detector = FaceDetector(session, settings.detection)
        # And how contracts name the embedder.
        self.embedder, self.pin = open_embedder(settings.embedder, settings.embedders, settings.inference)
        aligns_twice = settings.detection.align_twice and self.spec.align_twice
        self._second_detector = YuNet(session, settings.detection) if aligns_twice else None
        self.limits = settings.pictures
        # The budget of all pictures at work.
        self.memory = open_picture_memory(settings.pictures)
        self._search_side = settings.detection.second_pass_side
        self._metrics = metrics

    @property
    def spec(self) -> EmbedderSpec:
        """What must be known of the embedder."""
        return self.embedder.spec

    def read(self, data: bytes, *, every_face: bool = False) -> PictureFaces:
        """The faces of a picture.

        Raises:
            PatronusError: the picture is refused; see ``decode``.
            Overloaded: other pictures hold the memory that it takes.
            CallerGone: nobody waits for the answer any more.
        """
        header = inspect(data, self.limits)
        with self.memory.reserve(self._memory_of(header)):
            check_caller()
            with self._metrics.step("decode"):
                pixels = decode_pixels(header)
            check_caller()
            return self._search(pixels, every_face=every_face)

    def _memory_of(self, header: PictureHeader) -> int:
        """Most bytes that a picture takes until its faces are cut out."""
        side = min(self._search_side, max(header.width, header.height))
        return max(header.charged_bytes, header.pixel_bytes + _SEARCH_BYTES * side * side)

    def _search(self, pixels: Pixels, *, every_face: bool) -> PictureFaces:
        with self._metrics.step("detect"):
            detected = self.detector.find(pixels, every_face=every_face)
        check_caller()
        with self._metrics.step("align"):
            found = []
            for face in detected.faces:
                crop = align(pixels, face.landmarks)
                quality = measure(face, crop)
                wanted = self.spec.alignment
                aligned = crop if wanted is ARCFACE else align(pixels, face.landmarks, wanted)
                found.append(AlignedFace(face, aligned, quality, detected.total))
        height, width = pixels.shape[:2]
        return PictureFaces(width, height, found, detected.total, detected.quarter_turns)

    def embed(self, faces: list[AlignedFace], *, mirrored: bool = False) -> Embeddings:
        """Raw embeddings of faces, batch by batch; each face is checked for its alignment first.

        Args:
            faces: one or more.
            mirrored: whether each is the mean of those of the face and of its mirror image.

        Raises:
            CallerGone: nobody waits for the answer any more.
        """
        size, made = faces_per_batch(mirrored=mirrored), []
        aligned = self._aligned(faces)
        with self._metrics.step("embed"):
            for start in range(0, len(faces), size):
                check_caller()
                made.append(self.embedder.embed(aligned[start : start + size], mirrored=mirrored))
        return Embeddings(np.concatenate([one.unit for one in made]), np.concatenate([one.norms for one in made]))

    def _aligned(self, faces: list[AlignedFace]) -> list[Pixels]:
        network, aligned = self._second_detector, [found.aligned for found in faces]
        if network is None:
            return aligned
        with self._metrics.step("realign"):
            for position, face in enumerate(aligned):
                check_caller()
                aligned[position] = realign(face, network)
        return aligned


def single_face(picture: PictureFaces, level: QualityFilter) -> AlignedFace:
    """The face of a picture of one person.

    Raises:
        FaceRefused: no face, several faces, or a face that the level objects to; ``reason`` says which.
    """
    if not picture.faces:
        raise FaceRefused(ADVICE["no_face"], reason="no_face")
    first, *others = picture.faces
    if level != "none" and others and others[0].face.area >= _SECOND_FACE_SHARE * first.face.area:
        raise FaceRefused(ADVICE["several_faces"], reason="several_faces", faces=len(picture.faces))
    refuse_poor(first, level)
    return first


@dataclass(frozen=True, slots=True)
class FaceSelection:
    """The faces of a picture that are to be identified, and how many are left out.

    Attributes:
        faces: good enough for the quality filter, largest first.
        faces_found: all faces of the picture: these, the poor ones, and those over the limit.
        left_out: how many are left out, and why.
    """

    faces: list[AlignedFace]
    faces_found: int
    left_out: FacesLeftOut


def select(picture: PictureFaces, level: QualityFilter, max_faces: int) -> FaceSelection:
    """The largest faces of a picture that are good enough.

    Raises:
        FaceRefused: no face, or none that is good enough; ``reason`` is that of the largest.
    """
    if not picture.faces:
        raise FaceRefused(ADVICE["no_face"], reason="no_face")
    good = [found for found in picture.faces if not objections(found.quality, level)]
    if not good:
        refuse_poor(picture.faces[0], level)
    poor = len(picture.faces) - len(good)
    reasons = Counter(reason for found in picture.faces for reason in objections(found.quality, level))
    faces = good[:max_faces]
    beyond = picture.faces_found - poor - len(faces)
    left_out = FacesLeftOut(over_max_faces=beyond, poor_quality=poor, reasons=dict(reasons))
    return FaceSelection(faces, picture.faces_found, left_out)


def refuse_poor(found: AlignedFace, level: QualityFilter) -> None:
    """Refuses a face that the level objects to.

    Raises:
        FaceRefused: ``reason`` says why, ``reasons`` all of it.
    """
    reasons = objections(found.quality, level)
    if reasons:
        raise FaceRefused(ADVICE[reasons[0]], reason=reasons[0], reasons=reasons)
