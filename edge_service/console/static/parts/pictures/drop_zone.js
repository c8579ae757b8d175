// Where pictures come in: dropped, chosen, pasted, or taken with the camera.

import { html, useEffect, useRef, useState, t } from "../../lib/ui.js";
import { Camera } from "./camera.js";
import { asPicture, dropped, isPicture } from "./pictures.js";

/**
 * `onPictures(pictures)`: with those of parts/pictures.js, never empty. `several`: more than one at once.
 * `compact`: a lower zone, once there are pictures. `label`: the sentence in it.
 */
export function DropZone({ onPictures, several = false, compact = false, label = null, disabled = false }) {
  const [over, setOver] = useState(false);
  const [camera, setCamera] = useState(false);
  const [wrong, setWrong] = useState(null);
  const files = useRef(null);
  const folder = useRef(null);

  function take(pictures) {
    const good = pictures.filter((one) => isPicture(one.file));
    setWrong(good.length < pictures.length || !pictures.length ? t("drop.no_picture", { n: pictures.length - good.length }) : null);
    if (good.length) onPictures(several ? good : good.slice(0, 1));
  }

  useEffect(() => {
    function paste(event) {
      const pasted = [...(event.clipboardData?.files ?? [])];
      if (disabled || !pasted.length) return;
      event.preventDefault();
      take(pasted.map((file) => asPicture(file)));
    }
    document.addEventListener("paste", paste);
    return () => document.removeEventListener("paste", paste);
  });

  async function drop(event) {
    event.preventDefault();
    setOver(false);
    if (!disabled) take(await dropped(event.dataTransfer));
  }

  function chosen(event) {
    take([...event.target.files].map((file) => asPicture(file)));
    event.target.value = "";
  }

  if (camera) {
    return html`<${Camera} onClose=${() => setCamera(false)} several=${several}
      onPhoto=${(blob) => {
        const file = new File([blob], `${t("camera.photo_name")}-${Date.now() % 1e6}.jpg`, { type: "image/jpeg" });
        if (!several) setCamera(false);
        take([asPicture(file)]);
      }} />`;
  }
  return html`<div class="drop-zone ${over ? "over" : ""} ${compact ? "compact" : ""}"
    onDragOver=${(event) => { event.preventDefault(); setOver(true); }}
    onDragLeave=${() => setOver(false)} onDrop=${drop}>
    <p>${label ?? t(several ? "drop.several" : "drop.one")}</p>
    <div class="row">
      <button type="button" class=${compact ? "" : "primary"} disabled=${disabled} onClick=${() => files.current.click()}>
        ${t(several ? "drop.choose_several" : "drop.choose_one")}</button>
      ${several && html`<button type="button" disabled=${disabled} onClick=${() => folder.current.click()}>${t("drop.choose_folder")}</button>`}
      <button type="button" disabled=${disabled} onClick=${() => setCamera(true)}>${t("drop.camera")}</button>
    </div>
    <input class="hidden-text" type="file" tabindex="-1" aria-label=${t("drop.files")} ref=${files} multiple=${several} disabled=${disabled}
      accept="image/*,.heic,.heif,.avif" onChange=${chosen} data-testid="files" />
    ${several && html`<input class="hidden-text" type="file" tabindex="-1" aria-label=${t("drop.folder")} ref=${folder} disabled=${disabled}
      webkitdirectory onChange=${chosen} data-testid="folder" />`}
    ${wrong && html`<p class="note bad" role="alert">${wrong}</p>`}
  </div>`;
}
