// Signing in with an API key, which stays in this tab's memory; also again, over the view, when the key holds no more.

import { signIn, signOut } from "../lib/api.js";
import { html, t, useAction, useEffect, useState } from "../lib/ui.js";
import { Dialog } from "../parts/dialog.js";
import { Field } from "../parts/field.js";
import { LanguageChoice } from "../parts/frame.js";
import { Button, Problem } from "../parts/messages.js";

function KeyForm({ again }) {
  const [key, setKey] = useState("");
  const [shown, setShown] = useState(false);
  const [run, { busy, error }] = useAction(signIn);
  const submit = (event) => {
    event.preventDefault();
    if (key.trim()) run(key);
  };
  return html`<form class="stack" onSubmit=${submit} autocomplete="off">
    <${Field} label=${t("sign_in.key")} hint=${t("sign_in.where")} type=${shown ? "text" : "password"} value=${key}
      onInput=${setKey} placeholder="patronus_…" autocomplete="off" autocapitalize="off" spellcheck=${false} required
      class="mono-input" />
    <${Problem} error=${error?.status === 401 ? { detail: t("sign_in.not_valid") } : error} />
    <div class="row apart">
      <button type="button" class="quiet small" aria-pressed=${shown ? "true" : "false"} onClick=${() => setShown(!shown)}>
        ${t("sign_in.show")}</button>
      <span class="row">
        ${again && html`<button type="button" onClick=${signOut}>${t("sign_out")}</button>`}
        <${Button} type="submit" class="primary" busy=${busy}>${t("sign_in.action")}<//>
      </span>
    </div>
  </form>`;
}

/** again: shown over a view whose key is not valid any more; what was typed there stays. */
export default function SignIn({ again, changeLanguage }) {
  useEffect(() => {
    if (!again) document.title = t("page.title", { title: t("sign_in.title") });
  }, []);
  if (again)
    return html`<${Dialog} title=${t("sign_in.again")} dismissable=${false}>
      <p>${t("sign_in.again_lead")}</p><${KeyForm} again />
    <//>`;
  return html`<main class="sign-in"><div>
    <div class="row apart">
      <span class="brand"><img src=${new URL("../icon.svg", import.meta.url)} alt="" />Patronus</span>
      <${LanguageChoice} change=${changeLanguage} />
    </div>
    <div class="card stack roomy">
      <div class="stack tight"><h1>${t("sign_in.title")}</h1><p class="muted">${t("sign_in.lead")}</p></div>
      <${KeyForm} />
    </div>
    <p class="small muted">${t("sign_in.link")} <code>patronus edge sign-in</code></p>
    <p class="small muted">${t("sign_in.what")}</p>
  </div></main>`;
}
