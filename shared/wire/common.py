"""Answers that both services give."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from shared.contract import Contract
from shared.names import GalleryName, SubjectName, TemplateId

Item = TypeVar("Item")

Cosine = Annotated[float, Field(ge=-1, le=1, description="a cosine, not a distance: larger is more alike")]
Rate = Annotated[float, Field(ge=0, le=1)]


class Wire(BaseModel):
    """Base of all wire models: unknown members are refused, values are not coerced silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Threshold(Wire):
    """The matcher's tau and what it was measured to let through."""

    model_config = ConfigDict(strict=True)

    cosine: Annotated[float, Field(gt=0, lt=1, description="accept when the cosine is at least this")]
    fmr: Rate = Field(description="false match rate of one comparison at this threshold, as measured for the embedder")


class GalleryInfo(Wire):
    """A gallery: a set of subjects that are compared under one contract and one threshold."""

    gallery: GalleryName
    contract: Contract
    contract_digest: str
    threshold: Threshold
    subjects: int = Field(ge=0)
    templates: int = Field(ge=0)
    created_at: datetime


class TemplateInfo(Wire):
    """A stored template, without its vector: no route returns that."""

    id: TemplateId
    created_at: datetime


class SubjectInfo(Wire):
    """A subject and how many templates it has."""

    subject: SubjectName
    templates: int = Field(ge=0)
    created_at: datetime


class SubjectDetail(Wire):
    """A subject with its templates."""

    subject: SubjectName
    created_at: datetime
    templates: list[TemplateInfo]


class Page(Wire, Generic[Item]):
    """One page of a listing, in the order of names."""

    items: list[Item]
    next: str | None = Field(description="pass as `after` for the next page; null on the last one")


class Erased(Wire):
    """What an erasure removed."""

    subjects: int = Field(ge=0)
    templates: int = Field(ge=0)


class VerifyAnswer(Wire):
    """The answer of a 1:1 comparison."""

    decision: Literal["match", "no_match"]
    similarity: Cosine
    threshold: Cosine
    fmr_at_threshold: Rate


class Candidate(Wire):
    """A subject whose best template reaches the threshold."""

    subject: SubjectName
    similarity: Cosine


class Problem(BaseModel):
    """An error, as application/problem+json (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="stable: `urn:patronus:problem:` and a word")
    title: str
    status: int
    detail: str = Field(description="what is wrong and how to mend it")
    request_id: str
    reason: str | None = None


class Health(Wire):
    """The process is alive."""

    status: Literal["ok"] = "ok"


class Readiness(Wire):
    """Whether the service can do its work now, part by part."""

    status: Literal["ready", "not_ready"]
    checks: dict[str, bool]
