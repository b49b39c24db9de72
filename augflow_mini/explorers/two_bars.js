import { grid } from "./arrays.js";
import { fixed, mount } from "./base.js";
import { PROBLEMS, bars, move, within } from "./joint_kl.js";
import { Plot, atLeast, clear } from "./plot.js";

/* Joint KL = model error + gap, step by step: the reader moves q, p or both, or drags a parameter, and
   sees which of the two bars answers. */

const NOISE = grid(-4, 4, 241), LEVELS = [0.1, 0.5, 0.9], DEVIATES = [-1.2815515655, 0, 1.2815515655];
const SCALES = [0.01, 0.1, 1, 10, 100].flatMap((unit) => [1, 1.5, 2, 3, 4, 6, 8].map((v) => v * unit));

/* At one x: p(x), and the 10, 50 and 90 per cent points of p(z | x). */
function slice(problem, state, means, x) {
  const h = NOISE[1] - NOISE[0], { d } = state;
  const mass = means.map((m, i) => h * Math.exp(-0.5 * (NOISE[i] * NOISE[i] + ((x - m) / d) ** 2)));
  const total = mass.reduce((sum, v) => sum + v, 0), points = [];
  for (let i = 0, below = 0; i < NOISE.length && points.length < LEVELS.length; below += mass[i++]) {
    while (points.length < LEVELS.length && below + mass[i] >= LEVELS[points.length] * total) {
      points.push(NOISE[i] + h * ((LEVELS[points.length] * total - below) / mass[i] - 0.5));
    }
  }
  return { density: total / (2 * Math.PI * d), points };
}

function drawPlane(page, problem, state, family) {
  const svg = page.svg.plane, width = page.width("plane"), tall = page.narrow() ? 64 : 80, low = tall + 40;
  const deep = page.narrow() ? 130 : 160, x = grid(-problem.reach, problem.reach, 97);
  const means = NOISE.map((z) => problem.mean(state, z)), cuts = Array.from(x, (v) => slice(problem, state, means, v));
  const data = x.map(problem.data);
  clear(svg, width, low + deep + 40);
  const upper = new Plot(svg, {
    box: [34, 18, width - 44, tall], x: [x[0], -x[0]], yLabel: "density", yTicks: 2,
    y: [0, atLeast([0.25, 0.5, 1], Math.max(...data, ...cuts.map(({ density }) => density)))],
  });
  upper.area(x, data, "green", "soft");
  upper.curve(x, cuts.map(({ density }) => density), "blue");
  const lower = new Plot(svg, {
    box: [34, low, width - 44, deep], x: upper.x, y: [-3.5, 3.5], xLabel: "data x", yLabel: "z: middle 80 % and median",
    yTicks: 4,
  });
  const [from, middle, to] = LEVELS.map((_, i) => cuts.map(({ points }) => points[i]));
  const back = lower.points([...x].reverse(), [...from].reverse());
  lower.add("path", {
    d: `M${lower.points(x, to)}L${back}Z`, class: "afx-area afx-soft", fill: "var(--afx-blue)",
  });
  const line = (z, ...look) => {      // what leaves the box is left out, not drawn along its edge
    const seen = [...x.keys()].filter((i) => Math.abs(z[i]) < lower.y[1]);
    if (seen.length) lower.curve(seen.map((i) => x[i]), seen.map((i) => z[i]), ...look);
  };
  line(middle, "blue");
  for (const e of DEVIATES) line(x.map((v) => problem.encode(state, v, e)), "orange", "dash");
  page.describe("plane", "Over the data x: their density and that of the model; below, the middle 80 per cent and the "
    + `median of p of z given x, and of q of z given x, ${family}. Where they part, there is a gap.`);
}

function drawTrail(page, trail) {
  const svg = page.svg.bars, width = page.width("bars"), tall = page.narrow() ? 150 : 240, left = 34;
  const seen = trail.slice(-Math.max(1, Math.floor((width - left) / 30))), last = seen[seen.length - 1].bars;
  clear(svg, width, tall + 60);
  const plot = new Plot(svg, {
    box: [left, 18, width - left - 10, tall], x: [0, Math.max(8, seen.length)], xTicks: 0, yLabel: "nats", yTicks: 4,
    y: [0, atLeast(SCALES, 1.08 * Math.max(...seen.map(({ bars: b }) => b.sum)))],
  });
  seen.forEach(({ name, bars: { error, sum } }, i) => {
    const now = i === seen.length - 1, middle = plot.X(i + 0.5);
    plot.rect(i + 0.12, i + 0.88, 0, error, "blue");
    plot.rect(i + 0.12, i + 0.88, error, Math.max(error, sum), "purple", "hatch");
    plot.text(middle, plot.top + tall + 17, name, { "text-anchor": "middle", class: now ? "afx-chosen" : "afx-tick" });
    if (now) plot.text(middle, plot.Y(sum) - 6, fixed(sum, 3), { "text-anchor": "middle", class: "afx-chosen" });
  });
  plot.text(width - 10, plot.top + tall + 34, "step in", { "text-anchor": "end" });
  page.describe("bars", `${seen.length} stacked bars, one for each step. The last, after a step in ${seen.at(-1).name}: model `
    + `error ${fixed(last.error, 3)} and on it the gap ${fixed(last.gap, 3)}, in nats.`);
}

