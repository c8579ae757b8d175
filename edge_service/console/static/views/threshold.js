// The threshold explorer: what a threshold costs and what it lets through, as measured for the gallery's profile.

import { api, path } from "../lib/api.js";
import { info, may, toast, useStore } from "../lib/state.js";
import { html, number, percent, t, useAction, useEffect, useState } from "../lib/ui.js";
import { RateChart } from "../parts/scores/chart.js";
import { Field } from "../parts/field.js";
import { Button, Loading, Note, Problem } from "../parts/messages.js";
import { GalleryPage } from "../parts/page.js";
import { anyOf, bandsOf, curvesOf, fmrAt, tarAt, worstAt } from "../parts/scores/rates.js";
import { populationText, ScoreScale, shareText, thresholdText } from "../parts/scores/score_scale.js";
import { useGallery } from "../parts/use_gallery.js";

const [LOW, HIGH, STEP] = [0, 0.9, 0.005];

export default function Threshold({ params }) {
  const { gallery, curves, error, loaded, reload } = useGallery(params.gallery);
  return html`<${GalleryPage} gallery=${params.gallery} view="threshold" title=${t("threshold.title")} lead=${t("threshold.lead")}>
    <${Problem} error=${error} retry=${reload} />
    ${!gallery || !loaded ? !error && html`<${Loading} />`
      : curves.length ? html`<${Explorer} ...${{ gallery, curves, reload }} />`
      : html`<${Note}>${t("threshold.no_curves", { threshold: gallery.threshold.cosine.toFixed(3), share: shareText(gallery.threshold.fmr) })}<//>`}
  <//>`;
}

