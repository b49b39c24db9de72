import { LOG_2PI, grid } from "./arrays.js";
import { fixed, mount } from "./base.js";
import { Plot, atLeast, clear } from "./plot.js";

/* Two lower bounds on a loss, computed in Python: the floor of flows with a constant Jacobian, which
   falls with the dimension of the noise, and the price of a sampler that is not steep, which does not. */

const X = grid(-4, 4, 321), MODES = [-2, 2], SD = 0.5;

const normal = (x, mean, sd) => Math.exp(-0.5 * (((x - mean) / sd) ** 2 + LOG_2PI)) / sd;

/* The data's two modes, and the best model at steepness L: a stretch of N(0, L^2) across the valley,
   the data's own density divided by kappa outside. */
export const twoModes = (x) => MODES.reduce((sum, m) => sum + normal(x, m, SD) / 2, 0);
export const steepest = (x, L, valley, kappa) => (Math.abs(x) < valley ? normal(x, 0, L) : twoModes(x) / kappa);

/* F(k): exact, or of a target with round modes known for few k: adding noise never raises it. */
function floorAt({ floor }, k) {
  const known = Math.min(k, floor.length - 1);
  return { value: floor[known], atMost: known < k };
}

const mean = (values) => values.reduce((s, v) => s + v, 0) / values.length;
const lowest = (dots, key) => dots.reduce((best, dot) => (!best || mean(dot[key]) < mean(best[key]) ? dot : best), null);

const R = 3.2, SHAPES = {
  point: `m${-R},0a${R},${R} 0 1,0 ${2 * R},0a${R},${R} 0 1,0 ${-2 * R},0`,
  box: `m${-R},${-R}h${2 * R}v${2 * R}h${-2 * R}z`,
  cross: `m${-R},${-R}l${2 * R},${2 * R}m0,${-2 * R}l${-2 * R},${2 * R}`,
};

/* Trained models: one mark for each seed, so that the spread is seen. */
function marks(plot, xs, ys, colour, shape) {
  const d = ys.map((v, i) => `M${plot.X(xs[i]).toFixed(1)},${plot.Y(v).toFixed(1)}${SHAPES[shape]}`).join("");
  const ink = `var(--afx-${colour})`;
  plot.add("path", { d, stroke: ink, "stroke-width": 1.6, fill: shape === "point" ? ink : "none" });
}

function drawFloor(svg, { width, tall }, floors, dots, k) {
  const { floor, entropy } = floors, most = 8, tops = dots.flatMap(({ loss }) => loss.map((v) => v - entropy));
  clear(svg, width, tall + 62);
  const plot = new Plot(svg, {
    box: [52, 18, width - 62, tall], x: [-0.5, most + 0.5],
    y: [0, atLeast([0.001, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 1], 1.1 * Math.max(...floor, ...tops))],
    xLabel: "noise dimensions D_E", yLabel: "loss \u2212 entropy, nats", yTicks: 4, xTicks: 0,
  });
  const bottom = plot.top + tall;
  for (let i = 0; i <= most; i++) {
    const look = { "text-anchor": "middle", class: i === k ? "afx-chosen" : "afx-tick" };
    plot.text(plot.X(i), bottom + 17, i, look);
    if (i < floor.length) plot.rect(i - 0.4, i + 0.4, 0, floor[i], i === k ? "ink" : "muted", "hatch");
  }
  plot.line(plot.X(-0.5), plot.Y(floor[0]), plot.X(most + 0.5), plot.Y(floor[0]), "afx-mark");
  plot.text(plot.X(most + 0.5), plot.Y(floor[0]) - 6, "floor without noise", { "text-anchor": "end" });
  for (const { noise, nll, loss } of dots) {
    const off = (values) => values.map((v) => v - entropy);
    marks(plot, nll.map(() => noise - 0.15), off(nll), "blue", "point");
    if (noise) marks(plot, loss.map(() => noise + 0.15), off(loss), "orange", "cross");
  }
}

