import { fixed, mount } from "./base.js";
import { Plot, clear } from "./plot.js";

/* Additive couplings as a symplectic step: data u is a position, noise v a velocity, in the potential
   V(u) = u^4 / 4 - u^2. A patch of the plane is carried along, and each point's Jacobian with it. */

const slope = (u) => u * u * u - 2 * u, bend = (u) => 3 * u * u - 2;
export const energy = (u, v) => 0.5 * v * v + 0.25 * u ** 4 - u * u;

/* One step of either update: the new (u, v) and the step's own Jacobian, row by row. */
export const UPDATES = {
  leapfrog(h, u0, v0) {
    const v1 = v0 - 0.5 * h * slope(u0), u = u0 + h * v1, v = v1 - 0.5 * h * slope(u);
    const k0 = -0.5 * h * bend(u0), k1 = -0.5 * h * bend(u);
    const a = 1 + h * k0;                       // kick, drift, kick: three shears
    return { u, v, J: [a, h, k0 + k1 * a, 1 + k1 * h] };
  },
  Euler(h, u0, v0) {
    return { u: u0 + h * v0, v: v0 - h * slope(u0), J: [1, h, -h * bend(u0), 1] };
  },
};

/* n steps: the end, the product of the steps' Jacobians and of their determinants; and, where asked
   for, the path and the largest error of the energy on it. */
export function run(update, h, n, u, v, watch = false) {
  const step = UPDATES[update], start = energy(u, v), path = [[u, v]];
  let M = [1, 0, 0, 1], det = 1, lost = 0;
  for (let i = 0; i < n; i++) {
    const next = step(h, u, v), [a, b, c, d] = next.J;
    ({ u, v } = next);
    M = [a * M[0] + b * M[2], a * M[1] + b * M[3], c * M[0] + d * M[2], c * M[1] + d * M[3]];
    det *= a * d - b * c;
    if (!watch) continue;
    const error = Math.abs(energy(u, v) - start);
    lost = error >= 0 ? Math.max(lost, error) : Infinity;    // Euler's points may run away
    path.push([u, v]);
  }
  return { u, v, M, det, lost, path };
}

/* An ellipse of points, carried along. Its area is the integral of u dv - v du over the rim, halved;
   the rim's tangents are carried by the Jacobian, so the sum is exact once the rim is resolved. */
export function patch(update, h, n, [u0, v0, ru, rv], points) {
  const us = new Float64Array(points), vs = new Float64Array(points);
  let area = 0;
  for (let i = 0; i < points; i++) {
    const angle = 2 * Math.PI * i / points, c = Math.cos(angle), s = Math.sin(angle);
    const { u, v, M } = run(update, h, n, u0 + ru * c, v0 + rv * s);
    const du = -M[0] * ru * s + M[1] * rv * c, dv = -M[2] * ru * s + M[3] * rv * c;
    us[i] = u;
    vs[i] = v;
    area += Math.PI / points * ((u - u0) * dv - (v - v0) * du);
  }
  return { us, vs, ratio: area / (Math.PI * ru * rv) };
}

/* Largest energy error until `time` against the step; `order` is the slope of the line through the
   three finest ones on log scales. */
export function errors(update, u, v, time = 12) {
  const at = (n) => ({ h: time / n, lost: run(update, time / n, n, u, v, true).lost });
  const rows = [32, 45, 64, 90, 128, 181, 256, 362, 512, 724, 1024].map(at), fine = [256, 512, 1024].map(at);
  const x = fine.map(({ h }) => Math.log(h)), y = fine.map(({ lost }) => Math.log(lost));
  const mean = (a) => a.reduce((s, w) => s + w, 0) / a.length, mx = mean(x), my = mean(y);
  const up = x.reduce((s, w, i) => s + (w - mx) * (y[i] - my), 0), across = x.reduce((s, w) => s + (w - mx) ** 2, 0);
  return { rows, order: up / across };
}

