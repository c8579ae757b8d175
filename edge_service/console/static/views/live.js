// The live camera: the next frame is sent only after the answer to the last one, at most five a second.

import { api, path } from "../lib/api.js";
import { go, href } from "../lib/router.js";
import { info, keepPicture, may, useStore } from "../lib/state.js";
import { html, number, useEffect, useRef, useState, t } from "../lib/ui.js";
import { CameraFrame, useCamera } from "../parts/pictures/camera.js";
import { Boxes } from "../parts/pictures/face_picture.js";
import { Note, Problem } from "../parts/messages.js";
import { GalleryPage } from "../parts/page.js";
import { grab } from "../parts/pictures/pictures.js";
import { ScoreScale } from "../parts/scores/score_scale.js";
import { useGallery, wait } from "../parts/use_gallery.js";

const LEAST_MS = 200; // at most five frames a second
const SIDE = 960;
const MOST_FACES = 10;

export default function Live({ params }) {
  const { gallery, curves, error } = useGallery(params.gallery);
  return html`<${GalleryPage} gallery=${params.gallery} view="live" title=${t("live.title")} lead=${t("live.lead")}>
    <${Problem} error=${error} />
    ${gallery?.verify_only ? html`<${Note}>${t("recognize.verify_only")} <a href=${href("recognize", params)}>${t("recognize.verify")}</a><//>`
      : gallery && html`<${Camera} gallery=${gallery} curves=${curves} />`}
  <//>`;
}

function Camera({ gallery, curves }) {
  const camera = useCamera();
  const about = useStore(info);
  const [running, setRunning] = useState(true);
  const [frame, setFrame] = useState(null);
  const [said, setSaid] = useState("");
  const [pause, setPause] = useState(null);
  const on = camera.state === "on" && running;
  // Whether the next frame is to be recorded: frames are many, and only what is asked for is kept.
  const record = useRef(false);
  const [recorded, setRecorded] = useState(false);

  useEffect(() => {
    if (!on) {
      setFrame(null);
      return undefined;
    }
    const ended = new AbortController();
    watch({ gallery: gallery.gallery, video: camera.video.current, record, signal: ended.signal, onFrame: setFrame, onRecorded: () => go("sent"), onPause: setPause, onStop: () => setRunning(false) });
    return () => ended.abort();
  }, [on, gallery.gallery]);

  const names = (frame?.faces ?? []).map((face) => face.label ?? t("recognize.nobody"));
  const now = names.join(", ");
  // Said when it changes, not at each frame.
  useEffect(() => { if (frame) setSaid(now || t("live.no_face")); }, [now, Boolean(frame)]);
  const best = frame?.faces.find((face) => face.label) ?? frame?.faces[0];
  const paused = pause && html`<${Note} kind="warn">${pause}<//>`;
  return html`<div class="live result">
    <div class="stack">
      <${CameraFrame} camera=${camera}>${frame && html`<${Boxes} width=${frame.width} height=${frame.height} faces=${frame.faces} />`}<//>
      <div class="row apart" hidden=${camera.state !== "on"}>
        <button type="button" class=${running ? "" : "primary"} onClick=${() => { setPause(null); setRunning(!running); }}>${t(running ? "live.stop" : "live.start")}</button>
        ${frame?.ms && html`<p class="small muted number">${t("live.speed", { rate: number(frame.rate, { maximumFractionDigits: 1 }), ms: number(Math.round(frame.ms)) })}</p>`}
      </div>
      ${paused}
    </div>
    <div class="faces">
      <p class="hidden-text" role="status">${said}</p>
      ${frame && !frame.faces.length && html`<p class="muted">${frame.why ?? t("live.no_face")}</p>`}
      ${frame?.faces.length > 0 && html`<ul class="live-names">${frame.faces.map((face, at) => html`<li key=${at} class=${face.tone}>
        ${face.label ? may("manage", gallery.gallery) || may("enroll", gallery.gallery) ? html`<a href=${href("person", { gallery: gallery.gallery, subject: face.label })}><bdi>${face.label}</bdi></a>` : html`<bdi>${face.label}</bdi>` : t("recognize.nobody")}
        ${face.similarity && html` <span class="number">${face.similarity.toFixed(3)}</span>`}</li>`)}</ul>
        <${ScoreScale} similarity=${best?.similarity ?? null} threshold=${frame.threshold} decision=${best?.tone} curves=${curves} rule=${frame.rule} gallery=${gallery} />`}
      ${camera.state !== "on" && camera.state !== "asking" && html`<p><a href=${href("recognize", { gallery: gallery.gallery })}>${t("live.file")}</a></p>`}
      <p class="fine">${t("live.what")}</p>
      ${about?.console?.recording && on && html`<p><button type="button" aria-disabled=${recorded ? "true" : undefined}
        onClick=${() => { record.current = true; setRecorded(true); }}>${t("live.sent")}</button></p>`}
    </div>
  </div>`;
}

// Asks about one frame after another until the signal is aborted. While the tab is hidden nothing is sent.
async function watch({ gallery, video, record, signal, onFrame, onRecorded, onPause, onStop }) {
  const where = `${path("v1/galleries", gallery)}/identify`;
  let times = [];
  while (!signal.aborted) {
    if (document.hidden) {
      await new Promise((done) => {
        document.addEventListener("visibilitychange", done, { once: true });
        signal.addEventListener("abort", done, { once: true });
      });
      continue;
    }
    const started = performance.now();
    const shot = await grab(video, SIDE, 0.85);
    if (!shot?.blob) {
      await wait(LEAST_MS, signal);
      continue;
    }
    let next = LEAST_MS;
    const asked = record.current;
    try {
      const answer = await api.upload(where, shot.blob, { query: { max_faces: MOST_FACES, top_k: 1 }, record: asked, signal, rememberIt: false });
      if (signal.aborted) return;
      times = [...times, performance.now()].slice(-6);
      const faces = answer.faces.map((face) => ({
        box: face.box, tone: face.decision === "match" ? "match" : "unknown", label: face.candidates[0]?.subject ?? null, similarity: face.candidates[0]?.similarity ?? null,
      }));
      onPause(null);
      onFrame({ ...shot, faces, threshold: answer.threshold, rule: answer.score_rule, ms: answer.ms, rate: rateOf(times) });
      if (asked) {
        kept(shot.blob, gallery, faces, answer.requestId);
        onRecorded();
        return;
      }
    } catch (error) {
      if (signal.aborted || error.name === "AbortError") return;
      if (error.type === "face-refused") {
        onPause(null);
        onFrame({ ...shot, faces: [], why: error.reason === "no_face" ? null : error.detail });
      } else if (error.retryAfter || error.status === 0) {
        next = Math.max(LEAST_MS, 1000 * (error.retryAfter ?? 3));
        onFrame(null);
        onPause(`${error.detail} ${t("live.waits", { n: Math.round(next / 1000) })}`);
        await wait(next, signal);
        continue;
      } else {
        onPause(error.detail ?? error.message);
        onStop();
        return;
      }
    }
    await wait(Math.max(0, next - (performance.now() - started)), signal);
  }
}

function rateOf(times) {
  return times.length < 2 ? 0 : (1000 * (times.length - 1)) / (times.at(-1) - times[0]);
}

function kept(blob, gallery, faces, requestId) {
  keepPicture({
    url: URL.createObjectURL(blob), file: blob, name: t("camera.frame_name"), bytes: blob.size, count: 1, gallery, subject: null,
    names: faces.map((face) => face.label).filter(Boolean), how: "identify", faces, requestId, at: new Date(),
  });
}
