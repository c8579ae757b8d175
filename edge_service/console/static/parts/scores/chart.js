// Drawing measured curves: axes, lines and areas in SVG, at the width that the page gives.

import { html, percent, useEffect, useRef, useState } from "../../lib/ui.js";

/** [ref, width]: the width of an element in CSS pixels, kept up to date. */
export function useWidth(first = 600) {
  const ref = useRef(null);
  const [width, setWidth] = useState(first);
  useEffect(() => {
    const watcher = new ResizeObserver(([entry]) => setWidth(Math.max(200, Math.round(entry.contentRect.width))));
    watcher.observe(ref.current);
    return () => watcher.disconnect();
  }, []);
  return [ref, width];
}

/** Maps [low, high] to [from, to]. */
export function linear(low, high, from, to) {
  return (value) => from + ((value - low) / (high - low)) * (to - from);
}

/** The outline of a histogram as the path of a filled area; `bins` of rates.shares. */
export function areaPath(bins, x, y) {
  if (!bins.length) return "";
  const base = y(0).toFixed(1);
  const steps = bins.map((bin) => {
    const middle = (bin.from + bin.to) / 2;
    return `${x(middle).toFixed(1)},${y(bin.share).toFixed(1)}`;
  });
  return `M${x(bins[0].from).toFixed(1)},${base}L${steps.join("L")}L${x(bins.at(-1).to).toFixed(1)},${base}Z`;
}

/** A line through points, left out where a value is null. */
export function linePath(points, x, y) {
  let path = "";
  let pen = "M";
  for (const [at, value] of points) {
    if (value === null) {
      pen = "M";
    } else {
      path += `${pen}${x(at).toFixed(1)},${y(value).toFixed(1)}`;
      pen = "L";
    }
  }
  return path;
}

/**
 * Rates over thresholds, on a logarithmic axis. `lines`: [{name, points: [[cosine, rate|null]]}], named by CSS class.
 * `marks`: [{at, name, label}], vertical lines. `low`, `high`: the range of thresholds; `least`: the lowest rate drawn.
 */
export function RateChart({ lines, marks, low, high, least = 1e-6, title, onPick = null }) {
  const [ref, width] = useWidth();
  const height = Math.round(Math.min(340, Math.max(220, width * 0.42)));
  const [left, right, top, bottom] = [58, 12, 24, 26];
  const x = linear(low, high, left, width - right);
  const log = linear(Math.log10(least), 0, height - bottom, top);
  const y = (rate) => log(Math.max(Math.log10(least), Math.log10(Math.max(rate, 1e-12))));
  const powers = [];
  for (let power = 0; power >= Math.round(Math.log10(least)); power -= 1) powers.push(power);
  const ticks = [];
  for (let at = Math.ceil(low * 10); at <= high * 10 + 1e-9; at += 1) ticks.push(at / 10);
  function pick(event) {
    if (!onPick || !(event.buttons & 1 || event.type === "click")) return;
    const box = event.currentTarget.getBoundingClientRect();
    const at = low + ((event.clientX - box.left - left) / (width - left - right)) * (high - low);
    onPick(Math.min(high, Math.max(low, at)));
  }
  return html`<div class="plot" ref=${ref}><svg role="img" aria-label=${title} width=${width} height=${height}
    onClick=${pick} onPointerMove=${pick}>
    ${powers.map((power) => html`<g key=${power} class="grid"><line x1=${left} x2=${width - right} y1=${y(10 ** power)} y2=${y(10 ** power)} />
      <text x=${left - 6} y=${y(10 ** power) + 4} text-anchor="end">${percent(10 ** power, 1)}</text></g>`)}
    ${ticks.map((at) => html`<g key=${`x${at}`} class="grid"><text x=${x(at)} y=${height - 8} text-anchor="middle">${at.toFixed(1)}</text></g>`)}
    ${lines.map((line) => html`<path key=${line.name} class="line ${line.name}" d=${linePath(line.points.filter(([at]) => at >= low && at <= high), x, y)} />`)}
    ${marks.map((mark) => html`<g key=${mark.name} class="mark ${mark.name}"><line x1=${x(mark.at)} x2=${x(mark.at)} y1=${top - 6} y2=${height - bottom} />
      <text x=${x(mark.at)} y=${top - 10} text-anchor=${x(mark.at) > width * 0.8 ? "end" : x(mark.at) < width * 0.25 ? "start" : "middle"}>${mark.label}</text></g>`)}
  </svg></div>`;
}
