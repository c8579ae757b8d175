"""Requests and answers of the edge. Pictures are not here: they are read from forms and JSON by hand."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from shared.contract import MAX_DIM, EmbedderPin, Epoch, ProfilePin
from shared.names import HexDigest, SubjectName, TemplateId
from shared.strict_types import Moment
from shared.wire.common import (
    Candidate,
    Cosine,
    GalleryInfo,
    NewThreshold,
    Rate,
    ScoreRule,
    Similarity,
    StrictWire,
    TemplateInfo,
    Threshold,
    Wire,
)
from shared.wire.edge_console import ConsoleInfo
from shared.wire.thresholds import ThresholdChoice, ThresholdFor

MAX_EMBEDDINGS_A_REQUEST = 500
# 500 embeddings of 512 values, written out with all digits, are 6 MB of JSON.
MAX_EMBEDDINGS_BYTES = 8 * 1024 * 1024
# Of one picture. Larger groups are rare, and each face costs some 30 ms to embed.
MAX_FACES = 200
# As many as the cloud stores at once.
MAX_EMBEDDINGS_OF_A_SUBJECT = 100

RefusalReason = Literal["no_face", "several_faces", "too_small", "blurred", "turned_away", "too_dark"]

_FOUND = "number of faces found in the picture; the largest was used"
UNPERTURBED: Final = "number of faces that the profile's network left unperturbed, for lack of a margin"


Stored = Annotated[
    Literal["now", "before", "no"],
    Field(description="`now`: by this request; `before`: this subject had the same face already; `no`: by a dry run"),
]


Agrees = Annotated[
    bool | None,
    Field(
        description="whether it would match the subject's other faces at the gallery's threshold; false may mean two "
        "people under one name. null: the subject has no other face, or the API key lacks the scope match or was told "
        "of as many as it may match"
    ),
]


AlsoMatches = Annotated[
    list[Candidate] | None,
    Field(
        description="other subjects whom this face reaches at the gallery's threshold, best first, 5 at most: perhaps "
        "one person under two names. null: the gallery is verify-only, the API key lacks the scope match or was told "
        "of as many as it may match, or the cloud did not search"
    ),
]


class Box(Wire):
    """A rectangle in pixels of the picture as sent, after its EXIF orientation; the origin is the upper left corner."""

    x: float
    y: float
    width: Annotated[float, Field(gt=0)]
    height: Annotated[float, Field(gt=0)]


class Point(Wire):
    """A point in pixels of the picture as sent, after its EXIF orientation; the origin is the upper left corner."""

    x: float
    y: float


class FaceQuality(Wire):
    """The measured quality of a face: five figures, and whether it is upright."""

    face_size_px: float = Field(ge=0, description="shorter side of the face box, in pixels; larger is better")
    sharpness: float = Field(
        ge=0,
        description="variance of the Laplacian over that of the gray levels: no unit, mostly below 1; higher is better",
    )
    brightness: float = Field(ge=0, le=255, description="mean gray level, 0 to 255; too low a value is refused")
    nose_offset: float = Field(
        ge=0,
        description="sideways offset of the nose, in halves of the distance of the eyes: 0 is frontal, 1 a profile",
    )
    detector_score: Rate = Field(description="confidence of the face detector, 0 to 1; larger is surer")
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
        description="degrees clockwise by which the picture as sent, after its EXIF orientation, has to be rotated for "
        "its faces to be upright; boxes and landmarks are in the picture before this rotation"
    )
    faces_found: int = Field(ge=0, description="number of faces found; of more than 200, the smallest are not listed")
    faces: list[DetectedFace]


class EnrolledFace(Wire):
    """A picture that was enrolled."""

    id: TemplateId
    picture: int = Field(ge=0, description="position of the picture in the request, counted from 0")
    stored: Stored
    agrees: Agrees
    also_matches: AlsoMatches
    faces_found: int = Field(ge=1, description=_FOUND)
    quality: Quality


class AnotherPicture(Wire):
    """What one more picture of the subject is worth: shares of genuine comparisons that are accepted."""

    accepted_now: Rate = Field(description="with as many faces as the subject has now")
    accepted_with_one_more: Rate = Field(description="with one face more")


class Enrollment(Wire):
    """What an enrollment says of the subject as a whole."""

    subject: SubjectName
    faces_enrolled: int = Field(ge=1, description="how many faces the subject has now")
    another_picture: AnotherPicture | None = Field(
        description="as measured for the profile at its own threshold; null: it was not measured for so many faces, "
        "for this threshold or for this rule"
    )
    unperturbed: int = Field(ge=0, description=UNPERTURBED)


class EnrollFacesAnswer(Enrollment):
    """The enrolled faces, one for each picture, in the order of the pictures."""

    faces_enrolled: int = Field(ge=0, description="how many faces the subject has now")
    faces: list[EnrolledFace]


# Of any dimension: one that is not the edge's is refused with a sentence that names both.
RawEmbedding = Annotated[list[float], Field(min_length=1, max_length=MAX_DIM)]


class ProtectRequest(StrictWire):
    """Raw embeddings of another recognition system."""

    embeddings: list[RawEmbedding] = Field(min_length=1, max_length=MAX_EMBEDDINGS_A_REQUEST, repr=False)


class ProtectAnswer(Wire):
    """Protected templates, one for each embedding, in the order of the embeddings."""

    profile: ProfilePin
    sealed: bool
    contract: HexDigest | None = Field(description="digest of the gallery's contract; null without `gallery`")
    templates: list[list[float]] = Field(repr=False, description="unit vectors")
    angles: list[float] = Field(description="radians by which each template was perturbed, after the erase step")
    unperturbed: int = Field(ge=0, description=UNPERTURBED)
    faces_found: int | None = Field(default=None, ge=1, description=f"{_FOUND}; null where embeddings were sent")


class NewEmbedding(StrictWire):
    """A raw embedding to enroll."""

    values: RawEmbedding = Field(repr=False)
    face: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        default=None,
        description="name of your choice; a name is stored once for a subject. Absent: equal values are stored once",
    )


class EnrollEmbeddings(StrictWire):
    """Raw embeddings of one subject."""

    embeddings: Annotated[list[NewEmbedding], Field(min_length=1, max_length=MAX_EMBEDDINGS_OF_A_SUBJECT)]


class FaceInfo(TemplateInfo):
    """An enrolled face, by its id."""


class StoredFace(FaceInfo):
    """An enrolled face, and whether it was stored by this request."""

    stored: Stored
    agrees: Agrees


class SubjectFaces(Wire):
    """A subject and its enrolled faces."""

    subject: SubjectName
    created_at: Moment
    expires_at: Moment | None = Field(description="its own expiry; null: only by the gallery's retention")
    faces: list[FaceInfo]


class EnrollEmbeddingsAnswer(Enrollment):
    """The enrolled faces, one for each embedding, in the order of the embeddings."""

    faces: list[StoredFace]


ThresholdFrom = Literal["gallery", "setting", "profile", "embedder"]
FmrMeasuredOn = Literal["lfw_adults", "own_profile", "profile_curves", "operator"]
_MEASURED_ON: Final = (
    "people on whom the rate was measured. `lfw_adults`: Labeled Faces in the Wild, nearly all adults; the rate "
    "of children is far higher. `own_profile`: those on whom your own profile was evaluated. `profile_curves`: the "
    "worst of the populations of the profile's curves, as for a threshold for a purpose. `operator`: stated by "
    "whoever created the gallery, changed its threshold, or set the edge's"
)
_CHOSEN_BY: Final = (
    "origin of the threshold. `gallery`: the gallery's own. Without a gallery, `profile`: the "
    "profile's calibrated one, `embedder`: the one published with the embedder, or `setting`: the operator's"
)


class AppliedThreshold(Wire):
    """The threshold of a decision, and what is known of its false match rate."""

    threshold: Cosine
    threshold_from: ThresholdFrom = Field(description=_CHOSEN_BY)
    reference_fmr: Rate = Field(
        description="false match rate of one comparison at this threshold, for those that `fmr_measured_on` names, "
        "not for those in your pictures. In a gallery of the rule `best`, an upper bound for as many faces as the "
        "subject has (on average, for an identification)"
    )
    fmr_measured_on: FmrMeasuredOn = Field(description=_MEASURED_ON)


_RULE: Final = (
    "how a subject with several faces is compared. `mean`: by their mean, whose false match rate does not depend on "
    "their number; `best`: by the most similar one"
)


class GalleryDecision(AppliedThreshold):
    """How a gallery decided."""

    score_rule: ScoreRule = Field(description=_RULE)


class IdentifiedFace(Wire):
    """A face of the picture and who it matched."""

    box: Box
    quality: Quality
    decision: Literal["match", "unknown"]
    candidates: list[Candidate]


class FacesLeftOut(Wire):
    """How many faces of a picture were not searched for, and why."""

    over_max_faces: int = Field(ge=0, description="number beyond `max_faces`, which are the smaller ones")
    poor_quality: int = Field(ge=0, description="number refused by the quality filter")
    reasons: dict[RefusalReason, int] = Field(
        description="number of refused faces by reason; a face may have several reasons"
    )


class IdentifyFacesAnswer(GalleryDecision):
    """One entry for each face, largest face first."""

    faces: list[IdentifiedFace]
    faces_found: int = Field(ge=1, description="number of faces found: those listed, and those left out")
    faces_left_out: FacesLeftOut


class VerifyFaceAnswer(GalleryDecision):
    """The answer of a 1:1 comparison, with the quality of the probe."""

    decision: Literal["match", "no_match"]
    similarity: Similarity
    faces_found: int = Field(ge=1, description=_FOUND)
    quality: Quality


class CompareAnswer(AppliedThreshold):
    """The answer of a comparison of two pictures at the edge."""

    decision: Literal["match", "no_match"]
    similarity: Cosine
    faces_found: Annotated[
        list[int], Field(min_length=2, max_length=2, description="number of faces in each picture; the largest is used")
    ]
    qualities: Annotated[list[Quality], Field(min_length=2, max_length=2)]


class CreateGallery(Wire):
    """Properties of a gallery. For an existing gallery, absent ones are left unchanged."""

    threshold: NewThreshold | ThresholdFor | None = Field(
        default=None,
        description="a cosine with its rate, or a purpose. Absent, for a new gallery: the edge's `default_threshold` "
        "(see `GET /v1/info`); another than an existing one has: 409",
    )
    verify_only: bool | None = Field(
        default=None,
        strict=True,
        description="true: people can be verified (1:1) but not identified (1:N), for each subject gets its own seal; "
        "absent, for a new gallery: false",
    )
    score_rule: ScoreRule | None = Field(
        default=None, description=f"{_RULE}. Absent, for a new gallery: `mean`; another than an existing one has: 409"
    )


class ChangeScoreRule(StrictWire):
    """Another way to compare the subjects of a gallery."""

    score_rule: ScoreRule = Field(description=_RULE)


class ChangeThreshold(StrictWire):
    """Another threshold of a gallery."""

    threshold: NewThreshold | ThresholdFor = Field(description="a cosine with its rate, or a purpose")


class EdgeGallery(GalleryInfo):
    """A gallery as the edge shows it."""

    verify_only: bool = Field(description="true: people can be verified (1:1) but not identified (1:N)")
    chosen: ThresholdChoice | None = Field(
        default=None, description="of the answer to a request that named a purpose: how the threshold was chosen"
    )


class ChangeKey(Wire):
    """The next key of a gallery."""

    epoch: Epoch | None = Field(
        default=None,
        description="name of the new key, 16 hexadecimal digits; `next_contract.seal.epoch` of an answer continues "
        "that change. Absent: continues the change in progress, or starts one",
    )


class EdgeInfo(Wire):
    """What this edge runs and what it accepts."""

    service: Literal["patronus-edge"] = "patronus-edge"
    version: str
    embedder: EmbedderPin
    profile: ProfilePin
    sealed: bool
    dim: int
    default_threshold: Threshold | None = Field(
        description="for `POST /v1/compare`, and for galleries created without a threshold; null: none is known, as of "
        "an operator's own embedder, and both need one"
    )
    threshold_from: Literal["setting", "profile", "embedder"] | None = Field(
        description="origin of the default threshold"
    )
    fmr_measured_on: FmrMeasuredOn | None = Field(description=_MEASURED_ON)
    max_picture_bytes: int
    max_pixels: int
    max_pictures_a_request: int
    formats: list[str]
    console: ConsoleInfo = Field(
        default=ConsoleInfo(decoder=False, recording=False), description="absent from edges without a console"
    )
    galleries: str = Field(default="/v1/galleries", description="path of the galleries")
