"""The report: each figure beside the bar it must reach, and one page that needs nothing beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from lab.attacks.linkage import REFERENCES
from lab.attacks.scopes import D_SYS, RANK_1
from lab.attacks.target import CLEAN, KEY, OTHER_KEYS, PLAIN, WIRE
from lab.evaluation.reconstruction import TARGET

# Over the acceptance of another person's rebuilt face, a share of 1.
_OVER_FLOOR: Final = 0.005
_FLOOR: Final = "another person's embedding"
_ACCEPTED: Final = "accepted as the person, other photo (type II)"
# Of linkage: the figure, its name in the table of the bars and in that of the scopes, and its bar.
_LINKED: Final = (("d_sys", "D_sys, over chance", D_SYS, 0.02), ("rank_1", "rank-1", RANK_1, 0.003))


def bars(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The bars and whether they are met.

    Args:
        report: outcomes of all attacks.

    Returns:
        for each: ``attacker``, ``figure``, ``value``, ``bar``, ``clean`` (the same figure of unprotected embeddings,
        where there is one), ``by`` (the attack that reached the value) and ``met``.
    """
    rows = [*report["decoders"], *report["adaptive"], *report["inversion"]]
    several = [row for row in report["averaging"] if row["averaged"] > 1]
    floor = next(row for row in report["floors"] if row["attack"] == _FLOOR)
    clean = _clean(rows, "type_2")
    keyless = [row for row in [*rows, *several] if row["on"] == WIRE and row["knows"] in {CLEAN, OTHER_KEYS}]
    tried = [(f"{row['attack']}, {row['knows']}", _value(row, "type_2"), _value(row, "stranger")) for row in keyless]
    found = [_over_floor("attacker without the key, the best of all that rebuild", tried, clean)]
    stolen = report["stolen"]
    if stolen is not None:
        who = f"a stolen gallery of {stolen['templates']:,} templates, no pairs, photos of other people"
        tried = [(row["method"], row["type_2"]["value"], row["stranger"]["value"]) for row in stolen["methods"]]
        found.append(_over_floor(who, tried, clean))
    found += _linkage(report["linkage"])
    found += _verify_only(report["scopes"])
    found += _with_key(rows, floor)
    return found


def _value(row: dict[str, Any], figure: str) -> float:
    found = row[figure] if figure == "ssim" else row[figure][TARGET]
    return float(found["value"])


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


def _over_floor(attacker: str, tried: list[tuple[str, float, float]], clean: float) -> dict[str, Any]:
    """Of attacks, their values and floors: the one furthest over its own floor, if one misses; else the largest."""
    by, value, floor = max(tried, key=lambda each: (max(0.0, each[1] - each[2] - _OVER_FLOOR), each[1]))
    return _bar(attacker, _ACCEPTED, value, floor + _OVER_FLOOR, by, clean)


