"""The ROC of a profile as a figure: unprotected and protected, one picture and several, for each set of people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib import pyplot as plt

mpl.use("Agg")
_COLORS: Final = {1: "#3b6ea5", 3: "#c8702a", 10: "#3d8b4f"}
_RATES: Final = (1e-5, 1e-2)
_TITLES: Final = {"lfw_unseen": "LFW, unseen people", "wild": "in the wild"}


def draw_roc(name: str, found: Mapping[str, Any], to: Path) -> Path:
    """Draws TAR over the false match rate, which is logarithmic.

    Args:
        name: of the measurement; the figure is ``NAME-roc.svg``.
        found: what ``patronus lab measure`` found of a profile with a network.
        to: folder of the figure.
    """
    to.mkdir(parents=True, exist_ok=True)
    curves = [("unprotected", "--", each) for each in found["clean_curves"]]
    curves += [("protected", "-", each) for each in found["curves"]]
    shown = [each for each in curves if each[2]["tar"] is not None and each[2]["rule"] == "mean"]
    populations = list(dict.fromkeys(each["population"] for _, _, each in shown))
    with mpl.rc_context({"svg.hashsalt": name, "font.size": 8}):
        figure, axes = plt.subplots(1, len(populations), figsize=(4.6 * len(populations), 3.4), squeeze=False)
        for axis, population in zip(axes[0], populations, strict=True):
            for kind, style, each in shown:
                if each["population"] == population:
                    _line(axis, kind, style, each)
            axis.set_xscale("log")
            axis.set_xlim(*_RATES)
            axis.set_ylim(_lowest(each for _, _, each in shown if each["population"] == population) - 1, 100.2)
            axis.set_title(_TITLES.get(population, population))
            axis.set_xlabel("false match rate")
            axis.grid(alpha=0.3)
            axis.legend(fontsize=6, loc="lower right")
        axes[0][0].set_ylabel("genuine comparisons accepted, %")
        figure.tight_layout()
        path = to / f"{name}-roc.svg"
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
    return path


def _line(axis: Any, kind: str, style: str, curve: Mapping[str, Any]) -> None:
    points = [(fmr, 100 * tar) for fmr, tar in zip(curve["fmr"], curve["tar"], strict=True) if fmr > 0]
    pictures = "one picture" if curve["templates"] == 1 else f"mean of {curve['templates']}"
    axis.plot(
        *zip(*points, strict=True), style, color=_COLORS.get(curve["templates"]), lw=1.2, label=f"{pictures}, {kind}"
    )


def _lowest(curves: Iterable[Mapping[str, Any]]) -> float:
    """The lowest TAR within the shown rates, in percent."""
    return 100 * min(
        float(tar)
        for each in curves
        for fmr, tar in zip(each["fmr"], each["tar"], strict=True)
        if _RATES[0] <= fmr <= _RATES[1]
    )
