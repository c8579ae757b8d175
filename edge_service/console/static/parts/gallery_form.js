// Creating a gallery and changing it: threshold, kind, retention.

import { api, path } from "../lib/api.js";
import { info, toast, useStore } from "../lib/state.js";
import { html, number, percent, t, useAction, useRef, useState } from "../lib/ui.js";
import { Choice, Field } from "./field.js";
import { Button, Problem } from "./messages.js";
import { thresholdText } from "./scores/score_scale.js";

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const DAY_S = 86_400;
const FALSE_ACCEPTS = [0.001, 0.01, 0.05, 0.1];

/** What is chosen in the fields, as text; toWire makes the requests' members of it. */
const START = { by: "default", people: "100", share: "0.01", cosine: "", fmr: "", days: "", verifyOnly: false };

function thresholdOf(chosen) {
  if (chosen.by === "purpose") return { for_subjects: Number(chosen.people), false_accepts: Number(chosen.share) };
  if (chosen.by === "cosine") return { cosine: Number(chosen.cosine), fmr: Number(chosen.fmr) };
  return undefined;
}

/** The choice of a threshold: the default one, for a purpose, or given. present: a gallery's own, to leave as it is. */
function ThresholdFields({ chosen, change, present }) {
  const about = useStore(info);
  const fallback = present ?? about?.default_threshold;
  const radio = (by, label, hint) => html`<${Choice} type="radio" name="threshold-by" checked=${chosen.by === by}
    onChange=${() => change({ by })} label=${label} hint=${hint} />`;
  return html`<fieldset>
    <legend>${t("gallery.threshold")}</legend>
    ${fallback && radio("default", t(present ? "gallery.threshold_keep" : "gallery.threshold_default"), thresholdText(fallback, about))}
    ${radio("purpose", t("gallery.threshold_purpose"), t("gallery.threshold_purpose_hint"))}
    ${chosen.by === "purpose" && html`<div class="row low">
      <${Field} label=${t("gallery.people")} type="number" min="1" max="10000000" step="1" required value=${chosen.people}
        onInput=${(people) => change({ people })} class="grow" />
      <${Field} label=${t("gallery.share")} as="select" value=${chosen.share} onInput=${(share) => change({ share })} class="grow">
        ${FALSE_ACCEPTS.map((share) => html`<option key=${share} value=${String(share)}>${t("gallery.at_most", { share: percent(share) })}</option>`)}
      <//>
    </div>`}
    ${radio("cosine", t("gallery.threshold_given"), t("gallery.threshold_given_hint"))}
    ${chosen.by === "cosine" && html`<div class="row top">
      <${Field} label=${t("gallery.cosine")} type="number" min="0.0001" max="0.9999" step="any" required value=${chosen.cosine}
        onInput=${(cosine) => change({ cosine })} class="grow" />
      <${Field} label=${t("gallery.fmr")} type="number" min="0" max="1" step="any" required value=${chosen.fmr}
        onInput=${(fmr) => change({ fmr })} hint=${t("gallery.fmr_hint")} class="grow" />
    </div>`}
  </fieldset>`;
}

const RetentionField = ({ chosen, change }) => html`<${Field} label=${t("gallery.retention")} type="number" min="0.00001" max="36500"
  step="any" value=${chosen.days} onInput=${(days) => change({ days })} placeholder=${t("gallery.retention_never")}
  hint=${t("gallery.retention_hint")} class="short-field" />`;

