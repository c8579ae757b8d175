// Rates of measured curves: read as upper estimates, and never finer than the measurement supports.

// Where n independent comparisons had no false match, the rate is below 3 / n with 95 % confidence.
const RULE_OF_THREE = 3;

/** Curves of all ages of one rule, for the number of faces that is nearest to a gallery's mean. */
export function curvesOf(curves, rule, faces = 1) {
  const all = (curves ?? []).filter((one) => one.rule === rule && one.band === null);
  const counts = [...new Set(all.map((one) => one.templates))].sort((a, b) => a - b);
  const chosen = counts.find((count) => count >= faces - 0.5) ?? counts.at(-1);
  return all.filter((one) => one.templates === chosen);
}

/** Curves of an age band each, of one rule, in the order in which they were measured. */
export function bandsOf(curves, rule) {
  return (curves ?? []).filter((one) => one.rule === rule && one.band !== null);
}

function lastAtMost(values, wanted) {
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] <= wanted) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** The false match rate of one comparison: that of the next lower threshold. `bound`: it is only known to be lower. */
export function fmrAt(curve, cosine) {
  const at = lastAtMost(curve.thresholds, cosine);
  const least = Math.min(1, RULE_OF_THREE / curve.impostor_pairs);
  if (at < 0) return { rate: 1, bound: false };
  return curve.fmr[at] < least ? { rate: least, bound: true } : { rate: curve.fmr[at], bound: false };
}

/** The share of genuine comparisons accepted: that of the next higher threshold; null where none were measured. */
export function tarAt(curve, cosine) {
  if (!curve.tar) return null;
  let at = lastAtMost(curve.thresholds, cosine);
  if (at < 0 || curve.thresholds[at] < cosine) at += 1;
  return at < curve.tar.length ? curve.tar[at] : 0;
}

/** The curve with the highest false match rate at a score, and that rate. */
export function worstAt(curves, cosine) {
  let worst = null;
  for (const curve of curves) {
    const found = { curve, ...fmrAt(curve, cosine) };
    if (!worst || found.rate > worst.rate) worst = found;
  }
  return worst;
}

/** How often at least one of `people` comparisons is a false match, each at `rate`. */
export function anyOf(rate, people) {
  if (people <= 0) return 0;
  return rate >= 1 ? 1 : -Math.expm1(people * Math.log1p(-rate));
}

/** Two digits, never fewer than stood there: 19,632 becomes 19,000. */
export function roundDown(value) {
  if (!(value > 0)) return 0;
  const step = 10 ** Math.max(0, Math.floor(Math.log10(value)) - 1);
  return Math.floor(value / step + 1e-9) * step;
}

/** A share as words: `one of N`, or `P of 100` where it is more than one in twenty. */
export function asShare(rate) {
  if (rate > 0.05) return { key: "of_hundred", n: Math.min(100, Math.max(1, Math.round(rate * 100))) };
  return { key: "one_of", n: roundDown(1 / rate) };
}

/** A histogram as shares of all its pairs, cut to a range of scores. */
export function shares(histogram, low, high) {
  const total = histogram.counts.reduce((sum, count) => sum + count, 0) || 1;
  const bins = [];
  histogram.counts.forEach((count, at) => {
    const [from, to] = [histogram.edges[at], histogram.edges[at + 1]];
    if (to > low && from < high) bins.push({ from, to, share: count / total });
  });
  return bins;
}
