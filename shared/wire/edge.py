"""Requests and answers of the edge. Pictures are multipart parts named ``image``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import Field

from shared.contract import MAX_DIM, EmbedderPin, Epoch, ProfilePin
from shared.names import HexDigest, SubjectName, TemplateId
from shared.wire.common import Candidate, Cosine, NewThreshold, Rate, StrictWire, TemplateInfo, Threshold, Wire

MAX_EMBEDDINGS_A_REQUEST = 500
# 500 embeddings of 512 values, written out with all digits, are 6 MB of JSON.
MAX_EMBEDDINGS_BYTES = 8 * 1024 * 1024
# Of one picture. Larger groups are rare, and each face costs some 30 ms to embed.
MAX_FACES = 200
# As many as the cloud stores at once.
MAX_EMBEDDINGS_OF_A_SUBJECT = 100

RefusalReason = Literal["no_face", "several_faces", "too_small", "blurred", "turned_away", "too_dark"]


_FOUND = "how many faces were found in the picture; the largest was used"


Stored = Annotated[
    Literal["now", "before"],
    Field(description="`now`: by this request; `before`: the same one of this subject was there already"),
]


class Box(Wire):
    """A rectangle in pixels of the upright picture; the origin is its upper left corner."""

    x: float
    y: float
    width: Annotated[float, Field(gt=0)]
    height: Annotated[float, Field(gt=0)]


class Point(Wire):
    """A point in pixels of the upright picture."""

    x: float
    y: float


class FaceQuality(Wire):
    """The measured quality of a face."""

    face_pixels: float = Field(description="shorter side of the face box, in pixels")
    sharpness: float = Field(description="variance of the Laplacian over that of the gray levels, of the aligned face")
    brightness: float = Field(description="mean gray level of the aligned face, 0 to 255")
    yaw: float = Field(description="offset of the nose from between the eyes, 0 frontal, 1 and more a profile")
    detector_score: Rate
    upright: bool = Field(description="whether the face is the right way up")


class Quality(FaceQuality):
    """The measured quality of a face, and whether it is good enough."""

    reasons: list[RefusalReason] = Field(description="why the chosen filter refuses the face; empty: accepted")


class Landmarks(Wire):
    """The five points that the alignment uses; left and right are the subject's own."""

    right_eye: Point
    left_eye: Point
    nose: Point
    right_mouth: Point
    left_mouth: Point


class DetectedFace(Wire):
    """A face found in a picture."""

    box: Box
    landmarks: Landmarks
    quality: Quality


class DetectAnswer(Wire):
    """The faces of a picture, largest first, at most 200."""

    width: int
    height: int
    rotation: Literal[0, 90, 180, 270] = Field(
        description="degrees clockwise by which the picture has to be rotated for its faces to be upright; boxes and "
        "landmarks are those of the picture before that"
    )
    faces_found: int = Field(ge=0, description="how many faces were found; beyond 200 the smallest are not listed")
    faces: list[DetectedFace]


class EnrolledFace(Wire):
    """A picture that was enrolled."""

    id: TemplateId
    picture: int = Field(ge=0, description="position of the picture in the request, from 0")
    stored: Stored
    faces_found: int = Field(ge=1, description=_FOUND)
    quality: Quality


class EnrollFacesAnswer(Wire):
    """What is stored, one face a picture, in their order: all pictures of the request, or none."""

    subject: SubjectName
    faces: list[EnrolledFace]
    unperturbed: int = Field(ge=0, description="faces that the network left unperturbed, for lack of a margin")


# Of any dimension: one that is not the edge's is refused with a sentence that names both.
RawEmbedding = Annotated[list[float], Field(min_length=1, max_length=MAX_DIM)]


class ProtectRequest(StrictWire):
    """Raw embeddings of another recognition system, of any length but 0."""

    embeddings: list[RawEmbedding] = Field(min_length=1, max_length=MAX_EMBEDDINGS_A_REQUEST, repr=False)


class ProtectAnswer(Wire):
    """Protected templates, one an embedding, in their order."""

    profile: ProfilePin
    sealed: bool
    contract: HexDigest | None = Field(description="digest of the gallery's contract; null where no gallery was named")
    templates: list[list[float]] = Field(repr=False, description="unit vectors")
    angles: list[float] = Field(description="radians by which each was perturbed after erase")
    unperturbed: int = Field(
        ge=0, description="number that the profile's network left unperturbed, for lack of a margin"
    )
    faces_found: int | None = Field(default=None, ge=1, description=f"{_FOUND}; null where embeddings were sent")


class NewEmbedding(StrictWire):
    """A raw embedding to enroll."""

    values: RawEmbedding = Field(repr=False)
    face: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        default=None,
        description="the sender's name of it; sent twice, it is stored once. Absent: the values identify it",
    )


class EnrollEmbeddings(StrictWire):
    """Raw embeddings of one subject."""

    embeddings: Annotated[list[NewEmbedding], Field(min_length=1, max_length=MAX_EMBEDDINGS_OF_A_SUBJECT)]