const finite = (value) => (Math.abs(value) < 1e4 ? fixed(value, 6) : "runs away");
const scientific = (value) => {
  if (!Number.isFinite(value)) return "\u221e";
  if (value === 0) return "0";
  const [digits, power] = value.toExponential(1).split("e");
  return Math.abs(Number(power)) < 3 ? fixed(value, 4) : `${digits}e${power.replace("-", "\u2212").replace("+", "")}`;
};

function draw(page) {
  const [h, steps, update, noise] = ["h", "steps", "update", "noise"].map((name) => page.get(name));
  const [u0, v0, ru] = page.get("start"), at = run(update, h, steps, u0, v0, true), order = errors(update, u0, v0).order;
  const shape = [u0, v0, ru, noise], rim = h * steps > 24 ? 1440 : 720;
  const after = patch(update, h, steps, shape, rim), before = patch(update, h, 0, shape, 180);
  const back = run(update, -h, steps, at.u, at.v), miss = Math.hypot(back.u - u0, back.v - v0);
  drawPlane(page, before, after, at.path, noise);
  drawErrors(page, update, h, u0, v0);
  page.say([
    ["area after : before", noise === 0 ? "none" : finite(after.ratio), "blue"],
    ["determinant, centre", finite(at.det), "blue"],
    ["energy error, largest", scientific(at.lost), "orange"],
    ["its order in h", fixed(order, 2), "orange"],
    ["back again, off by", scientific(miss), "green"],
  ], remark(update, h, steps, noise));
  return { h, steps, update, noise, u: at.u, v: at.v, det: at.det, lost: at.lost, order, miss, ratio: noise && after.ratio };
}

function remark(update, h, steps, noise) {
  const seen = `${steps} steps of ${fixed(h, 2)}, noise of width ${fixed(noise, 2)}. `;
  if (noise === 0) return `${seen}Padded with zeros the patch is a line: it has no area, so no density, and stays a line.`;
  if (update === "Euler") return `${seen}Both blocks move at once: that is no coupling. Areas change, and the way back misses.`;
  return `${seen}The patch is bent and stretched and keeps its area; the same couplings undone lead back.`;
}

function drawPlane(page, before, after, path, noise) {
  const svg = page.svg.plane, width = page.width("plane"), inner = width - 44, tall = Math.min(inner / 1.2, 300);
  clear(svg, width, tall + 62);
  const reach = 2 * inner / tall;
  const plot = new Plot(svg, {
    box: [34, 18, inner, tall], x: [-reach, reach], y: [-2, 2], xLabel: "data u", yLabel: "noise v", xTicks: 5,
  });
  for (const level of [-0.9, -0.6, -0.3, 0, 0.5, 1]) contour(plot, level);
  const seen = ({ us, vs }) => [us, vs].map((a) => a.filter((_, i) => Number.isFinite(us[i] + vs[i])));
  const closed = (shape) => {
    const points = plot.points(...seen(shape));
    return points && `M${points}Z`;
  };
  const line = noise === 0 ? 3 : 1;
  const look = (colour, opacity) => ({
    fill: `var(--afx-${colour})`, "fill-opacity": opacity, stroke: `var(--afx-${colour})`, "stroke-width": line,
  });
  plot.add("path", { d: closed(before), ...look("green", 0.35) });
  plot.add("path", { d: closed(after), ...look("blue", 0.55) });
  for (const [u, v] of path.filter(([u, v]) => Math.abs(u) < reach && Math.abs(v) < 2)) plot.add("circle", { cx: plot.X(u), cy: plot.Y(v), r: 1.6, fill: "var(--afx-ink)" });
  const [u, v] = path[path.length - 1];
  page.describe("plane", "A patch of the plane of data and noise before and after the steps, over the level lines of "
    + `the energy with two wells; its centre ends at u = ${fixed(u, 2)}, v = ${fixed(v, 2)}.`);
}

