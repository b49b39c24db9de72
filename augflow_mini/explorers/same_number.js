import { LOG_2PI } from "./arrays.js";
import { fixed, mount } from "./base.js";
import { Plot, clear } from "./plot.js";

/* One log-weight of the scalar model under three names. The chain, from noise to latent:

     u = a e (scale),   z = u + b x (shift),   y = (x - c z) / d (decode);   e, y, z ~ N(0, 1)

   Each name gets to its total by a route of its own. */

const logNormal = (v, mean = 0, sd = 1) => -0.5 * (((v - mean) / sd) ** 2 + LOG_2PI) - Math.log(sd);

const chain = ({ a, b, c, d }) => [
  { forward: ([x, u]) => [[x, a * u], Math.log(a)], inverse: ([x, u]) => [[x, u / a], -Math.log(a)] },
  { forward: ([x, u]) => [[x, u + b * x], 0], inverse: ([x, u]) => [[x, u - b * x], 0] },
  { forward: ([x, z]) => [[(x - c * z) / d, z], -Math.log(d)], inverse: ([y, z]) => [[c * z + d * y, z], Math.log(d)] },
];

function run(steps, start) {
  let v = start, total = 0;
  for (const step of steps) {
    const [next, contribution] = step(v);
    v = next;
    total += contribution;
  }
  return [v, total];
}

const ledger = (base, contributions, minusLogQ) =>
  ({ parts: [base, contributions, minusLogQ], total: base + contributions + minusLogQ });

/* ANF: draw e from N(0, 1), run every layer. */
export function anf(model, x, e) {
  const [[y, z], contributions] = run(chain(model).map(({ forward }) => forward), [x, e]);
  return ledger(logNormal(y) + logNormal(z), contributions, -logNormal(e));
}

/* VFlow: the first `count` layers are q. It gives a value u; its density there needs the way back to
   the noise. The other layers are f and see (x, u) only. */
export function vflow(model, x, e, count) {
  const layers = chain(model), q = layers.slice(0, count), f = layers.slice(count);
  const [drawn] = run(q.map(({ forward }) => forward), [x, e]);
  const [[, noise], logDet] = run(q.map(({ inverse }) => inverse).reverse(), drawn);
  const [[y, z], contributions] = run(f.map(({ forward }) => forward), drawn);
  return ledger(logNormal(y) + logNormal(z), contributions, -(logNormal(noise) + logDet));
}

/* VAE: prior, decoder and encoder as densities; no layer anywhere. */
export function vae({ a, b, c, d }, x, e) {
  const z = b * x + a * e;
  return ledger(logNormal(z), logNormal(x, c * z, d), -logNormal(z, b * x, a));
}

// ---- the picture ---------------------------------------------------------------------------------

const COUNTS = ["nothing", "scale a", "scale a, shift b x"];
const Q_NAMES = ["\u2212log q(e)", "\u2212log q(a e)", "\u2212log q(z | x)"];
const COLOURS = ["blue", "green", "orange"];
const ROW = 40, HEAD = 34;

/* The six terms in an order in which each name's parts are neighbours. */
function terms({ a, b, c, d }, x, e) {
  const z = a * e + b * x, y = (x - c * z) / d;
  return [
    ["log N(z)", logNormal(z)], ["log N(y)", logNormal(y)], ["\u2212log d", -Math.log(d)],
    ["shift b x", 0], ["log a", Math.log(a)], ["\u2212log N(e)", -logNormal(e)],
  ];
}

/* How many of the terms each part takes, from the top. */
const columns = ({ anf: one, vflow: two, vae: three }, count) => [
  { title: "ANF", ...one, names: ["base", "contributions", Q_NAMES[0]], spans: [2, 3, 1] },
  { title: "VFlow", ...two, names: ["base", "contributions", Q_NAMES[count]], spans: [2, 3 - count, 1 + count] },
  { title: "VAE", ...three, names: ["log p(z)", "log p(x | z)", Q_NAMES[2]], spans: [1, 2, 3] },
];

/* The terms laid end to end, from 0 to the total. */
function drawTerms(svg, rows, colours, total, top, [left, right]) {
  const ends = rows.reduce((list, [, value]) => [...list, list.at(-1) + value], [0]);
  const low = Math.floor(Math.min(...ends)), high = Math.max(1, Math.ceil(Math.max(...ends)));
  const plot = new Plot(svg, {
    box: [left + 128, top, right - left - 140, ROW * rows.length], x: [low, high], y: [rows.length, 0],
    xLabel: "nats", xTicks: 4, yTicks: 0,
  });
  plot.line(plot.X(0), top, plot.X(0), top + plot.height, "afx-grid");
  plot.line(plot.X(total), top - 4, plot.X(total), top + plot.height, "afx-mark");
  plot.text(plot.X(total), top - 9, "total", { "text-anchor": "middle" });
  rows.forEach(([name, value], i) => {
    const [from, to] = [ends[i], ends[i + 1]].sort((one, two) => one - two), middle = top + ROW * (i + 0.5) + 4;
    plot.text(left, middle, name);
    plot.text(left + 122, middle, fixed(value), { "text-anchor": "end" });
    if (value) plot.rect(from, to, i + 0.75, i + 0.25, colours[i]);
    else plot.line(plot.X(to), plot.Y(i + 0.25), plot.X(to), plot.Y(i + 0.75), "afx-mark");
  });
}

