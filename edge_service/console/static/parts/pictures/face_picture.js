// A picture with what the edge found in it: boxes, landmarks, and a number or a name beside each box.

import { html, useEffect, useRef, useState, t } from "../../lib/ui.js";

const NAMES_UP_TO = 6;
const LANDMARKS = ["right_eye", "left_eye", "nose", "right_mouth", "left_mouth"];

/** Boxes over a picture or a video of `width` x `height` pixels, as the browser shows it: after EXIF orientation. */
export function Boxes({ width, height, faces, selected = null, onSelect = null }) {
  const [shown, setShown] = useState(0);
  const frame = useRef(null);
  useEffect(() => {
    const watcher = new ResizeObserver(([entry]) => setShown(entry.contentRect.width));
    watcher.observe(frame.current);
    return () => watcher.disconnect();
  }, []);
  const scale = width ? shown / width : 0;
  const named = faces.length <= NAMES_UP_TO;
  return html`<div class="boxes" ref=${frame} aria-hidden="true">
    <svg viewBox="0 0 ${width || 1} ${height || 1}" preserveAspectRatio="none">
      ${faces.map((face, at) => html`<g key=${at} class="box ${face.tone ?? ""} ${selected === at ? "selected" : ""}"
        onClick=${onSelect && (() => onSelect(at))}>
        <rect class="under" x=${face.box.x} y=${face.box.y} width=${face.box.width} height=${face.box.height} />
        <rect x=${face.box.x} y=${face.box.y} width=${face.box.width} height=${face.box.height} />
        ${face.landmarks && LANDMARKS.map((name) => html`<circle key=${name}
          cx=${face.landmarks[name].x} cy=${face.landmarks[name].y}
          class=${face.box.width * scale < 70 ? "tiny" : ""} r=${Math.max(face.box.width * 0.018, scale ? 1.2 / scale : 0)} />`)}
      </g>`)}
    </svg>
    ${faces.map((face, at) => {
      const side = face.box.width * scale;
      const label = named || selected === at ? face.label : null;
      // In a crowd a number that hides the face would help nobody; its row in the list marks the box.
      if (!label && side < 26 && selected !== at) return null;
      const low = face.box.y * scale < 28;
      const edge = low ? (face.box.y + face.box.height) / height : face.box.y / height;
      const right = face.box.x / width > 0.7;
      const across = right ? { right: `${100 * Math.max(0, 1 - (face.box.x + face.box.width) / width)}%` }
        : { left: `${100 * Math.max(0, face.box.x / width)}%` };
      return html`<span key=${`label-${at}`} style=${{ top: `${100 * Math.min(1, Math.max(0, edge))}%`, ...across }}
        class="tag ${face.tone ?? ""} ${low ? "below" : "above"} ${label ? "" : "small"} ${selected === at ? "selected" : ""}">
        ${faces.length > 1 && html`<b>${at + 1}</b>`}${label && html` <bdi>${label}</bdi>`}
      </span>`;
    })}
  </div>`;
}

/**
 * A still picture with its faces.
 *
 * `url`: of the picture. `size`: {width, height} as the edge saw it; where absent, as the browser does.
 * `faces`: [{box, landmarks?, label?, tone?: "match" | "unknown" | "poor"}]. `onSelect(at)`: a box was clicked.
 */
export function FacePicture({ url, size = null, faces = [], selected = null, onSelect = null, small = false }) {
  const [loaded, setLoaded] = useState({});
  // What was said of another picture does not hold of this one.
  const { natural = null, hidden = false } = loaded.url === url ? loaded : {};
  const { width, height } = size ?? natural ?? extent(faces);
  const known = Boolean(size ?? natural) || hidden;
  return html`<figure class="face-picture ${small ? "small" : ""} ${hidden ? "not-shown" : ""}">
    <div class="overlaid" style=${hidden ? { aspectRatio: `${width} / ${height}` } : null}>
      ${hidden ? html`<p>${t("picture.not_shown")}</p>` : html`<img key=${url} src=${url} alt=${t("picture.alt", { n: faces.length })}
        onLoad=${({ target }) => setLoaded({ url, natural: { width: target.naturalWidth, height: target.naturalHeight } })}
        onError=${() => setLoaded({ url, hidden: true })} />`}
      ${known && html`<${Boxes} ...${{ width, height, faces, selected, onSelect }} />`}
    </div>
  </figure>`;
}

// A picture that the browser cannot decode (HEIC), and whose size the answer does not tell.
function extent(faces) {
  const right = Math.max(1, ...faces.map((face) => face.box.x + face.box.width));
  const bottom = Math.max(1, ...faces.map((face) => face.box.y + face.box.height));
  return { width: right * 1.1, height: bottom * 1.1 };
}

/** The reasons for which a face is refused or may match badly, as sentences. */
export function QualityReasons({ quality }) {
  if (!quality?.reasons?.length) return null;
  return html`<ul class="reasons">${quality.reasons.map((reason) => html`<li key=${reason}>${t(`reason.${reason}`)}</li>`)}</ul>`;
}

/** The measured quality of a face, folded. */
export function QualityFigures({ quality }) {
  if (!quality) return null;
  const rows = [
    ["size", t("quality.pixels", { n: Math.round(quality.face_size_px) })],
    ["sharpness", quality.sharpness.toFixed(3)],
    ["brightness", t("quality.of_255", { n: Math.round(quality.brightness) })],
    ["nose_offset", quality.nose_offset.toFixed(2)],
    ["upright", t(quality.upright ? "quality.yes" : "quality.no")],
  ];
  return html`<details class="quality"><summary>${t("quality.title")}</summary>
    <dl>${rows.map(([name, value]) => html`<div key=${name}><dt>${t(`quality.${name}`)}</dt><dd>${value}</dd></div>`)}</dl>
  </details>`;
}
