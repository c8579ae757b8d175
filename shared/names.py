"""Names of galleries, subjects and quality filters, and identifiers of templates: what stands in paths and queries."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import StringConstraints

GALLERY_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
SUBJECT_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,127}$"
TEMPLATE_ID_PATTERN = r"^[0-9a-f]{32}$"

# 1 to 64 letters, digits, dots, underscores or hyphens; starts with a letter or digit.
GalleryName = Annotated[str, StringConstraints(pattern=GALLERY_PATTERN)]

# 1 to 128 letters, digits or `._@-`; starts with a letter or digit. A pseudonym is better than a name.
SubjectName = Annotated[str, StringConstraints(pattern=SUBJECT_PATTERN)]

# A UUID as 32 lower-case hexadecimal digits, chosen by the edge, so that a repeated enrollment is harmless.
TemplateId = Annotated[str, StringConstraints(pattern=TEMPLATE_ID_PATTERN)]

# The minimum quality of a face.
QualityFilter = Literal["none", "auto", "low", "medium", "high"]

# A SHA-256 digest as 64 lower-case hexadecimal digits.
HexDigest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