class FaceInfo(TemplateInfo):
    """An enrolled face, by its id."""


class StoredFace(FaceInfo):
    """An enrolled face, and whether it was stored by this request."""

    stored: Stored


class SubjectFaces(Wire):
    """A subject and its enrolled faces."""

    subject: SubjectName
    created_at: datetime
    faces: list[FaceInfo]


class EnrollEmbeddingsAnswer(Wire):
    """What is stored, one face an embedding, in their order."""

    subject: SubjectName
    faces: list[StoredFace]
    unperturbed: int = Field(
        ge=0, description="number that the profile's network left unperturbed, for lack of a margin"
    )


ThresholdFrom = Literal["gallery", "profile", "embedder"]
FmrMeasuredOn = Literal["lfw_adults", "own_profile", "operator"]
_MEASURED_ON: Final = (
    "whose faces the rate was measured on. `lfw_adults`: Labeled Faces in the Wild, nearly all adults; children are "
    "taken for each other far more often. `own_profile`: the people that your own profile was evaluated on. "
    "`operator`: stated by whoever made the gallery"
)
_CHOSEN_BY: Final = (
    "what chose the threshold: the gallery, which keeps the one that it was made with; or, where no gallery takes "
    "part, the profile, which was calibrated at it, else the embedder, which was published with it"
)


class AppliedThreshold(Wire):
    """The threshold of a decision, and what is known of its false match rate."""

    threshold: Cosine
    threshold_from: ThresholdFrom = Field(description=_CHOSEN_BY)
    reference_fmr: Rate = Field(
        description="false match rate of one comparison at this threshold, of the people that `fmr_measured_on` names; "
        "not that of the people before your camera"
    )
    fmr_measured_on: FmrMeasuredOn = Field(description=_MEASURED_ON)


class IdentifiedFace(Wire):
    """A face of the picture and who it matched."""

    box: Box
    quality: Quality
    decision: Literal["match", "unknown"]
    candidates: list[Candidate]


class FacesLeftOut(Wire):
    """Number of faces of a picture that were not searched for, and why."""

    over_max_faces: int = Field(ge=0, description="beyond `max_faces`; the largest faces come first")
    poor_quality: int = Field(ge=0, description="not good enough for the quality filter")
    reasons: dict[RefusalReason, int] = Field(
        description="number of faces by reason of the filter; a face may have several reasons"
    )


class IdentifyFacesAnswer(AppliedThreshold):
    """One entry a face, largest face first."""

    faces: list[IdentifiedFace]
    faces_found: int = Field(ge=1, description="how many faces were found: those listed, and those left out")
    faces_left_out: FacesLeftOut


class VerifyFaceAnswer(AppliedThreshold):
    """The answer of a 1:1 comparison, with the quality of the probe."""

    decision: Literal["match", "no_match"]
    similarity: Cosine
    faces_found: int = Field(ge=1, description=_FOUND)
    quality: Quality


class CompareAnswer(AppliedThreshold):
    """The answer of comparing two pictures at the edge; nothing was sent to the cloud."""

    decision: Literal["match", "no_match"]
    similarity: Cosine
    faces_found: Annotated[
        list[int], Field(min_length=2, max_length=2, description="of each picture; the largest face was used")
    ]
    qualities: Annotated[list[Quality], Field(min_length=2, max_length=2)]


class CreateGallery(Wire):
    """Properties of a gallery; of an existing gallery an absent one stays as it is."""

    threshold: NewThreshold | None = Field(
        default=None, description="absent, of a new gallery: the edge's `default_threshold`, see `GET /v1/info`"
    )
    verify_only: bool | None = Field(
        default=None,
        strict=True,
        description="whether each subject gets a seal of its own: nobody can compare templates of two subjects, "
        "and people can be verified but not identified; absent, of a new gallery: false",
    )


class ChangeKey(Wire):
    """The next key of a gallery."""

    epoch: Epoch | None = Field(
        default=None,
        description="name of the new key, 16 hexadecimal digits; the name in an answer continues that change. "
        "Absent: that of the change in progress, or else a new one",
    )


class EdgeInfo(Wire):
    """What this edge runs, what it accepts, and under which contract it makes templates."""

    service: Literal["patronus-edge"] = "patronus-edge"
    version: str
    embedder: EmbedderPin
    profile: ProfilePin
    sealed: bool
    dim: int
    default_threshold: Threshold = Field(
        description="of `POST /v1/compare`, and of galleries that are made without one"
    )
    threshold_from: Literal["profile", "embedder"] = Field(description="what chose the default threshold")
    fmr_measured_on: FmrMeasuredOn = Field(description=_MEASURED_ON)
    max_picture_bytes: int
    max_pixels: int
    max_pictures_a_request: int
    formats: list[str]
    galleries: str = Field(default="/v1/galleries", description="where to begin")
