// Calls of the edge. The key is in this module's memory: no storage, no cookie, gone with the tab.

import { forgetAll, reachable, remember, session } from "./state.js";
import { t } from "./ui.js";

// This file is BASE/console/lib/api.js, also behind a proxy that adds a prefix.
const BASE = new URL("../../", import.meta.url);
let apiKey = null;

/** What the edge refused, or that nothing answers (status 0, type "edge-away"). detail says what to do. */
export class ApiError extends Error {
  constructor(members) {
    super(members.detail);
    Object.assign(this, { name: "ApiError", ...members });
  }
}

/** A path of names, each percent-encoded: path("v1/galleries", gallery, "subjects", subject). */
export const path = (start, ...names) => [start, ...names.map(encodeURIComponent)].join("/");

export function useKey(key) {
  apiKey = key;
}

function address(where, query = {}) {
  const url = new URL(where.replace(/^\//, ""), BASE);
  for (const [name, value] of Object.entries(query))
    if (value !== undefined && value !== null && value !== "") url.searchParams.set(name, value);
  return url;
}

async function problem(answer) {
  const body = await answer.json().catch(() => ({}));
  const type = (body.type ?? "").replace("urn:patronus:problem:", "");
  return new ApiError({
    ...body,
    status: answer.status,
    type,
    title: body.title ?? "",
    detail: body.detail ?? t("error.not_understood", { status: String(answer.status) }),
    reason: body.reason ?? null,
    retryAfter: Number(answer.headers.get("Retry-After")) || null,
    requestId: body.request_id ?? answer.headers.get("X-Request-ID"),
  });
}

function noteReachability(error) {
  const away = error?.type === "cloud-unavailable" || error?.type === "cloud-failed";
  const before = reachable.get();
  if (!before.edge || away === before.cloud) reachable.set({ edge: true, cloud: !away && before.cloud });
}

/** The answer's body, with requestId, status and ms beside it where it is an object (not enumerated). */
async function call(method, where, { query, body, headers = {}, record, signal, rememberIt, as = "json" } = {}) {
  const started = performance.now();
  const sent = { Accept: as === "json" ? "application/json" : "*/*", ...headers };
  const usedKey = apiKey;
  if (usedKey) sent.Authorization = `Bearer ${usedKey}`;
  if (record) sent["X-Patronus-Record"] = "1";
  const entry = { at: new Date(), method, path: where, query: query ?? {} };
  try {
    let answer;
    try {
      answer = await fetch(address(where, query), {
        method, body, headers: sent, signal, cache: "no-store", credentials: "omit", redirect: "error",
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      reachable.set({ ...reachable.get(), edge: false });
      throw new ApiError({ status: 0, type: "edge-away", title: "", detail: t("error.edge_away"), reason: null,
        retryAfter: null, requestId: null });
    }
    entry.status = answer.status;
    entry.requestId = answer.headers.get("X-Request-ID");
    if (!answer.ok) {
      const refused = await problem(answer);
      noteReachability(refused);
      // A key that was revoked or has expired: what is typed stays, and the page asks for another key.
      if (refused.status === 401 && usedKey && usedKey === apiKey && session.get())
        session.set((before) => ({ ...before, expired: true }));
      throw refused;
    }
    if (!reachable.get().edge) reachable.set({ ...reachable.get(), edge: true });
    if (as === "blob") return await answer.blob();
    if (as === "text") return await answer.text();
    const read = answer.status === 204 ? {} : await answer.json();
    for (const [name, value] of Object.entries({
      requestId: entry.requestId, status: answer.status, ms: performance.now() - started,
    })) if (!(name in read)) Object.defineProperty(read, name, { value, enumerable: false });
    entry.answer = read;
    return read;
  } catch (error) {
    if (error.name === "AbortError") rememberIt = false;
    entry.problem = { status: error.status, type: error.type, reason: error.reason, detail: error.detail ?? error.message };
    throw error;
  } finally {
    if (rememberIt) remember({ ...entry, ms: performance.now() - started });
  }
}

export const api = {
  /** GET; as: "json", "text" or "blob". */
  get: (where, { query, record, signal, as } = {}) => call("GET", where, { query, record, signal, as }),

  /** Sends JSON (or nothing). The answer is added to this tab's history unless rememberIt is false. */
  send: (method, where, json, { query, record, signal, rememberIt = true } = {}) =>
    call(method, where, {
      query, record, signal, rememberIt,
      body: json === undefined ? undefined : JSON.stringify(json),
      headers: json === undefined ? {} : { "Content-Type": "application/json" },
    }),

  /** Sends pictures (File or Blob, one or a list) as a form. The answer is added to the history unless rememberIt is false. */
  upload(where, files, { query, record, signal, rememberIt = true } = {}) {
    const form = new FormData();
    for (const file of [files].flat()) form.append("image", file, file.name ? "picture" : "camera");
    return call("POST", where, { query, record, signal, rememberIt, body: form });
  },
};

/** Signs in with a key and reads what it may do. Raises ApiError, and leaves nobody signed in, if it is not valid. */
export async function signIn(key) {
  const before = apiKey;
  apiKey = key.trim();
  try {
    const about = await call("GET", "v1/key");
    session.set({ key: about, expired: false });
    return about;
  } catch (error) {
    apiKey = before;
    throw error;
  }
}

/** Signs in with the code of a one-time link. */
export async function signInWithCode(code) {
  const before = apiKey;
  apiKey = null;
  let given;
  try {
    given = await call("POST", "console/sign-in", {
      body: JSON.stringify({ code }), headers: { "Content-Type": "application/json" },
    });
  } finally {
    apiKey = before;
  }
  return signIn(given.api_key);
}

/** Forgets the key and all that this tab knows. A key that a link gave is ended at the edge, too. */
export function signOut() {
  const key = apiKey;
  const given = session.get()?.key.expires_at;
  apiKey = null;
  forgetAll();
  if (key && given) fetch(address("console/sign-out"), {
    method: "POST", headers: { Authorization: `Bearer ${key}` }, keepalive: true, cache: "no-store", credentials: "omit",
  }).catch(() => {}); // the edge is away: the key ends by itself
}

// A tab that is closed or loaded anew cannot use its key any more. One that the browser keeps (persisted) can.
addEventListener("pagehide", (event) => event.persisted || signOut());
