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

/* log p(x) - E[L_K] for that model: the gap of K samples, K >= 1. */
export function iwGap({ mean, variance, gap }, K) {
  if (K === 1) return gap;
  const nodes = grid(-9, 9, 601), h = nodes[1] - nodes[0];
  const logR = nodes.map((e) => 0.5 * (e * e - (e - mean) ** 2 / variance - Math.log(variance)));   // p(e | x) / q(e)
  const mass = nodes.map((e) => h * Math.exp(-0.5 * (e * e + LOG_2PI)));
  return -expectedBound(logR, mass, K);
}

/* E[log (1/K) sum_k w_k] for independent w_k, from log w at nodes of given probability. No sampling:
   E[log S] = integral over u of exp(-e^u) - phi(e^u)^K,  phi(t) = E[exp(-t w)]  (Frullani's integral),
   so K is only a power. */
export function expectedBound(logW, mass, K) {
  let low = Infinity, high = -Infinity, sum = 0;
  mass.forEach((m, i) => {
    if (!(m > 0)) return;
    sum += m;
    low = Math.min(low, logW[i]);
    high = Math.max(high, logW[i]);
  });
  const h = 0.25;
  let total = 0;
  for (let u = -high - 30 - Math.log(K); u < 4 - low; u += h) {
    let phi = 0;
    for (let i = 0; i < logW.length; i++) {
      const l = u + logW[i];              // most terms are 1 or 0 to rounding: no exponential needed
      if (l < 4) phi += l < -37 ? mass[i] : mass[i] * Math.exp(-Math.exp(l));
    }
    total += Math.exp(-Math.exp(u)) - (phi / sum) ** K;
  }
  return h * total - Math.log(K);
}
