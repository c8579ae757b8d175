// What the page knows, in memory of this tab only: nothing is written to the browser's storage.

import { useEffect, useState } from "./ui.js";

/** A value that views can follow. */
export function createStore(initial) {
  let value = initial;
  const followers = new Set();
  return {
    get: () => value,
    set(next) {
      value = typeof next === "function" ? next(value) : next;
      for (const follower of [...followers]) follower(value);
    },
    follow(follower) {
      followers.add(follower);
      return () => followers.delete(follower);
    },
  };
}

/** The value of a store; the view is drawn again when it changes. */
export function useStore(store) {
  const [value, setValue] = useState(store.get());
  useEffect(() => {
    setValue(store.get());
    return store.follow(setValue);
  }, [store]);
  return value;
}

/** null before sign-in; else {key: answer of GET /v1/key, expired: boolean}. The key itself is in api.js alone. */
export const session = createStore(null);
/** null, or the answer of GET /v1/info. */
export const info = createStore(null);
/** Whether edge and cloud answered last: {edge: boolean, cloud: boolean}. */
export const reachable = createStore({ edge: true, cloud: true });
/** null, or the last used picture: {url (blob:), name, bytes, width, height, gallery, subject, requestId, at}. */
export const lastPicture = createStore(null);
/** The answers of this tab, newest first: {id, at, method, path, status, ms, requestId, answer, problem}. */
export const answers = createStore([]);
/** Shown messages: {id, kind: "done"|"error"|"info", text, action: null|{label, run}}. */
export const toasts = createStore([]);

const MOST_ANSWERS = 500;
let lastId = 0;

/** Whether the signed-in key has a scope, for a gallery or for any. */
export function may(scope, gallery) {
  const key = session.get()?.key;
  if (!key?.scopes.includes(scope)) return false;
  return gallery === undefined || key.galleries === null || key.galleries.includes(gallery);
}

/** Whether the key has a scope for all galleries. */
export const mayEverywhere = (scope) => may(scope) && session.get().key.galleries === null;

/** Adds an answer to this tab's history. */
export function remember(entry) {
  answers.set((before) => [{ id: ++lastId, ...entry }, ...before].slice(0, MOST_ANSWERS));
}

/** Keeps the picture that was used last, and lets go of the one before. */
export function keepPicture(picture) {
  const before = lastPicture.get();
  if (before && before.url !== picture?.url) URL.revokeObjectURL(before.url);
  lastPicture.set(picture);
}

/** After signing out: whoever signs in next sees nothing of it. */
export function forgetAll() {
  keepPicture(null);
  for (const [store, empty] of [[answers, []], [toasts, []], [info, null], [session, null]]) store.set(empty);
}

/** Shows a message; errors stay until they are closed. Returns its id. */
export function toast(text, { kind = "done", action = null, seconds = kind === "error" ? 0 : 7 } = {}) {
  const id = ++lastId;
  toasts.set((before) => [...before.filter((one) => one.text !== text), { id, kind, text, action }].slice(-4));
  if (seconds) setTimeout(() => closeToast(id), seconds * 1000);
  return id;
}

export const closeToast = (id) => toasts.set((before) => before.filter((one) => one.id !== id));

/** Shows what an error says; an abandoned request is none. */
export function toastError(error) {
  if (error.name !== "AbortError") toast(error.detail ?? error.message, { kind: "error" });
}
