// Enrolling: pictures are examined first, and stored only when the person says so.

import { api, path } from "../lib/api.js";
import { go, href } from "../lib/router.js";
import { info, keepPicture, may, reachable, toast, useStore } from "../lib/state.js";
import { html, useEffect, useRef, useState, t } from "../lib/ui.js";
import { DropZone } from "../parts/pictures/drop_zone.js";
import { Choice, Field } from "../parts/field.js";
import { Button, Note, Problem } from "../parts/messages.js";
import { GalleryPage } from "../parts/page.js";
import { asPicture, handOver, isPicture, takeOver } from "../parts/pictures/pictures.js";
import { EnrollCard } from "../parts/pictures/enroll_card.js";
import { patiently, wait } from "../parts/use_gallery.js";

const AT_ONCE = 2;
const MOST_BYTES = 40e6; // of a request; the edge takes 48 MiB

export default function Enroll({ params, query = {} }) {
  const gallery = params.gallery;
  const about = useStore(info);
  const [name, setName] = useState(query.subject ?? "");
  const [items, setItems] = useState([]);
  const [byFolder, setByFolder] = useState(true);
  const [storing, setStoring] = useState(false);
  const [error, setError] = useState(null);
  const [done, setDone] = useState(null);
  const settled = useSettled(name, 350);
  const folders = items.some((one) => one.picture.folder);
  const subjectOf = (item, typed = name) => usable(folders && byFolder && item.picture.folder ? item.picture.folder : typed);
  const change = (key, members) => setItems((before) => before.map((one) => (one.picture.key === key ? { ...one, ...members } : one)));

  const held = useRef([]);
  useExamination({ gallery, items, change, about, subjectOf: (item) => subjectOf(item, settled) });
  const { edge, cloud } = useStore(reachable);
  const again = (item) => change(item.picture.key, { problem: null, dryFor: undefined });
  // What could not be examined while the cloud was away is examined when it is back.
  useEffect(() => {
    if (edge && cloud) held.current.filter((one) => one.problem && !one.unusable).forEach(again);
  }, [edge, cloud]);
  held.current = items;
  useEffect(() => {
    const handed = takeOver();
    if (handed) add([handed]);
  }, []);
  useEffect(() => () => held.current.forEach((one) => URL.revokeObjectURL(one.picture.url)), []);

  function add(pictures) {
    setDone(null);
    setItems((before) => {
      const known = new Set(before.map((one) => one.picture.key));
      return [...before, ...pictures.filter((one) => !known.has(one.key)).map((picture) => ({ picture, wanted: null, stored: null }))];
    });
    if (!name.trim()) setName(folderOf(pictures));
  }

  // The next person begins with no name and none of the pictures before.
  function next(pictures) {
    items.forEach((one) => URL.revokeObjectURL(one.picture.url));
    setItems([]);
    add(pictures);
    setName(folderOf(pictures));
  }

  function remove(item) {
    URL.revokeObjectURL(item.picture.url);
    setItems((before) => before.filter((one) => one !== item));
  }

  const ready = items.filter((one) => chosen(one) && subjectOf(one) && one.dryFor === subjectOf(one));
  const waiting = items.some((one) => !one.stored && !one.problem && (one.detecting || one.dryFor !== subjectOf(one)) && subjectOf(one));
  const already = items.filter(storedBefore).length;
  const people = new Set(ready.map((one) => subjectOf(one)));

  async function store() {
    setStoring(true);
    setError(null);
    const counts = new Map();
    try {
      for (const subject of people) {
        const mine = ready.filter((one) => subjectOf(one) === subject);
        for (const batch of batches(mine, about?.max_pictures_a_request ?? 10)) {
          const stored = await storeBatch({ gallery, subject, batch, change, record: about?.console?.recording });
          counts.set(subject, (counts.get(subject) ?? 0) + stored);
        }
      }
      const faces = [...counts.values()].reduce((sum, n) => sum + n, 0);
      if (faces) {
        setDone({ people: [...counts.keys()].filter((one) => counts.get(one)), faces });
        toast(t("enroll.stored", { n: faces }));
      }
    } catch (refused) {
      if (refused.name !== "AbortError") setError(refused);
    } finally {
      setStoring(false);
    }
  }

  // What is stored or cannot be used goes; a picture that was left out stays, under its name.
  const leftOut = items.filter((one) => !one.stored && !one.problem && !storedBefore(one));
  function showLeftOut() {
    items.filter((one) => !leftOut.includes(one)).forEach((one) => URL.revokeObjectURL(one.picture.url));
    setDone(null);
    setItems(leftOut);
  }

  const first = people.size === 1 ? [...people][0] : null;
  return html`<${GalleryPage} gallery=${gallery} view="enroll" title=${t("enroll.title")} lead=${t("enroll.lead")}>
    ${done && html`<${Done} ...${{ done, gallery }} onNext=${next} leftOut=${leftOut.length} onLeftOut=${showLeftOut} />`}
    ${!done && html`<${DropZone} onPictures=${add} several compact=${items.length > 0} disabled=${storing} />`}
    ${items.length > 0 && html`
      ${!done && html`<form class="card store-bar" onSubmit=${(event) => { event.preventDefault(); if (ready.length && !waiting) store(); }}>
        <${Field} label=${t(folders && byFolder ? "enroll.name_others" : "enroll.name")} value=${name} maxlength="128" dir="auto" autocomplete="off"
          wrong=${name.trim() && !usable(name) ? t("enroll.name_wrong") : null} hint=${name.trim() ? null : t("enroll.name_hint")} onInput=${setName} />
        <${Button} type="submit" class="primary" busy=${storing} disabled=${!ready.length || waiting}>
          ${waiting ? t("enroll.examining") : already && !ready.length ? t("enroll.nothing_new") : first ? html`<span>${t("enroll.store_as", { n: ready.length, name: html`<bdi>${first}</bdi>` })}</span>` : t("enroll.store", { n: ready.length })}<//>
        ${folders && html`<${Choice} label=${t("enroll.by_folder")} hint=${t("enroll.by_folder_hint")} checked=${byFolder} onChange=${setByFolder} />`}
      </form>`}
      <${Problem} error=${error} retry=${store} />
      ${!done && html`<p class="small muted" role="status">${t("enroll.counts", { n: items.length, good: ready.length, poor: items.filter((one) => one.unusable).length })}${already > 0 && t("enroll.counts_before", { n: already })}</p>`}
      <ul class="enroll-cards">${items.map((item) => html`<${EnrollCard} key=${item.picture.key} ...${{ item, gallery, done, several: folders && byFolder, subject: subjectOf(item) }}
        wanted=${chosen(item)} onWanted=${(wanted) => change(item.picture.key, { wanted })} onRemove=${storing ? null : () => remove(item)} onRetry=${() => again(item)} />`)}</ul>`}
  <//>`;
}