/* One name: its parts as boxes beside the terms they take. */
function drawColumn(svg, { title, parts, total, names, spans }, top, left, width) {
  const plot = new Plot(svg, { box: [left, top, width, ROW * 6], x: [0, 1], y: [6, 0], xTicks: 0, yTicks: 0 });
  const centre = left + width / 2, bold = { "text-anchor": "middle", class: "afx-chosen" };
  plot.text(centre, top - 9, title, bold);
  spans.reduce((row, span, i) => {
    const y = top + ROW * row + 2, middle = y + (ROW * span) / 2 - 2;
    if (span === 0) return row;
    const box = { x: left, y, width, height: ROW * span - 4, rx: 4, class: "afx-area afx-soft" };
    plot.add("rect", { ...box, fill: `var(--afx-${COLOURS[i]})` });
    const plain = { "text-anchor": "middle", style: "stroke: none" };      // no halo on a tinted box
    plot.text(centre, middle - 4, names[i], plain);
    plot.text(centre, middle + 11, fixed(parts[i]), { ...plain, class: "afx-chosen" });
    return row + span;
  }, 0);
  plot.text(centre, top + ROW * 6 + 20, fixed(total), bold);
}

function render(context) {
  const draw = (page) => {
    const [a, b, c, d, x, e] = ["a", "b", "c", "d", "x", "e"].map((name) => page.get(name));
    const model = { a, b, c, d }, count = COUNTS.indexOf(page.get("counted")), rows = terms(model, x, e);
    const found = { anf: anf(model, x, e), vflow: vflow(model, x, e, count), vae: vae(model, x, e) };
    const totals = Object.values(found).map(({ total }) => total), apart = Math.max(...totals) - Math.min(...totals);
    const named = columns(found, count), colours = named[1].spans.flatMap((span, i) => Array(span).fill(COLOURS[i]));

    const svg = page.svg.ledger, width = page.width("ledger"), beside = width >= 620, tall = ROW * 6 + 44;
    clear(svg, width, beside ? HEAD + tall : 2 * (HEAD + tall));
    drawTerms(svg, rows, colours, totals[0], HEAD, [0, beside ? 0.5 * width : width]);
    const left = beside ? 0.5 * width : 0, each = (width - left) / 3, top = beside ? HEAD : 2 * HEAD + tall;
    named.forEach((column, i) => drawColumn(svg, column, top, left + i * each + 3, each - 6));
    const spoken = named.map(({ title, names, parts }) => `${title}: ${names.map((name, i) =>
      `${name} ${fixed(parts[i], 2)}`).join(", ")}`).join(". ");
    page.describe("ledger", `Six terms laid end to end from 0 to the total ${fixed(totals[0], 2)}, and how three names group `
      + `them. ${spoken}.`);
    page.say([
      ["ANF, nats", fixed(totals[0], 6), "blue"], ["VFlow", fixed(totals[1], 6), "blue"],
      ["VAE", fixed(totals[2], 6), "blue"], ["largest difference", apart ? apart.toExponential(0) : "0", "orange"],
    ], remark(model, x, count));
    return { anf: totals[0], vflow: totals[1], vae: totals[2] };
  };
  return mount(context, {
    key: "same_number",
    label: "Explorer: one log-weight as ANF, VFlow and VAE",
    pictures: [{
      name: "ledger",
      caption: "The same six terms, grouped three ways",
      legend: [
        ["base, prior", "blue", "soft"], ["contributions, decoder", "green", "soft"], ["\u2212log q", "orange", "soft"],
      ],
    }],
    traits: ["b", "c", "d"],
    draw,
  });
}

function remark({ a, b }, x, count) {
  const logA = `log a = ${fixed(Math.log(a))}`;
  if (count === 0) return `No layer is counted to q: VFlow is ANF, and ${logA} stands with the contributions.`;
  if (count === 1) return `q(a e) = N(0, ${fixed(a, 2)}\u00b2): ${logA} has moved into \u2212log\u00a0q.`;
  return `q(z | x) = N(${fixed(b * x, 2)}, ${fixed(a, 2)}\u00b2), the VAE's encoder: the shift brings 0, ${logA} is in \u2212log\u00a0q.`;
}

export default { render };
