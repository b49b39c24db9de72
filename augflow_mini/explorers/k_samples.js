import { iwGaps, scalarAnf } from "./closed_form.js";
import { normals } from "./draws.js";
import { fixed, mount } from "./base.js";
import { Plot, atLeast, clear } from "./plot.js";

/* K importance samples on the scalar linear-Gaussian flow: the bound over K, the weights behind it,
   and the sandwich on the model's own samples. log p(x) is a formula, so all errors are known. */

const DOUBLINGS = 10, MOST = 1 << DOUBLINGS, REPEATS = 40, OWN = 200;   // as in k_samples.py
const DOUBLED = Array.from({ length: DOUBLINGS + 1 }, (_, j) => 1 << j);

/* log w(e) - log p(x) = log p(e | x) - log q(e). */
export const logRatio = ({ mean, variance }, e) => 0.5 * (e * e - (e - mean) ** 2 / variance - Math.log(variance));

/* Running sums over log-weights, kept relative to the largest so far, so that nothing overflows. */
export class LogWeights {
  constructor() { Object.assign(this, { K: 0, top: -Infinity, sum: 0, squares: 0 }); }

  add(l) {
    this.K++;
    if (l > this.top) {
      const shrink = Math.exp(this.top - l);
      this.sum = this.sum * shrink + 1;
      this.squares = this.squares * shrink * shrink + 1;
      this.top = l;
    } else {
      const w = Math.exp(l - this.top);
      this.sum += w;
      this.squares += w * w;
    }
  }

  get value() { return this.top + Math.log(this.sum / this.K); }   // L_K
  get ess() { return this.sum * this.sum / this.squares; }
}

/* L_K and the effective sample size of the first K = 1, 2, 4, ... log-weights. */
export function running(logW) {
  const weights = new LogWeights(), out = [];
  for (const l of logW) {
    weights.add(l);
    if ((weights.K & (weights.K - 1)) === 0) out.push({ value: weights.value, ess: weights.ess });
  }
  return out;
}

/* w^2 has a mean under q exactly where the posterior's variance is below 2. */
export const infiniteVariance = ({ variance }) => variance >= 2;

/* Var(w) / p(x)^2 where it is finite; may overflow close to the line. */
const chi2 = ({ mean, variance }) =>
  Math.exp(mean * mean / (2 - variance)) / Math.sqrt(variance * (2 - variance)) - 1;

/* Means over the model's own samples: x comes with the noise that it was made from, an exact draw
   from p(e | x). Below log p(x): K fresh draws. Above it: the sample's own draw and K - 1 fresh ones. */
export function sandwich(model, noise, log2K) {
  const K = 1 << log2K, { a, b, c, d } = model, below = [], above = [];
  let truth = 0;
  for (let i = 0; i < OWN; i++) {
    const y = noise[i], z = noise[OWN + i], x = c * z + d * y, own = (z - b * x) / a, at = scalarAnf(model, x);
    const from = 2 * OWN + i * MOST, fresh = new LogWeights(), withOwn = new LogWeights();
    withOwn.add(logRatio(at, own));
    for (let k = 0; k < K; k++) {
      const l = logRatio(at, noise[from + k]);
      fresh.add(l);
      if (k < K - 1) withOwn.add(l);
    }
    below.push(fresh.value);
    above.push(withOwn.value);
    truth += at.logProb / OWN;
  }
  const [lower, lowerSe] = meanAndError(below), [upper, upperSe] = meanAndError(above);
  return { truth, lower: truth + lower, upper: truth + upper, lowerSe, upperSe };
}

function meanAndError(values) {
  const n = values.length, mean = values.reduce((s, v) => s + v, 0) / n;
  const spread = values.reduce((s, v) => s + (v - mean) ** 2, 0) / (n - 1);
  return [mean, Math.sqrt(spread / n)];
}

