// What can be done with a person: rename, merge, erase, expiry; and with one of its faces: move, erase.

import { api, path } from "../lib/api.js";
import { toast } from "../lib/state.js";
import { html, t, useState } from "../lib/ui.js";
import { ActionDialog } from "./dialog.js";
import { Field } from "./field.js";

export const subjectPath = (gallery, subject, ...more) =>
  path("v1/galleries", gallery, "subjects", subject, ...more);

const Name = ({ children }) => html`<bdi class="strong">${children}</bdi>`;

/** A dialog that asks for a name and gives faces to it. member is the request's: "to" or "into". */
function NameDialog({ title, label, field, where, member, first = "", close, moved, children }) {
  const [name, setName] = useState(first);
  const action = async () => {
    const answer = await api.send("POST", where, { [member]: name.trim().normalize("NFC") });
    toast(t("subject.moved", { n: answer.faces, subject: answer.subject, receipt: String(answer.receipt.id) }));
    return answer;
  };
  return html`<${ActionDialog} title=${title} close=${close} label=${label} action=${action} done=${moved}>
    ${children}
    <${Field} label=${field} value=${name} onInput=${setName} required maxlength="128" autocomplete="off" spellcheck=${false} dir="auto" />
  <//>`;
}

/** moved(answer) is called when it is done; answer.subject has the faces then. */
export const RenameDialog = ({ gallery, subject, close, moved }) => html`<${NameDialog} title=${t("subject.rename_title")}
  label=${t("subject.rename")} field=${t("subject.new_name")} where=${subjectPath(gallery, subject, "rename")} member="to"
  first=${subject} close=${close} moved=${moved}>
  <p>${t("subject.rename_what", { subject: html`<${Name}>${subject}<//>` })}</p>
<//>`;

/** into: the name that is filled in. */
export const MergeDialog = ({ gallery, subject, into, close, moved }) => html`<${NameDialog} title=${t("subject.merge_title")}
  label=${t("subject.merge")} field=${t("subject.merge_into")} where=${subjectPath(gallery, subject, "merge")} member="into"
  first=${into ?? ""} close=${close} moved=${moved}>
  <p>${t("subject.merge_what", { subject: html`<${Name}>${subject}<//>` })}</p>
<//>`;

export const MoveFaceDialog = ({ gallery, subject, face, close, moved }) => html`<${NameDialog} title=${t("subject.move_title")}
  label=${t("subject.move")} field=${t("subject.move_to")} where=${subjectPath(gallery, subject, "faces", face, "move")}
  member="to" close=${close} moved=${moved}>
  <p>${t("subject.move_what", { subject: html`<${Name}>${subject}<//>` })}</p>
<//>`;

/** Erases a person, or one face where one is given. erased(answer) is called with the receipt. */
export const EraseDialog = ({ gallery, subject, face, last, close, erased }) => html`<${ActionDialog} danger
  title=${t(face ? "subject.erase_face_title" : "subject.erase_title")} label=${t(face ? "subject.erase_face" : "subject.erase")}
  close=${close} done=${erased}
  action=${() => api.send("DELETE", face ? subjectPath(gallery, subject, "faces", face) : subjectPath(gallery, subject))}>
  <p>${t(face ? "subject.erase_face_what" : "subject.erase_what", { subject: html`<${Name}>${subject}<//>` })}</p>
  ${last && html`<p>${t("subject.erase_last")}</p>`}
  <p>${t("galleries.erase_final")}</p>
<//>`;

/** A moment as an input of the type datetime-local takes it, in this browser's zone. */
function localText(moment) {
  const at = new Date(moment);
  return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

/** Sets or removes the moment at which a person is erased. changed(answer) is called with the person. */
export function ExpiryDialog({ gallery, subject, expiresAt, close, changed }) {
  const [at, setAt] = useState(expiresAt ? localText(expiresAt) : "");
  const where = subjectPath(gallery, subject, "expiry");
  const action = () =>
    at ? api.send("PUT", where, { expires_at: new Date(at).toISOString() }) : api.send("DELETE", where);
  return html`<${ActionDialog} title=${t("subject.expiry_title")} close=${close} label=${t("save")} action=${action} done=${changed}>
    <p>${t("subject.expiry_what", { subject: html`<${Name}>${subject}<//>` })}</p>
    <${Field} type="datetime-local" label=${t("subject.expires_at")} hint=${t("subject.expires_hint")} value=${at} onInput=${setAt} />
  <//>`;
}
