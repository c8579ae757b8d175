// What runs, whether it is well, who may call it, and what it did over the last minutes.

import { api, path } from "../lib/api.js";
import { quantile, samples, series } from "../lib/metrics.js";
import { info, mayEverywhere, reachable, session, toast, toastError, useStore } from "../lib/state.js";
import { bytes, date, html, known, moment, number, t, useAction, useEffect, useLoad } from "../lib/ui.js";
import { Loading, Note, Problem } from "../parts/messages.js";
import { Page } from "../parts/page.js";
import { thresholdText } from "../parts/scores/score_scale.js";
import { TimeChart } from "../parts/time_chart.js";

const CHECK_EVERY_MS = 10_000;

/** The checks of /readyz, also where it answers that something is wrong. */
async function readiness(signal) {
  try {
    return await api.get("readyz", { signal });
  } catch (error) {
    if (error.checks) return error;
    throw error;
  }
}

function Health() {
  const found = useLoad(readiness, []);
  const { edge, cloud } = useStore(reachable);
  useEffect(() => {
    const timer = setInterval(found.reload, CHECK_EVERY_MS);
    return () => clearInterval(timer);
  }, [edge, cloud]);
  const checks = Object.entries(found.data?.checks ?? {});
  return html`<section class="card stack">
    <h2>${t("system.health")}</h2>
    <${Problem} error=${found.error} retry=${found.reload} />
    ${!found.data && found.loading && html`<${Loading} />`}
    <div role="status"><ul class="lines">
      ${!found.error && checks.map(([name, good]) => html`<li key=${name} class="row apart">
        <span>${known(`system.check.${name}`) ? t(`system.check.${name}`) : name}</span>
        <span class=${`badge ${good ? "good" : "bad"}`}>${t(good ? "system.good" : "system.bad")}</span>
      </li>`)}
    </ul></div>
  </section>`;
}

const Digest = ({ children }) => html`<span class="mono muted" title=${children}>${children.slice(0, 16)}…</span>`;