// A name as the edge takes it; empty where no subject can be called so.
function usable(typed) {
  const name = typed.trim().normalize("NFC");
  return /[/\\\p{Cc}\p{Cs}\p{Zl}\p{Zp}\ufffd]/u.test(name) || name === "." || name === ".." ? "" : name;
}

// The name of a chosen folder, to start from; a file's name says nothing of who is in it.
const folderOf = ([first]) => (first.root ?? "").replace(/[\\/]/g, "").trim().slice(0, 128);

// Whether this very picture is stored for this person already.
const storedBefore = (item) => item.dry?.stored === "before";

// Whether a picture is to be stored: the person's choice; else yes, unless its face seems to be somebody else's.
function chosen(item) {
  if (item.problem || item.stored || !item.dry || storedBefore(item)) return false;
  return item.wanted ?? (!item.dry.also_matches?.length && item.dry.agrees !== false);
}

function useSettled(value, milliseconds) {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), milliseconds);
    return () => clearTimeout(timer);
  }, [value, milliseconds]);
  return settled;
}

// Examines each picture: what is in it, then what storing it would say. Two at a time; nothing is stored.
function useExamination({ gallery, items, change, about, subjectOf }) {
  const ended = useRef(null);
  const running = useRef(new Set());
  if (!ended.current) ended.current = new AbortController();
  useEffect(() => () => ended.current.abort(), []);
  useEffect(() => {
    for (const item of items) {
      if (running.current.size >= AT_ONCE) return;
      const key = item.picture.key;
      const subject = subjectOf(item);
      const detect = item.found === undefined && may("match");
      const dry = Boolean(subject) && item.dryFor !== subject;
      if (running.current.has(key) || item.stored || item.unusable || !(detect || dry)) continue;
      running.current.add(key);
      examine({ gallery, item, subject, detect, about, signal: ended.current.signal }).then((members) => {
        running.current.delete(key);
        if (!ended.current.signal.aborted) change(key, members);
      });
    }
  });
}

