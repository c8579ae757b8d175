"""Reads a service's settings from the environment, and says in one sentence which of them is wrong."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from shared.errors import SetupError

S = TypeVar("S", bound=BaseSettings)


def load_settings(settings: type[S], **chosen: Any) -> S:
    """The settings of the environment, with those chosen on the command line before them (None: not chosen).

    Raises:
        SetupError: one of them is wrong; names it, never its value.
    """
    try:
        return settings(**{name: value for name, value in chosen.items() if value is not None})
    except ValidationError as error:
        prefix = settings.model_config.get("env_prefix", "")
        wrong = "; ".join(
            f"{prefix}{'__'.join(str(part) for part in found['loc']).upper()}: {found['msg']}"
            for found in error.errors(include_input=False)
        )
        raise SetupError(f"A setting is wrong: {wrong}.") from None
