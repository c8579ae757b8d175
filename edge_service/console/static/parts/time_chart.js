// A chart of one or two figures over the last minutes, as SVG, with the latest figures in words above it.

import { clock, html, t, useId } from "../lib/ui.js";

const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [480, 150, 46, 22, 10];

/** A round number that is at least this: 1, 2 or 5 times a power of ten. */
export function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

/** A line's path; a missing value leaves a gap. */
function line(points, x, y) {
  let pen = "M";
  return points.map(({ at, value }) => {
    if (value === null) { pen = "M"; return ""; }
    const part = `${pen}${x(at).toFixed(1)} ${y(value).toFixed(1)}${pen === "M" ? "h0" : ""}`; // h0: a point alone is a dot
    pen = "L";
    return part;
  }).join("");
}

/** lines: [{name, points: [{at (ms), value|null}], kind: "" or "second"}]; format(value) writes a figure. */
export function TimeChart({ title, lines, format, minutes = 10 }) {
  const id = useId("chart");
  const all = lines.flatMap(({ points }) => points);
  const to = Math.max(...all.map(({ at }) => at), 0);
  const start = Math.max(Math.min(...all.map(({ at }) => at)), to - minutes * 60_000);
  const from = Math.min(start, to - 60_000);
  const most = ceiling(Math.max(...all.map(({ value }) => value ?? 0), 0));
  const x = (at) => LEFT + ((at - from) / (to - from)) * (WIDTH - LEFT - 6);
  const y = (value) => HEIGHT - BOTTOM - (value / most) * (HEIGHT - BOTTOM - TOP);
  const latest = lines.map(({ name, points, kind = "" }) => {
    const value = points.findLast((point) => point.value !== null)?.value;
    return html`<span key=${name}><span class=${`key ${kind}`} aria-hidden="true"></span>${name}:${" "}
      <span class="strong number">${value === undefined ? "–" : format(value)}</span></span>`;
  });
  return html`<figure class="card stack tight">
    <figcaption class="stack tight"><h3 id=${id}>${title}</h3><p class="row small">${latest}</p></figcaption>
    ${all.length < 2
      ? html`<p class="muted small">${t("chart.soon")}</p>`
      : html`<svg class="chart time" viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-labelledby=${id}>
        ${[0, 0.5, 1].map((share) => html`<g key=${share}>
          <line class="gridline" x1=${LEFT} x2=${WIDTH} y1=${y(share * most)} y2=${y(share * most)} />
          <text x=${LEFT - 6} y=${y(share * most) + 4} text-anchor="end">${format(share * most)}</text></g>`)}
        <text x=${LEFT} y=${HEIGHT - 4}>${clock(from)}</text>
        <text x=${WIDTH} y=${HEIGHT - 4} text-anchor="end">${clock(to)}</text>
        ${lines.map(({ name, points, kind = "" }) => html`<path key=${name} class=${`line ${kind}`} d=${line(points, x, y)} />`)}
      </svg>`}
  </figure>`;
}