async function examine({ gallery, item, subject, detect, about, signal }) {
  const file = item.picture.file;
  if (about && file.size > about.max_picture_bytes) {
    return { unusable: true, found: null, problem: { detail: t("enroll.too_large", { n: Math.floor(about.max_picture_bytes / 2 ** 20) }) } };
  }
  const members = {};
  try {
    if (detect) {
      members.found = await patiently(() => api.upload("v1/detect", file, { signal, rememberIt: false }), signal);
      if (!subject) return members;
    }
    const where = `${path(`${path("v1/galleries", gallery)}/subjects`, subject)}/faces`;
    const answer = await patiently(() => api.upload(where, file, { query: { dry_run: true }, signal, rememberIt: false }), signal);
    return { ...members, dryFor: subject, dry: answer.faces[0], problem: null };
  } catch (refused) {
    // A picture that cannot be read, or has no usable face, is refused under any name.
    const unusable = [413, 415].includes(refused.status) || refused.type === "unreadable-picture" || refused.type === "face-refused";
    if (!unusable) await wait(1500, signal); // the cloud or the edge may be away: the next try is not at once
    return { found: item.found ?? null, ...members, unusable, dryFor: subject, dry: null, problem: refused };
  }
}

function* batches(items, most) {
  let batch = [];
  let size = 0;
  for (const item of items) {
    if (batch.length && (batch.length === most || size + item.picture.bytes > MOST_BYTES)) {
      yield batch;
      [batch, size] = [[], 0];
    }
    batch.push(item);
    size += item.picture.bytes;
  }
  if (batch.length) yield batch;
}

// Stores pictures of one person, all or none; where one is refused, it is marked and the others are stored.
async function storeBatch({ gallery, subject, batch, change, record }) {
  const where = `${path(`${path("v1/galleries", gallery)}/subjects`, subject)}/faces`;
  let left = batch;
  while (left.length) {
    try {
      const answer = await patiently(() => api.upload(where, left.map((one) => one.picture.file), { record }));
      answer.faces.forEach((face) => change(left[face.picture].picture.key, { stored: face, faces: answer.faces_enrolled }));
      const last = left.at(-1);
      const file = last.picture.file;
      keepPicture({
        url: URL.createObjectURL(file), file, name: last.picture.name, bytes: left.reduce((sum, one) => sum + one.picture.bytes, 0), count: left.length,
        gallery, subject, names: [subject], how: "enroll", faces: (last.found?.faces ?? []).slice(0, 1).map(({ box }) => ({ box, tone: "match", label: subject })),
        requestId: answer.requestId, at: new Date(),
      });
      return answer.faces.filter((face) => face.stored !== "no").length;
    } catch (refused) {
      if (!Number.isInteger(refused.picture)) throw refused;
      change(left[refused.picture].picture.key, { problem: refused, unusable: true, dry: null });
      left = left.filter((_, at) => at !== refused.picture);
    }
  }
  return 0;
}

function Done({ done, gallery, onNext, leftOut, onLeftOut }) {
  const head = useRef(null);
  const tried = useRef(null);
  useEffect(() => head.current?.focus(), []);
  const one = done.people.length === 1 ? done.people[0] : null;
  function tryOne({ target: { files: [file] } }) {
    if (!file || !isPicture(file)) return;
    handOver(asPicture(file));
    go("recognize", { gallery });
  }
  return html`<div class="card stack">
    <h2 ref=${head} tabindex="-1">${one ? t("enroll.done_one", { n: done.faces, name: html`<bdi>${one}</bdi>` }) : t("enroll.done_many", { n: done.people.length })}</h2>
    <p class="muted">${t("enroll.no_picture_kept")}</p>
    <${DropZone} label=${t("enroll.next")} onPictures=${onNext} several />
    <div class="row">${may("match", gallery) && html`<button type="button" onClick=${() => tried.current.click()}>${t("enroll.try")}</button>
        <input class="hidden-text" type="file" tabindex="-1" aria-label=${t("drop.files")} ref=${tried} accept="image/*,.heic,.heif,.avif" onChange=${tryOne} data-testid="try" />`}
      ${leftOut > 0 && html`<button type="button" onClick=${onLeftOut}>${t("enroll.left_out", { n: leftOut })}</button>`}
      ${one && html`<a class="button" href=${href("person", { gallery, subject: one })}>${t("enroll.show")}</a>`}
      <a class="button" href=${href("sent")}>${t("recognize.sent")}</a></div>
  </div>`;
}
