// Who is in a picture (1:N), or whether it shows somebody (1:1).

import { api, path } from "../lib/api.js";
import { go, href } from "../lib/router.js";
import { info, keepPicture, may, useStore } from "../lib/state.js";
import { html, useEffect, useId, useRef, useState, t } from "../lib/ui.js";
import { DropZone } from "../parts/pictures/drop_zone.js";
import { FacePicture, QualityFigures, QualityReasons } from "../parts/pictures/face_picture.js";
import { Field } from "../parts/field.js";
import { Loading, Note, Problem } from "../parts/messages.js";
import { GalleryPage } from "../parts/page.js";
import { handOver, takeOver } from "../parts/pictures/pictures.js";
import { ReferenceWords, ScoreScale } from "../parts/scores/score_scale.js";
import { patiently, useGallery } from "../parts/use_gallery.js";

const MANY = 50;

export default function Recognize({ params, query = {} }) {
  const name = params.gallery;
  const { gallery, curves, error: away } = useGallery(name);
  const about = useStore(info);
  const [mode, setMode] = useState(query.subject ? "verify" : "identify");
  const [subject, setSubject] = useState(query.subject ?? "");
  const [most, setMost] = useState(MANY);
  const [picture, setPicture] = useState(null);
  const [result, setResult] = useState(null);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  const [selected, setSelected] = useState(0);
  const running = useRef(null);
  const verifying = mode === "verify" || Boolean(gallery?.verify_only);

  async function run(chosen, { who = subject, faces = most, verify = verifying } = {}) {
    if (!chosen) return;
    running.current?.abort();
    const ended = new AbortController();
    running.current = ended;
    setPicture(chosen);
    setError(null);
    setResult(null);
    if (verify && !who.trim()) return;
    setBusy(true);
    try {
      const found = await ask(name, chosen, { verify, who: who.trim(), faces, record: about?.console?.recording, signal: ended.signal });
      if (ended.signal.aborted) return;
      setResult(found);
      setSelected(0);
      remembered(chosen, found, name, verify ? who.trim() : null, faces);
    } catch (refused) {
      if (ended.signal.aborted) return;
      setError(refused);
      if (refused.type === "face-refused") setResult(await seen(chosen, ended.signal));
    } finally {
      if (!ended.signal.aborted) setBusy(false);
    }
  }

  useEffect(() => {
    const handed = takeOver();
    if (handed) run(handed);
    return () => running.current?.abort();
  }, [name]);

  return html`<${GalleryPage} gallery=${name} view="recognize" title=${t("recognize.title")} lead=${t("recognize.lead")}>
    <${Problem} error=${away} />
    <div class="row apart ways">${gallery && !gallery.verify_only && html`<div class="switch" role="group" aria-label=${t("recognize.what")}>
      <button type="button" aria-pressed=${!verifying} onClick=${() => { setMode("identify"); run(picture, { verify: false }); }}>${t("recognize.identify")}</button>
      <button type="button" aria-pressed=${verifying} onClick=${() => { setMode("verify"); run(picture, { verify: true }); }}>${t("recognize.verify")}</button>
    </div>`}
    ${verifying ? html`<${WhoField} gallery=${name} value=${subject} onValue=${setSubject} onDone=${() => run(picture)} ready=${Boolean(picture)} />`
      : html`<${Field} as="select" class="short" label=${t("recognize.search_for")} value=${most}
        onInput=${(text) => { setMost(Number(text)); run(picture, { faces: Number(text) }); }}>
        <option value="1">${t("recognize.largest")}</option>
        ${[MANY, 200].map((n) => html`<option key=${n} value=${n}>${t("recognize.up_to", { n })}</option>`)}
      <//>`}</div>
    ${gallery?.verify_only && html`<${Note}>${t("recognize.verify_only")}<//>`}
    ${gallery?.subjects === 0 && html`<${Note}><p>${t("recognize.empty")}
      ${may("enroll", name) && html` <a href=${href("enroll", params)}>${t("recognize.enroll_first")}</a>`}</p><//>`}
    <${DropZone} onPictures=${([first]) => run(first)} compact=${Boolean(picture)}
      label=${verifying && !subject.trim() ? t("recognize.drop_verify") : picture ? t("recognize.drop_next") : null} />
    <div aria-live="polite" aria-busy=${busy}>
      ${busy && html`<${Loading} text=${t(verifying ? "recognize.comparing" : "recognize.searching")} />`}
      <${Problem} error=${error} retry=${error?.status === 422 ? null : () => run(picture)} />
      ${result?.answer && html`<${Summary} result=${result} subject=${subject} />`}
    </div>
    ${picture && html`<div class="result ${result?.faces.length > 12 ? "crowd" : ""}">
      <${FacePicture} url=${picture.url} size=${result?.size} faces=${result?.faces ?? []} selected=${result?.faces.length > 1 ? selected : null} onSelect=${setSelected} />
      ${result && html`<${Faces} ...${{ result, gallery, curves, selected, setSelected, name, picture }} />`}
    </div>`}
    ${result?.answer && about?.console?.recording && html`<p class="next"><a class="button" href=${href("sent")}>${t("recognize.sent")}</a></p>`}
  <//>`;
}

