"""What is shown on a terminal hides nothing, and leaves every script readable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata

import pytest

from shared.standard_streams import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ada\u202ebob", r"ada\u202ebob"),
        ("ada\u200b", r"ada\u200b"),
        ("a\u2066da\u2069", r"a\u2066da\u2069"),
        ("\ufeffada", r"\ufeffada"),
        ("ada\u2028bob\u2029", r"ada\u2028bob\u2029"),
        ("ad\u00ada", r"ad\xada"),
        ("ada\U000e0041", r"ada\U000e0041"),
        ("ada\x1b[31m", r"ada\x1b[31m"),
        ("ada\u0378", r"ada\u0378"),
        # A joiner that no script needs makes a second name that looks like the first.
        ("ad\u200da", r"ad\u200da"),
        ("\u200cada", r"\u200cada"),
        ("مح\u200c", r"مح\u200c"),
    ],
)
def test_what_shows_nothing_of_its_own_is_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "Zoë d'Arc",
        "Обама",
        "拜登",
        "بايدن",
        "José\u0301",
        "渡辺\u3000謙",
        "one\n\ttwo",
        "",
        # Persian, Hindi, Sinhala.
        "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627",
        "\u0915\u094d\u200d\u0937",
        "\u0dc1\u0dca\u200d\u0dbb\u0dd3",
        # A family, and a woman with a skin tone who is a physician.
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "\U0001f469\U0001f3fd\u200d\u2695\ufe0f",
    ],
)
def test_names_of_every_script_stay(text: str) -> None:
    assert visible(text) == text


def test_no_format_character_separator_or_unassigned_one_passes_alone() -> None:
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character) in {"Cf", "Zl", "Zp", "Cn"}:
            assert character not in visible(f"a{character}b")


PROGRAM = r"""
import sys
from shared.command import run
from shared.errors import BadRequest
from edge_service.cli.output import Output
def command():
    Output(as_json="--json" in sys.argv).result({"name": "Jos\xe9 \U0001f600"}, "Jos\xe9 \U0001f600")
    raise BadRequest("Zo\xeb's file \udcff")
run(command)
"""


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8"])
@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_locale_without_the_letters_of_a_name_ends_no_command(locale: str, arguments: list[str]) -> None:
    environment = os.environ | {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment.pop("PYTHONIOENCODING", None)
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], env=environment, capture_output=True, check=False, timeout=120
    )
    told = ended.stderr.decode()
    assert ended.returncode == 1
    assert told.count("\n") == 1
    if arguments:
        result, problem = map(json.loads, ended.stdout.splitlines())
        assert (result["name"], problem["detail"]) == ("José \U0001f600", "Zoë's file \udcff")
    else:
        assert ended.stdout.decode() in {"José \U0001f600\n", "Jos\\xe9 \\U0001f600\n"}