/* The level line v = +-sqrt(2 (E - V(u))): it lies where u^2 is between 2 - r and 2 + r, r = 2 sqrt(1 + E). */
function contour(plot, level) {
  const r = 2 * Math.sqrt(1 + level), high = Math.sqrt(2 + r), low = r < 2 ? Math.sqrt(2 - r) : -high;
  const loop = (from, to) => {
    const middle = (from + to) / 2, half = (to - from) / 2, us = [], vs = [];
    for (let i = 0; i <= 240; i++) {          // evenly in the angle: dense where the line turns
      const u = middle + half * Math.cos(Math.PI * i / 120);
      us.push(u);
      vs.push(Math.sign(120 - i) * Math.sqrt(Math.max(0, 2 * (level + u * u - 0.25 * u ** 4))));
    }
    plot.add("path", { d: `M${plot.points(us, vs)}Z`, fill: "none", stroke: "var(--afx-line)" });
  };
  loop(low, high);
  if (r < 2) loop(-high, -low);
}

function drawErrors(page, update, h, u0, v0) {
  const svg = page.svg.errors, width = page.width("errors"), tall = page.narrow() ? 130 : 210;
  const ten = (rows) => [rows.map((row) => Math.log10(row.h)), rows.map((row) => Math.log10(row.lost))];
  clear(svg, width, tall + 62);
  const plot = new Plot(svg, {
    box: [42, 18, width - 52, tall], x: [-2, Math.log10(0.5)], y: [-5, 2], yLabel: "largest energy error until t = 12",
    xTicks: 0, yTicks: 0,
  });
  for (const value of [0.01, 0.02, 0.05, 0.1, 0.2, 0.4]) {
    const x = plot.X(Math.log10(value));
    plot.line(x, plot.top + tall, x, plot.top + tall + 4, "afx-axis");
    plot.text(x, plot.top + tall + 17, String(value), { "text-anchor": "middle", class: "afx-tick" });
  }
  for (const power of [-4, -2, 0]) {
    plot.line(plot.left, plot.Y(power), plot.left + plot.width, plot.Y(power), "afx-grid");
    plot.text(plot.left - 5, plot.Y(power) + 4, power ? `1e${fixed(power, 0)}` : "1", { "text-anchor": "end", class: "afx-tick" });
  }
  plot.text(plot.left + plot.width, plot.top + tall + 33, "step h", { "text-anchor": "end" });
  for (const [name, colour] of [["Euler", "orange"], ["leapfrog", "blue"]]) {
    const { rows } = errors(name, u0, v0);
    plot.curve(...ten(rows.filter(({ lost }) => Number.isFinite(lost))), colour, name === "Euler" ? "dash" : "line");
  }
  const here = run(update, h, Math.round(12 / h), u0, v0, true).lost, x = plot.X(Math.log10(h));
  plot.line(x, plot.top, x, plot.top + tall, "afx-mark");
  if (Number.isFinite(here)) plot.add("circle", { cx: x, cy: plot.Y(Math.log10(here)), r: 4.5, fill: "var(--afx-ink)" });
  page.describe("errors", `The energy error against the step, both on log scales: ${update} at step ${fixed(h, 2)} `
    + `loses at most ${scientific(here)}. Leapfrog's line has slope two.`);
}

function render(context) {
  return mount(context, {
    key: "leapfrog",
    label: "Explorer: additive couplings as leapfrog steps",
    pictures: [
      {
        name: "plane",
        caption: "A patch of data and noise",
        legend: [["before", "green", "soft"], ["after", "blue", "block"], ["level lines of the energy", "line", "line"]],
      },
      {
        name: "errors",
        caption: "Energy error against the step",
        legend: [["leapfrog", "blue", "line"], ["Euler", "orange", "dash"]],
      },
    ],
    traits: ["start"],
    draw,
  });
}

export default { render };
