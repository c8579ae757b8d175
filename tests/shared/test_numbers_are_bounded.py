"""No number that an operator gives is infinite, or not a number, or without a limit, in settings and in commands."""

from __future__ import annotations

import importlib
import typing
from collections.abc import Iterator

import pytest
import typer
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.testing import CliRunner

from cloud_service.settings import Settings
from edge_service.settings import EdgeSettings
from shared.command import build, finite
from shared.errors import SetupError
from shared.service_settings import ServiceSettings, load_settings

# Those that make figures, and are started by `make`.
_LOAD = ("bench_cloud", "bench_recall", "contention", "overload", "soak")


def numbers(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, FieldInfo]]:
    """Every number of a model and of those in it, by the name of its environment variable."""
    for name, field in model.model_fields.items():
        here = (*path, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from numbers(field.annotation, here)
        elif {int, float} & {field.annotation, *typing.get_args(field.annotation)}:
            yield "__".join(here).upper(), field


SETTINGS: list[tuple[type[ServiceSettings], str, FieldInfo]] = [
    (settings, f"{settings.model_config['env_prefix']}{name}", field)
    for settings in (EdgeSettings, Settings)
    for name, field in numbers(settings)
]
FLOATS = [(settings, name) for settings, name, field in SETTINGS if field.annotation is float]


def test_there_are_numbers_to_look_at() -> None:
    assert len(SETTINGS) > 40
    assert len(FLOATS) > 15


@pytest.mark.parametrize(("name", "field"), [found[1:] for found in SETTINGS], ids=[found[1] for found in SETTINGS])
def test_every_number_of_the_settings_has_a_limit_on_both_sides(name: str, field: FieldInfo) -> None:
    assert any(isinstance(limit, Ge | Gt) for limit in field.metadata), name
    assert any(isinstance(limit, Le | Lt) for limit in field.metadata), name


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e999"])
def test_no_setting_is_infinite_or_not_a_number(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings, name in FLOATS:
        with monkeypatch.context() as here:
            here.setenv(name, value)
            with pytest.raises(SetupError) as refused:
                load_settings(settings)
        assert refused.value.detail.startswith(f"A setting is wrong: {name}: ")
        assert "\n" not in refused.value.detail


def float_options(app: typer.Typer) -> Iterator[tuple[str, typing.Any]]:
    """Every option of a command that is a float, by command and name."""
    for command in app.registered_commands:
        assert command.callback is not None
        for name, hint in typing.get_type_hints(command.callback, include_extras=True).items():
            kinds, *extras = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
            if float in {kinds, *typing.get_args(kinds)}:
                yield f"{command.callback.__module__} {command.callback.__name__} {name}", extras[0]
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from float_options(group.typer_instance)


def test_every_float_that_a_command_takes_is_finite() -> None:
    apps = [build(), *(importlib.import_module(f"tests.load.{name}").app for name in _LOAD)]
    found = [option for app in apps for option in float_options(app)]
    assert len(found) > 10
    assert [name for name, option in found if option.callback is not finite] == []


@pytest.mark.parametrize("value", ["nan", "inf", "1e999"])
@pytest.mark.parametrize(
    "command", [["gallery", "create", "x", "--fmr", "0.1", "--threshold"], ["lab", "train", "--images", ".", "--tau"]]
)
def test_a_command_that_is_given_no_finite_number_says_so_in_one_sentence(command: list[str], value: str) -> None:
    done = CliRunner().invoke(build(), [*command, value])
    assert done.exit_code == 2
    assert f"Error: Invalid value for '{command[-1]}'" in done.output
