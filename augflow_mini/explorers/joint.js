import { grid } from "./arrays.js";
import { Flow } from "./flow.js";
import { integrate } from "./quadrature.js";
import { normals, uniforms } from "./draws.js";
import { fixed, mount } from "./base.js";
import { E, NOISE_LEGEND, drawNoise } from "./noise.js";
import { Plot, clear } from "./plot.js";

/* The plane of data and noise after every half-step of a trained 1 + 1-dimensional ANF: a cloud, the
   circles of the base pulled back (the model), and the line of one example with p(e | x) and q(e). */

const POINTS = 1200, REACH = 6;

/* Two blocks as the engine stores them: the first of every point, then the second of every point. */
const join = (first, second) => Float64Array.from([...first, ...second]);

/* Positions after 0, 1, ..., 2N half-steps of points given at stage `from`; v = [first block, second]. */
export function stages(flow, v, from) {
  const halves = flow.layers.slice(1), B = v.length / 2, out = [];
  const run = () => ({ B, tape: null, used: 0, contrib: new Float64Array(B) });
  out[from] = v;
  for (let i = from; i < halves.length; i++) out[i + 1] = halves[i].forward(out[i], run());
  for (let i = from; i > 0; i--) out[i - 1] = halves[i - 1].inverse(out[i], run());
  return out;
}

/* Data with fresh noise, pushed forwards; or draws of the base, pulled back. As in joint.py. */
export function cloud(flow, kind) {
  if (kind === "data with noise") {
    const side = uniforms(1, POINTS), wiggle = normals(2, POINTS);
    return stages(flow, join(side.map((u, i) => (u < 0.5 ? 2 : -2) + 0.5 * wiggle[i]), normals(3, POINTS)), 0);
  }
  return stages(flow, join(normals(4, POINTS), normals(5, POINTS)), flow.layers.length - 1);
}

/* Circles around the origin of the base: inside lie 50 and 95 % of the model, at every stage. */
export const SHARES = [0.5, 0.95];
export function circles(flow) {
  const turn = grid(0, 2 * Math.PI, 721);
  return SHARES.map((share) => {
    const r = Math.sqrt(-2 * Math.log(1 - share));
    return stages(flow, join(turn.map((t) => r * Math.cos(t)), turn.map((t) => r * Math.sin(t))), flow.layers.length - 1);
  });
}

/* Between half-steps every point moves on a straight line: one block stands still, the other glides. */
function between(all, step) {
  const low = Math.min(Math.floor(step), all.length - 1), t = step - low;
  return t ? all[low].map((v, i) => v + t * (all[low + 1][i] - v)) : all[low];
}

/* Noise at evenly spaced quantiles of the law with log-density logP at the nodes e. */
function quantiles(e, logP, n) {
  const top = logP.reduce((m, v) => Math.max(m, v), -Infinity), mass = logP.map((v) => Math.exp(v - top));
  const total = mass.reduce((s, v) => s + v, 0), out = [];
  for (let i = 0, sum = 0; i < e.length && out.length < n; i++) {
    sum += mass[i] / total;
    while (out.length < n && sum > (out.length + 0.5) / n) out.push(e[i]);
  }
  return Float64Array.from(out);
}

function stageName(step, last) {
  const done = Math.floor(step), what = (i) => `${i % 2 ? "encoder" : "decoder"} ${Math.ceil(i / 2)}`;
  if (step > done) return `${fixed(100 * (step - done), 0)} % through ${what(done + 1)}`;
  if (done === 0) return "the pair (x, e)";
  return `after ${what(done)}${done === last ? ": the latent (y, z)" : ""}`;
}

function drawPlane(svg, { width, tall }, { points, right, rings, line, q, p }) {
  clear(svg, width, tall + 40);
  const reach = REACH * (width - 44) / tall;            // one unit is as long on both axes
  const plot = new Plot(svg, {
    box: [34, 18, width - 44, tall], x: [-reach, reach], y: [-REACH, REACH],
    xLabel: " ", yLabel: "second block: e, then z", xTicks: 7, yTicks: 7,
  });
  plot.text(plot.left + plot.width, plot.top + tall - 6, "first block: x, then y", { "text-anchor": "end" });
  const inside = (v, i, n) => Math.abs(v[i]) < reach && Math.abs(v[n + i]) < REACH;
  const dots = (v, kept) => {
    const n = v.length / 2;
    let d = "";
    for (let i = 0; i < n; i++) if (kept(i) && inside(v, i, n)) d += `M${plot.X(v[i]).toFixed(1)},${plot.Y(v[n + i]).toFixed(1)}h0`;
    return d;
  };
  const path = (v) => {
    const n = v.length / 2, d = [];
    let pen = "M";
    for (let i = 0; i < n; i++) {
      if (!inside(v, i, n)) { pen = "M"; continue; }
      d.push(`${pen}${plot.X(v[i]).toFixed(1)},${plot.Y(v[n + i]).toFixed(1)}`);
      pen = "L";
    }
    return d.join("");
  };
  const draw = (d, colour, look) =>
    plot.add("path", { d, fill: "none", stroke: `var(--afx-${colour})`, "stroke-linecap": "round", ...look });
  draw(dots(points, (i) => !right[i]), "muted", { "stroke-width": 2.4, opacity: 0.7 });
  draw(dots(points, (i) => right[i]), "green", { "stroke-width": 2.4, opacity: 0.8 });
  for (const ring of rings) draw(path(ring), "blue", { "stroke-width": 1.6 });
  draw(path(line), "ink", { "stroke-width": 1.5, "stroke-dasharray": "3 3" });
  draw(dots(q, () => true), "orange", { "stroke-width": 9 });
  draw(dots(p, () => true), "blue", { "stroke-width": 6.5 });
  return plot;
}

