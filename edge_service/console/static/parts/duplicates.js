// Who is enrolled under two names: all people of a gallery compared with each other, some at a time.

import { api, path } from "../lib/api.js";
import { href } from "../lib/router.js";
import { html, number, t, useEffect, useRef, useState } from "../lib/ui.js";
import { Dialog } from "./dialog.js";
import { Field } from "./field.js";
import { Note, Problem } from "./messages.js";
import { MergeDialog } from "./subject_dialogs.js";

const AT_A_TIME = 200;
const MOST_PAIRS = 200;

/** The pairs of several answers, each once with its higher score, best first. */
function together(pairs, more) {
  const best = new Map(pairs.map((pair) => [JSON.stringify([pair.subject, pair.other].sort()), pair]));
  for (const pair of more) {
    const key = JSON.stringify([pair.subject, pair.other].sort());
    if (!best.has(key) || best.get(key).similarity < pair.similarity) best.set(key, pair);
  }
  return [...best.values()].sort((one, other) => other.similarity - one.similarity);
}

/** subjects: how many the gallery has, for the progress. */
export function Duplicates({ gallery, subjects, threshold, close, changed }) {
  const [least, setLeast] = useState("");
  const [search, setSearch] = useState({ pairs: [], compared: 0, state: "idle", error: null });
  const [merging, setMerging] = useState(null);
  const running = useRef(null);
  useEffect(() => () => running.current?.abort(), []);

  const run = async (event) => {
    event.preventDefault();
    running.current?.abort();
    const ended = (running.current = new AbortController());
    let found = { pairs: [], compared: 0, state: "running", error: null };
    setSearch(found);
    try {
      for (let after = 0; after !== null && !ended.signal.aborted; ) {
        const page = await api.send("POST", path("v1/galleries", gallery, "duplicates"),
          { after, limit: AT_A_TIME, ...(least ? { min_similarity: Number(least) } : {}) },
          { signal: ended.signal, rememberIt: false });
        found = { ...found, pairs: together(found.pairs, page.items), compared: found.compared + page.compared };
        setSearch(found);
        after = page.next;
      }
      setSearch({ ...found, state: "done" });
    } catch (error) {
      setSearch({ ...found, state: "stopped", error: error.name === "AbortError" ? null : error });
    }
  };
  const { pairs, compared, state, error } = search;
  const merged = (pair) => {
    setMerging(null);
    setSearch((before) => ({ ...before, pairs: before.pairs.filter((one) => one.subject !== pair.subject && one.other !== pair.subject) }));
    changed();
  };
  return html`<${Dialog} title=${t("duplicates.title")} close=${close}>
    <p class="muted">${t("duplicates.lead")}</p>
    <form class="inline-field" onSubmit=${run}>
      <${Field} label=${t("duplicates.least")} type="number" min="-1" max="1" step="any" value=${least} onInput=${setLeast}
        placeholder=${number(threshold, { maximumSignificantDigits: 4 })} hint=${t("duplicates.least_hint")} />
      ${state === "running"
        ? html`<button type="button" onClick=${() => running.current.abort()}>${t("duplicates.stop")}</button>`
        : html`<button type="submit" class="primary">${t("duplicates.find")}</button>`}
    </form>
    <div role="status" class="stack tight">
      ${state !== "idle" && html`<p>${t("duplicates.compared", { n: compared, of: subjects })}</p>`}
      ${state === "running" && html`<progress max=${subjects} value=${compared} aria-label=${t("duplicates.title")} />`}
      ${state === "done" && pairs.length === 0 && html`<${Note} kind="good"><p>${t("duplicates.none")}</p><//>`}
      ${pairs.length > MOST_PAIRS && html`<${Note} kind="warn"><p>${t("duplicates.many", { n: pairs.length, shown: MOST_PAIRS })}</p><//>`}
    </div>
    <${Problem} error=${error} />
    ${pairs.length > 0 && html`<ul class="lines">
      ${pairs.slice(0, MOST_PAIRS).map((pair) => html`<li key=${`${pair.subject}/${pair.other}`} class="row apart">
        <span class="grow"><a href=${href("person", { gallery, subject: pair.subject })}><bdi>${pair.subject}</bdi></a>${" · "}
          <a href=${href("person", { gallery, subject: pair.other })}><bdi>${pair.other}</bdi></a></span>
        <span class="number">${number(pair.similarity, { minimumFractionDigits: 3, maximumFractionDigits: 3 })}</span>
        <button type="button" class="small" onClick=${() => setMerging(pair)}>${t("subject.merge")}</button>
      </li>`)}
    </ul>`}
    ${merging && html`<${MergeDialog} gallery=${gallery} subject=${merging.other} into=${merging.subject}
      close=${() => setMerging(null)} moved=${() => merged({ subject: merging.other })} />`}
  <//>`;
}
