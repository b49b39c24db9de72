import { fixed, mount } from "./base.js";
import { Plot, atLeast, clear } from "./plot.js";

/* Integers and their noise: t = x + u, the model is N(t; centre, sigma^2) with a noise z beside t.
   Everything is an integral over one bin, done with Gauss-Legendre nodes: exact to rounding. */

/* Nodes and weights on [0, 1]: zeros of the Legendre polynomial by Newton's method. */
export function gaussLegendre(n) {
  return Array.from({ length: n }, (_, i) => {
    let v = Math.cos(Math.PI * (i + 0.75) / (n + 0.5)), slope = 0;
    for (let tries = 0; tries < 8; tries++) {
      let p = 1, before = 0;
      for (let k = 1; k <= n; k++) [p, before] = [((2 * k - 1) * v * p - (k - 1) * before) / k, p];
      slope = n * (v * p - before) / (v * v - 1);
      v -= p / slope;
    }
    return { u: (1 + v) / 2, weight: 1 / ((1 - v * v) * slope * slope) };
  });
}

const NODES = gaussLegendre(32);
const over = (f) => NODES.reduce((sum, { u, weight }) => sum + weight * f(u), 0);
const INTEGERS = [0, 1, 2, 3, 4];

/* One integer: log P(x), the laws of its noise, both terms of the gap and the bound. */
export function oneBin({ x, lean, sigma, encoder, centre, rho }) {
  const logDensity = (u) => -0.5 * (((x + u - centre) / sigma) ** 2 + Math.log(2 * Math.PI * sigma * sigma));
  const logP = Math.log(over((u) => Math.exp(logDensity(u))));
  const kappa = -lean * (x + 0.5 - centre), logZ = Math.log(over((u) => Math.exp(kappa * u)));
  const logR = (u) => kappa * u - logZ, logPosterior = (u) => logDensity(u) - logP;
  const share = 0.5 * ((1 - encoder) * rho / sigma) ** 2 / (1 - rho * rho);   // KL(q || p) at t - centre = 1
  const dequantisation = over((u) => Math.exp(logR(u)) * (logR(u) - logPosterior(u)));
  const augmentation = over((u) => Math.exp(logR(u)) * share * (x + u - centre) ** 2);
  const gap = dequantisation + augmentation;
  return { x, logP, logR, logPosterior, dequantisation, augmentation, gap, bound: logP - gap };
}

/* Means over the data. */
export function allBins(state, frequency) {
  const bins = INTEGERS.map((x) => oneBin({ ...state, x }));
  const mean = (name) => bins.reduce((sum, bin, x) => sum + frequency[x] * bin[name], 0);
  return { bins, logP: mean("logP"), dequantisation: mean("dequantisation"), augmentation: mean("augmentation") };
}

/* The lean of the best mean bound, by golden sections: the gap has one minimum in the lean. */
export function learn(state, frequency, [low, high]) {
  const ratio = (Math.sqrt(5) - 1) / 2;
  const cost = (lean) => {
    const { dequantisation, augmentation } = allBins({ ...state, lean }, frequency);
    return dequantisation + augmentation;
  };
  while (high - low > 1e-7) {
    const a = high - ratio * (high - low), b = low + ratio * (high - low);
    if (cost(a) < cost(b)) high = b; else low = a;
  }
  return (low + high) / 2;
}

const NAMES = ["lean", "sigma", "encoder", "centre", "rho"];
const settings = (page) => Object.fromEntries(NAMES.map((name) => [name, page.get(name)]));

function draw(page) {
  const frequency = page.get("frequency"), x = page.get("x"), state = settings(page);
  const all = allBins(state, frequency), uniform = allBins({ ...state, lean: 0 }, frequency), at = all.bins[x];
  drawDensity(page, state, all.bins, frequency, x);
  drawNoise(page, at);
  drawBars(page, [
    [`x = ${x}, uniform noise`, uniform.bins[x]], [`x = ${x}, your noise`, at],
    ["all data, uniform noise", uniform], ["all data, your noise", all],
  ]);
  page.say([
    [`log P(x = ${x}), nats`, fixed(at.logP), "blue"], ["bound", fixed(at.bound), "orange"],
    ["dequantisation gap", fixed(at.dequantisation), "purple"],
    ["augmentation gap", fixed(at.augmentation), "purple"],
    ["mean NLL", fixed(-all.logP), "blue"],
    ["mean gap", fixed(all.dequantisation + all.augmentation), "purple"],
  ], remark(state, all, uniform));
  return {
    x, ...state, log_p: at.logP, bound: at.bound, dequantisation: at.dequantisation, augmentation: at.augmentation,
    mean_log_p: all.logP, mean_dequantisation: all.dequantisation, mean_augmentation: all.augmentation,
  };
}

function remark({ lean, encoder }, all, uniform) {
  const saved = uniform.dequantisation + uniform.augmentation - all.dequantisation - all.augmentation;
  const second = encoder === 1 ? "The encoder is exact: no augmentation gap." : "";
  if (lean === 0) return `The noise is uniform. ${second}`;
  return `A lean of ${fixed(lean, 2)} ${saved < 0 ? "costs" : "saves"} ${fixed(Math.abs(saved))} nats `
    + `of the mean gap against uniform noise; P(x) stays. ${second}`;
}

