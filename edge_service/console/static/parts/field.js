// A labeled input with a hint, and what is wrong with it.

import { html, useId } from "../lib/ui.js";

/** Other properties are those of the input. onInput is called with the text. as: "input" or "select" (with children). */
export function Field({ label, hint, wrong, as = "input", onInput, children, class: kind = "", ...rest }) {
  const id = useId("field");
  const described = [hint && `${id}-hint`, wrong && `${id}-wrong`].filter(Boolean).join(" ") || undefined;
  const common = { id, "aria-describedby": described, "aria-invalid": wrong ? "true" : undefined, ...rest };
  const changed = (event) => onInput?.(event.target.value);
  return html`<div class=${`field ${kind}`}>
    <label for=${id}>${label}</label>
    ${as === "select"
      ? html`<select ...${common} onChange=${changed}>${children}</select>`
      : html`<input ...${common} onInput=${changed} />`}
    ${hint && html`<span class="hint" id=${`${id}-hint`}>${hint}</span>`}
    ${wrong && html`<span class="wrong" id=${`${id}-wrong`} role="alert">${wrong}</span>`}
  </div>`;
}

/** A checkbox or radio button with its label and a hint. onChange is called with whether it is checked. */
export function Choice({ label, hint, onChange, type = "checkbox", ...rest }) {
  const id = useId("choice");
  return html`<div class="choice">
    <input id=${id} type=${type} ...${rest} aria-describedby=${hint ? `${id}-hint` : undefined}
      onChange=${(event) => onChange?.(event.target.checked)} />
    <span><label for=${id}>${label}</label>${hint && html`<span class="hint" id=${`${id}-hint`}>${hint}</span>`}</span>
  </div>`;
}
