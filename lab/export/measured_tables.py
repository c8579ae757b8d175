"""Tables of what ``patronus lab measure`` found, as Markdown; and their renewal within the documentation.

A page holds ``<!-- measured: KIND NAME … -->`` before a table and ``<!-- measured: end -->`` after it. NAME is
that of a measurement's file, without its ending. Kinds: ``people POPULATION``, ``cost``, ``sex``, ``brief``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from shared.errors import SetupError

_BLOCK: Final = re.compile(r"(<!-- measured: (?!end)(.*?) -->\n).*?(<!-- measured: end -->)", re.DOTALL)
# What stands between two ends of an interval.
_TO: Final = "\N{EN DASH}"
_STRICT: Final = ("tar_at_1e-03", "tar_at_1e-04")
_POPULATIONS: Final = {"lfw": "LFW", "lfw_unseen": "LFW, unseen people", "wild": "in the wild"}
_MEMBERS: Final = {"profile", "score", "accuracy", "by_sex", "cost", "curves", "clean_curves", "sources"}
Found = Mapping[str, Any]


def tables_of(found: Found) -> str:
    """All tables of one measurement, and its score calibration as JSON."""
    parts = [f"score: {json.dumps(found['score'])}"]
    for population in dict.fromkeys(row["population"] for row in found["accuracy"]):
        parts.append(f"{population}\n\n{people_table({'': found}, population)}")
    for title, rows, table in (("cost", found["cost"], cost_table), ("by age and sex", found["by_sex"], sex_table)):
        if rows:
            parts.append(f"{title}\n\n{table(found)}")
    return "\n".join(["", *parts])


def page_text(path: Path) -> str:
    """The text of a page.

    Raises:
        SetupError: it cannot be read.
    """
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        raise SetupError(f"The page {path} cannot be read; name a Markdown file.") from None


def read_measured(path: Path) -> dict[str, Any]:
    """What ``patronus lab measure --out`` wrote.

    Raises:
        SetupError: it cannot be read, or is something else.
    """
    try:
        found = json.loads(path.read_bytes())
        if not found.keys() >= _MEMBERS:
            raise ValueError("members are missing")
    except (OSError, ValueError, AttributeError, RecursionError):
        raise SetupError(f"{path} is no file of patronus lab measure --out; measure again.") from None
    return dict(found)


def people_table(found: Mapping[str, Found], population: str) -> str:
    """Accuracy by number of pictures and rule, of each measurement: the best picture, and the mean that is used.

    Args:
        found: measurements by the title of their columns.
        population: whose rows.
    """
    heads = ["pictures", "rule"]
    for title in found:
        start = f"{title}: " if title else ""
        heads += [f"{start}TAR (95%)", "FMR; times one picture's (95%)", "TAR at FMR 1e-3, 1e-4", "rank-1"]
    lines = []
    first = next(iter(found.values()))
    for templates in dict.fromkeys(_of(row, "templates") for row in _rows(first, population)):
        for rule in ("best", "mean"):
            chosen = [_row(each, population, templates, rule) for each in found.values()]
            if all(row is None for row in chosen):
                continue
            name = "one" if templates == 1 else rule
            lines.append([str(templates), name, *(cell for row in chosen for cell in _cells(row))])
    return _table(heads, lines)


def cost_table(found: Found) -> str:
    """TAR lost at strict false match rates, in points."""
    lines = [
        [
            _POPULATIONS.get(row["population"], row["population"]),
            f"{row['fmr']:.0e}".replace("e-0", "e-"),
            f"{100 * row['tar_lost']:.2f}",
            "" if row["interval"] is None else f"{100 * row['interval'][0]:.2f} to {100 * row['interval'][1]:.2f}",
        ]
        for row in found["cost"]
    ]
    return _table(["people", "FMR", "TAR lost, points", "95%"], lines)


def sex_table(found: Found) -> str:
    """False matches of strangers by age and sex: one picture against the mean of three and of ten, times."""
    rows = found["by_sex"]
    numbers = list(dict.fromkeys(row["templates"] for row in rows))
    populations = list(dict.fromkeys(row["population"] for row in rows))
    heads = ["ages", "sex"]
    for population in populations:
        title = _POPULATIONS.get(population, population)
        heads += [f"{title}: FMR of one", *(f"{title}: mean of {number}, times" for number in numbers)]
    lines = []
    for ages, sex in dict.fromkeys((row["ages"], row["sex"]) for row in rows):
        line = [ages, sex]
        for population in populations:
            here = [row for row in rows if (row["population"], row["ages"], row["sex"]) == (population, ages, sex)]
            line.append(_rate(here[0]["fmr_of_one"]["value"]) if here else "")
            line += [_times(next((row for row in here if row["templates"] == number), None)) for number in numbers]
        lines.append(line)
    return _table(heads, lines)


def brief_table(found: Mapping[str, Found]) -> str:
    """One, three and ten pictures in the wild and on LFW under the rule ``mean``, for the first page."""
    heads = ["pictures enrolled", *(f"{title}, {name}" for name in ("LFW", "in the wild") for title in found)]
    lines = []
    for templates in (1, 3, 10):
        line = [str(templates)]
        for population in ("lfw", "wild"):
            for each in found.values():
                row = _row(each, population, templates, "best" if templates == 1 else "mean")
                cell = "" if row is None else f"{_percent(row['tar_at_tau'])}, {_rate(row['fmr_at_tau']['value'])}"
                line.append(cell)
        lines.append(line)
    return _table(heads, lines)


def renewed(text: str, measured: Mapping[str, Found]) -> str:
    """A page with its tables made anew.

    Args:
        text: the page.
        measured: measurements by the name of their file.

    Raises:
        SetupError: the page asks for a table or a measurement that there is not.
    """
    kinds: dict[str, Callable[[Sequence[str]], str]] = {
        "people": lambda words: people_table(_chosen(words[1:], measured), words[0]),
        "cost": lambda words: cost_table(_chosen(words, measured)[_title(words[0])]),
        "sex": lambda words: sex_table(_chosen(words, measured)[_title(words[0])]),
        "brief": lambda words: brief_table(_chosen(words, measured)),
    }

    def table(match: re.Match[str]) -> str:
        kind, *words = match[2].split()
        if kind not in kinds or not words:
            raise SetupError(f"There is no table {match[2]!r}; the kinds are {', '.join(kinds)}, each with a name.")
        return f"{match[1]}\n{kinds[kind](words)}\n{match[3]}"

    return _BLOCK.sub(table, text)


def _chosen(names: Sequence[str], measured: Mapping[str, Found]) -> dict[str, Found]:
    missing = [name for name in names if name not in measured]
    if missing:
        raise SetupError(f"A page asks for the measurement {missing[0]}; name its file, {missing[0]}.json.")
    return {_title(name): measured[name] for name in names}


def _title(name: str) -> str:
    """What a measurement is called in a table: a profile that only seals keeps the scores of the embedder."""
    return "unprotected" if name == "seal" else f"`{name}`"


def _rows(found: Found, population: str) -> list[Mapping[str, Any]]:
    return [row for row in found["accuracy"] if row["population"] == population]


def _row(found: Found, population: str, templates: int, rule: str) -> Mapping[str, Any] | None:
    """The row of a rule; of ``mean`` the weighted one, where there are weights."""
    rows = [row for row in _rows(found, population) if row["templates"] == templates]
    wanted = [row for row in rows if row["rule"].startswith(rule)]
    return wanted[-1] if wanted else None


def _of(row: Mapping[str, Any], name: str) -> int:
    return int(row[name])


def _cells(row: Mapping[str, Any] | None) -> list[str]:
    if row is None:
        return ["", "", "", ""]
    times = f"; {_times(row)}" if row["templates"] > 1 and _times(row) else ""
    tar = row["tar_at_tau"]
    return [
        f"{_percent(tar)} ({100 * tar['low']:.1f}{_TO}{100 * tar['high']:.1f})",
        f"{_rate(row['fmr_at_tau']['value'])}{times}",
        ", ".join(_percent(row[name]) for name in _STRICT),
        _percent(row["rank_1"]),
    ]


def _percent(figure: Mapping[str, float]) -> str:
    return f"{100 * figure['value']:.2f}%"


def _rate(value: float) -> str:
    return f"{1e3 * value:.2f}e-3" if value < 0.1 else f"{100 * value:.0f}%"


def _times(row: Mapping[str, Any] | None) -> str:
    ratio = None if row is None else row["fmr_ratio"]
    if ratio is None or ratio["value"] is None:
        return ""
    return f"{ratio['value']:.2f} ({ratio['low']:.2f}{_TO}{ratio['high']:.2f})"


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [" | ".join(heads), "|".join("---" for _ in heads), *(" | ".join(line) for line in lines)]
    return "\n".join(rows) + "\n"
