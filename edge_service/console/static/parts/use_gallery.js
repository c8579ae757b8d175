// What the views of a gallery need to know of it: its threshold, its size, and its measured curves.

import { api, path } from "../lib/api.js";
import { useLoad } from "../lib/ui.js";

/** {gallery, curves, error, loaded, reload}: `curves` is [] where none were measured, or where the edge is too old to tell. */
export function useGallery(name) {
  const about = useLoad((signal) => api.get(path("v1/galleries", name), { signal }), [name]);
  const measured = useLoad((signal) => api.get(`${path("v1/galleries", name)}/curves`, { signal }), [name]);
  return { gallery: about.data ?? null, curves: measured.data?.curves ?? [], error: about.error, loaded: !measured.loading || Boolean(measured.data), reload: about.reload };
}

/** Waits; ends at once when the signal is aborted. */
export function wait(milliseconds, signal) {
  return new Promise((done) => {
    const timer = setTimeout(done, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      done();
    }, { once: true });
  });
}

/** Calls again after 429 and 503, as late as the edge asks, at most three times. */
export async function patiently(call, signal) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await call();
    } catch (error) {
      const busy = error.status === 429 || (error.status === 503 && error.type === "overloaded");
      if (!busy || attempt === 3 || signal?.aborted) throw error;
      await wait(1000 * Math.min(30, error.retryAfter ?? 1), signal);
      if (signal?.aborted) throw error;
    }
  }
}
