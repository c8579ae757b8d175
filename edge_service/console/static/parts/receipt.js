// What an erasure, a rename, a merge or a move is proved by: its entry in the cloud's audit log.

import { api, path } from "../lib/api.js";
import { bytes, html, moment, t, useEffect, useState } from "../lib/ui.js";
import { Dialog } from "./dialog.js";
import { Note } from "./messages.js";

const CHECK_EVERY_MS = 3000;

/** Saves a value as a JSON file of this computer. */
export function saveJson(name, value) {
  const blob = new Blob([JSON.stringify(value, null, 2)], { type: "application/json" });
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  return bytes(blob.size);
}

/** A file's name made of other names: what a file system may refuse is replaced. */
export const fileName = (...names) => `${names.join("-").replace(/[^\p{L}\p{N}._-]+/gu, "_").slice(0, 100)}.json`;

export const ReceiptFacts = ({ receipt }) => html`<dl class="facts small">
  <dt>${t("receipt.id")}</dt><dd class="number">${String(receipt.id)}</dd>
  <dt>${t("receipt.at")}</dt><dd>${moment(receipt.at)}</dd>
  <dt>${t("receipt.digest")}</dt><dd class="mono">${receipt.digest}</dd>
</dl>`;

/** The receipt of an erasure. While bytes are pending on the cloud's disk it asks whether they are gone. */
export function ErasedDialog({ gallery, what, erased, close }) {
  const [pending, setPending] = useState(erased.pending);
  useEffect(() => {
    if (!pending.length) return undefined;
    const timer = setInterval(() => {
      api.get(path("v1/galleries", gallery, "erasures", String(erased.receipt.id)))
        .then((state) => setPending(state.pending), () => {});
    }, CHECK_EVERY_MS);
    return () => clearInterval(timer);
  }, [pending.length]);
  return html`<${Dialog} title=${t("erased.title")} close=${close}>
    <p>${t("erased.what", { what: html`<bdi class="strong">${what}</bdi>` })}
      ${" "}${t("erased.people", { n: erased.subjects })}, ${t("erased.faces", { n: erased.templates })}.</p>
    ${pending.length
      ? html`<${Note} kind="warn"><p role="status">${t("erased.pending")}</p><//>`
      : html`<${Note} kind="good"><p role="status">${t("erased.done")}</p><//>`}
    <${ReceiptFacts} receipt=${erased.receipt} />
    <p class="small muted">${t("receipt.keep")}</p>
    <div class="row end">
      <button type="button" onClick=${() => saveJson(fileName("receipt", gallery, erased.receipt.id), { gallery, ...erased, pending })}>
        ${t("receipt.save")}</button>
      <button type="button" class="primary" onClick=${close}>${t("close")}</button>
    </div>
  <//>`;
}
