import { Flow } from "./flow.js";
import { grid } from "./arrays.js";
import { integrate } from "./quadrature.js";
import { fixed, mount } from "./base.js";
import { E, NOISE_LEGEND, drawNoise } from "./noise.js";
import { Plot, atLeast, clear } from "./plot.js";

/* Trained flows with one number of data and one of noise: log p(x) and the gap are integrals over e,
   done here by quadrature. The data's law is known, so model error and mean gap are numbers too. */

const X = grid(-4.5, 4.5, 91);
const STEP = X[1] - X[0];

function dataDensity(components, x) {
  return components.reduce((sum, [weight, mean, sd]) =>
    sum + weight * Math.exp(-0.5 * ((x - mean) / sd) ** 2) / (sd * Math.sqrt(2 * Math.PI)), 0);
}

/* A model and what is known of it so far: its curves over x are integrated a few points at a time. */
class Curves {
  constructor({ name, note = "", flow }) {
    Object.assign(this, { name, note, flow: new Flow(flow), logProb: [], elbo: [] });
  }

  get done() { return this.logProb.length === X.length; }

  extend() {
    const { logProb, elbo } = integrate(this.flow, X[this.logProb.length]);
    this.logProb.push(logProb);
    this.elbo.push(elbo);
  }

  /* Means over the data: NLL, model error KL(data || p), gap; null while points are missing. */
  means(data, entropy) {
    if (!this.done) return null;
    const mean = (f) => data.reduce((sum, p, i) => sum + STEP * p * f(i), 0);
    const nll = mean((i) => -this.logProb[i]);
    return { nll, error: nll - entropy, gap: mean((i) => this.logProb[i] - this.elbo[i]) };
  }
}

function drawDensity(page, { logProb, elbo }, data, x) {
  const svg = page.svg.density, width = page.width("density"), tall = page.narrow() ? 100 : 140, low = tall + 48;
  const seen = X.subarray(0, logProb.length), gap = logProb.map((v, i) => v - elbo[i]);
  clear(svg, width, low + 88);
  const upper = new Plot(svg, {
    box: [34, 18, width - 44, tall], x: [X[0], -X[0]], y: [0, 0.5], yLabel: "density", yTicks: 3,
  });
  const lower = new Plot(svg, {
    box: [34, low, width - 44, 52], x: upper.x, y: [0, atLeast([0.2, 0.5, 1, 2, 5, 10, 20], Math.max(0, ...gap))],
    xLabel: "data x (drag the line)", yLabel: "gap(x), nats", yTicks: 2,
  });
  upper.area(X, data, "green", "soft");
  if (seen.length) {
    upper.curve(seen, logProb.map(Math.exp), "blue");
    upper.curve(seen, elbo.map(Math.exp), "orange", "dash");
    lower.area(seen, gap, "purple", "hatch");
  }
  upper.line(upper.X(x), upper.top, upper.X(x), lower.top + lower.height, "afx-mark");
  return upper;
}

/* Rows of { name, means, chosen }: means stay null until the model's curves are there. */
function drawBars(page, rows) {
  const svg = page.svg.bars, width = page.width("bars"), left = 96, inner = width - left - 12;
  const longest = Math.max(0.3, ...rows.map(({ means }) => (means ? means.error + means.gap : 0)));
  clear(svg, width, 26 * rows.length + 44);
  const plot = new Plot(svg, {
    box: [left, 4, inner, 26 * rows.length], x: [0, longest * inner / (inner - 92)], y: [0, rows.length],
    xLabel: "nats above the entropy, less is better", yTicks: 0,
  });
  rows.forEach(({ name, means, chosen }, i) => {
    const low = rows.length - 1 - i + 0.15, high = low + 0.7, middle = plot.Y(low + 0.35) + 4;
    const weight = chosen ? { class: "afx-chosen" } : {};
    plot.text(left - 8, middle, name, { "text-anchor": "end", ...weight });
    if (!means) { plot.text(left + 6, middle, "computing"); return; }
    const { error, gap } = means;
    plot.rect(0, error, low, high, "blue");
    plot.rect(error, error + gap, low, high, "purple", "hatch");
    plot.text(plot.X(error + gap) + 6, middle, `${fixed(error, 3)} + ${fixed(gap, 3)}`, weight);
  });
  const spoken = rows.filter(({ means }) => means)
    .map(({ name, means }) => `${name}: ${fixed(means.error, 3)} and ${fixed(means.gap, 3)}`);
  page.describe("bars", `Model error and mean gap of each model, in nats. ${spoken.join("; ")}.`);
}

