import { LOG_2PI, addLogNormal, decode, pooled } from "./arrays.js";
import { ActNorm, Coupling, Inverse, InvertibleLinear, Permute, Slice } from "./layers.js";

/* The layers by their `kind`; pointwise.js adds those of dequantisation. */
export const LAYERS = {
  additive: Coupling, affine: Coupling, linear: InvertibleLinear, actnorm: ActNorm, permute: Permute, slice: Slice,
};

/* A flow from what `export_flow` wrote. Base: N(0, I).

   Noise is an argument, never drawn here: a result is then a function of its inputs, and a test can
   give torch the same numbers. */
export class Flow {
  constructor({ dtype, layers }) {
    this.parameters = [];                 // { value, grad }, one pair for each network or layer
    const take = (text) => {
      const value = decode(text, dtype), pair = { value, grad: new Float64Array(value.length) };
      this.parameters.push(pair);
      return pair;
    };
    const build = (spec) => {
      if (spec.kind === "inverse") return new Inverse(build(spec.layer));
      if (!Object.hasOwn(LAYERS, spec.kind)) throw new Error(`unknown layer ${spec.kind}`);
      return new LAYERS[spec.kind](spec, take);
    };
    this.layers = layers.map(build);
  }

  /* Data towards noise: { z, contrib }. */
  forward(x, B, noise = null) {
    const run = { B, noise, tape: null, used: 0, contrib: new Float64Array(B) };
    const z = pooled(() => this.towardsNoise(x, run).slice());
    return { z, contrib: run.contrib };
  }

  towardsNoise(x, run) { return this.layers.reduce((v, layer) => layer.forward(v, run), x); }

  /* Noise towards data: { x, contrib }, contrib being minus that of the same pair forward. */
  inverse(z, B, noise = null) {
    const run = { B, noise, tape: null, used: 0, contrib: new Float64Array(B) };
    const x = pooled(() => this.layers.reduceRight((v, layer) => layer.inverse(v, run), z).slice());
    return { x, contrib: run.contrib };
  }

  /* log w = log base(z) + contributions = log p(x, e) - log q(e | x), for each of the B rows. */
  logWeight(x, B, noise = null) {
    const { z, contrib } = this.forward(x, B, noise);
    addLogNormal(contrib, z, B, 1);
    return contrib;
  }

  /* log p(x, e) at one x (a number, or one for each feature) and many e, one number each: what
     pictures of the joint and quadrature need. */
  logJoint(x, e) {
    const B = e.length, point = typeof x === "number" ? [x] : x, rows = new Float64Array(point.length * B);
    point.forEach((v, d) => rows.fill(v, d * B, (d + 1) * B));
    const logW = this.logWeight(rows, B, e);
    return logW.map((w, b) => w - 0.5 * (e[b] * e[b] + LOG_2PI));
  }

  /* Loss -mean log w over the batch; leaves its gradient in parameters[i].grad. */
  gradient(x, B, noise = null) {
    for (const { grad } of this.parameters) grad.fill(0);
    const contrib = new Float64Array(B), dcontrib = new Float64Array(B).fill(-1 / B);
    const run = { B, noise, tape: [], used: 0, contrib, dcontrib };
    pooled(() => {
      const z = this.towardsNoise(x, run);
      addLogNormal(contrib, z, B, 1);
      this.layers.reduceRight((dv, layer) => layer.backward(dv, run), z.map((v) => v / B));
    });
    return -contrib.reduce((s, w) => s + w, 0) / B;
  }
}

/* Adam (Kingma & Ba 2015, algorithm 1), with torch's defaults. */
export class Adam {
  constructor(parameters, { lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8 } = {}) {
    const zeros = () => parameters.map(({ value }) => new Float64Array(value.length));
    Object.assign(this, { parameters, lr, beta1, beta2, eps, t: 0, m: zeros(), v: zeros() });
  }

  step() {
    const { lr, beta1, beta2, eps } = this, t = ++this.t;
    const rate = lr / (1 - beta1 ** t), root = Math.sqrt(1 - beta2 ** t);
    this.parameters.forEach(({ value, grad }, j) => {
      const m = this.m[j], v = this.v[j];
      for (let i = 0; i < value.length; i++) {
        m[i] = beta1 * m[i] + (1 - beta1) * grad[i];
        v[i] = beta2 * v[i] + (1 - beta2) * grad[i] * grad[i];
        value[i] -= rate * m[i] / (Math.sqrt(v[i]) / root + eps);
      }
    });
  }
}
