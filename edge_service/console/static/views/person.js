// One person: its faces as ids and dates, for no picture is kept; what can be done with them; the report.

import { api } from "../lib/api.js";
import { go, href } from "../lib/router.js";
import { may, toast } from "../lib/state.js";
import { html, moment, t, useAction, useLoad, useState } from "../lib/ui.js";
import { Button, Loading, Note, Problem } from "../parts/messages.js";
import { GalleryPage } from "../parts/page.js";
import { ErasedDialog, fileName, saveJson } from "../parts/receipt.js";
import {
  EraseDialog, ExpiryDialog, MergeDialog, MoveFaceDialog, RenameDialog, subjectPath,
} from "../parts/subject_dialogs.js";

const Face = ({ face, order, mayMove, mayErase, open }) => html`<tr>
  <th scope="row" class="mono">${face.id}</th>
  <td class="nowrap">${moment(face.created_at)}</td>
  <td class="actions">
    ${mayMove && html`<button type="button" class="quiet small" aria-label=${t("person.move_label", { n: order })}
      onClick=${() => open({ move: face.id })}>${t("subject.move")}</button>`}
    ${mayErase && html`<button type="button" class="quiet small bad" aria-label=${t("person.erase_label", { n: order })}
      onClick=${() => open({ face: face.id })}>${t("subject.erase")}</button>`}
  </td>
</tr>`;

/** Saves all that is held about a person, as the law lets people ask for. */
function Report({ gallery, subject }) {
  const [run, { busy, error }] = useAction(async () => {
    const report = await api.get(subjectPath(gallery, subject, "report"));
    toast(t("person.report_saved", { size: saveJson(fileName("report", gallery, subject), report) }));
  });
  return html`<section class="card stack">
    <h2>${t("person.report")}</h2>
    <p class="muted">${t("person.report_lead")}</p>
    <${Problem} error=${error} />
    <div><${Button} busy=${busy} onClick=${() => run()}>${t("person.report_action")}<//></div>
  </section>`;
}

export default function Person({ params: { gallery, subject } }) {
  const found = useLoad((signal) => api.get(subjectPath(gallery, subject), { signal }), [gallery, subject]);
  const [open, setOpen] = useState(null);
  const close = () => setOpen(null);
  const manage = may("manage", gallery);
  const erase = manage || may("enroll", gallery);
  const person = found.data;
  const toPerson = (answer) => { close(); go("person", { gallery, subject: answer.subject }, {}, { replace: true }); };
  const reload = () => { close(); found.reload(); };
  const shared = { gallery, subject, close };
  const erased = (answer) => setOpen({ receipt: answer, gone: answer.subjects > 0 });
  const closeReceipt = () => (open.gone ? go("people", { gallery }) : reload());
  const actions = html`
    ${may("match", gallery) && html`<a class="button" href=${href("recognize", { gallery }, { subject })}>${t("person.verify")}</a>`}
    ${may("enroll", gallery) && html`<a class="button primary" href=${href("enroll", { gallery }, { subject })}>${t("person.add")}</a>`}`;
  return html`<${GalleryPage} gallery=${gallery} view="people" title=${html`<bdi>${subject}</bdi>`} plain=${subject} actions=${person && actions}>
    ${found.loading && !person && html`<${Loading} />`}
    <${Problem} error=${found.error} retry=${found.reload} />
    ${person && html`
      <section class="card stack">
        <dl class="facts">
          <dt>${t("people.since")}</dt><dd>${moment(person.created_at)}</dd>
          <dt>${t("people.expires")}</dt>
          <dd>${person.expires_at ? moment(person.expires_at) : t("person.no_expiry")}</dd>
        </dl>
        ${manage && html`<div class="row">
          <button type="button" onClick=${() => setOpen({ rename: true })}>${t("subject.rename")}</button>
          <button type="button" onClick=${() => setOpen({ merge: true })}>${t("subject.merge")}</button>
          <button type="button" onClick=${() => setOpen({ expiry: true })}>${t("subject.expiry")}</button>
          <button type="button" class="danger" onClick=${() => setOpen({ erase: true })}>${t("subject.erase")}</button>
        </div>`}
        ${!manage && erase && html`<div class="row"><button type="button" class="danger" onClick=${() => setOpen({ erase: true })}>
          ${t("subject.erase")}</button></div>`}
      </section>
      <section class="stack">
        <h2>${t("galleries.faces", { n: person.faces.length })}</h2>
        <${Note}><p>${t("person.no_picture")}</p><//>
        <div class="card flush"><div class="scroll"><table class="their-faces">
          <caption class="hidden-text">${t("person.faces_caption")}</caption>
          <thead><tr><th scope="col">${t("person.face_id")}</th><th scope="col">${t("person.enrolled")}</th>
            <th scope="col"><span class="hidden-text">${t("people.actions")}</span></th></tr></thead>
          <tbody>${person.faces.map((face, index) => html`<${Face} key=${face.id} face=${face} order=${index + 1} mayMove=${manage}
            mayErase=${erase} open=${setOpen} />`)}</tbody>
        </table></div></div>
      </section>
      ${manage && html`<${Report} gallery=${gallery} subject=${subject} />`}`}
    ${open?.rename && html`<${RenameDialog} ...${shared} moved=${toPerson} />`}
    ${open?.merge && html`<${MergeDialog} ...${shared} moved=${toPerson} />`}
    ${open?.move && html`<${MoveFaceDialog} ...${shared} face=${open.move}
      moved=${(answer) => (answer.emptied ? toPerson(answer) : reload())} />`}
    ${open?.expiry && html`<${ExpiryDialog} ...${shared} expiresAt=${person.expires_at} changed=${reload} />`}
    ${(open?.erase || open?.face) && html`<${EraseDialog} ...${shared} face=${open.face}
      last=${open.face && person.faces.length === 1} erased=${erased} />`}
    ${open?.receipt && html`<${ErasedDialog} gallery=${gallery} what=${subject} erased=${open.receipt} close=${closeReceipt} />`}
  <//>`;
}
