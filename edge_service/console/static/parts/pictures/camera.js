// The camera: asked for when it is needed, and let go when it is not.

import { html, useEffect, useRef, useState, t } from "../../lib/ui.js";
import { grab } from "./pictures.js";

const SENTENCES = { NotAllowedError: "refused", SecurityError: "refused", NotFoundError: "absent", OverconstrainedError: "absent", NotReadableError: "busy", AbortError: "busy" };

/** {video, state, cameras, use}: `state` is "asking", "on", or the key of a sentence that says why there is no picture. */
export function useCamera() {
  const video = useRef(null);
  const [state, setState] = useState("asking");
  const [cameras, setCameras] = useState([]);
  const [wanted, use] = useState(null);
  const [tries, setTries] = useState(0);
  useEffect(() => {
    let stream = null;
    let left = false;
    async function start() {
      if (!navigator.mediaDevices?.getUserMedia) return setState("no_https");
      setState("asking");
      try {
        const size = { width: { ideal: 1280 }, height: { ideal: 720 } };
        const asked = await navigator.mediaDevices.getUserMedia({ audio: false, video: wanted ? { ...size, deviceId: { exact: wanted } } : { ...size, facingMode: "user" } });
        if (left) return stop(asked);
        stream = asked;
        stream.getVideoTracks()[0].addEventListener("ended", () => setState("ended"));
        video.current.srcObject = stream;
        await video.current.play();
        if (left) return undefined;
        setState("on");
        setCameras((await navigator.mediaDevices.enumerateDevices()).filter((one) => one.kind === "videoinput"));
      } catch (error) {
        if (!left) setState(SENTENCES[error.name] ?? "failed");
      }
      return undefined;
    }
    start();
    return () => {
      left = true;
      stop(stream);
    };
  }, [wanted, tries]);
  return { video, state, cameras, use, again: () => setTries(tries + 1) };
}

function stop(stream) {
  stream?.getTracks().forEach((track) => track.stop());
}

/** The video, or a sentence that says why there is none and what to do. */
export function CameraFrame({ camera, children }) {
  const { video, state, cameras, use, again } = camera;
  const failed = state !== "on" && state !== "asking";
  return html`<div class="camera">
    <div class="overlaid" hidden=${failed}>
      <video ref=${video} muted playsinline aria-label=${t("camera.picture")}></video>
      ${state === "on" && children}
      ${state === "asking" && html`<p class="over" role="status">${t("camera.asking")}</p>`}
    </div>
    ${failed && html`<div class="note bad" role="alert"><p>${t(`camera.${state}`)}</p>
      <button type="button" onClick=${again}>${t("camera.again")}</button></div>`}
    ${cameras.length > 1 && html`<label class="field">${t("camera.which")}
      <select onChange=${(event) => use(event.target.value)}>
        ${cameras.map((one, at) => html`<option key=${one.deviceId} value=${one.deviceId}>${one.label || t("camera.nth", { n: at + 1 })}</option>`)}
      </select></label>`}
  </div>`;
}

/** A camera that takes photos: `onPhoto(blob)` for each, `onClose()` when the person is done. */
export function Camera({ onPhoto, onClose, several = false }) {
  const camera = useCamera();
  const [taken, setTaken] = useState(0);
  const button = useRef(null);
  useEffect(() => {
    if (camera.state === "on") button.current?.focus();
  }, [camera.state]);
  async function take() {
    const shot = await grab(camera.video.current, 1920, 0.92);
    if (!shot?.blob) return;
    setTaken(taken + 1);
    onPhoto(shot.blob);
  }
  return html`<div class="drop-zone taking">
    <${CameraFrame} camera=${camera} />
    <div class="row">
      <button type="button" class="primary" ref=${button} disabled=${camera.state !== "on"} onClick=${take}>${t("camera.take")}</button>
      <button type="button" onClick=${onClose}>${t("camera.close")}</button>
    </div>
    ${several && html`<p role="status">${taken ? t("camera.taken", { n: taken }) : ""}</p>`}
  </div>`;
}
