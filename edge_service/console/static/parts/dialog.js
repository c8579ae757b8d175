// A modal dialog of the browser: it keeps the focus inside, closes on Escape, and gives the focus back.

import { html, t, useAction, useEffect, useId, useRef, useState } from "../lib/ui.js";
import { Button, Problem } from "./messages.js";

/** close() is called when the dialog is closed in any way. dismissable: false keeps it open on Escape. */
export function Dialog({ title, close, dismissable = true, children }) {
  const box = useRef();
  const id = useId("dialog");
  useEffect(() => {
    const element = box.current;
    const before = document.activeElement;
    element.showModal();
    return () => {
      element.close();
      if (before?.isConnected) before.focus();
    };
  }, []);
  return html`<dialog ref=${box} aria-labelledby=${id}
    onCancel=${(event) => { event.preventDefault(); if (dismissable) close(); }}>
    <div class="body">
      <div class="row apart">
        <h2 id=${id} class="grow">${title}</h2>
        ${dismissable && html`<button type="button" class="icon" aria-label=${t("close")} onClick=${close}>✕</button>`}
      </div>
      ${children}
    </div>
  </dialog>`;
}

/**
 * A dialog with a form and one action. action() is called on submit. When it has succeeded, done(its result) is called, or
 * the dialog closes; when it raises, the dialog stays with all that was typed. typed: what must be typed before it can run.
 */
export function ActionDialog({ title, close, action, done = close, label, danger, typed, children }) {
  const [run, { busy, error }] = useAction(async () => ({ result: await action() }));
  const [text, setText] = useState("");
  const id = useId("typed");
  const ready = !typed || text === typed;
  const submit = async (event) => {
    event.preventDefault();
    if (!ready) return;
    const succeeded = await run();
    if (succeeded) done(succeeded.result);
  };
  return html`<${Dialog} title=${title} close=${close}>
    <form class="stack" onSubmit=${submit}>
      ${children}
      ${typed && html`<div class="field">
        <label for=${id}>${t("dialog.type", { name: html`<bdi class="mono">${typed}</bdi>` })}</label>
        <input id=${id} autocomplete="off" autocapitalize="off" spellcheck=${false} value=${text}
          onInput=${(event) => setText(event.target.value)} />
      </div>`}
      <${Problem} error=${error} />
      <div class="row end">
        <button type="button" onClick=${close}>${t("cancel")}</button>
        <${Button} type="submit" class=${danger ? "danger primary" : "primary"} busy=${busy} disabled=${!ready}>${label}<//>
      </div>
    </form>
  <//>`;
}
