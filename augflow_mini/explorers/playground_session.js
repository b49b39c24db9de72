/* What the playground knows between two frames: the model in training, what was measured of it, and
   how that is said. */

import { fixed } from "./base.js";
import { normals } from "./draws.js";
import { Data, OWN } from "./playground_data.js";
import { DRAWS, Evaluation, Scan, TEST, Trainer } from "./playground_model.js";

export const SAMPLES = 256;
const POINTS = 200;                      // of a curve; beyond, every second one goes

export class Session {
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
      trainer: new Trainer(config, data), scan: new Scan(data.dims), evaluation: null, due: 0,
    });
    this.test = data.test(256);
    const D = data.dims + config.noise;
    this.z = normals(77, D * SAMPLES);
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
      const { result } = this.evaluation;
      this.evaluation = null;
      this.diverged = !Number.isFinite(result.nll + result.bound);
      if (!this.diverged) this.keep(result);
      return;
    }
    this.diverged = !Number.isFinite(trainer.step());
    // Measured at steps that depend on nothing but the step: the same seed gives the same curve.
    if (trainer.steps >= this.due && !this.diverged) this.measure();
  }

  keep(result) {
    const history = this.history.filter(({ steps }) => steps < result.steps);   // a finer measure replaces
    this.history = [...history, result];
    if (history.length > POINTS) this.history = this.history.filter((_, i) => i % 2 === 0 || i === history.length);
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
export function known(play) {
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

export function sentence(now, setting, floor) {
  const { last, trainer, config: c } = now, parts = [`${c.target}; ${setting}.`];
  if (c.noise + now.data.dims === 1) parts.push("One number cannot be coupled: only a scale and a shift are left.");
  if (c.noise === 1 && c.q === "flow") parts.push("Of one number of noise an affine flow is a Gaussian.");
  const error = last && c.noise === 1 ? ` (within ${last.error.toExponential(0)} nats)` : "";
  parts.push(`${method(c)}${c.noise === 1 ? `${error}.` : ""}`);
  if (last && last.steps !== trainer.steps) parts.push(`Measured at step ${last.steps}.`);
  if (now.running && now.rate) parts.push(`${now.rate.toFixed(0)} steps/s.`);
  if (floor) {
    const what = floor.of === "NLL" ? "NLL" : "\u2212bound";
    parts.push(`No such model's true ${what} is below ${fixed(floor.value, 4)}; on ${TEST} points it may look a little less.`);
  }
  if (isEmpty(now)) parts.push("Draw in the green picture; until then the data are one Gaussian.");
  else if (c.target === OWN) parts.push(`${now.data.drawn.length} points of ink.`);
  if (now.diverged) parts.push("Training diverged: choose a lower rate and start again.");
  return [...parts, now.note].join(" ").trim();
}
