// The frame around every view: navigation, whether edge and cloud answer, who is signed in.

import { api, signOut } from "../lib/api.js";
import { startSampling } from "../lib/metrics.js";
import { href, useRoute } from "../lib/router.js";
import { info, may, reachable, session, useStore } from "../lib/state.js";
import { html, language, languages, t, useEffect, useRef } from "../lib/ui.js";

// Outlines on a square of 24, drawn with the color of the text.
const ICONS = {
  galleries: "M4 5h7v6H4zM13 5h7v6h-7zM4 13h7v6H4zM13 13h7v6h-7z",
  sent: "M4 12h13M12 6l6 6-6 6M20 4v16",
  thief: "M2.5 12S6 5.5 12 5.5 21.5 12 21.5 12 18 18.5 12 18.5 2.5 12 2.5 12zM12 9a3 3 0 1 0 0 6 3 3 0 0 0 0-6z",
  history: "M12 7v5l3.5 2M12 3.5a8.5 8.5 0 1 1-8 5.7M3.5 4v5h5",
  system: "M4 5h16v6H4zM4 13h16v6H4zM7.5 8h.01M7.5 16h.01",
};
const CHECK_EVERY_MS = 5000;

const Icon = ({ name }) => html`<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.7"
  stroke-linecap="round" stroke-linejoin="round" aria-hidden="true"><path d=${ICONS[name]} /></svg>`;

/** Says that the edge or the cloud is away, and asks again until it is back. Nothing on the page is lost meanwhile. */
function Reachability() {
  const { edge, cloud } = useStore(reachable);
  const away = !edge || !cloud;
  useEffect(() => {
    if (!away) return undefined;
    const timer = setInterval(async () => {
      const found = await api.get("readyz").catch((error) => error);
      if (found.status === "ready" || found.checks?.cloud) reachable.set({ edge: true, cloud: true });
      else if (found.checks) reachable.set({ edge: true, cloud: false });
    }, CHECK_EVERY_MS);
    return () => clearInterval(timer);
  }, [away]);
  return html`<div role="status">
    ${!edge && html`<p class="banner">${t("away.edge")}</p>`}
    ${edge && !cloud && html`<p class="banner">${t("away.cloud")}</p>`}
  </div>`;
}

/** The choice of a language. */
export const LanguageChoice = ({ change }) => html`<select class="language" aria-label=${t("language.label")}
  value=${language()} onChange=${(event) => change(event.target.value)}>
  ${languages.map((code) => html`<option key=${code} value=${code} lang=${code}>
    ${new Intl.DisplayNames(code, { type: "language" }).of(code)}</option>`)}
</select>`;

export function Frame({ changeLanguage, children }) {
  const { view, params } = useRoute();
  const { key } = useStore(session);
  const about = useStore(info);
  useEffect(() => {
    api.get("v1/info").then(info.set, () => {});
  }, [key.id]);
  useEffect(() => (may("manage") ? startSampling() : undefined), [key.id]);
  const nav = useRef();
  useEffect(() => {
    // Of a small screen's line of views, the current one is brought into sight.
    nav.current.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  }, [view]);
  const current = params.gallery === undefined ? view : "galleries";
  const links = ["galleries", "sent", "thief", "history", "system"].filter((name) => name !== "sent" || may("match") || may("enroll"));
  return html`<div class="frame">
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.querySelector("main").focus(); }}>
      ${t("skip")}</a>
    <header class="side">
      <a class="brand" href=${href("galleries")}><img src=${new URL("../icon.svg", import.meta.url)} alt="" />Patronus</a>
      <nav ref=${nav} aria-label=${t("nav.label")}>
        ${links.map((name) => html`<a key=${name} href=${href(name)} aria-current=${name === current ? "page" : undefined}>
          <${Icon} name=${name} />${t(`nav.${name}`)}</a>`)}
      </nav>
      <div class="foot">
        <p class="large-only">${t("signed_in.as", { label: html`<bdi class="strong">${key.label || key.id}</bdi>` })}</p>
        <div class="row">
          <${LanguageChoice} change=${changeLanguage} />
          <button type="button" class="small" onClick=${signOut}>${t("sign_out")}</button>
        </div>
        ${about && html`<p class="large-only">Patronus ${about.version}</p>`}
      </div>
    </header>
    <div>
      <${Reachability} />
      <main id="main" tabindex="-1">${children}</main>
    </div>
  </div>`;
}
