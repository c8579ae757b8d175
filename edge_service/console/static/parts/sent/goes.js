// What went to the cloud: the exact request as text, and each of its parts in one sentence.

import { bytes, html, moment, number, t, useState } from "../../lib/ui.js";
import { bytesOf, headOf, partsOf, segments } from "./request.js";

/** The requests of an answer. Of several, those that carry no new numbers are folded. */
export function Goes({ requests, profile }) {
  if (requests.length === 1) return html`<${Request} request=${requests[0]} profile=${profile} />`;
  const storing = requests.some((one) => purpose(one) === "templates");
  return requests.map((request, at) => html`<details key=${at} open=${storing ? purpose(request) === "templates" : request.decoded.templates.length > 0}>
    <summary>${t("sent.request_of", { n: at + 1, of: requests.length })} ${t(`sent.what.${purpose(request)}`)}</summary>
    <${Request} request=${request} profile=${profile} folded /></details>`);
}

function Request({ request, profile, folded = false }) {
  const parts = partsOf(request);
  const [lit, setLit] = useState(null);
  const [copied, setCopied] = useState(false);
  const text = `${headOf(request)}${request.body ?? ""}`;
  async function copy() {
    await navigator.clipboard.writeText(text);
    setCopied(true);
  }
  return html`<article class="sent-request stack">
    <p>${folded ? "" : t(`sent.what.${purpose(request)}`)} ${t("sent.size", { bytes: bytes(bytesOf(request)) })}</p>
    <ol class="sent-parts">${parts.map((part, index) => html`<li key=${part.kind} class="kind-${part.kind} ${lit === index ? "lit" : ""}"
      onMouseEnter=${() => setLit(index)} onMouseLeave=${() => setLit(null)}>
      <${Part} ...${{ part, index, request, profile }} /></li>`)}</ol>
    <div class="stack tight">
      <div class="row apart"><h3>${t("sent.exact")}</h3>
        ${navigator.clipboard && html`<button type="button" class="quiet small" onClick=${copy}>${t(copied ? "sent.copied" : "sent.copy")}</button>`}</div>
      <pre class="request-text" tabindex="0" aria-label=${t("sent.exact")}>${segments(text, parts).map((piece, key) => (piece.part === null ? piece.text
        : html`<mark key=${key} class="kind-${parts[piece.part].kind} ${lit === piece.part ? "lit" : ""}"><b aria-hidden="true">${piece.part + 1}</b>${piece.text}</mark>`))}</pre>
      <p class="small muted">${t("sent.bearer")} ${request.withheld ? t("sent.withheld") : ""} ${t("sent.answered", { at: moment(request.sent_at), status: String(request.answered ?? "–") })}</p>
    </div>
  </article>`;
}

function purpose(request) {
  const path = request.target.split("?")[0];
  if (path.endsWith("/identify")) return "identify";
  if (path.endsWith("/verify")) return "verify";
  if (request.method === "POST" && path.endsWith("/templates")) return "templates";
  return request.method === "GET" ? "asks" : "other";
}

function Part({ part, index, request, profile }) {
  const { decoded } = request;
  const title = html`<h3><span class="nth" aria-hidden="true">${index + 1}</span> ${t(`sent.part.${part.kind}`, { n: decoded.templates.length, dim: decoded.templates[0]?.dim ?? 128 })}</h3>`;
  if (part.kind === "numbers") {
    const sealed = profile?.sealed !== false;
    return html`${title}<p>${t(sealed ? "sent.numbers.sealed" : "sent.numbers.plain")}</p>
      ${decoded.templates.slice(0, 5).map((template, at) => html`<${Numbers} key=${at} template=${template} />`)}
      ${decoded.templates.length > 5 && html`<p class="small muted">${t("sent.more_faces", { n: decoded.templates.length - 5 })}</p>`}`;
  }
  const shown = { gallery: decoded.gallery, name: decoded.sealed_subject, contract: decoded.contract, id: part.finds[0] }[part.kind];
  return html`${title}<p>${part.kind === "name" && decoded.subject
    ? t("sent.explain.name_of", { name: html`<bdi class="strong">${decoded.subject}</bdi>` }) : t(`sent.explain.${part.kind}`)}</p>
    <p class="mono cut" title=${shown}>${shown}</p>`;
}

function Numbers({ template }) {
  const { values } = template;
  if (!values) return html`<p class="small">${t("sent.digest", { bytes: bytes(template.bytes) })} <span class="mono cut block">sha256 ${template.sha256}</span></p>`;
  const most = Math.max(...values.map(Math.abs), 0.001);
  return html`<svg class="numbers" viewBox="0 0 ${values.length * 3} 40" preserveAspectRatio="none" role="img" aria-label=${t("sent.bars", { n: values.length })}>
      <line x1="0" x2=${values.length * 3} y1="20" y2="20" />
      ${values.map((value, at) => html`<rect key=${at} x=${at * 3 + 0.4} width="2.2" y=${value > 0 ? 20 - (19 * value) / most : 20} height=${(19 * Math.abs(value)) / most} />`)}
    </svg>
    <details><summary class="small">${t("sent.all_numbers", { n: values.length })}</summary>
      <p class="mono values">${values.map((value) => number(value, { minimumFractionDigits: 4, maximumFractionDigits: 4, signDisplay: "always" })).join("  ")}</p></details>`;
}