function render({ model, el }) {
  const flow = new Flow(model.get("spec")), last = flow.layers.length - 1, rings = circles(flow), clouds = {};
  const nodes = grid(-4.5, 4.5, 181), logQ = Array.from(nodes, (e) => -0.5 * e * e);
  let plot = null, at = {};

  /* All that belongs to one x: kept while the half-step moves. */
  function slice(x) {
    if (at.x === x) return at;
    const found = integrate(flow, x), logP = flow.logJoint(x, E).map((v) => v - found.logProb);
    const carry = (e) => stages(flow, join(new Float64Array(e.length).fill(x), e), 0);
    at = {
      ...found, x, logP, peak: E[logP.reduce((best, v, i) => (v > logP[best] ? i : best), 0)],
      line: carry(nodes), q: carry(quantiles(nodes, logQ, 9)), p: carry(quantiles(found.e, found.joint, 9)),
    };
    return at;
  }

  function draw(page) {
    const step = page.get("step"), kind = page.get("cloud"), all = (clouds[kind] ||= cloud(flow, kind));
    const s = slice(page.get("x")), { x, logProb, elbo, gap } = s, narrow = page.narrow();
    const size = { width: page.width("plane"), tall: narrow ? 230 : 290 };
    const right = Array.from(all[0].subarray(0, POINTS), (v) => v > 0);
    drawNoise(page, s.logP, s.peak);
    page.describe("noise", `q of e and p of e given x = ${fixed(x, 2)}, highest near e = ${fixed(s.peak, 1)}; the area `
      + "between them in nats is the gap.");
    plot = drawPlane(page.svg.plane, size, {
      points: between(all, step), right, rings: rings.map((ring) => between(ring, step)),
      line: between(s.line, step), q: between(s.q, step), p: between(s.p, step),
    });
    const name = stageName(step, last), inner = share(all[last]);
    page.describe("plane", `Plane of both blocks, ${name}: ${POINTS} points (${kind}), two curves that hold 50 and 95 % of `
      + `the model, and the line of x = ${fixed(x, 2)}.`);
    page.say([
      ["log p(x), nats", fixed(logProb), "blue"], ["NLL", fixed(-logProb), "blue"], ["ELBO(x)", fixed(elbo), "orange"],
      ["gap(x)", fixed(gap), "purple"],
      ["within the curves", inner.map((v) => `${fixed(100 * v, 0)} %`).join(", "), "green"],
    ], `${fixed(step, 2)} of ${last} half-steps, ${name}; x = ${fixed(x, 2)}; ${kind}. ${remark(kind, step, last)}`);
    return { step, x, cloud: kind, log_prob: logProb, elbo, gap, inner };
  }

  const end = mount({ model, el }, {
    key: "joint",
    label: "Explorer: data and noise after every half-step of a trained flow",
    pictures: [
      {
        name: "plane",
        caption: "The plane of both blocks",
        legend: [
          ["left mode", "muted", "block"], ["right mode", "green", "block"], ["50 and 95 % of the model", "blue", "line"],
          ["this x", "ink", "dash"],
        ],
      },
      { name: "noise", caption: "On that line: q(e) against p(e | x)", legend: NOISE_LEGEND },
    ],
    buttons: [
      { text: "Forwards", run: (page) => { page.tell("Towards the latent."); page.glide({ step: last }, 400 * last); } },
      { text: "Back", run: (page) => { page.tell("Towards the data."); page.glide({ step: 0 }, 400 * last); } },
    ],
    draw,
  });

  // Drag in the plane while it shows the pair (x, e): the same as the slider, for a finger or a mouse.
  const svg = el.querySelector(".afx-plane svg"), slider = model.get("inputs").find(({ name }) => name === "x");
  const drag = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    const place = (event.clientX - svg.getBoundingClientRect().left - plot.left) / plot.width;
    const value = Math.round((plot.x[0] + place * (plot.x[1] - plot.x[0])) / slider.step) * slider.step;
    model.set("step", 0);
    model.set("x", Math.min(Math.max(value, slider.min), slider.max));
  };
  svg.addEventListener("pointerdown", drag);
  svg.addEventListener("pointermove", drag);
  return end;
}

/* Shares of the points within the two curves: at the last stage these are circles. */
function share(v) {
  const n = v.length / 2, inside = (r2) => {
    let count = 0;
    for (let i = 0; i < n; i++) count += v[i] * v[i] + v[n + i] * v[n + i] < r2;
    return count / n;
  };
  return SHARES.map((p) => inside(-2 * Math.log(1 - p)));
}

function remark(kind, step, last) {
  if (kind !== "data with noise") return "Draws of the latent, pulled back: at half-step 0 they are samples with their noise.";
  if (step === 0) return "Two upright ovals: the noise knows nothing of x yet.";
  return step === last ? "A good joint fit leaves half of the points in the inner curve and 95 % in the outer one."
    : "An encoder moves points up and down, a decoder left and right.";
}

export default { render };
