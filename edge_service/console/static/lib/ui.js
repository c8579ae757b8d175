// What every view and part needs: elements and hooks of preact, and the page's texts.

import { useCallback, useEffect, useRef, useState } from "../vendor/preact-htm.js";

export {
  html, h, render, Component, createContext, useContext, useState, useEffect, useLayoutEffect, useRef, useMemo,
  useCallback, useReducer, useErrorBoundary,
} from "../vendor/preact-htm.js";
export { t, known, number, percent, bytes, duration, moment, date, clock, language, loadLanguage, languages } from "./text.js";

let lastId = 0;
/** An id for a label and what it labels, the same at each rendering. */
export const useId = (prefix = "id") => useState(() => `${prefix}-${++lastId}`)[0];

/**
 * Loads something when the view is shown and when one of deps changes. An earlier request is given up.
 * load(signal) returns a promise. What was loaded stays shown while it is loaded again, and after an error.
 * @returns {{data, error, loading: boolean, reload: () => void}}
 */
export function useLoad(load, deps) {
  const [state, setState] = useState({ data: undefined, error: null, loading: true });
  const [round, setRound] = useState(0);
  const latest = useRef(load);
  latest.current = load;
  useEffect(() => {
    const ended = new AbortController();
    setState((before) => ({ ...before, loading: true }));
    latest.current(ended.signal).then(
      (data) => ended.signal.aborted || setState({ data, error: null, loading: false }),
      (error) => ended.signal.aborted || setState((before) => ({ ...before, error, loading: false })),
    );
    return () => ended.abort();
  }, [...deps, round]);
  return { ...state, reload: useCallback(() => setRound((before) => before + 1), []) };
}

/**
 * An action of a form or button: run(...) calls it once at a time. An error is kept until the next run.
 * @returns {[run: (...args) => Promise, {busy: boolean, error: Error|null, clear: () => void}]}
 */
export function useAction(action) {
  const [state, setState] = useState({ busy: false, error: null });
  const running = useRef(false);
  const alive = useRef(true);
  useEffect(() => () => { alive.current = false; }, []);
  const run = async (...args) => {
    if (running.current) return undefined;
    running.current = true;
    setState({ busy: true, error: null });
    let error = null;
    try {
      return await action(...args);
    } catch (raised) {
      if (raised.name !== "AbortError") error = raised;
      return undefined;
    } finally {
      running.current = false;
      if (alive.current) setState({ busy: false, error });
    }
  };
  return [run, { ...state, clear: () => setState({ busy: false, error: null }) }];
}
