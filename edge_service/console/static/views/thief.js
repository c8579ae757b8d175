// What a thief would see: faces rebuilt from stolen numbers, with and without protection.

import { api } from "../lib/api.js";
import { info, lastPicture, may, session, useStore } from "../lib/state.js";
import { html, percent, t, useAction, useLoad, useState } from "../lib/ui.js";
import { DropZone } from "../parts/pictures/drop_zone.js";
import { Field } from "../parts/field.js";
import { Loading, Note, Problem } from "../parts/messages.js";
import { Page } from "../parts/page.js";
import { shareText } from "../parts/scores/score_scale.js";

// The profile whose rebuilt faces are in rebuilt.webp.
const PICTURED = "default-2";
const KINDS = ["original", "unprotected", "template_with_key", "template_without_key"];

export default function Thief() {
  const about = useStore(info);
  const can = about?.console?.decoder && may("manage");
  return html`<${Page} title=${t("thief.title")} lead=${t("thief.lead")}>
    ${can && html`<${Rebuild} />`}
    ${about && !can && html`<${Published} about=${about} why=${about.console?.decoder ? "thief.needs_manage" : "thief.no_decoder"} />`}
    ${can && html`<details class="card"><summary>${t("thief.published")}</summary><${Measured} about=${about} /></details>`}
  <//>`;
}

function Rebuild() {
  const last = useStore(lastPicture);
  const key = useStore(session).key;
  const listed = useLoad((signal) => api.get("v1/galleries", { query: { limit: 200 }, signal }), [key.id]);
  const names = (listed.data?.items ?? []).map((one) => one.gallery);
  const [chosen, setChosen] = useState(last?.gallery ?? "");
  const gallery = chosen || names[0] || "";
  const [run, state] = useAction(async (file) => {
    setRebuilt(null);
    setRebuilt(await api.upload("v1/rebuild", file, { query: { gallery }, rememberIt: false }));
  });
  const [rebuilt, setRebuilt] = useState(null);
  return html`<div class="stack">
    ${names.length > 1 && html`<${Field} as="select" class="short" label=${t("thief.gallery")} value=${gallery} onInput=${setChosen}>
      ${names.map((one) => html`<option key=${one} value=${one}>${one}</option>`)}<//>`}
    <${DropZone} onPictures=${([first]) => run(first.file)} disabled=${!gallery || state.busy} compact=${Boolean(rebuilt)} />
    ${last?.file && html`<div><button type="button" disabled=${!gallery || state.busy} onClick=${() => run(last.file)}>${t("thief.use_last")}</button></div>`}
    <div aria-live="polite" aria-busy=${state.busy}>
      ${state.busy && html`<${Loading} text=${t("thief.working")} />`}
      <${Problem} error=${state.error} />
      ${rebuilt && html`<ol class="rebuilt">${KINDS.map((kind) => html`<li key=${kind} class="card kind-${kind}">
        <img src=${rebuilt[kind]} alt=${t(`thief.alt.${kind}`)} /><h2>${t(`thief.${kind}`)}</h2><p class="small">${t(`thief.what.${kind}`)}</p></li>`)}</ol>
        <p class="fine">${t("thief.local")}</p>`}
    </div>
  </div>`;
}

function Published({ why, about }) {
  return html`<${Note}><p>${t(why, { command: html`<code>patronus lab export-decoder</code>` })}</p><//><div class="card"><${Measured} about=${about} /></div>`;
}

// Nothing of one profile is shown under another: the pictures are of one alone.
const Measured = ({ about }) => (about.profile.name === PICTURED ? html`<${Figure} />` : html`<${Rates} about=${about} />`);

function Rates({ about }) {
  const found = about.console?.rebuilt;
  if (!found) return html`<p>${t("thief.not_measured", { profile: about.profile.name })}</p>`;
  // None of n: fewer than 3 of n, with 95 % confidence.
  const accepted = (share) => (share > 0 ? percent(share, 3) : shareText(3 / found.people, true));
  return html`<div class="stack"><p>${t("thief.measured", { profile: about.profile.name, n: found.people })}</p>
    <div class="scroll" tabindex="0" role="region" aria-label=${t("thief.accepted")}><table>
      <thead><tr><th scope="col">${t("thief.accepted")}</th><th scope="col">${t("thief.same_photo")}</th><th scope="col">${t("thief.other_photo")}</th></tr></thead>
      <tbody>${["unprotected", "protected"].map((kind) => html`<tr key=${kind}><th scope="row">${t(`thief.from.${kind}`)}</th>
        <td>${accepted(found[`${kind}_same`])}</td><td>${accepted(found[`${kind}_other`])}</td></tr>`)}</tbody></table></div>
    ${about.sealed && html`<p class="small muted">${t("thief.key_protects")}</p>`}</div>`;
}

function Figure() {
  const rows = ["picture", "unprotected", "noise", "protected"];
  return html`<div class="published">
    <img src=${new URL("../rebuilt.webp", import.meta.url)} width="737" height="806" alt=${t("thief.figure_alt")} />
    <div class="stack"><p>${t("thief.caption")}</p>
      <ol>${rows.map((row) => html`<li key=${row}>${t(`thief.row.${row}`)}</li>`)}</ol>
      <p><strong>${t("thief.rates")}</strong></p><p class="small muted">${t("thief.limits")}</p></div>
  </div>`;
}
