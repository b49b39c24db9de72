/* The playground's models: built, trained and measured a little at a time. */

import { encode, grid, pooled } from "./arrays.js";
import { normals, stream } from "./draws.js";
import { Adam, Flow } from "./flow.js";
import { integrate } from "./quadrature.js";

export const BATCH = 128;
export const TEST = 128;
export const DRAWS = 100;                // K of the estimate where the noise has 2 numbers or more

// ---- building ----------------------------------------------------------------------------------

/* Weights as torch starts a linear map: uniform within 1 / sqrt(inputs), biases too. The last layer
   is no exception: a zero last layer makes the flow the identity, which can be a plateau. */
function mlp(inputs, outputs, width, random) {
  const widths = [inputs, width, width, outputs], weights = [];
  widths.slice(1).forEach((O, l) => {
    const bound = 1 / Math.sqrt(widths[l]);
    for (let i = 0; i < (widths[l] + 1) * O; i++) weights.push(bound * (2 * random() - 1));
  });
  return { widths, activation: "tanh", weights: encode(weights) };
}

function coupling(kind, writes, reads, width, random) {
  const size = ([a, b]) => b - a, inputs = reads.reduce((n, r) => n + size(r), 0);
  const outputs = size(writes) * (kind === "affine" ? 2 : 1);
  const clamp = kind === "affine" ? 2 : null;
  return { kind, writes, reads, clamp, net: mlp(inputs, outputs, width, random) };
}

/* Moves every feature one place on and mixes a little: W = P L U, with unit scales at the start. */
function mixing(D, random) {
  const p = [], weights = [];
  for (let r = 0; r < D; r++) {
    for (let c = 0; c < D; c++) {
      p.push(c === (r + 1) % D ? 1 : 0);
      weights.push(r === c ? 0 : 0.5 * (2 * random() - 1));
    }
  }
  return { kind: "linear", features: D, p, sign: Array(D).fill(1), weights: encode(weights) };
}

/* Scale and shift that give the data mean 0 and deviation 1, and leave the noise. */
function actnorm(x, dims, D) {
  const n = x.length / dims, logS = Array(D).fill(0), shift = Array(D).fill(0);
  for (let d = 0; d < dims; d++) {
    const row = x.subarray(d * n, (d + 1) * n), mean = row.reduce((s, v) => s + v, 0) / n;
    shift[d] = -mean;
    logS[d] = -0.5 * Math.log(row.reduce((s, v) => s + (v - mean) ** 2, 0) / n + 1e-6);
  }
  return { kind: "actnorm", features: D, weights: encode([...logS, ...shift]) };
}

/* vflow(dims, noise, posterior, joint) as `export_flow` writes it. Couplings move the two halves of
   the D features in turn, with a linear layer before every second one. */
export function makeSpec({ noise, kind, couplings, width, q }, dims, sample, random) {
  const D = dims + noise, half = D >> 1, a = [0, half], b = [half, D], X = [0, dims], layers = [];
  if (noise) {
    layers.push({ kind: "inverse", layer: { kind: "slice", keep: dims, drop: noise } });
    if (q !== "N(0, I)") layers.push(coupling("affine", [dims, D], [X], width, random));
    if (q === "flow" && noise > 1) {     // one number has no second half: a flow of it stays Gaussian
      const cut = dims + (noise >> 1), low = [dims, cut], high = [cut, D];
      layers.push(coupling("affine", high, [X, low], width, random));
      layers.push(coupling("affine", low, [X, high], width, random));
    }
  }
  layers.push(actnorm(sample, dims, D));
  for (let i = 0; i < couplings && D > 1; i++) {
    if (i % 2 === 0) layers.push(mixing(D, random));
    layers.push(i % 2 === 0 ? coupling(kind, b, [a], width, random) : coupling(kind, a, [b], width, random));
  }
  return { features: dims, dtype: "float64", layers };
}

/* The same layers with other numbers in them: what Python imports after training here. */
function withWeights(spec, parameters) {
  const rest = parameters.map(({ value }) => encode(value));
  const copy = (layer) => {
    if (layer.kind === "inverse") return { ...layer, layer: copy(layer.layer) };
    if (layer.net) return { ...layer, net: { ...layer.net, weights: rest.shift() } };
    return layer.weights ? { ...layer, weights: rest.shift() } : layer;
  };
  return { ...spec, layers: spec.layers.map(copy) };
}

// ---- training ----------------------------------------------------------------------------------

export class Trainer {
  constructor(config, data) {
    const { noise, seed, rate } = config, first = data.batch(512, stream(1000 + seed));
    Object.assign(this, { noise, data, steps: 0, random: stream(2000 + seed) });
    this.spec = makeSpec(config, data.dims, first, stream(seed));
    this.flow = new Flow(this.spec);
    this.adam = new Adam(this.flow.parameters, { lr: rate });
  }

  draw() {
    return { x: this.data.batch(BATCH, this.random), e: normals(this.random, this.noise * BATCH) };
  }

  /* One step of Adam on -mean log w of a fresh batch; returns that loss. */
  step({ x, e } = this.draw()) {
    const loss = this.flow.gradient(x, BATCH, e);
    if (!Number.isFinite(loss)) return loss;
    this.adam.step();
    this.steps++;
    return loss;
  }

  /* Whether the model still gives numbers: a rate too high can lose them. */
  sound() {
    const at = this.flow.logWeight(this.data.test(TEST), TEST, new Float64Array(this.noise * TEST));
    return at.every(Number.isFinite);
  }