/* The last result of f, kept while its arguments stay: a change of K need not draw again. */
function keep(f) {
  let last = null, result;
  return (...args) => {
    if (!last || args.some((v, i) => v !== last[i])) { result = f(...args); last = args; }
    return result;
  };
}

// ---- pictures -----------------------------------------------------------------------------------

const K_TICKS = [0, 2, 4, 6, 8, 10], STEPS = [0.1, 0.2, 0.3, 0.5, 1, 1.5, 2, 3, 5, 10, 20, 50];

function drawBound(svg, { width, tall }, runs, gaps, log2K) {
  const at = (p) => runs[0].map((_, j) => {
    const sorted = runs.map((run) => run[j].value).sort((u, v) => u - v);
    return sorted[Math.round(p * (REPEATS - 1))];
  });
  const low = at(0.1), high = at(0.9), steps = runs[0].map((_, j) => j);
  const depth = atLeast(STEPS, Math.max(gaps[0], -low[0], -runs[0][0].value));
  clear(svg, width, tall + 62);
  const plot = new Plot(svg, {
    box: [40, 18, width - 54, tall], x: [0, DOUBLINGS], y: [-depth, depth / 3],
    yLabel: "L_K \u2212 log p(x), nats", xTicks: 0, yTicks: 5,
  });
  const bottom = plot.top + tall;
  for (const j of K_TICKS) {
    plot.line(plot.X(j), bottom, plot.X(j), bottom + 4, "afx-axis");
    plot.text(plot.X(j), bottom + 17, 1 << j, { "text-anchor": "middle", class: "afx-tick" });
  }
  plot.text(plot.left + plot.width, bottom + 33, "samples K", { "text-anchor": "end" });
  const band = `M${plot.points(steps, high)}L${plot.points([...steps].reverse(), [...low].reverse())}Z`;
  plot.add("path", { d: band, class: "afx-area afx-soft", fill: "var(--afx-orange)" });
  plot.line(plot.X(log2K), plot.top, plot.X(log2K), bottom, "afx-mark");
  plot.curve([0, DOUBLINGS], [0, 0], "blue");
  plot.curve(steps, gaps.map((gap) => -gap), "orange", "dash");
  plot.curve(steps, runs[0].map(({ value }) => value), "orange");
  const { value } = runs[0][log2K];
  plot.add("circle", { cx: plot.X(log2K), cy: plot.Y(value), r: 4.5, fill: "var(--afx-orange)" });
}

const BINS = 32, FROM = -10, TO = 6;

/* Shares per bin of half a nat; what lies outside counts in the last bin of its side. */
function histogram(logR, shares) {
  const out = new Float64Array(BINS);
  logR.forEach((l, i) => {
    const bin = Math.floor((l - FROM) / (TO - FROM) * BINS);
    out[Math.min(Math.max(bin, 0), BINS - 1)] += shares[i];
  });
  return out;
}

function drawWeights(svg, { width, tall }, logR) {
  const top = logR.reduce((m, l) => Math.max(m, l), -Infinity), w = logR.map((l) => Math.exp(l - top));
  const total = w.reduce((s, v) => s + v, 0), K = logR.length;
  const draws = histogram(logR, logR.map(() => 1 / K)), weight = histogram(logR, w.map((v) => v / total));
  clear(svg, width, tall + 62);
  const plot = new Plot(svg, {
    box: [40, 18, width - 54, tall], x: [FROM, TO], y: [0, atLeast([0.25, 0.5, 1], Math.max(...draws, ...weight))],
    xLabel: "log w \u2212 log p(x), nats", yLabel: "share", yTicks: 4, xTicks: 8,
  });
  const edge = (i) => FROM + (TO - FROM) * i / BINS;
  draws.forEach((share, i) => share && plot.rect(edge(i) + 0.04, edge(i + 1) - 0.04, 0, share, "orange", "hatch"));
  const steps = Array.from(weight).flatMap((share, i) => [[edge(i), share], [edge(i + 1), share]]);
  plot.curve(steps.map(([x]) => x), steps.map(([, share]) => share), "blue");
  plot.line(plot.X(0), plot.top, plot.X(0), plot.top + tall, "afx-mark");
}

