import { fixed, mount } from "./base.js";
import { Plot, atLeast, clear } from "./plot.js";

/* A chain of levels above a scalar linear model: z_l = rho z_(l+1) + s y_l, x = c z_1 + d y_0. Every
   encoder is Gaussian, so each share of the gap is a formula; what level l is fed matters through
   E_q z_(l-1)^2 alone. */

const [C, D, RHO, S] = [1.1, 0.6, 0.8, 0.6], DATA = C * C + D * D, K = C / DATA, V = D * D / DATA;
const scalePart = (ratio) => 0.5 * (ratio - 1 - Math.log(ratio));

/* Shares gap_1 .. gap_L at an example with the given x^2 (its mean over the data is DATA). */
export function shares({ spread, link, levels, slope, width }, square) {
  const off = (slope - 1) * K;
  const found = [scalePart(spread) + off * off * square / (2 * V)];
  let second = spread * V + (slope * K) ** 2 * square;          // E_q z_1^2
  while (found.length < levels) {
    found.push(scalePart(width * width) + ((1 - link) * RHO) ** 2 * second / (2 * S * S));
    second = (width * S) ** 2 + (link * RHO) ** 2 * second;     // and of the next level
  }
  return found;
}

/* The variance of level 1 with the least sum: 1 where the links are exact, else below 1. */
export function bestSpread({ link, levels }) {
  let pull = 0, power = 1;
  for (let l = 2; l <= levels; l++, power *= (link * RHO) ** 2) pull += ((1 - link) * RHO) ** 2 * power / (2 * S * S);
  return 1 / (1 + 2 * pull * V);
}

export const logProb = (square) => -0.5 * (square / DATA + Math.log(2 * Math.PI * DATA));
const sum = (values) => values.reduce((s, v) => s + v, 0);
const LOOK = ["block", "hatch", "soft"];      // neighbours differ

function settings(page) {
  return Object.fromEntries(["spread", "link", "levels", "slope", "width"].map((name) => [name, page.get(name)]));
}

function draw(page) {
  const state = settings(page), x = page.get("x"), here = shares(state, x * x), mean = shares(state, DATA);
  const log_prob = logProb(x * x), gap = sum(here), upper = gap - here[0], nll = -logProb(DATA);
  drawBands(page, state, x);
  drawBars(page, [[`x = ${fixed(x, 1)}`, -log_prob, here], ["mean over the data", nll, mean]]);
  page.say([
    ["NLL, nats", fixed(-log_prob), "blue"], ["gap", fixed(gap), "purple"], ["level 1", fixed(here[0]), "purple"],
    ["levels above", fixed(upper), "purple"], ["mean NLL", fixed(nll), "blue"], ["mean gap", fixed(sum(mean)), "purple"],
  ], remark(state, x));
  return { ...state, x, log_prob, gap, elbo: log_prob - gap, shares: here };
}

function remark(state, x) {
  const best = bestSpread(state), seen = `L = ${state.levels}, link ${fixed(state.link, 2)}, x = ${fixed(x, 1)}: `;
  if (state.levels === 1) return `${seen}one level, one share.`;
  if (state.link === 1) return `${seen}the links are exact: the levels above cost nothing, whatever level 1 draws.`;
  return `${seen}the sum is least at variance ${fixed(best, 3)} of level 1, its own share at 1.`;
}

