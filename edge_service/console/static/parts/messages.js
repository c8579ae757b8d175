// What a view says of itself: it loads, something failed, nothing is there yet, something was done.

import { closeToast, toasts, useStore } from "../lib/state.js";
import { html, t } from "../lib/ui.js";

export const Loading = ({ text }) => html`<div class="loading" role="status">${text ?? t("loading")}</div>`;

/** An error in a plain sentence, with the request's id for the operator, and a button that tries again. */
export function Problem({ error, retry }) {
  if (!error) return null;
  return html`<div class="note bad" role="alert">
    <div class="grow">
      <p>${error.detail ?? error.message}</p>
      ${error.requestId && html`<p class="small muted">${t("problem.request", { id: error.requestId })}</p>`}
      ${retry && html`<div><button type="button" class="small" onClick=${retry}>${t("problem.retry")}</button></div>`}
    </div>
  </div>`;
}

/** kind: "", "good", "warn" or "bad". */
export const Note = ({ kind = "", children }) =>
  html`<div class=${`note ${kind}`}><div class="grow">${children}</div></div>`;

export const Empty = ({ title, children }) =>
  html`<div class="empty"><h2>${title}</h2>${children}</div>`;

/** A button that shows when its action is running. Other properties are those of a button. */
export const Button = ({ busy, children, onClick, ...rest }) =>
  html`<button type="button" ...${rest} aria-busy=${busy ? "true" : undefined} aria-disabled=${busy ? "true" : undefined}
    onClick=${busy ? (event) => event.preventDefault() : onClick}>${children}</button>`;

/** Messages at the edge of the screen, also read aloud. */
export function Toasts() {
  const shown = useStore(toasts);
  return html`<div class="toasts" role="region" aria-label=${t("toasts.label")} aria-live="polite">
    ${shown.map((one) => html`<div key=${one.id} class=${`toast ${one.kind}`} role=${one.kind === "error" ? "alert" : undefined}>
      <div class="grow">
        <p>${one.text}</p>
        ${one.action && html`<button type="button" class="quiet small" onClick=${() => { closeToast(one.id); one.action.run(); }}>
          ${one.action.label}</button>`}
      </div>
      <button type="button" class="icon" aria-label=${t("close")} onClick=${() => closeToast(one.id)}>✕</button>
    </div>`)}
  </div>`;
}
