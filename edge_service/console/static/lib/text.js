// The page's texts by their keys, numbers and dates, in the reader's language.

const LANGUAGES = { en: () => import("../lang/en.js"), de: () => import("../lang/de.js") };
export const languages = Object.keys(LANGUAGES);

let texts = {};
let chosen = "en";
let plural = new Intl.PluralRules("en");

/** The language of the texts, as a BCP 47 tag: "en" or "de". */
export const language = () => chosen;

/** Loads a language: the wished one, else the first of the browser's that there is, else English. */
export async function loadLanguage(wished) {
  const wanted = [wished, ...(navigator.languages ?? [])].map((tag) => tag?.slice(0, 2));
  const found = wanted.find((tag) => tag in LANGUAGES) ?? "en";
  texts = (await LANGUAGES[found]()).default;
  chosen = found;
  plural = new Intl.PluralRules(found);
  document.documentElement.lang = found;
}

/**
 * The text of a key. {name} is replaced by values.name; numbers are written as the language does. A text with a number n
 * may have the forms "key.one" and "key.other". Values may be elements: then the answer is a list for html``.
 */
export function t(key, values = {}) {
  const text = texts[key] ?? texts[`${key}.${plural.select(Number(values.n ?? 0))}`] ?? texts[`${key}.other`];
  if (text === undefined) return key;
  const parts = text.split(/\{(\w+)\}/).map((part, index) => {
    if (index % 2 === 0) return part;
    const value = values[part] ?? "";
    return typeof value === "number" ? number(value) : value;
  });
  return parts.some((part) => typeof part === "object") ? parts : parts.join("");
}

/** Whether there is a text for this key. */
export const known = (key) => key in texts;

const formats = new Map();
// Making a format takes longer than a hundred uses of it, and a page of people needs hundreds.
function format(Kind, options = {}) {
  const key = `${chosen} ${Kind.name} ${JSON.stringify(options)}`;
  if (!formats.has(key)) formats.set(key, new Kind(chosen, options));
  return formats.get(key);
}

export const number = (value, options) => format(Intl.NumberFormat, options).format(value);

/** A share from 0 to 1 as a percentage with so many significant digits: 0.00079 is 0.079%. */
export const percent = (share, digits = 2) =>
  number(share, { style: "percent", maximumSignificantDigits: share >= 0.995 && share < 1 ? 4 : digits });

export function bytes(count) {
  if (count < 1000) return number(count, { style: "unit", unit: "byte", unitDisplay: "long" });
  const mega = count >= 1e6;
  return number(count / (mega ? 1e6 : 1e3), {
    style: "unit", unit: mega ? "megabyte" : "kilobyte", maximumSignificantDigits: 3,
  });
}

/** A time in the largest unit that it has one of: 90 seconds are 1.5 minutes. */
export function duration(seconds) {
  const [unit, length] = [["day", 86_400], ["hour", 3600], ["minute", 60], ["second", 1]].find(([, one]) => seconds >= one) ?? ["second", 1];
  return number(seconds / length, { style: "unit", unit, unitDisplay: "long", maximumFractionDigits: 1 });
}

/** A moment (RFC 3339 or Date) as date and time of this browser's zone. */
export const moment = (value) =>
  format(Intl.DateTimeFormat, { dateStyle: "medium", timeStyle: "short" }).format(new Date(value));
export const date = (value) => format(Intl.DateTimeFormat, { dateStyle: "medium" }).format(new Date(value));
export const clock = (value) => format(Intl.DateTimeFormat, { timeStyle: "medium" }).format(new Date(value));
