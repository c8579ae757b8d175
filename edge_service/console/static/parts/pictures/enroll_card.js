// One picture before it is stored: its face, its quality, whom else it matches, and what came of it.

import { href } from "../../lib/router.js";
import { bytes, html, t } from "../../lib/ui.js";
import { FacePicture, QualityFigures, QualityReasons } from "./face_picture.js";
import { Choice } from "../field.js";

export function EnrollCard({ item, gallery, subject, several, done, wanted, onWanted, onRemove, onRetry }) {
  const { picture, found, dry, problem, stored } = item;
  const faces = (found?.faces ?? []).map((face, at) => ({
    ...face, label: null, tone: face.quality.reasons.length ? "poor" : at === 0 && !problem ? "match" : "unknown",
  }));
  const quality = stored?.quality ?? dry?.quality ?? found?.faces[0]?.quality;
  const others = (stored ?? dry)?.also_matches ?? [];
  const tickable = !problem && !stored && !done && dry && dry.stored !== "before";
  const tick = tickable ? ` ${t("enroll.tick")}` : "";
  const reasons = problem?.reasons ?? (problem?.reason ? [problem.reason] : []);
  return html`<li class="card enroll-card ${stored ? "stored" : ""}">
    <${FacePicture} url=${picture.url} size=${found ? { width: found.width, height: found.height } : null} faces=${faces} small />
    <div class="stack tight">
      <p class="row apart"><bdi class="cut strong">${picture.name}</bdi> <span class="small muted nowrap">${bytes(picture.bytes)}</span></p>
      ${several && html`<p class="small">${t("enroll.as")} <bdi class="strong">${subject || "…"}</bdi></p>`}
      <div aria-live="polite" class="stack tight">
        ${!stored && !problem && !dry && !found && html`<p class="muted">${t("enroll.examining")}</p>`}
        ${found && found.faces_found !== 1 && html`<p class="small">${t("recognize.found", { n: found.faces_found })} ${found.faces_found > 1 && !problem ? t("enroll.largest") : ""}</p>`}
        ${problem && html`<p class="badge ${item.unusable ? "bad" : "warn"}">${t(item.unusable ? "enroll.refused" : "enroll.not_examined")}</p>
          <p class="small">${problem.detail ?? problem.message}</p>
          ${reasons.length > 1 && html`<${QualityReasons} quality=${{ reasons }} />`}
          ${!item.unusable && html`<div><button type="button" class="small" onClick=${onRetry}>${t("problem.retry")}</button></div>`}`}
        ${!problem && found?.rotation > 0 && html`<p class="small">${t("enroll.rotated", { n: found.rotation })}</p>`}
        ${!problem && !stored && dry && html`<p class="badge ${dry.stored === "before" ? "accent" : "good"}">${t(dry.stored === "before" ? "enroll.before" : "enroll.good")}</p>`}
        ${stored && html`<p class="badge good">${t(stored.stored === "before" ? "enroll.before" : "enroll.is_stored")}</p>`}
        ${(stored ?? dry)?.agrees === false && html`<p class="badge warn">${t("enroll.disagrees")}</p><p class="small">${t("enroll.disagrees_what")}${tick}</p>`}
        ${others.length > 0 && html`<p class="badge warn">${t("enroll.also")}</p>
          <ul class="small plain">${others.map((one) => html`<li key=${one.subject}><a href=${href("person", { gallery, subject: one.subject })} target="_blank" rel="noopener"><bdi>${one.subject}</bdi></a> <span class="number">${one.similarity.toFixed(3)}</span></li>`)}</ul>
          <p class="small">${t("enroll.also_what")}${tick}</p>`}
      </div>
      <${QualityFigures} quality=${quality} />
      <div class="row apart">
        ${tickable ? html`<${Choice} label=${t("enroll.include")} checked=${wanted} onChange=${onWanted} />` : html`<span></span>`}
        ${onRemove && !stored && !done && html`<button type="button" class="quiet small" onClick=${onRemove} aria-label=${t("enroll.remove_named", { name: picture.name })}>${t("enroll.remove")}</button>`}
      </div>
    </div>
  </li>`;
}