function drawDensity(page, { sigma, centre }, bins, frequency, x) {
  const svg = page.svg.bins, width = page.width("bins"), tall = page.narrow() ? 120 : 170;
  const t = Float64Array.from({ length: 181 }, (_, i) => -0.5 + i / 30);
  const density = t.map((v) => Math.exp(-0.5 * ((v - centre) / sigma) ** 2) / (sigma * Math.sqrt(2 * Math.PI)));
  clear(svg, width, tall + 62);
  const plot = new Plot(svg, {
    box: [34, 18, width - 44, tall], x: [-0.5, 5.5], y: [0, atLeast([0.5, 0.7, 1.1], Math.max(...density))],
    xLabel: "t = x + u", yLabel: "density, probability", yTicks: 3,
  });
  plot.add("rect", {
    x: plot.X(x), y: plot.top, width: plot.X(x + 1) - plot.X(x), height: tall, fill: "var(--afx-ink)", opacity: 0.08,
  });
  bins.forEach(({ logP }, i) => {
    const top = plot.Y(Math.exp(logP)), left = plot.X(i + 0.03), right = plot.X(i + 0.97);
    plot.add("rect", {
      x: left, y: top, width: right - left, height: plot.Y(0) - top, class: "afx-area",
      fill: "var(--afx-blue)", opacity: i === x ? 0.6 : 0.3,
    });
    plot.curve([i + 0.03, i + 0.97], [frequency[i], frequency[i]], "green");
  });
  plot.curve(t, density, "blue");
  page.describe("bins", `A bell curve of deviation ${fixed(sigma, 2)} over the bins of 0 to 4; P(x) is `
    + `${bins.map(({ logP }) => fixed(Math.exp(logP), 3)).join(", ")}, the data have ${frequency.join(", ")}.`);
}

function drawNoise(page, { x, logR, logPosterior }) {
  const svg = page.svg.noise, width = page.width("noise"), tall = page.narrow() ? 80 : 112, low = tall + 48;
  const U = Float64Array.from({ length: 101 }, (_, i) => i / 100), r = U.map((u) => Math.exp(logR(u)));
  const p = U.map((u) => Math.exp(logPosterior(u)));
  const lost = U.map((u, i) => r[i] * (logR(u) - logPosterior(u)) - r[i] + p[i]);
  clear(svg, width, low + 88);
  const upper = new Plot(svg, {
    box: [34, 18, width - 44, tall], x: [0, 1], y: [0, atLeast([2, 4, 8, 16, 32], Math.max(...p, ...r))],
    yLabel: `density, bin of x = ${x}`, yTicks: 2,
  });
  upper.curve(U, r, "orange", "dash");
  upper.curve(U, p, "blue");
  const lower = new Plot(svg, {
    box: [34, low, width - 44, 52], x: [0, 1], y: [0, atLeast([0.2, 0.5, 1, 2, 5, 10, 20, 50, 100], Math.max(...lost))],
    xLabel: "noise u", yLabel: "nats per unit of u: the area is the gap", yTicks: 2,
  });
  lower.area(U, lost, "purple", "soft");
  const side = (v) => (v[100] > 1.02 * v[0] ? "rises" : v[0] > 1.02 * v[100] ? "falls" : "ends where it began");
  page.describe("noise", `Over the bin of x = ${x} the posterior of the noise ${side(p)} and its law r ${side(r)}. `
    + "Below them the area that is the dequantisation gap.");
}

function drawBars(page, rows) {
  const svg = page.svg.bars, width = page.width("bars"), each = 44, label = (v) => fixed(v, 3);
  const totals = rows.map(([, { logP, dequantisation, augmentation }]) => dequantisation + augmentation - logP);
  const nats = atLeast([3, 4, 6, 8, 12, 16, 24, 32, 48, 64], 1.15 * Math.max(...totals));
  clear(svg, width, each * rows.length + 48);
  const plot = new Plot(svg, {
    box: [12, 4, width - 24, each * rows.length], x: [0, nats], y: [0, rows.length],
    xLabel: "nats, less is better", yTicks: 0,
  });
  rows.forEach(([name, { logP, dequantisation, augmentation }], i) => {
    const low = rows.length - 1 - i + 0.1, high = low + 0.38, nll = -logP, first = nll + dequantisation;
    plot.text(12, plot.Y(high) - 6, `${name}: ${label(nll)} + ${label(dequantisation)} + ${label(augmentation)}`,
      i % 2 ? { class: "afx-chosen" } : {});
    plot.rect(0, nll, low, high, "blue");
    plot.rect(nll, first, low, high, "purple");
    plot.rect(first, first + augmentation, low, high, "purple", "hatch");
  });
  const spoken = rows.map(([name, { logP, dequantisation, augmentation }]) =>
    `${name}: ${label(-logP)}, ${label(dequantisation)} and ${label(augmentation)}`);
  page.describe("bars", `Bars in nats of NLL, dequantisation gap and augmentation gap. ${spoken.join("; ")}.`);
}

function learnNoise(page) {
  const { min, max } = page.get("inputs").find(({ name }) => name === "lean");
  page.glide({ lean: learn(settings(page), page.get("frequency"), [min, max]) });
}

function render(context) {
  return mount(context, {
    key: "dequantise",
    label: "Explorer: integers, their noise and both gaps",
    pictures: [
      {
        name: "bins",
        caption: "The model over the bins",
        legend: [["p(t)", "blue", "line"], ["P(x), its area", "blue", "soft"], ["data", "green", "line"]],
      },
      {
        name: "noise",
        caption: "The noise within the bin",
        legend: [["law r(u | x)", "orange", "dash"], ["posterior p(u | x)", "blue", "line"],
          ["dequantisation gap", "purple", "soft"]],
      },
      {
        name: "bars",
        caption: "The bound: NLL plus both gaps",
        legend: [["NLL = \u2212log P", "blue", "block"], ["dequantisation", "purple", "block"],
          ["augmentation", "purple", "hatch"]],
      },
    ],
    buttons: [{ text: "Learn the noise", run: learnNoise }],
    traits: ["frequency", "centre", "rho"],
    draw,
  });
}

export default { render };
