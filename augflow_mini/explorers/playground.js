import { h, fixed, mount } from "./base.js";
import { Data, OWN, normals, uniforms } from "./playground_data.js";
import { DRAWS, EDGE, TEST, Evaluation, Scan, Trainer } from "./playground_model.js";
import { drawCurves, drawModel, drawSamples } from "./playground_draw.js";

/* A model that trains in the page. Work is done in short pieces, one animation frame at a time, and
   only while the reader can see it: the first picture, and then what Train or One step ask for. */

// ms of work in a frame: 0.6 of the time since the last one, so pictures stay smooth, within bounds;
// a busy machine that shows few frames still trains.
const LEAST = 10, MOST = 45;
const SAMPLES = 256;
const POINTS = 200;                      // of a curve; beyond, every second one goes

class Playground {
  constructor(model) {
    Object.assign(this, { model, frame: null, visible: false, running: false, stale: true, pen: [0, 0] });
  }

  /* The setting as the engine takes it; what an address may have asked for is made sensible. */
  setting() {
    const { model } = this, whole = (name, low, high) =>
      Math.min(Math.max(Math.round(Number(model.get(name))) || 0, low), high);
    return {
      target: model.get("target"), kind: model.get("kind"), q: model.get("q"), rate: Number(model.get("rate")),
      noise: whole("noise", 0, 4), couplings: whole("couplings", 1, 12), width: whole("width", 4, 32),
      seed: whole("seed", 1, 99),
    };
  }

  /* A new model at step 0. */
  restart() {
    const config = this.setting(), data = new Data(config.target, this.model.get("drawn"));
    Object.assign(this, {
      config, data, stale: false, history: [], note: "", rate: 0, frames: 0, clock: null,
      trainer: new Trainer(config, data), scan: new Scan(data.dims), evaluation: null, asked: 0, due: 0,
    });
    this.test = data.test(256);
    const D = data.dims + config.noise;
    this.z = normals(D * SAMPLES, uniforms(77)).subarray(0, D * SAMPLES);
    this.measure();
  }

  /* Measure the present model, with more nodes where training does not wait for it. */
  measure() {
    this.scan.passes = 0;
    this.diverged = !this.trainer.sound();
    this.evaluation = this.diverged ? null : new Evaluation(this.trainer, this.running ? 49 : 161);
  }

  get busy() { return !this.diverged && (this.running || this.evaluation !== null || this.scan.passes < 1); }
  get last() { return this.history[this.history.length - 1]; }

  /* One piece of work: a test point more, or a step of training. */
  work() {
    const { trainer } = this;
    if (this.evaluation) {
      this.evaluation.advance();
      if (!this.evaluation.done) return;
      this.keep(this.evaluation.result);
      this.evaluation = null;
      return;
    }
    this.diverged = !Number.isFinite(trainer.step());
    // Measured at steps that depend on nothing but the step: the same seed gives the same curve.
    if (trainer.steps >= this.due && !this.diverged) this.measure();
  }

  keep(result) {
    const { history } = this;
    history.push(result);
    if (history.length > POINTS) this.history = history.filter((_, i) => i % 2 === 0 || i === history.length - 1);
    this.due = result.steps + Math.min(Math.max(15, Math.round(0.4 * result.steps)), 500);
  }

  /* Steps and frames each second, over the last second of training. */
  tick(now) {
    if (!this.running) { this.clock = null; return; }
    if (!this.clock) this.clock = { from: now, steps: this.trainer.steps, frames: 0 };
    this.clock.frames++;
    const seconds = (now - this.clock.from) / 1000;
    if (seconds < 1) return;
    this.rate = (this.trainer.steps - this.clock.steps) / seconds;
    this.frames = this.clock.frames / seconds;
    this.clock = { from: now, steps: this.trainer.steps, frames: 0 };
  }
}

const isEmpty = (play) => play.config.target === OWN && !play.data.drawn.length;

/* What no model of this kind can pass, where it is known. */
function known(play) {
  const { config: { target, kind, noise, q }, data } = play, facts = play.model.get("known")[target];
  if (!facts) {                          // drawn: the ink's own density at the test points
    if (!data.drawn.length) return { entropy: 1 + Math.log(2 * Math.PI), floor: null };
    const n = play.test.length / 2;
    const sum = play.test.subarray(0, n).reduce((s, v, i) => s - data.inkLogDensity(v, play.test[n + i]), 0);
    return { entropy: sum / n, floor: null };
  }
  const { entropy, gaussian, floors } = facts;
  if (data.dims + noise === 1) return { entropy, floor: { of: "NLL", value: gaussian, text: "best Gaussian" } };
  if (kind !== "additive" || !floors || (noise && q !== "N(0, I)")) return { entropy, floor: null };
  const value = floors[noise];
  if (!noise) return { entropy, floor: { of: "NLL", value, text: "floor of any 2-D additive flow" } };
  return { entropy, floor: { of: "bound", value, text: "floor of the orange curve" } };
}

