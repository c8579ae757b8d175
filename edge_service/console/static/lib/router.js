// Addresses of the page's views, in the part of the URL after "#", which is never sent.

import { createStore, useStore } from "./state.js";

// The names of a path; those with ":" are parameters. The order is that of matching.
const ROUTES = [
  ["galleries", []],
  ["sent", ["sent"]],
  ["thief", ["thief"]],
  ["history", ["history"]],
  ["system", ["system"]],
  ["people", ["g", ":gallery"]],
  ["enroll", ["g", ":gallery", "enroll"]],
  ["recognize", ["g", ":gallery", "recognize"]],
  ["live", ["g", ":gallery", "live"]],
  ["threshold", ["g", ":gallery", "threshold"]],
  ["person", ["g", ":gallery", "p", ":subject"]],
];

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** The route of a hash: {view, params, query}. An unknown one is the list of galleries. */
export function parse(hash) {
  const [where, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const names = where.split("/").filter((name) => name !== "").map(decoded);
  for (const [view, pattern] of ROUTES) {
    if (pattern.length !== names.length) continue;
    if (pattern.every((name, index) => name.startsWith(":") || name === names[index])) {
      const params = {};
      pattern.forEach((name, index) => name.startsWith(":") && (params[name.slice(1)] = names[index]));
      return { view, params, query: Object.fromEntries(new URLSearchParams(query)) };
    }
  }
  return { view: "galleries", params: {}, query: {} };
}

/** The address of a view: href("person", {gallery, subject}). */
export function href(view, params = {}, query = {}) {
  const pattern = ROUTES.find(([name]) => name === view)[1];
  const names = pattern.map((name) => (name.startsWith(":") ? encodeURIComponent(params[name.slice(1)]) : name));
  const text = new URLSearchParams(query).toString();
  return `#/${names.join("/")}${text ? `?${text}` : ""}`;
}

export const route = createStore(parse(location.hash));
addEventListener("hashchange", () => route.set(parse(location.hash)));

export const useRoute = () => useStore(route);

/** Goes to a view; replace: without an entry in the browser's history. */
export function go(view, params, query, { replace = false } = {}) {
  const to = href(view, params, query);
  if (replace) {
    history.replaceState(null, "", to);
    route.set(parse(to));
  } else location.hash = to;
}
