// The galleries that the key is for; creating, changing and erasing one. Where there is none, the first thing to do.

import { api, path } from "../lib/api.js";
import { go, href } from "../lib/router.js";
import { may, mayEverywhere, session, useStore } from "../lib/state.js";
import { duration, html, number, t, useAction, useLoad, useState } from "../lib/ui.js";
import { ActionDialog, Dialog } from "../parts/dialog.js";
import { Field } from "../parts/field.js";
import { ChangeGallery, CreateGallery } from "../parts/gallery_form.js";
import { Button, Loading, Note, Problem } from "../parts/messages.js";
import { Page } from "../parts/page.js";
import { ErasedDialog } from "../parts/receipt.js";

const PAGE = 60;

/** Where somebody who opens a gallery wants to go first: to its people, else to what the key may do there. */
function entrance(gallery) {
  if (gallery.subjects === 0 && may("enroll", gallery.gallery)) return "enroll";
  if (may("manage", gallery.gallery) || may("enroll", gallery.gallery)) return "people";
  return may("match", gallery.gallery) ? "recognize" : "threshold";
}

function GalleryCard({ gallery, change, erase }) {
  const name = gallery.gallery;
  return html`<article class="card stack">
    <h2><a href=${href(entrance(gallery), { gallery: name })}><bdi>${name}</bdi></a></h2>
    <p><span class="large">${number(gallery.subjects)}</span>${" "}
      <span class="muted">${t("galleries.people", { n: gallery.subjects })} · ${t("galleries.faces", { n: gallery.templates })}</span></p>
    <p class="row tight">
      <span class="badge">${t("galleries.threshold", { cosine: number(gallery.threshold.cosine, { maximumSignificantDigits: 4 }) })}</span>
      ${gallery.verify_only && html`<span class="badge accent">${t("galleries.verify_only")}</span>`}
      ${gallery.max_age_seconds && html`<span class="badge">${t("galleries.kept", { time: duration(gallery.max_age_seconds) })}</span>`}
    </p>
    <div class="row">
      ${may("match", name) && gallery.subjects > 0 && html`<a class="button small" href=${href("recognize", { gallery: name })}>${t("tabs.recognize")}</a>`}
      ${may("enroll", name) && html`<a class="button small" href=${href("enroll", { gallery: name })}>${t("tabs.enroll")}</a>`}
      ${change && html`<button type="button" class="small" aria-label=${t("galleries.change_label", { name })} onClick=${change}>
        ${t("galleries.change")}</button>`}
      ${erase && html`<button type="button" class="small danger" aria-label=${t("galleries.erase_label", { name })} onClick=${erase}>
        ${t("galleries.erase")}</button>`}
    </div>
  </article>`;
}

/** Pages of the list, one after another, as they are asked for. */
function useGalleries() {
  const [more, setMore] = useState([]);
  const first = useLoad(async (signal) => {
    const key = session.get().key;
    // A key without `manage` may not list, but may show those that it is for.
    const page = may("manage")
      ? await api.get("v1/galleries", { query: { limit: PAGE }, signal })
      : { items: await Promise.all((key.galleries ?? []).map((name) => api.get(path("v1/galleries", name), { signal }))), next: null };
    setMore([]);
    return page;
  }, [session.get()?.key.id]);
  const last = more.at(-1) ?? first.data;
  const [loadMore, loading] = useAction(async () => {
    const page = await api.get("v1/galleries", { query: { limit: PAGE, after: last.next } });
    setMore((before) => [...before, page]);
  });
  const items = [first.data, ...more].flatMap((page) => page?.items ?? []);
  return { ...first, items, next: last?.next, loadMore, loadingMore: loading };
}

const created = (gallery) => go("enroll", { gallery });

