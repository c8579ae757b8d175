// The people of a gallery: pages of them, a search by the beginning of a name, and what can be done with one.

import { api, path } from "../lib/api.js";
import { go, href } from "../lib/router.js";
import { may } from "../lib/state.js";
import { date, html, moment, number, t, useAction, useEffect, useLoad, useState } from "../lib/ui.js";
import { Duplicates } from "../parts/duplicates.js";
import { Field } from "../parts/field.js";
import { Button, Empty, Loading, Note, Problem } from "../parts/messages.js";
import { GalleryPage } from "../parts/page.js";
import { ErasedDialog } from "../parts/receipt.js";
import { EraseDialog, MergeDialog, RenameDialog, subjectPath } from "../parts/subject_dialogs.js";

const PAGE = 100;
const TYPING_MS = 250;

/** A value that follows another one when that has not changed for some milliseconds. */
function useSettled(value, ms) {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), ms);
    return () => clearTimeout(timer);
  }, [value]);
  return settled;
}

const Row = ({ gallery, person, open }) => {
  const name = person.subject;
  const button = (what, kind) => html`<button type="button" class=${`quiet small ${kind ?? ""}`}
    aria-label=${t(`people.${what}_label`, { name })} onClick=${() => open({ [what]: name })}>${t(`subject.${what}`)}</button>`;
  return html`<tr>
    <th scope="row"><a href=${href("person", { gallery, subject: name })}><bdi>${name}</bdi></a></th>
    <td class="number">${number(person.templates)}</td>
    <td class="large-only nowrap">${date(person.created_at)}</td>
    <td class="large-only">${person.expires_at ? html`<span class="badge warn">${moment(person.expires_at)}</span>` : html`<span class="muted">–</span>`}</td>
    <td class="large-only actions">${button("rename")}${button("merge")}${button("erase", "bad")}</td>
  </tr>`;
};

