// A similarity on its scale: the gallery's threshold, what was measured of the same person and of different people,
// and in words how often a stranger would score as high.

import { html, known as hasText, number, percent, t } from "../../lib/ui.js";
import { areaPath, linear, useWidth } from "./chart.js";
import { anyOf, asShare, curvesOf, shares, worstAt } from "./rates.js";

const LOW = -0.3;
const HIGH = 1;

/** A share as words, such as `about 1 of 20,000`; `bound`: `fewer than 1 of 20,000`. */
export function shareText(rate, bound = false) {
  const { key, n } = asShare(rate);
  return t(bound ? `share.${key}.bound` : `share.${key}`, { n: number(n) });
}

/** How often a stranger scores as high: in one comparison, and against all people of a gallery. */
export function StrangerWords({ similarity, curves, rule, people, faces }) {
  const chosen = curvesOf(curves, rule, faces);
  const worst = chosen.length ? worstAt(chosen, similarity) : null;
  if (!worst) return html`<p class="words">${t("score.no_curves")}</p>`;
  const once = t("score.once", { share: shareText(worst.rate, worst.bound) });
  const any = people > 1
    ? t("score.any", { people: number(people), share: shareText(anyOf(worst.rate, people), worst.bound) }) : "";
  return html`<p class="words">${once} ${any}</p>
    <p class="fine">${t(worst.bound ? "score.bound" : "score.source", { pairs: number(worst.curve.impostor_pairs), people: populationText(worst.curve) })}</p>`;
}

export function populationText(curve) {
  const known = { lfw_unseen: "population.lfw", wild: "population.wild", utk: "population.utk" };
  return known[curve.population] ? t(known[curve.population]) : curve.population;
}

/**
 * A threshold and its false match rate in words, with the people that the rate was measured on. A gallery's own rate is
 * known to be measured where it is the default one; else it is as somebody stated it.
 */
export function thresholdText(threshold, about) {
  const usual = about?.default_threshold;
  const same = usual?.cosine === threshold.cosine && usual?.fmr === threshold.fmr;
  const key = `threshold.measured_on.${about?.fmr_measured_on}`;
  return t("gallery.threshold_at", {
    cosine: number(threshold.cosine, { maximumSignificantDigits: 4 }), fmr: percent(threshold.fmr),
    people: t(same && hasText(key) ? key : "threshold.measured_on.operator"),
  });
}

/**
 * The scale. `similarity` may be null (only the threshold is drawn). `gallery`: {subjects, templates, score}.
 */
export function ScoreScale({ similarity, threshold, decision = null, curves, rule = "mean", gallery = null, words = true }) {
  const [ref, width] = useWidth();
  const faces = gallery?.subjects ? gallery.templates / gallery.subjects : 1;
  const chosen = curvesOf(curves, rule, faces);
  const curve = chosen.find((one) => one.genuine_histogram) ?? chosen[0] ?? null;
  const [top, height, base] = [46, 168, 140];
  const x = linear(LOW, HIGH, 8, width - 8);
  const different = curve ? shares(curve.impostor_histogram, LOW, HIGH) : [];
  const same = curve?.genuine_histogram ? shares(curve.genuine_histogram, LOW, HIGH) : [];
  const peak = Math.max(0.001, ...different.map((bin) => bin.share), ...same.map((bin) => bin.share));
  const y = linear(0, peak, base, top);
  const middle = (bins) => bins.reduce((best, bin) => (bin.share > best.share ? bin : best), { share: -1, from: 0, to: 0 });
  const crest = (bins) => (middle(bins).from + middle(bins).to) / 2;
  const anchor = (at) => (at > width - 90 ? "end" : at < 90 ? "start" : "middle");
  const here = similarity === null ? null : x(Math.max(LOW, Math.min(HIGH, similarity)));
  const line = x(threshold);
  // The words beside the genuine scores stand clear of the mark.
  let beside = Math.max(x(crest(same)), x(crest(different)) + 104);
  const near = here !== null && Math.abs(here - beside) < 56;
  if (near) beside = here - 8;
  const spoken = similarity === null ? t("score.spoken_threshold", { threshold: threshold.toFixed(3) })
    : t("score.spoken", { similarity: similarity.toFixed(3), threshold: threshold.toFixed(3) });
  return html`<div class="score-scale" ref=${ref}>
    <svg role="img" aria-label=${spoken} width=${width} height=${height}>
      <rect class="accepts" x=${line} y=${base} width=${Math.max(0, width - 8 - line)} height="6" />
      <rect class="rejects" x="8" y=${base} width=${Math.max(0, line - 8)} height="6" />
      <path class="area different" d=${areaPath(different, x, y)} />
      <path class="area same" d=${areaPath(same, x, y)} />
      ${different.length > 0 && html`<text class="legend different" x=${x(crest(different))} y=${top - 6} text-anchor=${anchor(x(crest(different)))}>${t("score.different")}</text>`}
      ${same.length > 0 && html`<text class="legend same" x=${beside} y=${y(middle(same).share) - 8}
        text-anchor=${near || beside > width - 45 ? "end" : "middle"}>${t("score.same")}</text>`}
      <g class="threshold"><line x1=${line} x2=${line} y1=${top} y2=${base + 6} />
        <text x=${line} y=${height - 6} text-anchor=${anchor(line)}>${t("score.threshold", { threshold: threshold.toFixed(3) })}</text></g>
      ${here !== null && html`<g class="here ${decision ?? ""}"><line x1=${here} x2=${here} y1="22" y2=${base + 6} />
        <circle cx=${here} cy=${base + 3} r="6" />
        <text x=${here} y="16" text-anchor=${anchor(here)}>${similarity.toFixed(3)}</text></g>`}
    </svg>
    ${words && similarity !== null && html`<${StrangerWords} ...${{ similarity, curves, rule, faces, people: gallery?.subjects ?? 1 }} />`}
  </div>`;
}

/** The false match rate that a threshold was given with, in words, where there are no measured curves. */
export function ReferenceWords({ answer, curves }) {
  if (curves?.length || !(answer.reference_fmr > 0)) return null;
  return html`<p class="words">${t("score.reference", { share: shareText(answer.reference_fmr) })}</p>`;
}

