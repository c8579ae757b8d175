"""Names of galleries, subjects and quality filters, and identifiers of templates: what stands in paths and queries."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, StringConstraints

GALLERY_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
# What the cloud is told of a subject: a sealed name, or, in galleries made before names were sealed, the name.
STORED_NAME_PATTERN = r"^(~[A-Za-z0-9_-]{64,747}|[A-Za-z0-9][A-Za-z0-9._@-]{0,127})$"
SEALED_NAME_PATTERN = r"^~[A-Za-z0-9_-]{64,747}$"
PLAIN_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,127}$"
# How a sealed name begins, and no plain one.
SEALED: Final = "~"
MAX_STORED_NAME: Final = 748
MAX_SUBJECT_NAME: Final = 128
TEMPLATE_ID_PATTERN = r"^[0-9a-f]{32}$"

# 1 to 64 letters, digits, dots, underscores or hyphens; starts with a letter or digit.
GalleryName = Annotated[str, StringConstraints(pattern=GALLERY_PATTERN)]

# As the edge sends it to the cloud.
StoredName = Annotated[str, StringConstraints(pattern=STORED_NAME_PATTERN)]
SealedName = Annotated[str, StringConstraints(pattern=SEALED_NAME_PATTERN)]


def subject_name(text: str) -> str:
    """What a subject is called, in Unicode's form NFC: 1 to 128 characters of any script.

    Raises:
        ValueError: it is longer, or has white space at an end, a slash, a backslash, a control character, half a
            surrogate pair or U+FFFD, or is ``.`` or ``..``.
    """
    name = unicodedata.normalize("NFC", text)
    if not 1 <= len(name) <= MAX_SUBJECT_NAME:
        raise ValueError(f"the name of a subject has 1 to {MAX_SUBJECT_NAME} characters")
    if name != name.strip() or name in {".", ".."}:
        raise ValueError("the name of a subject has no white space at its ends, and is neither . nor ..")
    if not is_utf8(name):  # as Python reads a command line that is not in UTF-8
        raise ValueError("the name of a subject is a text in UTF-8, and this one is not; send UTF-8")
    if _NOT_IN_NAMES.search(name):
        raise ValueError("the name of a subject has no slash, backslash or control character")
    if "\ufffd" in name:  # two names that were not sent in UTF-8 would become one
        raise ValueError("the name of a subject has no U+FFFD, which stands for what is not UTF-8; send UTF-8")
    return name


def is_subject_name(text: str) -> bool:
    """Whether a subject can be called so."""
    try:
        subject_name(text)
    except ValueError:
        return False
    return True


def is_utf8(text: str) -> bool:
    """Whether a text can be written in UTF-8: a word of the command line that is not has half a surrogate pair."""
    return _SURROGATES.search(text) is None


_SURROGATES: Final = re.compile(r"[\ud800-\udfff]")
# Slashes, and Unicode's categories Cc, Cs, Zl and Zp, to which no character will be added.
_NOT_IN_NAMES: Final = re.compile(r"[/\\\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
# The same for readers of the schema: `subject_name` decides. Python, ECMAScript and Rust read it alike.
SUBJECT_NAME_PATTERN: Final = (
    r"^(?!\.{1,2}(?![\s\S]))(?!\s)[^/\\\u0000-\u001f\u007f-\u009f\u2028\u2029\ufffd]{1,128}(?<!\s)(?![\s\S])"
)

# As callers of the edge call a subject. The cloud never sees it.
SubjectName = Annotated[
    str,
    AfterValidator(subject_name),
    Field(json_schema_extra={"minLength": 1, "maxLength": MAX_SUBJECT_NAME, "pattern": SUBJECT_NAME_PATTERN}),
]

# A UUID as 32 lower-case hexadecimal digits, chosen by the edge, so that a repeated enrollment is harmless.
TemplateId = Annotated[str, StringConstraints(pattern=TEMPLATE_ID_PATTERN)]

# The minimum quality of a face.
QualityFilter = Literal["none", "auto", "low", "medium", "high"]

# A SHA-256 digest as 64 lower-case hexadecimal digits.
HexDigest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
