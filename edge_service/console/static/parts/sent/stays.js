// What stayed in the building: the picture, names in clear, the face's numbers before protection, the key.

import { bytes, html, number, t } from "../../lib/ui.js";
import { FacePicture } from "../pictures/face_picture.js";

/** `picture`: the last used one; `dim`: numbers of a face; `sealed`: whether the profile uses a key. */
export function Stays({ picture, dim, sealed }) {
  const name = picture.subject;
  const what = [
    ["picture", picture.count > 1 ? t("sent.stays.pictures", { n: picture.count, bytes: number(picture.bytes) }) : t("sent.stays.picture", { bytes: number(picture.bytes) }),
      t("sent.stays.picture_why")],
    ["name", name ? t("sent.stays.name", { name: html`<bdi>${name}</bdi>` }) : t("sent.stays.names"), t(name ? "sent.stays.name_why" : "sent.stays.names_why")],
    ["numbers", t("sent.stays.numbers", { dim }), t("sent.stays.numbers_why")],
    sealed && ["key", t("sent.stays.key"), t("sent.stays.key_why")],
  ].filter(Boolean);
  return html`<${FacePicture} url=${picture.url} faces=${picture.faces ?? []} small />
    <p class="small muted"><bdi>${picture.name}</bdi> ${picture.count > 1 ? t("sent.and_more", { n: picture.count - 1 }) : ""} · ${bytes(picture.bytes)}</p>
    <ul class="stays">${what.map(([key, title, why]) => html`<li key=${key}>
      <svg viewBox="0 0 20 20" aria-hidden="true"><path d="M5 9V6.5a5 5 0 0 1 10 0V9M3.5 9h13v8.5h-13z" /></svg>
      <div><p class="strong">${title}</p><p class="small muted">${why}</p></div></li>`)}</ul>`;
}
