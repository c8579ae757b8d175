// The edge's metrics over the last minutes, as read from /metrics while this tab is open.

import { api } from "./api.js";
import { createStore } from "./state.js";

const EVERY_MS = 5000;
const KEPT_MS = 10 * 60_000;
// What this page asks for itself tells nothing about the work.
const OWN = /^\/(metrics|readyz|healthz|console.*)?$/;

/** The samples, oldest first: {at (ms), requests, errors, refused, faces, buckets: [[seconds, count]], steps: {name: [count, seconds]}}. */
export const samples = createStore([]);

const LINE = /^(\w+)(?:\{(.*)\})? ([^ ]+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** Reads one answer of /metrics, in Prometheus' text format. */
export function read(text, at) {
  const sample = { at, requests: 0, errors: 0, refused: 0, faces: 0, buckets: new Map(), steps: {} };
  for (const line of text.split("\n")) {
    const [, name, labels = "", written] = LINE.exec(line) ?? [];
    if (!name) continue;
    const value = Number(written);
    const label = Object.fromEntries([...labels.matchAll(LABEL)].map(([, key, text_]) => [key, text_]));
    if (name === "patronus_edge_refused_total") sample.refused += value;
    else if (name === "patronus_edge_protected_total") sample.faces += value;
    else if (name.startsWith("patronus_edge_request_seconds") && !OWN.test(label.route)) {
      if (name.endsWith("_count")) {
        sample.requests += value;
        if (label.status >= "500") sample.errors += value;
      } else if (name.endsWith("_bucket")) {
        const limit = label.le === "+Inf" ? Infinity : Number(label.le);
        sample.buckets.set(limit, (sample.buckets.get(limit) ?? 0) + value);
      }
    } else if (name.startsWith("patronus_edge_step_seconds")) {
      const step = (sample.steps[label.step] ??= [0, 0]);
      if (name.endsWith("_count")) step[0] += value;
      else if (name.endsWith("_sum")) step[1] += value;
    }
  }
  sample.buckets = [...sample.buckets].sort(([one], [other]) => one - other);
  return sample;
}

/** The time in seconds below which a share of the requests between two samples was answered; null without requests. */
export function quantile(before, after, share) {
  const earlier = new Map(before.buckets);
  const counts = after.buckets.map(([limit, count]) => [limit, count - (earlier.get(limit) ?? 0)]);
  const all = counts.at(-1)?.[1] ?? 0;
  if (all <= 0) return null;
  let [low, below] = [0, 0];
  for (const [limit, count] of counts) {
    if (count >= share * all) return limit === Infinity ? low : low + ((limit - low) * (share * all - below)) / (count - below || 1);
    [low, below] = [limit, count];
  }
  return low;
}

/** Points of a chart: for each pair of samples, what of(before, after, seconds) says. A restarted edge leaves a gap. */
export function series(list, of) {
  return list.slice(1).map((after, index) => {
    const before = list[index];
    return { at: after.at, value: after.requests < before.requests ? null : of(before, after, (after.at - before.at) / 1000) };
  });
}

/** Begins to sample; the answer ends it. Nothing is asked for while the tab is hidden. */
export function startSampling() {
  let ended = false;
  const sample = async () => {
    if (document.hidden) return;
    try {
      const one = read(await api.get("metrics", { as: "text" }), Date.now());
      if (!ended) samples.set((before) => [...before.filter(({ at }) => at > one.at - KEPT_MS), one]);
    } catch {
      // The frame says that the edge is away.
    }
  };
  sample();
  const timer = setInterval(sample, EVERY_MS);
  return () => {
    ended = true;
    clearInterval(timer);
  };
}
