// The head of a view: its title, which gets the focus when the view is shown, one sentence, and its actions.

import { href } from "../lib/router.js";
import { may, session, useStore } from "../lib/state.js";
import { html, t, useEffect, useRef } from "../lib/ui.js";

/** A view's page. focus: false where something else in the view takes the focus. */
export function Page({ title, heading, lead, actions, crumbs, focus = true, children }) {
  const head = useRef();
  useEffect(() => {
    document.title = t("page.title", { title });
  }, [title]);
  useEffect(() => {
    if (focus) head.current.focus({ preventScroll: true });
    scrollTo(0, 0);
  }, []);
  return html`<div class="page">
    <div class="page-head">
      ${crumbs}
      <div class="row apart">
        <h1 ref=${head} tabindex="-1">${heading ?? title}</h1>
        ${actions && html`<div class="row">${actions}</div>`}
      </div>
      ${lead && html`<p class="lead">${lead}</p>`}
    </div>
    ${children}
  </div>`;
}

const TABS = [
  ["people", "tabs.people", null],
  ["enroll", "tabs.enroll", "enroll"],
  ["recognize", "tabs.recognize", "match"],
  ["live", "tabs.live", "match"],
  ["threshold", "tabs.threshold", null],
];

/** The page of a view of a gallery, and the gallery's views that the key may use. plain: the title's text, if it is an element. */
export function GalleryPage({ gallery, view, title, plain = title, lead, actions, focus, children }) {
  useStore(session);
  const tabs = TABS.filter(([, , scope]) => scope === null || may(scope, gallery));
  const line = useRef();
  useEffect(() => {
    line.current.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  }, []);
  const peopleToo = may("manage", gallery) || may("enroll", gallery);
  return html`<${Page} title=${`${plain} · ${gallery}`} heading=${title} lead=${lead} actions=${actions} focus=${focus}
    crumbs=${html`<nav class="crumbs" aria-label=${t("crumbs.label")}>
      <a href=${href("galleries")}>${t("galleries.title")}</a><span aria-hidden="true">/</span>
      <a href=${href(peopleToo ? "people" : "threshold", { gallery })}><bdi>${gallery}</bdi></a>
    </nav>`}>
    <nav class="tabs" ref=${line} aria-label=${t("tabs.label", { gallery })}>
      ${tabs.filter(([name]) => name !== "people" || peopleToo).map(([name, text]) => html`
        <a key=${name} href=${href(name, { gallery })} aria-current=${name === view ? "page" : undefined}>${t(text)}</a>`)}
    </nav>
    ${children}
  <//>`;
}
