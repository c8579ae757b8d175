// What leaves the building: for the picture just used, what stayed here and the exact request that went to the cloud.

import { api, path } from "../lib/api.js";
import { info, keepPicture, lastPicture, may, session, useStore } from "../lib/state.js";
import { bytes, clock, html, t, useAction, useEffect, useLoad, useState } from "../lib/ui.js";
import { DropZone } from "../parts/pictures/drop_zone.js";
import { Field } from "../parts/field.js";
import { Button, Loading, Note, Problem } from "../parts/messages.js";
import { Page } from "../parts/page.js";
import { Goes } from "../parts/sent/goes.js";
import { bytesOf } from "../parts/sent/request.js";
import { Stays } from "../parts/sent/stays.js";

// The record of the last picture, kept by this tab after the edge has forgotten it.
let kept = null;

export default function Sent() {
  const picture = useStore(lastPicture);
  const about = useStore(info);
  const [record, setRecord] = useState(null);
  const [error, setError] = useState(null);
  const off = about?.console && !about.console.recording;

  useEffect(() => {
    setError(null);
    const mine = kept?.request_id === picture?.requestId ? kept : null;
    setRecord(mine);
    if (!picture?.requestId || mine || off) return undefined;
    const ended = new AbortController();
    api.get(path("v1/sent", picture.requestId), { signal: ended.signal }).then((found) => {
      kept = found;
      setRecord(found);
    }, (refused) => refused.name !== "AbortError" && setError(refused));
    return () => ended.abort();
  }, [picture?.requestId, off]);

  const [again, sending] = useAction(() => ask(picture));
  return html`<${Page} title=${t("sent.title")} lead=${t("sent.lead")}>
    ${off && html`<${Note} kind="warn">${t("sent.off")}<//>`}
    ${!off && !picture && html`<${Choose} />`}
    ${!off && picture && !record && !error && html`<${Loading} />`}
    ${error && html`<${Note} kind="warn"><p>${t(error.reason === "not_recorded" ? "sent.forgotten" : "sent.failed")}</p>
      ${error.reason !== "not_recorded" && html`<p class="small">${error.detail}</p>`}
      <div class="row"><${Button} class="primary" busy=${sending.busy} onClick=${again}>${t("sent.again")}<//></div><//>
      <${Problem} error=${sending.error} />`}
    ${record && picture && html`<${Both} ...${{ picture, record, about }} />`}
    ${picture && (record || error) && !off && html`<details class="card"><summary>${t("sent.another")}</summary><${Choose} compact /></details>`}
  <//>`;
}

function Both({ picture, record, about }) {
  const went = record.requests.reduce((sum, one) => sum + bytesOf(one), 0);
  const dim = record.requests.flatMap((one) => one.decoded.templates)[0]?.dim ?? about?.dim ?? 128;
  const sealed = about?.sealed !== false;
  return html`<p class="verdict">${t(record.requests.length ? "sent.summary" : "sent.summary_none", { n: picture.count ?? 1, picture: bytes(picture.bytes), went: bytes(went) })}</p>
    <div class="border">
      <section class="card stays-side stack" aria-labelledby="stays"><h2 id="stays">${t("sent.stays.title")}</h2>
        <${Stays} picture=${picture} dim=${dim} sealed=${sealed} /></section>
      <div class="wall" aria-hidden="true"><span>${t("sent.wall")}</span></div>
      <section class="card goes-side stack" aria-labelledby="goes"><h2 id="goes">${t("sent.goes.title")}</h2>
        ${record.requests.length === 0 && html`<p>${t("sent.nothing")}</p>`}
        ${record.requests.length > 0 && html`<${Goes} requests=${record.requests} profile=${about} />`}
        <p class="small muted">${t("sent.kept", { until: clock(record.kept_until) })}</p>
      </section>
    </div>`;
}

// Asks again with the picture that was used last; an enrollment that is repeated stores nothing new.
async function ask(picture) {
  const start = path("v1/galleries", picture.gallery);
  const subject = picture.subject && path(`${start}/subjects`, picture.subject);
  const where = picture.how === "enroll" ? `${subject}/faces` : picture.how === "verify" ? `${subject}/verify` : `${start}/identify`;
  const query = picture.how === "identify" ? { max_faces: picture.most ?? 10 } : {};
  const answer = await api.upload(where, picture.file, { query, record: true });
  keepPicture({ ...picture, url: URL.createObjectURL(picture.file), bytes: picture.file.size, count: 1, requestId: answer.requestId, at: new Date() });
}

// A picture to look at, where none was used yet: it is identified in a gallery.
function Choose({ compact = false }) {
  const key = useStore(session).key;
  const listed = useLoad(async (signal) => (may("manage") ? (await api.get("v1/galleries", { query: { limit: 200 }, signal })).items : []), [key.id]);
  const names = listed.data?.length ? listed.data.filter((one) => !one.verify_only).map((one) => one.gallery) : (key.galleries ?? []);
  const [chosen, setChosen] = useState("");
  const gallery = chosen || names[0] || "";
  const [run, state] = useAction(async (picture) => {
    const answer = await api.upload(`${path("v1/galleries", gallery)}/identify`, picture.file, { query: { max_faces: 10 }, record: true });
    const faces = answer.faces.map((face) => ({ box: face.box, tone: face.decision === "match" ? "match" : "unknown", label: face.candidates[0]?.subject ?? null }));
    keepPicture({
      url: URL.createObjectURL(picture.file), file: picture.file, name: picture.name, bytes: picture.bytes, count: 1, gallery, subject: null,
      names: faces.map((face) => face.label).filter(Boolean), how: "identify", faces, requestId: answer.requestId, at: new Date(),
    });
  });
  if (!may("match")) return html`<p>${t("sent.no_match_scope")}</p>`;
  return html`<div class="stack">
    ${!compact && html`<p>${t("sent.none_yet")}</p>`}
    ${names.length ? html`<${Field} as="select" class="short" label=${t("sent.gallery")} value=${gallery} onInput=${setChosen}>
        ${names.map((one) => html`<option key=${one} value=${one}>${one}</option>`)}<//>`
      : html`<${Field} label=${t("sent.gallery")} value=${chosen} onInput=${setChosen} />`}
    <${DropZone} onPictures=${([first]) => run(first)} disabled=${!gallery || state.busy} compact=${compact} />
    ${state.busy && html`<${Loading} />`}
    <${Problem} error=${state.error} />
  </div>`;
}