function drawSandwich(svg, { width }, rows) {
  const left = 78;
  const off = ({ truth, lower, upper }) => [lower - truth, upper - truth];
  const widest = Math.max(...rows.flatMap(([, s]) => off(s).map(Math.abs))), reach = atLeast(STEPS, 1.1 * widest);
  clear(svg, width, 30 * rows.length + 60);
  const plot = new Plot(svg, {
    box: [left, 18, width - left - 14, 30 * rows.length], x: [-reach, reach], y: [0, rows.length],
    xLabel: "mean bound \u2212 mean log p(x), nats", yTicks: 0, xTicks: width < 420 ? 4 : 8,
  });
  plot.line(plot.X(0), plot.top, plot.X(0), plot.top + plot.height, "afx-mark");
  plot.text(plot.X(0), plot.top - 6, "log p(x)", { "text-anchor": "middle" });
  rows.forEach(([name, s], i) => {
    const middle = rows.length - i - 0.5, [lower, upper] = off(s);
    plot.text(left - 8, plot.Y(middle) + 4, name, { "text-anchor": "end" });
    plot.rect(lower, 0, middle - 0.22, middle + 0.22, "orange", "hatch");
    plot.rect(0, upper, middle - 0.22, middle + 0.22, "blue", "hatch");
    for (const [at, se] of [[lower, s.lowerSe], [upper, s.upperSe]]) {
      const place = { x1: plot.X(at - 2 * se), x2: plot.X(at + 2 * se), y1: plot.Y(middle), y2: plot.Y(middle) };
      plot.add("line", { ...place, stroke: "var(--afx-ink)", "stroke-width": 2 });
    }
  });
}

// ---- the explorer -------------------------------------------------------------------------------

function remark(at, K) {
  const tau2 = `\u03c4\u00b2 = ${fixed(at.variance, 2)}`;
  if (infiniteVariance(at)) {
    return `${tau2} is not below 2: q is too narrow and the weights have infinite variance. More draws still help, `
      + "but not at the rate 1/K, and the ESS rests on a few of them.";
  }
  const left = chi2(at) / (2 * K);
  return `${tau2} is below 2: the weights have finite variance. The rule \u03c7\u00b2/(2K) says `
    + `${left < 100 ? fixed(left, 4) : "over 100"} nats are left; it holds for large K.`;
}