def _linkage(linkage: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for picture in ("other photo", "same photo"):
        own = [row for row in linkage if row["picture"] == picture and row["how"] not in REFERENCES]
        for figure, name, _, bar in _LINKED:
            worst = max(own, key=lambda row: _over_chance(row, figure))
            who = f"links galleries and epochs that hold {picture} of each person"
            by = f"{worst['how']}, {worst['where']}"
            found.append(_bar(who, name, _over_chance(worst, figure), bar, by))
    return found


def _over_chance(row: dict[str, Any], figure: str) -> float:
    """D_sys as estimated of so few pairs is over 0 where nothing is linked; that much is not counted."""
    value = float(row[figure])
    return max(0.0, value - float(row["d_sys_by_chance"])) if figure == "d_sys" else value


def _verify_only(scopes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for row in scopes:
        for _, name, figure, bar in _LINKED:
            if row["figure"] == figure:
                value = row["a_seal_each"] - (row["chance"] if figure == D_SYS else 0.0)
                who = f"{row['attack']}, verify-only galleries"
                found.append(_bar(who, name, max(0.0, value), bar, "the worst of all ways to link"))
    return found


def _with_key(rows: list[dict[str, Any]], floor: dict[str, Any]) -> list[dict[str, Any]]:
    """Each at most half the way from the floor to the clean value."""
    own = [row for row in rows if row["knows"] == KEY]
    found = []
    for figure, name in (
        ("ssim", "SSIM"),
        ("type_1", "accepted as the person, same photo (type I)"),
        ("type_2", _ACCEPTED),
    ):
        best = max(own, key=lambda row: _value(row, figure))
        clean = _clean(rows, figure)
        found.append(
            _bar(
                "attacker with the key, learned to undo",
                name,
                _value(best, figure),
                (_value(floor, figure) + clean) / 2,
                best["attack"],
                clean,
            )
        )
    return found


def _clean(rows: list[dict[str, Any]], figure: str) -> float:
    own = [row for row in rows if row["on"] == PLAIN]
    return max(_value(row, figure) for row in own)


_MARKS: Final = "osv^D<>pPX*h"


def render(report: dict[str, Any], portraits: dict[str, NDArray[np.uint8]] | None = None) -> str:
    """Renders the page.

    Args:
        report: of the suite.
        portraits: portraits and what attackers rebuild from them, by column: (m, 112, 112, 3) uint8 RGB each.
    """
    pages = Environment(loader=PackageLoader("lab.attacks", "."), autoescape=True, undefined=StrictUndefined)
    shown = {name: report["embedder"] if name == TARGET else name for name in report["judges"]}
    columns = [[_png(picture) for picture in pictures] for pictures in (portraits or {}).values()]
    return pages.get_template("report.html.j2").render(
        report=report,
        target=TARGET,
        shown=shown,
        judged_by=", ".join(f"{shown[name]} at cosine {tau:.3f}" for name, tau in report["judges"].items()),
        floor=Markup("<small>floor</small>"),
        portraits=list(portraits or {}),
        portrait_rows=list(zip(*columns, strict=True)),
        frontier_figure=_figure(_draw_frontier, report),
        pairs_figure=_figure(_draw_pairs, report) if report["pairs"] else "",
    )


def _draw_frontier(axes: Any, report: dict[str, Any]) -> None:
    points = report["frontier"]
    clean = points[0]
    groups: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        groups.setdefault(point["way"], []).append(point)
    for at, (name, own) in enumerate(groups.items()):
        x = [100 * (clean["tar"] - p["tar"]) for p in own]
        y = [100 * max(a["type_2"]["value"] for a in p["attacks"].values()) for p in own]
        (line,) = axes.plot(x, y, "-", linewidth=1, alpha=0.7)
        color = line.get_color()
        for number, (p, px, py) in enumerate(zip(own, x, y, strict=True)):
            hollow = p["fmr"] > 1.1 * clean["fmr"]
            face = "none" if hollow else color
            label = name if number == 0 else None
            axes.plot([px], [py], _MARKS[at % len(_MARKS)], color=color, markerfacecolor=face, label=label)
    axes.set_xlabel("genuine pairs lost at the unchanged threshold, points")
    axes.set_ylabel("accepted on the other photo (type II), best attack, %")
    axes.set_xscale("symlog", linthresh=1)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def _draw_pairs(axes: Any, report: dict[str, Any]) -> None:
    points = report["pairs"]
    counts = [p["pairs"] for p in points]
    for kind, name in (("type_1", "same photo (type I)"), ("type_2", "other photo (type II)")):
        axes.plot(counts, [100 * p[kind]["value"] for p in points], "o-", label=name)
        reached = max(r[kind][TARGET]["value"] for r in report["adaptive"] if r["knows"] == KEY)
        axes.axhline(100 * reached, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel("known pairs of embedding and template")
    axes.set_ylabel("rebuilt face accepted, %")
    axes.legend(frameon=False)


def _figure(draw: Callable[[Any, dict[str, Any]], None], report: dict[str, Any]) -> Markup:
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    draw(axes, report)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return Markup(text[text.index("<svg") :])  # made here, of numbers and names of ways


def _png(pixels: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
