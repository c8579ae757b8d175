"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun, as in "1 template" and "2 templates".

    Args:
        number: how many.
        one: the noun for one; it may bring its verb along ("face was").
        many: the noun for any other number; by default the one with an s behind it.
    """
    return f"{number} {one if number == 1 else many or f'{one}s'}"