async function ask(gallery, chosen, { verify, who, faces, record, signal }) {
  const start = path("v1/galleries", gallery);
  if (!verify) {
    const answer = await patiently(() => api.upload(`${start}/identify`, chosen.file, { query: { max_faces: faces, top_k: 5 }, record, signal }), signal);
    return {
      answer, size: null,
      faces: answer.faces.map((face) => ({
        ...face, tone: face.decision === "match" ? "match" : "unknown", label: face.candidates[0]?.subject ?? null,
      })),
    };
  }
  const [answer, found] = await Promise.all([
    patiently(() => api.upload(`${path(`${start}/subjects`, who)}/verify`, chosen.file, { record, signal }), signal),
    seen(chosen, signal),
  ]);
  const box = found?.faces[0] ? { ...found.faces[0] } : null;
  const face = { ...box, quality: answer.quality, decision: answer.decision, similarity: answer.similarity, label: who, tone: answer.decision === "match" ? "match" : "poor", candidates: [] };
  if (answer.decision !== "match") Object.assign(face, { label: null, compared: who }); // the face is not to be called so
  return { answer, size: found?.size ?? null, faces: box ? [face] : [], verified: face };
}

// The boxes of a picture, for an answer that has none; null where even they are refused.
async function seen(chosen, signal) {
  try {
    const found = await api.upload("v1/detect", chosen.file, { signal, rememberIt: false });
    return {
      size: { width: found.width, height: found.height },
      faces: found.faces.map((face) => ({ ...face, tone: face.quality.reasons.length ? "poor" : "unknown", label: null })),
    };
  } catch {
    return null;
  }
}

function remembered(chosen, found, gallery, subject, most) {
  keepPicture({
    url: URL.createObjectURL(chosen.file), file: chosen.file, name: chosen.name, bytes: chosen.bytes, count: 1, gallery, subject, most,
    names: subject ? [subject] : [], how: subject ? "verify" : "identify", faces: found.faces.map(({ box, tone, label }) => ({ box, tone, label })),
    requestId: found.answer.requestId, at: new Date(),
  });
}

function WhoField({ gallery, value, onValue, onDone, ready }) {
  const id = useId("who");
  const [names, setNames] = useState([]);
  useEffect(() => {
    if (!may("manage", gallery)) return undefined;
    const ended = new AbortController();
    const timer = setTimeout(() => api.get(`${path("v1/galleries", gallery)}/subjects`, { query: { prefix: value, limit: 10 }, signal: ended.signal })
      .then((page) => setNames(page.items.map((one) => one.subject)), () => setNames([])), 200);
    return () => { clearTimeout(timer); ended.abort(); };
  }, [value, gallery]);
  return html`<form class="inline-field" onSubmit=${(event) => { event.preventDefault(); onDone(); }}>
    <div class="field"><label for=${id}>${t("recognize.who")}</label>
    <input id=${id} list=${`${id}-names`} value=${value} maxlength="128" dir="auto" autocomplete="off" onInput=${(event) => onValue(event.target.value)} />
    <datalist id=${`${id}-names`}>${names.map((one) => html`<option key=${one} value=${one} />`)}</datalist></div>
    <button type="submit" disabled=${!ready || !value.trim()}>${t("recognize.compare")}</button>
  </form>`;
}

