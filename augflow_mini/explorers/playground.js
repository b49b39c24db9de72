import { h, fixed, mount } from "./base.js";
import { OWN } from "./playground_data.js";
import { EDGE, TEST } from "./playground_model.js";
import { drawCurves, drawModel, drawSamples } from "./playground_draw.js";
import { SAMPLES, Session, known, sentence } from "./playground_session.js";

/* A model that trains in the page. Work is done in short pieces, one animation frame at a time, and
   only while the reader can see it: the first picture, and then what Train or One step ask for. */

// ms of work in a frame: few enough for 60 frames a second. A busy machine that shows few frames still
// trains: it gets a share of the time since the last one.
const LEAST = 8, SHARE = 0.35, MOST = 45;

function render({ model, el }) {
  const play = new Session(model);
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let page = null, plot = null, train = null, drawn = 0, before = 0;

  /* ---- the loop ---- */

  function frame(now) {
    play.frame = null;
    if (!play.visible || !play.busy) return;
    if (play.stale) play.restart();
    play.tick(now);
    const ms = Math.min(Math.max(SHARE * (now - before), LEAST), MOST);
    before = now;
    let until = performance.now() + ms;
    while ((play.running || play.evaluation) && performance.now() < until) {
      const measured = play.evaluation !== null;
      play.work();
      if (play.diverged) { start(false); break; }
      if (measured && !play.evaluation && !play.running) settle();
    }
    until = performance.now() + 0.2 * ms;
    while (play.busy && (play.running || play.scan.passes < 1) && performance.now() < until) play.scan.advance(play.trainer);
    const wait = !play.running ? 120 : still.matches ? 1000 : 90;
    if (now - drawn > wait || !play.busy) { drawn = now; page.redraw(); }
    kick();
  }

  function kick() { if (page && play.frame === null && play.visible && play.busy) play.frame = requestAnimationFrame(frame); }

  /* Training stands still and is measured: hand the model to Python, if there is one. */
  function settle() {
    const { trainer, data, last } = play;
    model.set("trained", { flow: trainer.exported(), ...last, dims: data.dims, test: Array.from(data.test(TEST)) });
  }

  function start(on) {
    if (play.running === on || (on && play.diverged)) return;
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
      { name: "model", caption: "Data over p(x)", legend: [["data", "green", "block"], ["p(x)", "blue", "soft"]] },
      { name: "samples", caption: "Samples", legend: [["sample", "blue", "block"]] },
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
          play.trainer.step();
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
  for (const event of ["pointerdown", "pointermove"]) el.querySelector(".afx-model svg").addEventListener(event, ink);
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