/* What the last step did. */
function report(trail) {
  if (trail.length < 2) return "Move q or p, or drag a slider.";
  const [before, { name, bars: now }] = trail.slice(-2);
  const change = (key) => {
    const by = now[key] - before.bars[key];
    return Math.abs(by) < 5e-5 ? "unchanged" : `${by > 0 ? "+" : ""}${fixed(by)}`;
  };
  if (name !== "hand" && Math.abs(now.sum - before.bars.sum) < 5e-10) return `Step ${trail.length - 1}, ${name}: nothing left to gain.`;
  return `Step ${trail.length - 1}, ${name}: model error ${change("error")}, gap ${change("gap")}, sum ${change("sum")}.`;
}

function describeQ({ a, b, h }) {
  const [scale, slope] = [a, b].map((v) => fixed(v, 2));
  if (h) return `q: z = ${slope} x + ${scale} sinh(asinh e + ${fixed(h, 2)} tanh x).`;
  return a === 1 && b === 0 ? "q(z | x) = N(0, 1)." : `q(z | x) = N(${slope} x, ${scale}\u00b2).`;
}

function render({ model, el }) {
  const problem = PROBLEMS[model.get("problem")], inputs = model.get("inputs"), names = inputs.map(({ name }) => name);
  const ranges = Object.fromEntries(inputs.map(({ name, min, max }) => [name, [min, max]]));
  const read = () => Object.fromEntries(names.map((name) => [name, model.get(name)]));
  const same = (one, two) => names.every((name) => one[name] === two[name]);
  const start = Object.fromEntries(inputs.map((input) => [input.name, input.start]));
  let trail = [];

  /* The step on show: what a button aimed at, or else what the reader's hand has made of it. */
  function here(state) {
    const last = trail.at(-1);
    if (last && same(state, last.state)) return last;
    if (same(state, start) || !last) trail = [{ name: "start", state }];
    else if (last.name === "hand") last.state = state;
    else trail.push({ name: "hand", state });
    return trail.at(-1);
  }

  function draw(page) {
    const state = read(), now = within(problem, state), step = here(state);
    step.bars = bars(problem, state);
    const { error, gap, sum, nll } = step.bars, q = (state.family ? `Family ${state.family}, ` : "") + describeQ(now);
    drawPlane(page, problem, now, state.family ? `of the family ${state.family}` : "a Gaussian");
    drawTrail(page, trail);
    page.say([
      ["model error, nats", fixed(error), "blue"], ["gap", fixed(gap), "purple"],
      ["sum: joint KL", fixed(sum), "orange"], ["NLL", fixed(nll), "blue"],
    ], `${q} ${report(trail)}`);
    return { ...state, error, gap, sum, nll };
  }

  const press = (name, target) => (page) => {
    const from = read(), state = { ...from, ...target(from) };
    trail.push({ name, state, bars: trail.at(-1).bars });
    page.set(state);      // at once: on a way between two states the sum might rise
    page.redraw();
  };
  const step = (which) => press(which, (state) => move(problem, state, which, ranges));

  return mount({ model, el }, {
    key: problem.key,
    label: `Explorer: model error and gap, ${problem.title}`,
    pictures: [
      {
        name: "plane",
        caption: "The two laws, p and q",
        legend: [["data", "green", "soft"], ["p(x), p(z | x)", "blue", "line"], ["q(z | x)", "orange", "dash"]],
      },
      {
        name: "bars",
        caption: "The joint KL after each step",
        legend: [["model error", "blue", "block"], ["gap", "purple", "hatch"]],
      },
    ],
    buttons: [
      { text: "Move q", run: step("q") }, { text: "Move p", run: step("p") },
      { text: "Move both", run: step("both") },
      ...Object.entries(problem.presets).map(([text, preset]) => ({ text, run: press("hand", () => preset) })),
    ],
    draw,
  });
}

export default { render };