function Parts({ about }) {
  const { embedder, profile, default_threshold: threshold } = about;
  return html`<section class="card stack">
    <h2>${t("system.runs")}</h2>
    <dl class="facts">
      <dt>${t("system.version")}</dt><dd>Patronus ${about.version}</dd>
      <dt>${t("system.profile")}</dt><dd>${profile.name} <${Digest}>${profile.sha256}<//></dd>
      <dt>${t("system.embedder")}</dt><dd>${embedder.name} <${Digest}>${embedder.sha256}<//></dd>
      <dt>${t("system.template")}</dt><dd>${t(about.sealed ? "system.template_sealed" : "system.template_plain", { n: about.dim })}</dd>
      <dt>${t("system.threshold")}</dt>
      <dd>${threshold ? thresholdText(threshold, about) : t("system.no_threshold")}</dd>
      <dt>${t("system.pictures")}</dt>
      <dd>${t("system.pictures_are", { formats: about.formats.join(", "), size: bytes(about.max_picture_bytes),
        pixels: number(about.max_pixels / 1e6), n: about.max_pictures_a_request })}</dd>
    </dl>
    ${!about.sealed && html`<${Note} kind="warn"><p>${t("system.not_sealed")}</p><//>`}
  </section>`;
}

const milliseconds = (seconds) => `${number(seconds * 1000, { maximumSignificantDigits: 3 })} ms`;
const perSecond = (value) => number(value, { maximumSignificantDigits: 2 });

function Activity() {
  const list = useStore(samples);
  const rate = (member) => series(list, (before, after, seconds) => (after[member] - before[member]) / seconds);
  const [first, last] = [list[0], list.at(-1)];
  const minutes = last ? Math.min(10, Math.max(1, Math.round((last.at - first.at) / 60_000))) : 1;
  const steps = Object.entries(last?.steps ?? {}).map(([name, [count, sum]]) => {
    const [countBefore, sumBefore] = first.steps[name] ?? [0, 0];
    return { name, count: count - countBefore, mean: (sum - sumBefore) / (count - countBefore) };
  }).filter(({ count }) => count > 0);
  return html`<section class="stack">
    <h2>${t("system.activity", { n: minutes })}</h2>
    <div class="halves">
      <${TimeChart} title=${t("chart.requests")} format=${perSecond} lines=${[
        { name: t("chart.answered"), points: rate("requests") }, { name: t("chart.refused"), points: rate("refused"), kind: "second" }]} />
      <${TimeChart} title=${t("chart.time")} format=${milliseconds} lines=${[
        { name: t("chart.median"), points: series(list, (before, after) => quantile(before, after, 0.5)) },
        { name: t("chart.slowest"), points: series(list, (before, after) => quantile(before, after, 0.95)), kind: "second" }]} />
      <${TimeChart} title=${t("chart.faces")} format=${perSecond} lines=${[{ name: t("chart.protected"), points: rate("faces") }]} />
      ${steps.length > 0 && html`<div class="card flush"><div class="scroll" tabindex="0" role="region" aria-label=${t("system.steps")}><table>
        <caption class="hidden-text">${t("system.steps")}</caption>
        <thead><tr><th scope="col">${t("system.step")}</th><th scope="col" class="number">${t("system.times")}</th>
          <th scope="col" class="number">${t("system.mean")}</th></tr></thead>
        <tbody>${steps.map(({ name, count, mean }) => html`<tr key=${name}><th scope="row">${name.replaceAll("_", " ")}</th>
          <td class="number">${number(count)}</td><td class="number">${milliseconds(mean)}</td></tr>`)}</tbody>
      </table></div></div>`}
    </div>
    <p class="small muted">${t("system.activity_note")}</p>
  </section>`;
}

const Scopes = ({ scopes }) => html`<span class="row tight">${scopes.map((scope) => html`<span key=${scope} class="badge accent">${scope}</span>`)}</span>`;
const galleriesOf = (key) => (key.galleries === null ? t("system.all_galleries") : key.galleries.join(", "));

function OwnKey({ own }) {
  return html`<section class="card stack">
    <h2>${t("system.own_key")}</h2>
    <dl class="facts">
      <dt>${t("system.label")}</dt><dd><bdi>${own.label}</bdi> <span class="mono muted">${own.id}</span></dd>
      <dt>${t("system.scopes")}</dt><dd><${Scopes} scopes=${own.scopes} /></dd>
      <dt>${t("system.key_galleries")}</dt><dd>${galleriesOf(own)}</dd>
      <dt>${t("system.rate")}</dt><dd>${own.rate ?? t("system.usual_rate")}</dd>
      ${own.expires_at && html`<dt>${t("people.expires")}</dt><dd>${moment(own.expires_at)}</dd>`}
    </dl>
  </section>`;
}

function Keys({ own }) {
  const found = useLoad((signal) => api.get("v1/keys", { signal }), []);
  const [end] = useAction(async (key) => {
    try {
      await api.send("POST", path("console/sign-out", key.id), undefined, { rememberIt: false });
      toast(t("system.ended"));
    } catch (refused) {
      toastError(refused);
    }
    found.reload();
  });
  const keys = [...(found.data?.keys ?? [])].sort((one, other) => Boolean(one.revoked_at) - Boolean(other.revoked_at));
  return html`<section class="stack">
    <h2>${t("system.keys")}</h2>
    <${Problem} error=${found.error} retry=${found.reload} />
    ${!found.data && found.loading && html`<${Loading} />`}
    ${keys.length > 0 && html`<div class="card flush"><div class="scroll" tabindex="0" role="region" aria-label=${t("system.keys")}><table class="keys">
      <caption class="hidden-text">${t("system.keys")}</caption>
      <thead><tr><th scope="col">${t("system.label")}</th><th scope="col">${t("system.scopes")}</th>
        <th scope="col">${t("system.key_galleries")}</th><th scope="col" class="large-only">${t("system.rate")}</th>
        <th scope="col" class="large-only">${t("system.made")}</th><th scope="col">${t("system.ends")}</th><th scope="col">${t("system.state")}</th></tr></thead>
      <tbody>${keys.map((key) => html`<tr key=${key.id}>
        <th scope="row"><bdi>${key.label}</bdi><br /><span class="mono muted">${key.id}</span></th>
        <td><${Scopes} scopes=${key.scopes} /></td><td>${galleriesOf(key)}</td>
        <td class="large-only nowrap">${key.rate ?? t("system.usual_rate")}</td><td class="large-only nowrap">${date(key.created_at)}</td>
        <td class="nowrap">${key.expires_at ? moment(key.expires_at) : t("system.never")}</td>
        <td>${key.revoked_at ? html`<span class="badge bad">${t("system.revoked", { at: date(key.revoked_at) })}</span>`
          : html`<span class="badge good">${t(key.id === own.id ? "system.yours" : "system.valid")}</span>`}
          ${key.expires_at && key.id !== own.id && html` <button type="button" class="small" onClick=${() => end(key)} aria-label=${t("system.end_label", { id: key.id })}>${t("system.end")}</button>`}</td>
      </tr>`)}</tbody>
    </table></div></div>`}
    <p class="small muted">${t("system.keys_note")} <code>patronus edge keys create</code>, <code>patronus edge keys revoke</code></p>
  </section>`;
}

export default function System() {
  const about = useStore(info);
  const { key } = useStore(session);
  return html`<${Page} title=${t("system.title")} lead=${t("system.lead")}>
    <div class="halves">
      <${Health} />
      <${OwnKey} own=${key} />
    </div>
    ${about && html`<${Parts} about=${about} />`}
    <${Activity} />
    ${mayEverywhere("manage") && html`<${Keys} own=${key} />`}
  <//>`;
}