/** What an edge without galleries shows: three steps, of which the first one can be done at once. */
const FirstSteps = () => html`<div class="halves">
  <section class="card stack">
    <h2>${t("first.create")}</h2>
    <p class="muted">${t("first.create_lead")}</p>
    <${CreateGallery} name=${t("first.name")} created=${created} />
  </section>
  <section class="stack">
    <h2>${t("first.title")}</h2>
    <ol class="steps">
      <li aria-current="step"><h3>${t("first.create")}</h3><p class="muted">${t("first.step_create")}</p></li>
      <li><h3>${t("first.enroll")}</h3><p class="muted">${t("first.step_enroll")}</p></li>
      <li><h3>${t("first.recognize")}</h3><p class="muted">${t("first.step_recognize")}</p></li>
    </ol>
    <${Note}><p>${t("first.protection")}</p><//>
  </section>
</div>`;

/** For a key that may not list galleries and is for all of them. */
function OpenByName() {
  const [name, setName] = useState("");
  const [run, { busy, error }] = useAction(async () => {
    const found = await api.get(path("v1/galleries", name.trim()));
    go(entrance(found), { gallery: found.gallery });
  });
  return html`<form class="card stack" onSubmit=${(event) => { event.preventDefault(); if (name.trim()) run(); }}>
    <p>${t("galleries.not_listed")}</p>
    <div class="inline-field">
      <${Field} label=${t("gallery.name")} value=${name} onInput=${setName} autocomplete="off" autocapitalize="off" required />
      <${Button} type="submit" class="primary" busy=${busy}>${t("galleries.open")}<//>
    </div>
    <${Problem} error=${error} />
  </form>`;
}

export default function Galleries() {
  const { key } = useStore(session);
  const list = useGalleries();
  const [open, setOpen] = useState(null);
  const close = () => setOpen(null);
  const mayCreate = mayEverywhere("manage");
  const none = list.data && list.items.length === 0;
  const blind = !may("manage") && key.galleries === null;
  return html`<${Page} title=${t("galleries.title")} lead=${t(none && mayCreate ? "first.lead" : "galleries.lead")}
    actions=${mayCreate && !none && list.data && html`<button type="button" class="primary" onClick=${() => setOpen({ create: true })}>
      ${t("galleries.new")}</button>`}>
    ${list.loading && !list.data && html`<${Loading} />`}
    <${Problem} error=${list.error} retry=${list.reload} />
    ${none && mayCreate && html`<${FirstSteps} />`}
    ${blind && html`<${OpenByName} />`}
    ${none && !mayCreate && !blind && html`<${Note}><p>${t("galleries.none")}</p><//>`}
    <div class="grid">
      ${list.items.map((gallery) => html`<${GalleryCard} key=${gallery.gallery} gallery=${gallery}
        change=${may("manage", gallery.gallery) && (() => setOpen({ change: gallery }))}
        erase=${may("manage", gallery.gallery) && (() => setOpen({ erase: gallery }))} />`)}
    </div>
    <${Problem} error=${list.loadingMore.error} />
    ${list.next && html`<div class="row"><${Button} busy=${list.loadingMore.busy} onClick=${() => list.loadMore()}>${t("galleries.more")}<//></div>`}
    ${open?.create && html`<${Dialog} title=${t("galleries.new")} close=${close}><${CreateGallery} created=${created} cancel=${close} /><//>`}
    ${open?.change && html`<${Dialog} title=${t("galleries.change_title", { name: open.change.gallery })} close=${close}>
      <${ChangeGallery} gallery=${open.change} cancel=${close} done=${() => { close(); list.reload(); }} /><//>`}
    ${open?.erase && html`<${EraseGallery} gallery=${open.erase} close=${close}
      erased=${(answer) => { setOpen({ receipt: answer, name: open.erase.gallery }); list.reload(); }} />`}
    ${open?.receipt && html`<${ErasedDialog} gallery=${open.name} what=${open.name} erased=${open.receipt} close=${close} />`}
  <//>`;
}

function EraseGallery({ gallery, close, erased }) {
  const name = gallery.gallery;
  return html`<${ActionDialog} title=${t("galleries.erase_title", { name })} danger label=${t("galleries.erase_all")} typed=${name}
    close=${close} done=${erased} action=${() => api.send("DELETE", path("v1/galleries", name))}>
    <p>${t("galleries.erase_what", { people: t("galleries.people_n", { n: gallery.subjects }), faces: t("galleries.faces", { n: gallery.templates }) })}</p>
    <p>${t("galleries.erase_final")}</p>
  <//>`;
}
