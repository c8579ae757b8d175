"""The report as one page that needs nothing beside it: no script, no link, pictures inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape
from typing import Any, Final

import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from lab.attacks.scene import KEY, TARGET

_STYLE: Final = """
:root { color-scheme: light; --ink: #1c2330; --soft: #5b6575; --line: #d9dee6; --good: #0b6b3a; --bad: #a4231b; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); margin: 0 auto; max-width: 100rem; padding: 2rem; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
p { max-width: 48rem; } .soft, figcaption { color: var(--soft); font-size: .92rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .84rem; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; } td.n, th.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
small { color: var(--soft); } .met, .missed { color: var(--good); font-weight: 600; } .missed { color: var(--bad); }
figure { margin: 1rem 0; } figure svg { max-width: 100%; height: auto; }
img { width: 84px; height: 84px; display: block; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .92rem; } dd { margin: 0; }
"""


def html(report: dict[str, Any], gallery: dict[str, NDArray[np.uint8]] | None = None) -> str:
    """The page.

    Args:
        report: of the suite.
        gallery: portraits and what attackers make of them, by column: (m, 112, 112, 3) uint8 RGB each.
    """
    name = report["profile"]["name"]
    missed = [bar for bar in report["bars"] if not bar["met"]]
    verdict = (
        f"{len(missed)} of {len(report['bars'])} bars are <span class=missed>missed</span>."
        if missed
        else f"All {len(report['bars'])} bars are <span class=met>met</span>."
    )
    parts = [
        f"<h1>Attacks on the protection profile &ldquo;{escape(name)}&rdquo;</h1>",
        f"<p class=soft>{escape(report['made'])} · {', '.join(report['layers'])} · embedder "
        f"{escape(report['embedder'])} · threshold cosine {report['tau']:g}"
        + (" · <b>quick run: attackers too weak to publish</b>" if report["quick"] else "")
        + "</p>",
        f"<p>{verdict} Every attacker's score on unprotected embeddings stands beside its score on templates: an "
        "attack that is weak there proves nothing. Shares are in percent, with 95 % intervals over people in small "
        "print.</p>",
        _bars(report),
        _section("Accuracy at the unchanged threshold", _accuracy(report)),
        _gallery(gallery),
        _section("What it costs, and what the best attack still gets", _frontier_figure(report), _frontier(report)),
        _section("Rebuilt faces, by attack and by what the attacker knows", _rebuilt(report)),
        _section("Many templates of one person", _averaging(report)),
        _section("The key: an insider who knows pairs", _pairs(report)) if report["pairs"] else "",
        _section("The key: a stolen gallery, and no pairs", _stolen(report)) if report["stolen"] else "",
        _section("Linkage across galleries and epochs", _linkage(report)),
        _section("One seal for a gallery, or one for each subject", _scopes(report)) if report["scopes"] else "",
        _section("Who is enrolled, and what they are like", _membership(report), _attributes(report)),
        _section("Replay at a running edge", _replay(report)) if report["replay"] else "",
        _section("How it was measured", _method(report)),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Attacks on {escape(name)}</title>\n<style>{_STYLE}</style></head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _section(title: str, *parts: str) -> str:
    return f"<h2>{escape(title)}</h2>\n" + "\n".join(parts)


def _table(caption: str, head: list[str], rows: Iterable[list[str]], numbers: int = 1) -> str:
    """A table; columns from ``numbers`` on hold numbers."""

    def kind(at: int) -> str:
        return " class=n" if at >= numbers else ""

    top = "".join(f"<th scope=col{kind(at)}>{name}</th>" for at, name in enumerate(head))
    body = "\n".join(
        "<tr>" + "".join(f"<td{kind(at)}>{cell}</td>" for at, cell in enumerate(row)) + "</tr>" for row in rows
    )
    return (
        f"<p class=soft>{caption}</p>\n<div class=scroll><table><thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n"
        "</tbody></table></div>"
    )


def _share(share: dict[str, float]) -> str:
    return f"{100 * share['value']:.1f} <small>{100 * share['low']:.1f}&ndash;{100 * share['high']:.1f}</small>"


def _plain(share: dict[str, float] | None, digits: int = 3) -> str:
    return "" if share is None else f"{share['value']:.{digits}f}"


def _bars(report: dict[str, Any]) -> str:
    rows = []
    for bar in report["bars"]:
        whole = bar["figure"].startswith(("accepted", "rank-1"))

        def shown(value: float | None, percent: bool = whole) -> str:
            if value is None:
                return ""
            return f"{100 * value:.2f} %" if percent else f"{value:.3f}"

        mark = "<span class=met>met</span>" if bar["met"] else "<span class=missed>missed</span>"
        who = f"{escape(bar['attacker'])}<br><small>{escape(bar['by'])}</small>"
        cells = [who, escape(bar["figure"]), shown(bar["clean"]), shown(bar["value"]), "≤ " + shown(bar["bar"]), mark]
        rows.append(cells)
    rule = (
        "The bars. Without the key: half a point over how often the same faces are accepted as other people. With the "
        "key: half the way from another person's rebuilt face to what is got of unprotected embeddings. Linkage: D_sys "
        "of 0.02 over chance, and 0.3 % found among all."
    )
    return _table(rule, ["attacker", "figure", "no protection", "measured", "bar", ""], rows, 2)


def _accuracy(report: dict[str, Any]) -> str:
    rows = []
    for name, value in report["accuracy"].items():
        folds = "" if value["ten_fold"] is None else f"{100 * value['ten_fold']:.2f}"
        rows.append(
            [name, _share(value["tar"]), f"{1e3 * value['fmr']:.2f}", folds, f"{100 * value['tar_at_fmr_1e4']:.2f}"]
        )
    head = [
        "embeddings",
        "genuine pairs accepted %",
        "false matches &times;10⁻³",
        "LFW 10 folds %",
        "accepted at FMR 10⁻⁴ %",
    ]
    return _table("People who took no part in any training; both sides protected alike.", head, rows)


def _rebuilt(report: dict[str, Any]) -> str:
    judges = list(report["judges"])
    head = ["attack", "knows", "attacked", "SSIM", "PSNR dB", "perceptual", "face found %", "cosine"]
    for name in judges:
        shown = report["embedder"] if name == TARGET else name
        head += [f"{escape(shown)}<br>same picture %", f"{escape(shown)}<br>another picture %"]
        if name == TARGET:
            head.append("as somebody else %")
    rows = []
    for value in [*report["floors"], *report["decoders"], *report["adaptive"], *report["inversion"]]:
        found = value["found"]
        cells = [
            escape(value["attack"]),
            escape(value["knows"]) or "<small>floor</small>",
            escape(value["on"]),
            _plain(value["ssim"]),
            _plain(value["psnr"], 1),
            _plain(value["perceptual"]),
            "" if found is None else f"{100 * found['value']:.1f}",
            _plain(value["cosine"][TARGET], 2),
        ]
        for name in judges:
            cells += [_share(value["type_1"][name]), _share(value["type_2"][name])]
            if name == TARGET:
                cells.append(f"{100 * value['stranger'][name]['value']:.2f}")
        rows.append(cells)
    thresholds = ", ".join(
        f"{report['embedder'] if name == TARGET else name} at cosine {tau:.3f}"
        for name, tau in report["judges"].items()
    )
    caption = (
        "Shares of rebuilt faces that a matcher accepts as the person; faces that the detector does not find count as "
        f"not accepted. As somebody else: the same faces, on a picture of each other person attacked, which is what "
        f"an attacker gets who learned nothing of this one. Judged by {escape(thresholds)}. Inversion by gradients "
        f"attacks {report['effort']['inverted']} people."
    )
    return _table(caption, head, rows, 3)


def _averaging(report: dict[str, Any]) -> str:
    rows = [
        [
            str(value["averaged"]),
            escape(value["knows"]),
            escape(value["on"]),
            str(value["people"]),
            _plain(value["cosine"][TARGET], 2),
            _share(value["type_2"][TARGET]),
        ]
        for value in report["averaging"]
    ]
    head = ["templates averaged", "knows", "attacked", "people", "cosine", "accepted on a picture not averaged %"]
    return _table("The mean of several templates of a person, rebuilt.", head, rows, 3)


def _pairs(report: dict[str, Any]) -> str:
    points = report["pairs"]
    figure = _figure(_draw_pairs, points, report)
    rows = [[str(p["pairs"]), f"{p['cosine']:.3f}", _share(p["type_1"]), _share(p["type_2"])] for p in points]
    head = ["known pairs", "cosine to the template opened by the key", "same picture %", "another picture %"]
    return figure + _table(
        "The best rotation for n known pairs (orthogonal Procrustes), then a decoder.", head, rows, 0
    )


def _stolen(report: dict[str, Any]) -> str:
    stolen = report["stolen"]
    rows = [
        [
            escape(m["method"]),
            f"{m['cosine']:.3f}",
            _share(m["type_1"]),
            _share(m["type_2"]),
            f"{100 * m['stranger']['value']:.2f}",
        ]
        for m in stolen["methods"]
    ]
    first = _table(
        f"{stolen['templates']:,} templates against {stolen['public']:,} faces of other people under the same profile. "
        f"Open templates of two people have a cosine of {stolen['strangers']:.3f}: a guess at that tells nothing.",
        ["how the key was guessed", "cosine to the open template", "same picture %", "another %", "somebody else %"],
        rows,
    )
    rows = [
        [
            escape(m["has"]),
            escape(m["method"]),
            f"{m['templates']:,}",
            f"{m['pictures']:,}",
            f"{m['cosine']:.3f}",
            f"{100 * m['named']:.1f}",
        ]
        for m in stolen["same_people"]
    ]
    head = ["has", "how the key was guessed", "templates", "pictures", "cosine to the open template", "named %"]
    second = _table(
        "An attacker who has other pictures of people in the gallery, without names. Named: the nearest picture is of "
        "the template's own person, among templates of people of whom there are pictures.",
        head,
        rows,
        2,
    )
    return first + second


def _linkage(report: dict[str, Any]) -> str:
    rows = [
        [
            escape(v["how"]),
            escape(v["picture"]),
            escape(v["where"]),
            f"{v['d_sys']:.3f} <small>{v['d_sys_by_chance']:.3f}</small>",
            f"{100 * v['rank_1']:.2f} <small>{100 * v['rank_1_by_chance']:.2f}</small>",
        ]
        for v in report["linkage"]
    ]
    people = report["linkage"][0]["people"]
    caption = (
        f"{people:,} people in both. In small print what chance gives. Neighbourhoods: how a template lies to all "
        "others of its gallery, which no rotation changes."
    )
    return _table(caption, ["how", "second enrolled with", "where", "D<sub>sys</sub>", "rank-1 %"], rows, 3)


def _scopes(report: dict[str, Any]) -> str:
    rows = [
        [
            escape(v["attack"]),
            escape(v["figure"]),
            *(f"{v[name]:.3f}" for name in ("chance", "one_seal", "a_seal_each")),
        ]
        for v in report["scopes"]
    ]
    caption = (
        "Attacks on a whole gallery at once. A verify-only gallery seals each subject's templates by a rotation of "
        "their own: they cannot be compared with others', by anybody, and nobody can be identified among all."
    )
    return _table(caption, ["attack", "figure", "chance", "one seal", "a seal each (verify-only)"], rows, 2)


def _membership(report: dict[str, Any]) -> str:
    rows = [
        [escape(v["knows"]), f"{v['auc']:.3f} <small>{v['low']:.3f}&ndash;{v['high']:.3f}</small>"]
        for v in report["membership"]
    ]
    return _table(
        "Is the person of this picture enrolled, with another picture? 0.5 is chance.", ["knows", "AUC"], rows
    )


def _attributes(report: dict[str, Any]) -> str:
    if not report["attributes"]:
        return "<p>The attacker's pictures carry no labels of sex and age, so their leakage was not measured.</p>"
    rows = []
    for value in report["attributes"]:
        low, high = value["sex_interval"]
        sex = f"{value['sex_auc']:.3f} <small>{low:.3f}&ndash;{high:.3f}</small>"
        rows.append([escape(value["knows"]), f"{value['learned']:,}", sex, f"{value['age_auc']:.3f}"])
    caption = f"A classifier on {report['attributes'][0]['attacked']:,} faces that it did not learn on; 0.5 is chance."
    return _table(caption, ["knows", "learned on", "sex, AUC", "age band, mean AUC"], rows)


def _replay(report: dict[str, Any]) -> str:
    rows = []
    for name, value in report["replay"].items():
        said = ", ".join(f"{escape(kind)} {count}" for kind, count in sorted(value["answers"].items()))
        rows.append([escape(name), f"{value['accepted']} of {value['people']}", said])
    caption = "Pictures posted to the verify endpoint of an edge with this profile, for people enrolled there."
    return _table(caption, ["shown", "accepted", "the edge's answers"], rows)


def _frontier(report: dict[str, Any]) -> str:
    clean = report["frontier"][0]
    rows = []
    for point in report["frontier"]:
        first, second = point["attacks"].values()
        rows.append(
            [
                escape(point["way"]),
                escape(point["strength"]),
                f"{100 * (clean['tar'] - point['tar']):+.2f}",
                f"{1e3 * point['fmr']:.2f}",
                f"{100 * point['tar_at_fmr_1e3']:.2f}",
                _share(first["type_1"]),
                _share(first["type_2"]),
                _share(second["type_1"]),
                _share(second["type_2"]),
                f"{second['ssim']:.3f}",
            ]
        )
    head = [
        "protection",
        "strength",
        "accuracy lost, points",
        "false matches &times;10⁻³",
        "accepted at FMR 10⁻³ %",
        "clean-trained:<br>same picture %",
        "another %",
        "learned to undo it:<br>same picture %",
        "another %",
        "SSIM",
    ]
    return _table(
        f"Every way to protect, on the same {report['effort']['curve']} people, both sides protected. Accuracy lost is "
        "of genuine pairs at the unchanged threshold. Who learned to undo a sealed profile learned on templates of "
        "another key.",
        head,
        rows,
        2,
    )


def _frontier_figure(report: dict[str, Any]) -> str:
    caption = (
        "Left and low is good. Each line is one protection, from weak to strong; the best of both attackers of the "
        "table. Hollow: more than 1.1 times the false matches of the unprotected matcher."
    )
    return f"<figure>{_figure(_draw_frontier, report['frontier'])}<figcaption>{caption}</figcaption></figure>"


def _draw_frontier(axes: Any, points: list[dict[str, Any]]) -> None:
    clean = points[0]
    groups: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        groups.setdefault(point["way"], []).append(point)
    marks = "osv^D<>pPX*h"
    for at, (name, own) in enumerate(groups.items()):
        x = [100 * (clean["tar"] - p["tar"]) for p in own]
        y = [100 * max(a["type_2"]["value"] for a in p["attacks"].values()) for p in own]
        (line,) = axes.plot(x, y, "-", linewidth=1, alpha=0.7)
        color = line.get_color()
        for number, (p, px, py) in enumerate(zip(own, x, y, strict=True)):
            hollow = p["fmr"] > 1.1 * clean["fmr"]
            face = "none" if hollow else color
            label = name if number == 0 else None
            axes.plot([px], [py], marks[at % len(marks)], color=color, markerfacecolor=face, label=label)
    axes.set_xlabel("genuine pairs lost at the unchanged threshold, points")
    axes.set_ylabel("accepted on another picture, best attack, %")
    axes.set_xscale("symlog", linthresh=1)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def _draw_pairs(axes: Any, points: list[dict[str, Any]], report: dict[str, Any]) -> None:
    counts = [p["pairs"] for p in points]
    for kind, name in (("type_1", "same picture"), ("type_2", "another picture")):
        axes.plot(counts, [100 * p[kind]["value"] for p in points], "o-", label=name)
        reached = max(r[kind][TARGET]["value"] for r in report["adaptive"] if r["knows"] == KEY)
        axes.axhline(100 * reached, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel("known pairs of embedding and template")
    axes.set_ylabel("rebuilt face accepted, %")
    axes.legend(frameon=False)


def _figure(draw: Any, *values: Any) -> str:
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    draw(axes, *values)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def _gallery(gallery: dict[str, NDArray[np.uint8]] | None) -> str:
    if gallery is None:
        return ""
    columns = list(gallery.values())
    rows = [[_picture(column[at]) for column in columns] for at in range(len(columns[0]))]
    caption = "Portraits that were given for this page, and the faces that attackers rebuild of them."
    return _section("What a breach gives back", _table(caption, [escape(name) for name in gallery], rows, len(columns)))


def _picture(pixels: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _method(report: dict[str, Any]) -> str:
    effort = report["effort"]
    training = effort["decoders"]
    facts = {
        "Attackers learned on": f"{report['pictures']:,} pictures of other people, none of whom is attacked",
        "Decoders": f"{', '.join(effort['families'])}; {training['epochs']:g} passes for pixels, then "
        f"{training['identity_steps']} steps of {training['identity_batch']} for identity",
        "Best decoder": f"{report['lead']}, trained on in rounds of {effort['round_steps']} steps until one gained "
        f"nothing (at most {effort['rounds']}); retrained ones had {effort['adapted_steps']} more on templates",
        "Inversion by gradients": f"{effort['inversion_steps']} steps, {effort['restarts']} starts",
        "People attacked": f"{report['people']}, one picture each; another picture of each is what must not be opened",
        "Profile": f"{report['profile']['name']}, SHA-256 {report['profile']['sha256']}",
        "Seed": str(report["seed"]),
    }
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(said)}</dd>" for name, said in facts.items())
    return f"<dl>{items}</dl>"
