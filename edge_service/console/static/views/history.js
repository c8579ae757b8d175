// The answers of this tab, newest first. They are in memory alone, and gone with the tab.

import { href } from "../lib/router.js";
import { answers, useStore } from "../lib/state.js";
import { clock, html, known, number, t, useState } from "../lib/ui.js";
import { Empty, Note } from "../parts/messages.js";
import { Page } from "../parts/page.js";
import { saveJson } from "../parts/receipt.js";

const AT_A_TIME = 50;

/** What a request was for: its word in the texts, its gallery and its person. */
function purpose({ method, path }) {
  const names = path.split("/").slice(1).map(decodeURIComponent);
  const gallery = names[0] === "galleries" ? names[1] : null;
  const subject = names[2] === "subjects" ? names[3] : null;
  const last = names.at(-1);
  const word = known(`history.do.${last}`) && names.length !== 2 ? last
    : method === "DELETE" ? "erase"
    : gallery && !names[2] ? (method === "PUT" ? "create" : "change") : "other";
  return { word, gallery, subject };
}

const score = (value) => number(value, { minimumFractionDigits: 3, maximumFractionDigits: 3 });

/** What was answered, in a few words: {kind of badge, text}. */
function outcome({ status, answer, problem }) {
  if (problem) return { kind: "bad", text: problem.detail };
  if (answer?.similarity !== undefined)
    return { kind: answer.decision === "match" ? "good" : "warn",
      text: t(`history.${answer.decision}`, { similarity: score(answer.similarity), threshold: score(answer.threshold) }) };
  if (answer?.faces?.[0]?.candidates) {
    const names = answer.faces.flatMap((face) => face.candidates.slice(0, 1).map((one) => `${one.subject} (${score(one.similarity)})`));
    return names.length ? { kind: "good", text: names.join(", ") } : { kind: "warn", text: t("history.nobody") };
  }
  if (answer?.receipt) return { kind: "good", text: t("history.receipt", { id: String(answer.receipt.id) }) };
  if (answer?.faces_enrolled !== undefined) return { kind: "good", text: t("history.enrolled", { n: answer.faces?.length ?? 0 }) };
  return { kind: "good", text: t("history.ok", { status: String(status) }) };
}

function Entry({ entry }) {
  const { word, gallery, subject } = purpose(entry);
  const { kind, text } = outcome(entry);
  return html`<li class="stack tight">
    <div class="row apart">
      <span><span class="strong">${t(`history.do.${word}`)}</span>${gallery && html`${" "}${word === "erase"
        ? html`<bdi>${subject ?? gallery}</bdi>`
        : html`<a href=${subject ? href("person", { gallery, subject }) : href("people", { gallery })}><bdi>${subject ?? gallery}</bdi></a>`}`}</span>
      <span class="muted small number">${clock(entry.at)} · ${number(Math.round(entry.ms))} ms</span>
    </div>
    <p><span class=${`mark ${kind}`}>${kind === "good" ? "✓" : kind === "warn" ? "○" : "✕"}</span>${" "}<bdi>${text}</bdi></p>
    <details class="small">
      <summary>${t("history.details")}</summary>
      <pre tabindex="0">${`${entry.method} /${entry.path}\nX-Request-ID: ${entry.requestId ?? "–"}\n\n${JSON.stringify(entry.answer ?? entry.problem, null, 2)}`}</pre>
    </details>
  </li>`;
}

export default function History() {
  const list = useStore(answers);
  const [shown, setShown] = useState(AT_A_TIME);
  return html`<${Page} title=${t("history.title")} lead=${t("history.lead")} actions=${list.length > 0 && html`
      <button type="button" onClick=${() => saveJson("answers.json", list)}>${t("history.save")}</button>
      <button type="button" onClick=${() => answers.set([])}>${t("history.clear")}</button>`}>
    ${list.length === 0
      ? html`<${Empty} title=${t("history.none")}><p class="muted">${t("history.none_lead")}</p><//>`
      : html`<ol class="card lines" reversed>${list.slice(0, shown).map((entry) => html`<${Entry} key=${entry.id} entry=${entry} />`)}</ol>`}
    ${list.length > shown && html`<div><button type="button" onClick=${() => setShown(shown + AT_A_TIME)}>${t("history.more")}</button></div>`}
    ${list.length > 0 && html`<${Note}><p>${t("history.memory")}</p><//>`}
  <//>`;
}
