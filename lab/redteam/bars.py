"""What the report is held to: each figure beside the bar it must reach, met or not."""

from __future__ import annotations

from typing import Any, Final

from lab.redteam.linking import REFERENCES
from lab.redteam.scene import CLEAN, KEY, OTHER_KEYS, PLAIN, TARGET, WIRE

# Over the acceptance of another person's rebuilt face, a share of 1.
_OVER_FLOOR: Final = 0.005
_D_SYS: Final = 0.02
_RANK_1: Final = 0.003
_FLOOR: Final = "another person's embedding"


def bars(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The bars and whether they are met.

    Args:
        report: outcomes of all attacks.

    Returns:
        for each: ``attacker``, ``figure``, ``value``, ``bar``, ``clean`` (the same figure of unprotected embeddings,
        where there is one), ``by`` (the attack that reached the value) and ``met``.
    """
    rows = [*report["decoders"], *report["adaptive"], *report["inversion"]]
    floor = next(row for row in report["floors"] if row["attack"] == _FLOOR)
    found = [_keyless(rows, floor)]
    if report["stolen"] is not None:
        found.append(_stolen(report, rows, floor))
    found += _linkage(report["linkage"])
    found += _with_key(rows, floor)
    return found


def _type(row: dict[str, Any], kind: str) -> float:
    return float(row[kind][TARGET]["value"])


def _bar(attacker: str, figure: str, value: float, bar: float, by: str, clean: float | None = None) -> dict[str, Any]:
    return {
        "attacker": attacker,
        "figure": figure,
        "value": value,
        "bar": bar,
        "clean": clean,
        "by": by,
        "met": value <= bar + 1e-12,
    }


def _keyless(rows: list[dict[str, Any]], floor: dict[str, Any]) -> dict[str, Any]:
    own = [row for row in rows if row["on"] == WIRE and row["knows"] in {CLEAN, OTHER_KEYS}]
    best = max(own, key=lambda row: _type(row, "type_2"))
    return _bar(
        "without the key, the best of all that rebuild",
        "accepted as the person on another picture",
        _type(best, "type_2"),
        _type(floor, "type_2") + _OVER_FLOOR,
        f"{best['attack']}, {best['knows']}",
        _clean(rows, "type_2"),
    )


def _stolen(report: dict[str, Any], rows: list[dict[str, Any]], floor: dict[str, Any]) -> dict[str, Any]:
    best = max(report["stolen"]["methods"], key=lambda method: float(method["type_2"]["value"]))
    return _bar(
        f"a stolen gallery of {report['stolen']['templates']:,} templates, no pairs",
        "accepted as the person on another picture",
        float(best["type_2"]["value"]),
        _type(floor, "type_2") + _OVER_FLOOR,
        best["method"],
        _clean(rows, "type_2"),
    )


def _linkage(linkage: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for picture in ("another picture", "the same picture"):
        own = [row for row in linkage if row["picture"] == picture and row["how"] not in REFERENCES]
        for figure, name, bar in (("d_sys", "D_sys", _D_SYS), ("rank_1", "rank-1", _RANK_1)):
            worst = max(own, key=lambda row: float(row[figure]))
            who = f"links galleries and epochs that hold {picture} of each person"
            said = f"{name} among {worst['people']:,}" if figure == "rank_1" else name
            found.append(_bar(who, said, float(worst[figure]), bar, f"{worst['how']}, {worst['where']}"))
    return found


def _with_key(rows: list[dict[str, Any]], floor: dict[str, Any]) -> list[dict[str, Any]]:
    """Each at most half the way from the floor to the clean value."""
    own = [row for row in rows if row["knows"] == KEY]
    found = []
    for figure, name in (
        ("ssim", "SSIM"),
        ("type_1", "accepted as the person on the same picture"),
        ("type_2", "accepted as the person on another picture"),
    ):

        def value(row: dict[str, Any], figure: str = figure) -> float:
            return float(row["ssim"]["value"]) if figure == "ssim" else _type(row, figure)

        best = max(own, key=value)
        clean = _clean(rows, figure)
        found.append(
            _bar(
                "has the key and learned to undo", name, value(best), (value(floor) + clean) / 2, best["attack"], clean
            )
        )
    return found


def _clean(rows: list[dict[str, Any]], figure: str) -> float:
    own = [row for row in rows if row["on"] == PLAIN]
    return max(float(row["ssim"]["value"]) if figure == "ssim" else _type(row, figure) for row in own)