const LOW = -4, HIGH = 0.5;   // log10 of the excess shown

function drawFrontier(svg, { width, tall }, frontier, steep, at) {
  const last = frontier[frontier.length - 1][0], log = (v) => Math.log10(Math.max(v, 1e-12));
  clear(svg, width, tall + 62);
  const plot = new Plot(svg, {
    box: [52, 18, width - 62, tall], x: [0, last], y: [LOW, HIGH],
    yLabel: "NLL \u2212 entropy, nats", yTicks: 0, xTicks: 0,
  });
  const bottom = plot.top + tall;
  for (const j of [0, 1, 2, 3]) {
    plot.line(plot.X(j), bottom, plot.X(j), bottom + 4, "afx-axis");
    plot.text(plot.X(j), bottom + 17, 10 ** j, { "text-anchor": "middle", class: "afx-tick" });
  }
  plot.text(plot.left + plot.width, bottom + 33, "steepness L", { "text-anchor": "end" });
  for (const j of [-4, -3, -2, -1, 0]) {
    plot.line(plot.left, plot.Y(j), plot.left + plot.width, plot.Y(j), "afx-grid");
    plot.text(plot.left - 5, plot.Y(j) + 4, String(10 ** j), { "text-anchor": "end", class: "afx-tick" });
  }
  plot.area(frontier.map(([l]) => l), frontier.map(([, excess]) => log(excess)), "muted", "hatch");
  plot.curve(frontier.map(([l]) => l), frontier.map(([, excess]) => log(excess)), "ink");
  for (const { noise, steepness, excess } of steep) {
    marks(plot, steepness.map(log), excess.map(log), "blue", noise ? "point" : "box");
  }
  plot.line(plot.X(at[0]), plot.top, plot.X(at[0]), bottom, "afx-mark");
  plot.add("circle", { cx: plot.X(at[0]), cy: plot.Y(log(at[1])), r: 4.5, fill: "var(--afx-ink)" });
}

function drawDensity(svg, { width }, L, valley, kappa) {
  const tall = 96;
  const model = X.map((x) => steepest(x, L, valley, kappa));
  clear(svg, width, tall + 62);
  const plot = new Plot(svg, {
    box: [44, 18, width - 54, tall], x: [-4, 4], y: [0, 0.45], xLabel: "data x", yLabel: "density", yTicks: 3,
  });
  plot.area(X, X.map(twoModes), "green", "soft");
  plot.curve(X, model, "blue");
}

// ---- what the pictures say ----------------------------------------------------------------------

function verdict(target, floors, dots, k) {
  const { value } = floorAt(floors, k);
  if (value < 1e-3) return "Round modes: the floor is about zero. It proves nothing here, for any D_E.";
  if (!dots.length) {
    return k ? `F falls with D_E: ${fixed(floors.floor[0] - value, 3)} nats less than without noise.`
      : "No constant-Jacobian flow without noise, at any depth and width, has a smaller excess.";
  }
  const limit = floors.entropy + floors.floor[0], here = dots.filter(({ noise }) => noise === k), best = lowest(here, "nll");
  if (k === 0) return `No additive flow of the plane has an NLL below ${fixed(limit, 3)}, at any depth and width.`;
  if (!best) return "No model with this D_E was trained.";
  return mean(best.nll) < limit
    ? `The trained flow's NLL lies below ${fixed(limit, 3)}, where no additive flow without noise can be, of any size: `
      + "here augmentation wins."
    : `Its NLL is above ${fixed(limit, 3)}: training has not reached what the noise allows.`;
}