  exported() { return withWeights(this.spec, this.flow.parameters); }

  /* n points (x, e) of the model from given base noise, feature by feature. */
  samples(z, n) {
    const run = { B: n, noise: null, tape: null, used: 0, contrib: new Float64Array(n) };
    const layers = this.flow.layers.slice(this.noise ? 1 : 0);
    return pooled(() => layers.reduceRight((v, layer) => layer.inverse(v, run), z).slice());
  }
}

// ---- measuring ---------------------------------------------------------------------------------

/* Mean NLL, bound and gap over the test points, in nats: exact without noise, by quadrature for one
   number of noise, else with K draws a point. K draws give log p(x) too low on average: the NLL comes
   out too high, the gap too low. */
export class Evaluation {
  constructor(trainer, nodes = 161) {
    Object.assign(this, { trainer, nodes, at: 0, steps: trainer.steps, nll: 0, bound: 0, error: 0 });
    this.points = trainer.data.test(TEST);
  }

  get done() { return this.at === TEST; }

  /* One point more; all at once without noise. */
  advance() {
    const { trainer: { flow, noise, data }, points, nodes } = this;
    if (noise === 0) {
      flow.logWeight(points, TEST).forEach((v) => this.add(v, v));
      return;
    }
    const x = Array.from({ length: data.dims }, (_, d) => points[d * TEST + this.at]);
    if (noise === 1) {
      const { logProb, elbo, error } = integrate(flow, x, { nodes });
      this.error += error / TEST;
      this.add(logProb, elbo);
    } else {
      const logW = flow.logWeight(repeat(x, DRAWS), DRAWS, normals(this.at, noise * DRAWS));
      this.add(logMeanExp(logW), logW.reduce((s, w) => s + w, 0) / DRAWS);
    }
  }

  add(logProb, elbo) {
    this.nll -= logProb / TEST;
    this.bound += elbo / TEST;
    this.at++;
  }

  get result() {
    const { steps, nll, bound, error } = this;
    return { steps, nll, bound, gap: Math.max(-bound - nll, 0), error };   // rounding may turn 0 negative
  }
}

export function repeat(x, n) {
  const rows = new Float64Array(x.length * n);
  x.forEach((v, d) => rows.fill(v, d * n, (d + 1) * n));
  return rows;
}

function logMeanExp(logW) {
  const top = logW.reduce((m, w) => Math.max(m, w), -Infinity);
  return top + Math.log(logW.reduce((s, w) => s + Math.exp(w - top), 0) / logW.length);
}

/* The model's density on a grid, a few cells at a time: for 2-D data a map, each cell an integral of
   few nodes (D_E = 1) or a mean of few draws; for 1-D data log p(x) and the bound. */
export const CELLS = 40, EDGE = 4.5;
export const LINE = grid(-EDGE, EDGE, 91);
const NODES = grid(-4, 4, 25), AT_ONCE = 8;

export class Scan {
  constructor(dims) {
    Object.assign(this, { dims, at: 0, passes: 0 });
    this.size = dims === 1 ? LINE.length : CELLS * CELLS;
    this.logProb = new Float64Array(this.size).fill(-Infinity);
    this.elbo = new Float64Array(this.size).fill(-Infinity);
  }

  advance(trainer) {
    if (this.dims === 1) this.line(trainer, this.at++);
    else { this.map(trainer, this.at); this.at += AT_ONCE; }
    if (this.at < this.size) return;
    this.at = 0;
    this.passes++;
  }

  line({ flow, noise }, i) {
    const x = [LINE[i]];
    if (noise === 1) {
      const { logProb, elbo } = integrate(flow, x, { nodes: 81 });
      [this.logProb[i], this.elbo[i]] = [logProb, elbo].map((v) => (Number.isNaN(v) ? -Infinity : v));
    } else {
      const n = noise ? DRAWS : 1, logW = flow.logWeight(repeat(x, n), n, normals(i, noise * n));
      [this.logProb[i], this.elbo[i]] = [logMeanExp(logW), logW.reduce((s, w) => s + w, 0) / n];
    }
  }

  map({ flow, noise }, from) {
    const n = noise ? NODES.length : 1, B = AT_ONCE * n, x = new Float64Array(2 * B), e = new Float64Array(noise * B);
    const cell = (k) => -EDGE + 2 * EDGE * (k + 0.5) / CELLS;
    for (let j = 0; j < AT_ONCE; j++) {
      x.fill(cell((from + j) % CELLS), j * n, (j + 1) * n);
      x.fill(cell(CELLS - 1 - Math.floor((from + j) / CELLS)), B + j * n, B + (j + 1) * n);   // first row on top
    }
    if (noise === 1) for (let i = 0; i < B; i++) e[i] = NODES[i % n];
    if (noise > 1) e.set(normals(from, noise * B));
    const logW = flow.logWeight(x, B, e);
    for (let j = 0; j < AT_ONCE; j++) {
      let sum = 0;
      for (let i = j * n; i < (j + 1) * n; i++) {
        sum += Math.exp(logW[i]) * (noise === 1 ? NORMAL[i % n] : 1 / n);
      }
      this.logProb[from + j] = Math.log(sum);
    }
  }
}
const NORMAL = NODES.map((e) => Math.exp(-0.5 * e * e) / Math.sqrt(2 * Math.PI) * (NODES[1] - NODES[0]));