/** A list for keys that may list: never more than a page of rows, however many people there are. */
function List({ gallery, about, changed }) {
  const [typed, setTyped] = useState("");
  const prefix = useSettled(typed.normalize("NFC"), TYPING_MS);
  // The names after which the pages up to this one begin; those of another search do not count.
  const [trail, setTrail] = useState({ prefix: "", after: [null] });
  const after = trail.prefix === prefix ? trail.after : [null];
  const [open, setOpen] = useState(null);
  const page = useLoad(
    (signal) => api.get(path("v1/galleries", gallery, "subjects"), { query: { limit: PAGE, prefix, after: after.at(-1) }, signal }),
    [gallery, prefix, after.at(-1)],
  );
  const close = () => setOpen(null);
  const reload = () => { close(); page.reload(); changed(); };
  const turn = (next) => setTrail({ prefix, after: next });
  const items = page.data?.items ?? [];
  const first = (after.length - 1) * PAGE + 1;
  const shown = { open, gallery, close, moved: reload };

  // After the last person was erased, its receipt still stands here.
  const receipt = open?.receipt && html`<${ErasedDialog} gallery=${gallery} what=${open.name} erased=${open.receipt} close=${close} />`;
  if (page.data && items.length === 0 && prefix === "" && after.length === 1)
    return html`<${Empty} title=${t("people.none")}>
      <p class="muted">${t("people.none_lead")}</p>
      ${may("enroll", gallery) && html`<a class="button primary" href=${href("enroll", { gallery })}>${t("people.add_first")}</a>`}
    <//>${receipt}`;
  return html`
    <div class="inline-field">
      <${Field} label=${t("people.search")} hint=${t("people.search_hint")} type="search" value=${typed} onInput=${setTyped} maxlength="128"
        autocomplete="off" spellcheck=${false} dir="auto" />
    </div>
    <${Problem} error=${page.error} retry=${page.reload} />
    ${page.loading && !page.data && html`<${Loading} text=${t(about?.subjects > 5000 ? "people.first_list" : "loading")} />`}
    ${page.data && items.length === 0 && html`<${Note}><p>${t("people.no_match", { prefix: html`<bdi>${prefix}</bdi>` })}</p><//>`}
    ${items.length > 0 && html`<div class="card flush" aria-busy=${page.loading ? "true" : "false"}><div class="scroll">
      <table class="people">
        <caption class="hidden-text">${t("people.title")}</caption>
        <thead><tr><th scope="col">${t("people.name")}</th><th scope="col" class="number">${t("people.faces")}</th>
          <th scope="col" class="large-only">${t("people.since")}</th><th scope="col" class="large-only">${t("people.expires")}</th>
          <th scope="col" class="large-only"><span class="hidden-text">${t("people.actions")}</span></th></tr></thead>
        <tbody>${items.map((person) => html`<${Row} key=${person.subject} gallery=${gallery} person=${person} open=${setOpen} />`)}</tbody>
      </table>
    </div></div>`}
    ${(after.length > 1 || page.data?.next) && html`<nav class="row apart" aria-label=${t("people.pages")}>
      <p class="muted" role="status">${t(prefix || !about ? "people.range" : "people.range_of",
        { from: first, to: first + items.length - 1, all: about?.subjects ?? 0 })}</p>
      <div class="row">
        ${after.length > 2 && html`<button type="button" onClick=${() => turn([null])}>${t("people.first_page")}</button>`}
        <button type="button" disabled=${after.length === 1} onClick=${() => turn(after.slice(0, -1))}>${t("people.previous")}</button>
        <${Button} busy=${page.loading} disabled=${!page.data?.next} onClick=${() => turn([...after, page.data.next])}>${t("people.next")}<//>
      </div>
    </nav>`}
    ${open?.rename && html`<${RenameDialog} ...${shown} subject=${open.rename} />`}
    ${open?.merge && html`<${MergeDialog} ...${shown} subject=${open.merge} />`}
    ${open?.erase && html`<${EraseDialog} ...${shown} subject=${open.erase}
      erased=${(answer) => { reload(); setOpen({ receipt: answer, name: open.erase }); }} />`}
    ${receipt}`;
}

/** For keys that may not list people, but may show one by its exact name. */
function FindOne({ gallery }) {
  const [name, setName] = useState("");
  const [run, { busy, error }] = useAction(async () => {
    const found = await api.get(subjectPath(gallery, name.trim().normalize("NFC")));
    go("person", { gallery, subject: found.subject });
  });
  return html`<form class="card stack" onSubmit=${(event) => { event.preventDefault(); if (name.trim()) run(); }}>
    <p>${t("people.not_listed")}</p>
    <div class="inline-field">
      <${Field} label=${t("people.exact")} value=${name} onInput=${setName} required maxlength="128" autocomplete="off" dir="auto" />
      <${Button} type="submit" class="primary" busy=${busy}>${t("people.show")}<//>
    </div>
    <${Problem} error=${error} />
  </form>`;
}

export default function People({ params: { gallery } }) {
  const about = useLoad((signal) => api.get(path("v1/galleries", gallery), { signal }), [gallery]);
  const [comparing, setComparing] = useState(false);
  const [round, setRound] = useState(0);
  const listed = may("manage", gallery);
  const found = about.data;
  const actions = html`
    ${listed && found && !found.verify_only && found.subjects > 1 && html`<button type="button" onClick=${() => setComparing(true)}>
      ${t("duplicates.open")}</button>`}
    ${may("enroll", gallery) && html`<a class="button primary" href=${href("enroll", { gallery })}>${t("people.add")}</a>`}`;
  return html`<${GalleryPage} gallery=${gallery} view="people" title=${t("people.title")} actions=${actions}
    lead=${found?.subjects > 0 && t("people.lead", { people: t("galleries.people_n", { n: found.subjects }), faces: t("galleries.faces", { n: found.templates }) })}>
    <${Problem} error=${about.error} retry=${about.reload} />
    ${listed ? html`<${List} key=${round} gallery=${gallery} about=${found} changed=${about.reload} />` : html`<${FindOne} gallery=${gallery} />`}
    ${comparing && html`<${Duplicates} gallery=${gallery} subjects=${found.subjects} threshold=${found.threshold.cosine}
      changed=${about.reload} close=${() => { setComparing(false); setRound(round + 1); }} />`}
  <//>`;
}