function method({ noise }) {
  if (noise === 0) return "No noise: log p(x) is exact, there is no gap.";
  if (noise === 1) return `Gap exact on ${TEST} test points, by quadrature`;
  return `Estimate from K = ${DRAWS} draws a point: NLL too high, gap too low on average.`;
}

function render({ model, el }) {
  const play = new Playground(model);
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let page = null, plot = null, train = null, drawn = 0, before = 0;

  /* ---- the loop ---- */

  function frame(now) {
    play.frame = null;
    if (!play.visible || !play.busy) return;
    if (play.stale) play.restart();
    play.tick(now);
    const ms = Math.min(Math.max(0.6 * (now - before), LEAST), MOST);
    before = now;
    let until = performance.now() + ms;
    while ((play.running || play.evaluation) && performance.now() < until) {
      const measured = play.evaluation !== null;
      play.work();
      if (measured && !play.evaluation && !play.running) settle();
      if (play.diverged) start(false);
    }
    until = performance.now() + 0.2 * ms;
    while (play.busy && (play.running || play.scan.passes < 1) && performance.now() < until) play.scan.advance(play.trainer);
    const wait = !play.running ? 120 : still.matches ? 1000 : 90;
    if (now - drawn > wait || !play.busy) { drawn = now; page.redraw(); }
    kick();
  }

  function kick() { if (play.frame === null && play.visible && play.busy) play.frame = requestAnimationFrame(frame); }

  /* Training stands still and is measured: hand the model to Python, if there is one. */
  function settle() {
    const { trainer, data, last } = play;
    model.set("trained", { flow: trainer.exported(), ...last, dims: data.dims, test: Array.from(data.test(TEST)) });
  }

  function start(on) {
    if (play.running === on) return;
    play.running = on;
    train.textContent = on ? "Pause" : "Train";
    train.setAttribute("aria-pressed", String(on));
    // A screen reader should not read numbers that change twelve times a second.
    page.status.setAttribute("aria-live", on ? "off" : "polite");
    if (!on && !play.stale) play.measure();
    page.tell("");
    kick();
  }

  function again(why) {
    play.stale = true;
    if (why) page.tell(why);
    else page.redraw();
  }

  /* ---- the picture ---- */

  function draw(at) {
    page = at;
    if (play.stale) play.restart();
    const { trainer, data, scan, history, last, config: c } = play, { entropy, floor } = known(play);
    const own = c.target === OWN, name = `${c.kind}, D_E = ${c.noise}, ${c.couplings} of width ${c.width}`;
    const setting = `${name}${c.noise ? `, q = ${c.q}` : ""}, rate ${model.get("rate")}, seed ${c.seed}`;
    plot = drawModel(page, { data, scan, test: play.test, pen: own ? play.pen : null });
    drawSamples(page, trainer.samples(play.z, SAMPLES), SAMPLES, data.dims, c.noise);
    drawCurves(page, history, { setting: page.narrow() ? name : setting, entropy, floor, planned: trainer.steps });
    page.svg.model.classList.toggle("afx-drawing", own);
    tools.hidden = !own;
    for (const node of tools.querySelectorAll("input, button")) node.disabled = !own;

    const show = (value) => (last ? fixed(value(last), 3) : "computing");
    const gap = c.noise > 1 ? "gap, estimate" : "gap";
    page.say([
      ["step", String(trainer.steps), "line"],
      ["NLL, nats", show((r) => r.nll), "blue"], ["\u2212bound", show((r) => -r.bound), "orange"],
      [gap, show((r) => r.gap), "purple"], ["NLL \u2212 entropy", show((r) => r.nll - entropy), "green"],
    ], sentence(play, setting, floor));
    describe();
    el.dataset.steps = trainer.steps;
    el.dataset.stepsPerSecond = play.rate.toFixed(1);
    el.dataset.framesPerSecond = play.frames.toFixed(1);
    kick();
    return { steps: trainer.steps, steps_per_second: play.rate, nll: null, bound: null, gap: null, ...last };
  }

  function describe() {
    const { data, last, config: { target } } = play;
    page.describe("model", data.dims === 1 ? `The density of ${target} and the model's density and bound over x.`
      : `${target}: test points in green over the model's density in blue.`);
    page.describe("samples", "Samples of the model as dots, on the same axes as the data.");
    page.describe("curves", `Curves over the steps of training. ${last
      ? `At step ${last.steps} the NLL is ${fixed(last.nll, 2)} and the gap ${fixed(last.gap, 3)} nats.` : ""}`);
  }

  function sentence(now, setting, floor) {
    const { last, trainer, config: c } = now, parts = [`${c.target}; ${setting}.`];
    if (c.noise + now.data.dims === 1) parts.push("One number cannot be coupled: only a scale and a shift are left.");
    if (c.noise === 1 && c.q === "flow") parts.push("Of one number of noise an affine flow is a Gaussian.");
    const error = last && c.noise === 1 ? ` (within ${last.error.toExponential(0)} nats)` : "";
    parts.push(`${method(c)}${c.noise === 1 ? `${error}.` : ""}`);
    if (last && last.steps !== trainer.steps) parts.push(`Measured at step ${last.steps}.`);
    if (now.running && now.rate) parts.push(`${now.rate.toFixed(0)} steps/s.`);
    if (floor) parts.push(`No such model has ${floor.of === "NLL" ? "an NLL" : "a \u2212bound"} below ${fixed(floor.value, 4)}.`);
    if (isEmpty(now)) parts.push("Draw in the green picture; until then the data are one Gaussian.");
    else if (c.target === OWN) parts.push(`${now.data.drawn.length} points of ink.`);
    if (now.diverged) parts.push("Training diverged: choose a lower rate and start again.");
    return [...parts, now.note].join(" ").trim();
  }

  /* ---- drawing your own data ---- */

  const round = (v) => Math.round(100 * Math.min(Math.max(v, -EDGE), EDGE)) / 100;
  const put = (points) => model.set("drawn", [...model.get("drawn"), ...points].slice(-400));
  const said = (text) => { play.note = text; page.redraw(); };
  const axis = (i, label) => {
    const input = h("input", { type: "range", min: -EDGE, max: EDGE, step: 0.25, value: 0, "data-lm-suppress-shortcuts": "true" });
    input.addEventListener("input", () => { play.pen[i] = Number(input.value); said(`Pen at (${fixed(play.pen[0], 2)}, ${fixed(play.pen[1], 2)}).`); });
    return h("label", {}, label, input);
  };
  const key = (text, run) => {
    const node = h("button", { type: "button", "data-lm-suppress-shortcuts": "true" }, text);
    node.addEventListener("click", run);
    return node;
  };
  const tools = h("fieldset", { class: "afx-pen" }, h("legend", {}, "Draw in the data picture, or by keyboard:"),
    h("div", { class: "afx-controls" }, axis(0, "pen, left to right"), axis(1, "pen, down to up")),
    h("div", { class: "afx-buttons afx-pen-buttons" },
      key("Put ink here", () => put([play.pen.map(round)])), key("Clear the drawing", () => model.set("drawn", []))));

  function ink(event) {
    if (model.get("target") !== OWN || (event.type === "pointermove" && !event.buttons)) return;
    const box = page.svg.model.getBoundingClientRect(), share = (v, from, size) => (v - from) / size;
    const u = share(event.clientX - box.left, plot.left, plot.width), v = share(event.clientY - box.top, plot.top, plot.height);
    if (u < 0 || u > 1 || v < 0 || v > 1) return;
    const at = [round(EDGE * (2 * u - 1)), round(EDGE * (1 - 2 * v))], before = model.get("drawn").at(-1);
    if (event.type === "pointerdown" || !before || Math.hypot(at[0] - before[0], at[1] - before[1]) > 0.12) put([at]);
  }

  /* ---- put together ---- */

  const watched = ["target", "kind", "noise", "couplings", "width", "q", "seed", "drawn"];
  const change = () => { play.stale = true; };
  const faster = () => { if (!play.stale) play.trainer.adam.lr = play.setting().rate; };
  for (const name of watched) model.on("change:" + name, change);
  model.on("change:rate", faster);

  const end = mount({ model, el }, {
    key: "playground",
    label: "Explorer: a flow that trains in this page",
    pictures: [
      { name: "model", caption: "Data over the model's density", legend: [["data", "green", "block"], ["p(x)", "blue", "soft"]] },
      { name: "samples", caption: "Samples of the model", legend: [["sample", "blue", "block"]] },
      {
        name: "curves", caption: "Training",
        legend: [["NLL", "blue", "line"], ["\u2212bound", "orange", "dash"], ["gap", "purple", "hatch"]],
      },
    ],
    buttons: [
      { text: "Train", run: () => start(!play.running) },
      {
        text: "One step",
        run: () => {
          start(false);
          play.diverged ||= !Number.isFinite(play.trainer.step());
          play.measure();
          page.tell("One step of training.");
        },
      },
      { text: "Start again", run: () => { start(false); again("A new model at step 0."); } },
    ],
    traits: ["drawn"],
    draw,
  });
  const actions = [...el.querySelectorAll(".afx-buttons button")];
  train = actions[0];
  train.setAttribute("aria-pressed", "false");
  const reset = actions.find((node) => node.textContent === "Reset");
  reset.addEventListener("click", () => { start(false); again(); });
  // Train stands next to what it moves; on a phone the settings would lie between them.
  el.querySelector(".afx-controls").before(el.querySelector(".afx-buttons"), tools);
  page.svg.model.addEventListener("pointerdown", ink);
  page.svg.model.addEventListener("pointermove", ink);
  const seen = new IntersectionObserver((entries) => {
    play.visible = entries[entries.length - 1].isIntersecting;
    play.clock = null;
    kick();
  });
  seen.observe(el);
  return () => {
    cancelAnimationFrame(play.frame);
    seen.disconnect();
    for (const name of watched) model.off("change:" + name, change);
    model.off("change:rate", faster);
    end();
  };
}

export default { render };
