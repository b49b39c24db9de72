/* The playground's pictures: density over data, samples, and the curves of training. */

import { fixed } from "./base.js";
import { Plot, atLeast, clear } from "./plot.js";
import { twoModes } from "./playground_data.js";
import { CELLS, EDGE, LINE } from "./playground_model.js";

const RANGE = [-EDGE, EDGE];
const widthOf = (page, name) => Math.max(page.width(name), 160);   // before the first layout it is 1

/* Dots as one path: a line of no length with round ends is a dot. What leaves the box is left out. */
function dots(plot, xs, ys, colour, size = 3) {
  const inside = (v, [low, high]) => v >= low && v <= high, marks = Array.from(xs, (v, i) =>
    (inside(v, plot.x) && inside(ys[i], plot.y) ? `M${plot.X(v).toFixed(1)},${plot.Y(ys[i]).toFixed(1)}h0` : ""));
  const look = { fill: "none", "stroke-linecap": "round", "stroke-width": size };
  plot.add("path", { d: marks.join(""), stroke: `var(--afx-${colour})`, class: "afx-dots", ...look });
}

function square(page, name, labels = {}) {
  const width = widthOf(page, name), side = Math.min(width - 44, 300);
  clear(page.svg[name], width, side + 58);
  return new Plot(page.svg[name], { box: [34, 18, width - 44, side], x: RANGE, y: RANGE, yTicks: 6, ...labels });
}

/* The map is a mask: only its opacity is in the picture, so its colour follows the theme. */
function heat(plot, logProb) {
  const canvas = document.createElement("canvas"), svg = plot.svg;
  canvas.width = canvas.height = CELLS;
  const pixels = canvas.getContext("2d").createImageData(CELLS, CELLS);
  const p = Array.from(logProb, (v) => (v > -30 ? Math.exp(v) : 0)), high = p.slice().sort((a, b) => b - a)[CELLS] || 1;
  p.forEach((v, i) => { pixels.data[4 * i + 3] = 235 * Math.min(v / high, 1) ** 0.7; });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  const make = (tag, attributes) => {
    const node = document.createElementNS(svg.namespaceURI, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  const id = `afx-heat-${Math.random().toString(36).slice(2)}`;
  const box = { x: plot.left, y: plot.top, width: plot.width, height: plot.height };
  const mask = make("mask", { id, style: "mask-type: alpha", maskUnits: "userSpaceOnUse", ...box });
  mask.append(make("image", { href: canvas.toDataURL(), preserveAspectRatio: "none", ...box }));
  svg.append(mask, make("rect", { ...box, fill: "var(--afx-blue)", mask: `url(#${id})` }));
}

/* The data over the model's density. Returns the plot: the pen needs its axes. */
export function drawModel(page, { data, scan, test, pen }) {
  if (data.dims === 1) {
    const width = widthOf(page, "model"), side = Math.min(width - 44, 300);
    clear(page.svg.model, width, side + 58);
    const box = { box: [34, 18, width - 44, side], x: RANGE, y: [0, 0.5], xLabel: "data x", yLabel: "density", yTicks: 3 };
    const plot = new Plot(page.svg.model, box);
    plot.area(LINE, Array.from(LINE, twoModes), "green", "soft");
    if (scan.passes || scan.at > 1) {
      plot.curve(LINE, scan.logProb.map(Math.exp), "blue");
      plot.curve(LINE, scan.elbo.map(Math.exp), "orange", "dash");
      plot.text(width - 10, 30, "dashed: exp(bound)", { "text-anchor": "end", class: "afx-tick" });
    }
    return plot;
  }
  const plot = square(page, "model", { xLabel: "x\u2081", yLabel: "x\u2082" }), n = test.length / 2;
  heat(plot, scan.logProb);
  dots(plot, test.subarray(0, n), test.subarray(n), "green");
  if (pen) {
    const [u, v] = pen.map((value, i) => (i ? plot.Y(value) : plot.X(value)));
    plot.line(u - 9, v, u + 9, v, "afx-mark afx-pen-mark");
    plot.line(u, v - 9, u, v + 9, "afx-mark afx-pen-mark");
  }
  return plot;
}

/* Draws of the model; 1-D data beside the noise they came with. */
export function drawSamples(page, x, n, dims, noise) {
  const flat = dims === 1, labels = { xLabel: flat ? "sample x" : "x\u2081", yLabel: flat ? "its noise e" : "x\u2082" };
  if (flat && !noise) labels.yLabel = "";
  const plot = square(page, "samples", labels);
  dots(plot, x.subarray(0, n), flat && !noise ? new Float64Array(n) : x.subarray(n, 2 * n), "blue");
}

/* NLL and minus the bound above, the gap below, over steps; lines for what is known of the target. */
export function drawCurves(page, history, { setting, entropy, floor, planned }) {
  const svg = page.svg.curves, width = widthOf(page, "curves"), tall = page.narrow() ? 120 : 150, low = tall + 62;
  clear(svg, width, low + 94);
  const last = history.length ? history[history.length - 1] : { steps: 0 };
  const x = [0, atLeast([100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 1e5], Math.max(last.steps, planned))];
  const foot = Math.min(entropy, ...history.map((h) => h.nll)), settled = history.slice(Math.floor(history.length / 8));
  const top = Math.max(foot + 0.8, floor ? floor.value + 0.3 : 0, ...settled.map((h) => -h.bound));
  const box = (from, height) => [40, from, width - 62, height];
  const upper = new Plot(svg, {
    box: box(34, tall), x, y: [foot - 0.2 * (top - foot), top + 0.05 * (top - foot)], yLabel: "nats, less is better",
  });
  upper.text(width - 22, 12, setting, { "text-anchor": "end", class: "afx-tick" });
  const gaps = history.map((h) => h.gap), steps = history.map((h) => h.steps);
  const lower = new Plot(svg, {
    box: box(low, 58), x, y: [0, atLeast([0.05, 0.1, 0.2, 0.5, 1, 2, 5], 1.05 * Math.max(0, ...gaps.slice(Math.min(2, gaps.length - 1))))],
    xLabel: "steps of training", yLabel: "gap, nats", yTicks: 2,
  });
  const level = (value, colour, text, below) => {
    upper.line(upper.left, upper.Y(value), upper.left + upper.width, upper.Y(value), "afx-mark")
      .setAttribute("style", `stroke: var(--afx-${colour})`);
    const at = upper.Y(value) + (below ? 15 : -5);
    upper.text(upper.left + upper.width, at, text, { "text-anchor": "end" });
  };
  level(entropy, "green", `entropy of the data ${fixed(entropy, 3)}`, true);
  if (floor) level(floor.value, floor.of === "NLL" ? "blue" : "orange", `${floor.text} ${fixed(floor.value, 4)}`, false);
  if (!history.length) return;
  upper.curve(steps, history.map((h) => h.nll), "blue");
  upper.curve(steps, history.map((h) => -h.bound), "orange", "dash");
  lower.area(steps, gaps, "purple", "hatch");
  for (const [plot, value, colour] of [[upper, last.nll, "blue"], [lower, last.gap, "purple"]]) {
    dots(plot, [last.steps], [value], colour, 7);
  }
}
