import { LOG_2PI, grid } from "./arrays.js";

/* The scalar linear-Gaussian flow: z = a e + b x, y = (x - c z) / d, with e, y, z standard normal.
   Here log p(x), p(e | x) and the gap are formulas; see `ScalarANF` in augflow_mini.gap. */
export function scalarAnf({ a, b, c, d }, x) {
  const s2 = c * c + d * d, k = c / s2, v = d * d / s2;
  const mean = (k - b) * x / a, variance = v / (a * a);
  const logProb = -0.5 * (x * x / s2 + Math.log(s2) + LOG_2PI);
  const gap = 0.5 * (Math.log(variance) + (1 + mean * mean) / variance - 1);
  return { logProb, mean, variance, gap, elbo: logProb - gap, exact: { a: Math.sqrt(v), b: k } };
}

/* log p(x) - E[L_K] for that model: the gap of K samples, for each K >= 1 of `counts`. */
export function iwGaps({ mean, variance, gap }, counts) {
  const nodes = grid(-9, 9, 601), h = nodes[1] - nodes[0];
  const logR = nodes.map((e) => 0.5 * (e * e - (e - mean) ** 2 / variance - Math.log(variance)));   // p(e | x) / q(e)
  const mass = nodes.map((e) => h * Math.exp(-0.5 * (e * e + LOG_2PI)));
  return expectedBounds(logR, mass, counts).map((bound, i) => counts[i] === 1 ? gap : -bound);
}

export const iwGap = (at, K) => iwGaps(at, [K])[0];

/* E[log (1/K) sum_k w_k] for independent w_k, from log w at nodes of given probability. No sampling:
   E[log S] = integral over u of exp(-e^u) - phi(e^u)^K,  phi(t) = E[exp(-t w)]  (Frullani's integral),
   so K is only a power, and one phi serves every K of `counts`. */
function expectedBounds(logW, mass, counts) {
  let low = Infinity, high = -Infinity, sum = 0;
  mass.forEach((m, i) => {
    if (!(m > 0)) return;
    sum += m;
    low = Math.min(low, logW[i]);
    high = Math.max(high, logW[i]);
  });
  const h = 0.25, totals = counts.map(() => 0);
  for (let u = -high - 30 - Math.log(Math.max(...counts)); u < 4 - low; u += h) {
    let phi = 0;
    for (let i = 0; i < logW.length; i++) {
      const l = u + logW[i];              // most terms are 1 or 0 to rounding: no exponential needed
      if (l < 4) phi += l < -37 ? mass[i] : mass[i] * Math.exp(-Math.exp(l));
    }
    const one = Math.exp(-Math.exp(u));
    counts.forEach((K, j) => { totals[j] += one - (phi / sum) ** K; });
  }
  return totals.map((total, j) => h * total - Math.log(counts[j]));
}