function drawBands(page, state, x) {
  const svg = page.svg.bands, width = page.width("bands"), tall = page.narrow() ? 140 : 200;
  const T = Float64Array.from({ length: 96 }, (_, i) => 0.2 + 0.04 * i);
  const rows = [...T].map((spread) => shares({ ...state, spread }, x * x));
  const top = rows.map(() => 0), most = Math.max(...rows.map(sum));
  clear(svg, width, tall + 62);
  const plot = new Plot(svg, {
    box: [34, 18, width - 50, tall], x: [0.2, 4], y: [0, atLeast([0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32], most)],
    xLabel: "variance of q(z\u2081 | x), 1 is right", yLabel: `gap at x = ${fixed(x, 1)}, nats`,
  });
  const names = [];
  for (let l = 0; l < state.levels; l++) {
    const low = top.slice(), kind = LOOK[l % 3];
    rows.forEach((row, i) => { top[i] += row[l]; });
    const d = `M${plot.points(T, top)}L${plot.points(T.slice().reverse(), low.slice().reverse())}Z`;
    plot.add("path", {
      d, class: `afx-area afx-${kind}`, fill: plot.fill("purple", kind), stroke: "var(--afx-purple)",
    });
    names.push([`level ${l + 1}`, plot.Y(top[T.length - 1]), plot.Y(low[T.length - 1])]);
  }
  for (const [name, high, low] of names.filter(([, high, low]) => low - high > 13)) {
    plot.text(plot.left + plot.width - 4, 0.5 * (high + low) + 4, name, { "text-anchor": "end" });
  }
  const now = plot.X(state.spread), best = plot.X(bestSpread(state));
  plot.line(now, plot.top, now, plot.top + tall, "afx-mark");
  plot.add("circle", { cx: best, cy: plot.Y(sum(shares({ ...state, spread: bestSpread(state) }, x * x))), r: 4, fill: "var(--afx-ink)" });
  page.describe("bands", `Stacked bands of ${state.levels} levels over the variance of level 1; a line at `
    + `${fixed(state.spread, 2)}, a dot at the least sum, ${fixed(bestSpread(state), 2)}.`);
}

function drawBars(page, rows) {
  const svg = page.svg.bars, width = page.width("bars"), each = 58;
  const most = Math.max(...rows.map(([, nll, parts]) => nll + sum(parts)));
  clear(svg, width, each * rows.length + 48);
  const plot = new Plot(svg, {
    box: [12, 4, width - 24, each * rows.length], x: [0, atLeast([3, 4, 6, 8, 12, 16, 24, 32], 1.05 * most)],
    y: [0, rows.length], xLabel: "nats, less is better", yTicks: 0,
  });
  rows.forEach(([name, nll, parts], i) => {
    const low = rows.length - 1 - i + 0.12, high = low + 0.4;
    plot.text(12, plot.Y(high) - 7, `${name}: NLL ${fixed(nll, 3)} + gap ${fixed(sum(parts), 3)}`);
    plot.rect(0, nll, low, high, "blue");
    let at = nll;
    parts.forEach((part, l) => {
      const left = plot.X(at), kind = LOOK[l % 3];
      at += part;
      plot.add("rect", {
        x: left, y: plot.Y(high), width: Math.max(0, plot.X(at) - left), height: plot.Y(low) - plot.Y(high),
        class: `afx-${kind}`, fill: plot.fill("purple", kind), "fill-opacity": kind === "soft" ? 0.35 : 1,
        stroke: "var(--afx-purple)",
      });
    });
  });
  const spoken = rows.map(([name, nll, parts]) => `${name}: NLL ${fixed(nll, 2)}, shares ${parts.map((v) => fixed(v, 2)).join(", ")}`);
  page.describe("bars", `Stacked bars in nats. ${spoken.join("; ")}.`);
}

function render(context) {
  return mount(context, {
    key: "levels",
    label: "Explorer: the shares of the levels of a hierarchical model",
    pictures: [
      {
        name: "bands",
        caption: "The gap, level upon level",
        legend: [["level 1, 4", "purple", "block"], ["level 2, 5", "purple", "hatch"], ["level 3, 6", "purple", "soft"]],
      },
      {
        name: "bars",
        caption: "The bound: NLL plus the shares",
        legend: [["NLL", "blue", "block"], ["levels, in the same order", "purple", "hatch"]],
      },
    ],
    buttons: [
      { text: "Least sum over level 1", run: (page) => page.glide({ spread: bestSpread(settings(page)) }) },
      { text: "Exact links", run: (page) => page.glide({ link: 1 }) },
    ],
    traits: ["slope", "width"],
    draw,
  });
}

export default { render };