function render({ model, el }) {
  const components = model.get("components"), data = X.map((x) => dataDensity(components, x));
  const entropy = -data.reduce((sum, p) => sum + STEP * p * Math.log(p), 0);
  const all = model.get("models").map((spec) => new Curves(spec));
  let work = null, plot = null, at = {};

  /* All about one model at one x; kept, as the picture is drawn again while curves grow. */
  function integrateAt(chosen, x) {
    if (at.chosen === chosen && at.x === x) return at;
    const found = integrate(chosen.flow, x), logP = chosen.flow.logJoint(x, E).map((v) => v - found.logProb);
    at = { ...found, chosen, x, logP, peak: E[logP.reduce((best, v, i) => (v > logP[best] ? i : best), 0)] };
    return at;
  }

  function draw(page) {
    const chosen = all.find(({ name }) => name === page.get("model")), x = page.get("x");
    const { logProb, elbo, gap, error, logP, peak } = integrateAt(chosen, x), means = chosen.means(data, entropy);

    plot = drawDensity(page, chosen, data, x);
    page.describe("density", `The data's two modes over x, the density of ${chosen.name} and its bound below it; `
      + `a line at x = ${fixed(x, 2)}.`);
    drawNoise(page, logP, peak);
    page.describe("noise", "q of e, a standard bell curve, and p of e given x, highest near "
      + `e = ${fixed(peak, 1)}; below them the area that is the gap.`);
    drawBars(page, all.map((c) => ({ name: c.name, means: c.means(data, entropy), chosen: c === chosen })));
    const mean = (name) => (means ? fixed(means[name]) : "computing");
    page.say([
      ["log p(x), nats", fixed(logProb), "blue"], ["ELBO(x)", fixed(elbo), "orange"],
      ["gap(x)", fixed(gap), "purple"], ["mean NLL", mean("nll"), "blue"],
      ["model error", mean("error"), "blue"], ["mean gap", mean("gap"), "purple"],
    ], `${chosen.name} at x = ${fixed(x, 2)}. ${chosen.note}`);

    // The curves grow between frames: the chosen model's first, then the others' for the bars.
    const next = chosen.done ? all.find((c) => !c.done) : chosen;
    cancelAnimationFrame(work);
    work = next ? requestAnimationFrame(() => {
      const until = performance.now() + 12;
      do next.extend(); while (!next.done && performance.now() < until);
      page.redraw();
    }) : null;
    const averages = means && { mean_nll: means.nll, model_error: means.error, mean_gap: means.gap };
    return { model: chosen.name, x, log_prob: logProb, elbo, gap, ...averages };
  }

  const end = mount({ model, el }, {
    key: "mixture",
    label: "Explorer: trained augmented flows on two modes",
    pictures: [
      {
        name: "density",
        caption: "Data, model and bound",
        legend: [
          ["data", "green", "soft"], ["p(x)", "blue", "line"],
          ["exp ELBO(x)", "orange", "dash"], ["gap", "purple", "hatch"],
        ],
      },
      { name: "noise", caption: "The noise: q(e) against p(e | x)", legend: NOISE_LEGEND },
      {
        name: "bars",
        caption: "Mean over the data: model error plus gap",
        legend: [["model error = NLL \u2212 entropy", "blue", "block"], ["gap", "purple", "hatch"]],
      },
    ],
    draw,
  });

  // Drag in the picture: the same as the slider, for a finger or a mouse.
  const svg = el.querySelector(".afx-density svg"), x = model.get("inputs").find(({ name }) => name === "x");
  const drag = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    const share = (event.clientX - svg.getBoundingClientRect().left - plot.left) / plot.width;
    const value = Math.round((plot.x[0] + share * (plot.x[1] - plot.x[0])) / x.step) * x.step;
    model.set("x", Math.min(Math.max(value, x.min), x.max));
  };
  svg.addEventListener("pointerdown", drag);
  svg.addEventListener("pointermove", drag);
  return () => { cancelAnimationFrame(work); end(); };
}

export default { render };
