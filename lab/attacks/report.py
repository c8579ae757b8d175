"""Renders the report as one page that needs nothing beside it: no script, no link, pictures inside."""

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

from lab.attacks.scene import KEY, TARGET

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