function render(context) {
  const draws = keep((seed) => normals(seed, REPEATS * MOST));
  const own = keep((seed) => normals(seed, OWN * (2 + MOST)));
  const ratios = keep((mean, variance, seed) => Array.from({ length: REPEATS }, (_, r) =>
    draws(seed).subarray(r * MOST, (r + 1) * MOST).map((e) => logRatio({ mean, variance }, e))));
  const bounds = keep((mean, variance, seed) => ratios(mean, variance, seed).map(running));
  const enclosed = keep((a, b, c, d, seed, log2K) => sandwich({ a, b, c, d }, own(seed + 1000), log2K));
  const single = keep((a, b, c, d, seed) => sandwich({ a, b, c, d }, own(seed + 1000), 0));
  const expected = keep((mean, variance, gap) => iwGaps({ mean, variance, gap }, DOUBLED));

  function draw(page) {
    const [a, b, c, d, x, log2K, seed] = ["a", "b", "c", "d", "x", "log2_k", "seed"].map((name) => page.get(name));
    const at = scalarAnf({ a, b, c, d }, x), K = 1 << log2K;
    const { mean, variance, gap, logProb } = at;
    const runs = bounds(mean, variance, seed), gaps = expected(mean, variance, gap);
    const gapK = gaps[log2K], { value, ess } = runs[0][log2K];
    const one = single(a, b, c, d, seed), many = enclosed(a, b, c, d, seed, log2K);
    const values = runs.map((run) => logProb + run[log2K].value), [runMean, runSe] = meanAndError(values);

    // All sizes first: to ask for one after a picture has changed costs a new layout of the page.
    const tall = page.narrow() ? 130 : 190;
    const sizes = ["bound", "weights", "sandwich"].map((name) => ({ width: page.width(name), tall }));
    drawBound(page.svg.bound, sizes[0], runs, gaps, log2K);
    page.describe("bound", `The bound of K samples over K from 1 to ${MOST}. Its mean rises to log p of x and misses `
      + `${fixed(gaps[0], 2)} nats at K = 1, ${fixed(gaps[gaps.length - 1], 3)} at K = ${MOST}; runs scatter around it.`);
    drawWeights(page.svg.weights, sizes[1], Array.from(ratios(mean, variance, seed)[0].subarray(0, K)));
    page.describe("weights", `Histogram of ${K} log-weights: the share of the draws in each bin, and the share of `
      + `their summed weight. Effective sample size ${fixed(ess, 1)} of ${K}.`);
    drawSandwich(page.svg.sandwich, sizes[2], log2K ? [["K = 1", one], [`K = ${K}`, many]] : [["K = 1", one]]);
    page.describe("sandwich", `Mean bounds on ${OWN} samples of the model: with K = ${K} from `
      + `${fixed(many.lower, 2)} to ${fixed(many.upper, 2)} nats around ${fixed(many.truth, 2)}.`);
    page.say([
      ["log p(x), nats", fixed(logProb), "blue"], ["NLL", fixed(-logProb), "blue"],
      [`L_K, K = ${K}`, fixed(logProb + value), "orange"], ["its mean", fixed(logProb - gapK), "orange"],
      ["gap of K", fixed(gapK), "purple"], [`ESS of ${K}`, fixed(ess, 1), "orange"],
      ["samples: below", fixed(many.lower, 3), "orange"], ["samples: log p", fixed(many.truth, 3), "blue"],
      ["samples: above", fixed(many.upper, 3), "blue"],
    ], `x = ${fixed(x, 2)}, seed ${seed}. ${remark(at, K)}`);
    return {
      a, x, log2_k: log2K, seed, log_prob: logProb, bound: logProb + value, ess, mean: runMean,
      sd: runSe * Math.sqrt(REPEATS), expected: logProb - gapK, gap_k: gapK, infinite: infiniteVariance(at),
      lower: many.lower, truth: many.truth, upper: many.upper, lower_se: many.lowerSe, upper_se: many.upperSe,
    };
  }

  return mount(context, {
    key: "ksamples",
    label: "Explorer: the bound of K importance samples",
    pictures: [
      {
        name: "bound",
        caption: "The bound over K",
        legend: [
          ["log p(x)", "blue", "line"], ["one run", "orange", "line"],
          ["mean, exact", "orange", "dash"], ["8 of 10 runs", "orange", "soft"],
        ],
      },
      {
        name: "weights",
        caption: "The K weights of this run",
        legend: [["share of the draws", "orange", "hatch"], ["share of the weight", "blue", "line"]],
      },
      {
        name: "sandwich",
        caption: `Sandwich: bounds on ${OWN} samples of the model`,
        legend: [
          ["below: K fresh draws", "orange", "hatch"], ["above: own draw + K \u2212 1 fresh", "blue", "hatch"],
          ["2 standard errors", "ink", "line"],
        ],
      },
    ],
    buttons: [
      { text: "New draws", run: (page) => page.set({ seed: (page.get("seed") + 1) % 100 }) },
      { text: "Too narrow: a = 0.2", run: (page) => page.glide({ a: 0.2 }) },
    ],
    traits: ["b", "c", "d"],
    draw,
  });
}

export default { render };
