// The page: signs in, shows the frame with its navigation, and loads the view of the address.

import { signInWithCode } from "./lib/api.js";
import { go, useRoute } from "./lib/router.js";
import { session, toastError, useStore } from "./lib/state.js";
import { html, language, loadLanguage, render, t, useEffect, useErrorBoundary, useState } from "./lib/ui.js";
import { Loading, Note, Toasts } from "./parts/messages.js";
import { Frame } from "./parts/frame.js";
import SignIn from "./views/sign_in.js";

const VIEWS = {
  galleries: () => import("./views/galleries.js"),
  people: () => import("./views/people.js"),
  person: () => import("./views/person.js"),
  enroll: () => import("./views/enroll.js"),
  recognize: () => import("./views/recognize.js"),
  live: () => import("./views/live.js"),
  threshold: () => import("./views/threshold.js"),
  sent: () => import("./views/sent.js"),
  thief: () => import("./views/thief.js"),
  history: () => import("./views/history.js"),
  system: () => import("./views/system.js"),
};

/** The view of the address, loaded when it is first shown. It starts anew when its parameters change. */
function Routed() {
  const { view, params, query } = useRoute();
  const [loaded, setLoaded] = useState({});
  const [failed, reset] = useErrorBoundary();
  const where = JSON.stringify([view, params, query]);
  useEffect(() => {
    let wanted = true;
    if (failed) reset();
    VIEWS[view]().then(
      (module) => wanted && setLoaded({ view, View: module.default }),
      () => wanted && setLoaded({ view, failed: true }),
    );
    return () => { wanted = false; };
  }, [where]);
  if (failed || (loaded.view === view && loaded.failed))
    return html`<div class="page"><${Note} kind="bad"><p role="alert">${t("view.failed")}</p>
      <div><button type="button" onClick=${() => location.reload()}>${t("view.reload")}</button></div><//></div>`;
  if (loaded.view !== view) return html`<div class="page"><${Loading} /></div>`;
  return html`<${loaded.View} key=${where} params=${params} query=${query} />`;
}

function App() {
  const signedIn = useStore(session);
  const [lang, setLang] = useState(language());
  const changeLanguage = async (wished) => {
    await loadLanguage(wished);
    setLang(wished);
  };
  // A new language draws the frame anew; the view's own state goes with it, so the choice is offered beside the brand only.
  return html`<div key=${lang}>
    ${signedIn
      ? html`<${Frame} changeLanguage=${changeLanguage}><${Routed} /><//>`
      : html`<${SignIn} changeLanguage=${changeLanguage} />`}
    ${signedIn?.expired && html`<${SignIn} again />`}
    <${Toasts} />
  </div>`;
}

/** Takes the code of a one-time link out of the address, before anything else can see it, and signs in with it. */
async function useLink() {
  const code = /^#sign-in=(.+)$/.exec(location.hash)?.[1];
  if (!code) return;
  go("galleries", {}, {}, { replace: true });
  try {
    await signInWithCode(decodeURIComponent(code));
  } catch (error) {
    toastError(error);
  }
}

async function start() {
  await loadLanguage();
  await useLink();
  render(html`<${App} />`, document.getElementById("app"));
}

addEventListener("hashchange", () => {
  if (location.hash.startsWith("#sign-in=")) useLink();
});
addEventListener("unhandledrejection", (event) => {
  if (event.reason?.name === "ApiError") {
    event.preventDefault();
    toastError(event.reason);
  }
});

start();