function Summary({ result, subject }) {
  if (result.verified) {
    const yes = result.verified.decision === "match";
    return html`<p class="verdict ${yes ? "match" : "poor"}">${t(yes ? "recognize.is" : "recognize.is_not", { name: html`<bdi>${subject}</bdi>` })}</p>`;
  }
  const known = result.faces.filter((face) => face.decision === "match").length;
  const left = result.answer.faces_left_out;
  const out = left.over_max_faces + left.poor_quality;
  if (result.faces.length === 1 && known) {
    return html`<p class="verdict match">${t("recognize.is", { name: html`<bdi>${result.faces[0].candidates[0].subject}</bdi>` })}</p>`;
  }
  return html`<p class="verdict ${known ? "match" : ""}">${t("recognize.found", { n: result.answer.faces_found })}
    ${" "}${t("recognize.known", { n: known })} ${out > 0 && t("recognize.left_out", { n: out })}</p>`;
}

function Faces({ result, gallery, curves, selected, setSelected, name, picture }) {
  const face = result.verified ?? result.faces[selected];
  const answer = result.answer;
  const enroll = () => {
    handOver({ ...picture, url: URL.createObjectURL(picture.file), root: null, folder: null });
    go("enroll", { gallery: name });
  };
  return html`<div class="faces">
    ${result.faces.length > 1 && html`<ol class="face-list">${result.faces.map((one, at) => html`<li key=${at}>
      <button type="button" aria-pressed=${selected === at} class=${one.tone} onClick=${() => setSelected(at)} onFocus=${() => setSelected(at)}>
        <b>${at + 1}</b> ${one.label ? html`<bdi>${one.label}</bdi>` : html`<span>${t(answer ? "recognize.nobody" : "recognize.face")}</span>`}
        ${one.candidates?.[0] && html`<span class="score">${one.candidates[0].similarity.toFixed(3)}</span>`}
      </button></li>`)}</ol>`}
    ${face && html`<div class="one-face">
      ${answer && html`<${Score} ...${{ face, answer, gallery, curves, name }} />
        ${!face.label && !result.verified && face === largest(result.faces) && may("enroll", name) && html`<div><button type="button" onClick=${enroll}>${t("recognize.enroll")}</button></div>`}`}
      <${QualityReasons} quality=${face.quality} /><${QualityFigures} quality=${face.quality} />
    </div>`}
  </div>`;
}

// The face that enrolling the picture would store.
const largest = (faces) => faces.reduce((most, one) => (one.box.width * one.box.height > most.box.width * most.box.height ? one : most));

function Score({ face, answer, gallery, curves, name }) {
  const best = face.similarity ?? face.candidates[0]?.similarity ?? null;
  const shown = face.label;
  if (face.compared) return html`<h2>${t("recognize.compared", { name: html`<bdi>${face.compared}</bdi>` })}</h2><${Figures} ...${{ best, face, answer, gallery, curves }} />`;
  const linked = may("manage", name) || may("enroll", name);
  return html`<h2>${shown && !linked ? html`<bdi>${shown}</bdi>` : shown ? html`<a href=${href("person", { gallery: name, subject: shown })}><bdi>${shown}</bdi></a>` : t("recognize.nobody")}</h2><${Figures} ...${{ best, face, answer, gallery, curves }} />
    ${face.candidates.length > 1 && html`<h3>${t("recognize.others")}</h3><ol class="plain">${face.candidates.slice(1).map((one) => html`<li key=${one.subject}>
      <bdi>${one.subject}</bdi> <span class="score">${one.similarity.toFixed(3)}</span></li>`)}</ol>`}`;
}

function Figures({ best, face, answer, gallery, curves }) {
  return html`<p>${best === null ? t("recognize.below", { threshold: answer.threshold.toFixed(3) })
      : t(best >= answer.threshold ? "recognize.reaches" : "recognize.misses", { similarity: best.toFixed(3), threshold: answer.threshold.toFixed(3) })}</p>
    <${ScoreScale} similarity=${best} threshold=${answer.threshold} decision=${face.decision} curves=${curves} rule=${answer.score_rule} gallery=${face.similarity === undefined ? gallery : null} />
    <${ReferenceWords} answer=${answer} curves=${curves} />`;
}