function Explorer({ gallery, curves, reload }) {
  const rule = gallery.score.rule;
  const faces = gallery.subjects ? gallery.templates / gallery.subjects : 1;
  const chosen = curvesOf(curves, rule, faces);
  const set = gallery.threshold.cosine;
  const about = useStore(info);
  const [at, setAt] = useState(set);
  const [people, setPeople] = useState(String(Math.max(1, gallery.subjects)));
  useEffect(() => setAt(set), [set]);
  const known = Number.isInteger(Number(people)) && Number(people) >= 1 && Number(people) <= 1e9;
  const n = known ? Number(people) : 1;
  const worst = worstAt(chosen, at);
  const rejecting = chosen.map((curve) => ({ curve, tar: tarAt(curve, at) })).filter((one) => one.tar !== null).sort((one, other) => one.tar - other.tar)[0];
  const grid = worst.curve.thresholds;
  const lines = [
    { name: "once", points: grid.map((x) => [x, worstAt(chosen, x).rate]) },
    { name: "any", points: grid.map((x) => [x, anyOf(worstAt(chosen, x).rate, n)]) },
    { name: "missed", points: grid.map((x) => [x, rejecting ? Math.max(1 - tarAt(rejecting.curve, x), 3 / rejecting.curve.genuine_pairs) : null]) },
  ];
  const [save, saving] = useAction(async () => {
    await api.send("PATCH", path("v1/galleries", gallery.gallery), { threshold: { cosine: Number(at.toFixed(4)), fmr: worst.rate } });
    toast(t("threshold.saved", { threshold: at.toFixed(3) }));
    reload();
  });
  const changed = Math.abs(at - set) >= 0.0005;
  const any = anyOf(worst.rate, n);
  return html`<div class="card stack">
      <div class="slider"><label for="threshold">${t("threshold.slide")} <output for="threshold" class="large">${at.toFixed(3)}</output></label>
        <input id="threshold" type="range" min=${LOW} max=${HIGH} step=${STEP} value=${at} onInput=${(event) => setAt(Number(event.target.value))}
          aria-valuetext=${t("threshold.spoken", { threshold: at.toFixed(3), share: shareText(worst.rate, worst.bound) })} /></div>
      <div class="row apart">
        <${Field} class="short" type="number" min="1" step="1" label=${t("threshold.people")} value=${people} onInput=${setPeople} wrong=${known ? null : t("threshold.people_wrong")} />
        <div class="row">${changed && html`<button type="button" onClick=${() => setAt(set)}>${t("threshold.back", { threshold: set.toFixed(3) })}</button>`}
          ${changed && may("manage", gallery.gallery) && html`<${Button} class="primary" busy=${saving.busy} onClick=${save}>${t("threshold.save", { threshold: at.toFixed(3) })}<//>`}</div>
      </div>
      <${Problem} error=${saving.error} />
    </div>
    <div class="outcomes" aria-live="polite">
      <div class="card outcome once"><h2>${t("threshold.once")}</h2><p class="large">${shareText(worst.rate, worst.bound)}</p><p class="small muted">${t("threshold.once_what")} ${t("threshold.once_of", { people: populationText(worst.curve) })}</p></div>
      <div class="card outcome any"><h2>${t("threshold.any", { n })}</h2><p class="large">${shareText(any, worst.bound)}</p><p class="small muted">${t("threshold.any_what", { n })}</p></div>
      <div class="card outcome missed"><h2>${t("threshold.missed")}</h2><p class="large">${rejecting ? shareText(Math.max(1 - rejecting.tar, 3 / rejecting.curve.genuine_pairs), 1 - rejecting.tar < 3 / rejecting.curve.genuine_pairs) : "–"}</p>
        <p class="small muted">${rejecting ? t("threshold.missed_what", { share: percent(rejecting.tar, 3) }) : t("threshold.missed_unknown")}</p></div>
    </div>
    <div class="card stack"><h2>${t("threshold.chart")}</h2>
      <ul class="line-key">${lines.map((line) => html`<li key=${line.name} class=${line.name}>${t(`threshold.line.${line.name}`, { n })}</li>`)}</ul>
      <${RateChart} lines=${lines} low=${LOW} high=${HIGH} title=${t("threshold.chart_alt")} onPick=${(value) => setAt(Math.round(value / STEP) * STEP)}
        marks=${[...(changed ? [{ at: set, name: "set", label: t("threshold.mark_set") }] : []), { at, name: "here", label: at.toFixed(3) }]} />
      <p class="fine">${t("threshold.stated", { stated: thresholdText(gallery.threshold, about) })}</p>
      <p class="fine">${t("threshold.source", { pairs: number(worst.curve.impostor_pairs), people: populationText(worst.curve), faces: worst.curve.templates })}</p></div>
    <div class="card stack"><h2>${t("threshold.scores")}</h2>
      <${ScoreScale} similarity=${null} threshold=${at} curves=${curves} rule=${rule} gallery=${gallery} words=${false} /></div>
    <${Bands} ...${{ curves, rule, at, n }} />`;
}

function Bands({ curves, rule, at, n }) {
  const bands = bandsOf(curves, rule);
  if (!bands.length) return html`<${Note}>${t("threshold.no_bands")}<//>`;
  const rows = bands.map((curve) => ({ band: curve.band, pairs: curve.impostor_pairs, ...fmrAt(curve, at) }));
  const most = Math.log10(Math.max(...rows.map((row) => row.rate)));
  return html`<div class="card stack"><h2>${t("threshold.bands")}</h2><p class="muted">${t("threshold.bands_what")}</p>
    <div class="scroll" tabindex="0" role="region" aria-label=${t("threshold.bands")}><table class="bands"><thead><tr><th scope="col">${t("threshold.age")}</th><th scope="col">${t("threshold.one_comparison")}</th><th scope="col" class="wide"><span class="hidden-text">${t("threshold.bar")}</span></th><th scope="col" class="number">${t("threshold.of_gallery", { n })}</th></tr></thead>
      <tbody>${rows.map((row) => html`<tr key=${row.band}><th scope="row" class="nowrap">${t("threshold.years", { band: row.band })}</th><td>${shareText(row.rate, row.bound)}</td>
        <td class="wide"><span class="bar" style=${{ inlineSize: `${Math.max(3, 100 * ((Math.log10(row.rate) + 7) / (most + 7)))}%` }}></span></td>
        <td class="number">${percent(anyOf(row.rate, n))}</td></tr>`)}</tbody></table></div>
    <p class="fine">${t("threshold.bands_source", { pairs: number(Math.min(...rows.map((row) => row.pairs))) })}</p></div>`;
}