function render(context) {
  function draw(page) {
    const target = page.get("target"), k = page.get("noise"), floors = page.get("floors")[target];
    const frontier = page.get("frontier"), steep = page.get("steep");
    const dots = page.get("dots").filter((dot) => dot.target === target);
    const asked = page.get("log10_steepness"), distance = (row) => Math.abs(row[0] - asked);
    const at = frontier.reduce((best, row) => (distance(row) < distance(best) ? row : best));
    const [log10L, excess, valley, kappa] = at, L = 10 ** log10L, { value, atMost } = floorAt(floors, k);
    const best = lowest(dots.filter(({ noise }) => noise === k), "nll");

    // All sizes first: to ask for one after a picture has changed costs a new layout of the page.
    const tall = page.narrow() ? 150 : 190;
    const [one, two, three] = ["floor", "frontier", "best"].map((name) => ({ width: page.width(name), tall }));
    drawFloor(page.svg.floor, one, floors, dots, k);
    page.describe("floor", `Bars of the least excess loss for 0 to ${floors.floor.length - 1} noise dimensions, from `
      + `${fixed(floors.floor[0], 3)} nats falling; ${dots.length} trained models above them.`);
    drawFrontier(page.svg.frontier, two, frontier, steep, at);
    page.describe("frontier", `The least excess loss over the steepness of the sampler, falling from `
      + `${fixed(frontier[0][1], 2)} nats at 1; ${steep.length} trained models above it.`);
    drawDensity(page.svg.best, three, L, valley, kappa);
    page.describe("best", `Two modes, and the best density of a sampler of steepness ${fixed(L, 1)}: it leaves a bridge `
      + `between the modes from ${fixed(-valley, 2)} to ${fixed(valley, 2)}.`);
    const bridge = 1 - (1 - leftInValley(valley)) / kappa;
    const trained = best
      ? [["trained: NLL", fixed(mean(best.nll), 3), "blue"], ["its gap", fixed(mean(best.loss) - mean(best.nll), 3), "purple"],
        ["NLL + gap", fixed(mean(best.loss), 3), "orange"]]
      : [];
    const least = fixed(excess, excess < 1e-6 ? 8 : excess < 1e-3 ? 6 : 4), limit = excess < 1e-3
      ? `a sampler of this steepness need not lose more than ${least} nats: here steepness is hardly a limit.`
      : `a sampler of this steepness loses at least ${least} nats with any number of noise dimensions; there `
        + "augmentation cannot help.";
    page.say([
      [`F(${k}), nats`, `${atMost ? "at most " : ""}${fixed(value, value < 1e-3 ? 6 : 4)}`, "muted"],
      ...(floors.entropy === undefined ? [] : [["entropy + F", fixed(floors.entropy + value, 3), "muted"]]), ...trained,
      [`least excess, L = ${fixed(L, L < 20 ? 2 : 0)}`, least, "ink"],
      ["mass in the valley", fixed(bridge, 4), "blue"], ["the data's", fixed(leftInValley(valley), 4), "green"],
    ], `${target}, D_E = ${k}. ${verdict(target, floors, dots, k)} Two modes: ${limit}`);
    return { target, noise: k, log10_steepness: log10L, floor: value, excess, valley, kappa, bridge };
  }

  return mount(context, {
    key: "floors",
    label: "Explorer: what flows cannot reach, with and without noise",
    pictures: [
      {
        name: "floor",
        caption: "Constant Jacobian: floor over D_E",
        legend: [
          ["out of reach", "muted", "hatch"], ["NLL, each seed", "blue", "point"], ["NLL + gap", "orange", "cross"],
        ],
      },
      {
        name: "frontier",
        caption: "Steepness: one floor, every D_E",
        legend: [
          ["out of reach", "muted", "hatch"], ["trained with noise", "blue", "point"], ["without", "blue", "box"],
        ],
      },
      {
        name: "best",
        caption: "The best density at this steepness",
        legend: [["data", "green", "soft"], ["best model", "blue", "line"]],
      },
    ],
    draw,
  });
}

/* The data's mass between -v and v, by Simpson's rule. */
export function leftInValley(v) {
  const x = grid(-v, v, 401), h = x[1] - x[0];
  return x.reduce((sum, at, i) => sum + twoModes(at) * (i === 0 || i === 400 ? 1 : i % 2 ? 4 : 2), 0) * h / 3;
}

export default { render };