/** A form that creates a gallery. created(name) is called afterwards; cancel is offered where it is given. */
export function CreateGallery({ created, cancel, name: firstName = "" }) {
  const [name, setName] = useState(firstName);
  const about = useStore(info);
  const [values, setValues] = useState(START);
  const chosen = about && !about.default_threshold && values.by === "default" ? { ...values, by: "cosine" } : values;
  const change = (some) => setValues((before) => ({ ...before, ...some }));
  const made = useRef(null); // a gallery that this form has made, when setting its retention failed afterwards
  const [run, { busy, error }] = useAction(async () => {
    const where = path("v1/galleries", name);
    const answer = await api.send("PUT", where, { threshold: thresholdOf(chosen), verify_only: chosen.verifyOnly });
    if (answer.status === 200 && made.current !== name) throw new Error(t("gallery.exists", { name }));
    made.current = name;
    if (chosen.days) await api.send("PUT", `${where}/retention`, { max_age_seconds: Math.round(Number(chosen.days) * DAY_S) });
    toast(answer.chosen ? chosenText(answer) : t("gallery.created", { name }));
    created(name);
  });
  const wrong = name && !NAME.test(name) ? t("gallery.name_wrong") : null;
  const submit = (event) => {
    event.preventDefault();
    if (name && !wrong) run();
  };
  return html`<form class="stack roomy" onSubmit=${submit}>
    <${Field} label=${t("gallery.name")} value=${name} onInput=${setName} wrong=${wrong} hint=${t("gallery.name_hint")} required
      autocomplete="off" autocapitalize="off" spellcheck=${false} maxlength="64" />
    <details>
      <summary>${t("gallery.options")}</summary>
      <div class="stack roomy">
        <${ThresholdFields} chosen=${chosen} change=${change} />
        <${Choice} label=${t("gallery.verify_only")} hint=${t("gallery.verify_only_hint")} checked=${chosen.verifyOnly}
          onChange=${(verifyOnly) => change({ verifyOnly })} />
        <${RetentionField} chosen=${chosen} change=${change} />
      </div>
    </details>
    <${Problem} error=${error} />
    <div class="row end">
      ${cancel && html`<button type="button" onClick=${cancel}>${t("cancel")}</button>`}
      <${Button} type="submit" class="primary" busy=${busy} disabled=${Boolean(wrong)}>${t("gallery.create")}<//>
    </div>
  </form>`;
}

/** What a threshold chosen for a purpose is, and what it costs. */
export function chosenText({ threshold, chosen }) {
  const cosine = number(threshold.cosine, { maximumSignificantDigits: 4 });
  const text = t("gallery.chosen", { cosine, share: percent(chosen.false_accepts), n: chosen.for_subjects });
  return chosen.true_accepts === null ? text : `${text} ${t("gallery.chosen_cost", { share: percent(chosen.true_accepts, 3) })}`;
}

/** A form that changes a gallery's threshold, rule and retention; done() is called when all of it was changed. */
export function ChangeGallery({ gallery, done, cancel }) {
  const days = gallery.max_age_seconds ? String(Number((gallery.max_age_seconds / DAY_S).toPrecision(6))) : "";
  const [values, setValues] = useState({ ...START, days, people: String(Math.max(gallery.subjects, 1)), rule: gallery.score.rule });
  const change = (some) => setValues((before) => ({ ...before, ...some }));
  const [run, { busy, error }] = useAction(async () => {
    const where = path("v1/galleries", gallery.gallery);
    const threshold = thresholdOf(values);
    if (values.rule !== gallery.score.rule) await api.send("PATCH", where, { score_rule: values.rule });
    const answer = threshold && (await api.send("PATCH", where, { threshold }));
    if (values.days !== days) {
      if (values.days) await api.send("PUT", `${where}/retention`, { max_age_seconds: Math.round(Number(values.days) * DAY_S) });
      else await api.send("DELETE", `${where}/retention`);
    }
    toast(answer?.chosen ? chosenText(answer) : t("gallery.changed", { name: gallery.gallery }));
    done();
  });
  const shorter = values.days && (!days || Number(values.days) < Number(days));
  return html`<form class="stack roomy" onSubmit=${(event) => { event.preventDefault(); run(); }}>
    <${ThresholdFields} chosen=${values} change=${change} present=${gallery.threshold} />
    <${Field} as="select" label=${t("gallery.rule")} value=${values.rule} onInput=${(rule) => change({ rule })}
      hint=${t(values.rule === "best" ? "gallery.rule_best_hint" : "gallery.rule_mean_hint")}>
      <option value="mean">${t("gallery.rule_mean")}</option><option value="best">${t("gallery.rule_best")}</option>
    <//>
    <${RetentionField} chosen=${values} change=${change} />
    ${shorter && html`<p class="note warn">${t("gallery.retention_erases")}</p>`}
    <${Problem} error=${error} />
    <div class="row end">
      <button type="button" onClick=${cancel}>${t("cancel")}</button>
      <${Button} type="submit" class="primary" busy=${busy}>${t("save")}<//>
    </div>
  </form>`;
}
