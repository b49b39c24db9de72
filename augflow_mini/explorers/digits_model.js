import { Flow } from "./flow.js";
import { normals, uniforms } from "./draws.js";

/* What digits.js shows, from a small trained flow with the latent (y, z): y of the size of the image, z of
   the size of the augmentation noise. As in digits.py, draw for draw. */

const SAMPLES = 24, FRESH = 6, RUNS = 16, K = 32;
export const PIXELS = 64, Z95 = 1.96;

export const norm = (v) => Math.sqrt(v.reduce((s, x) => s + x * x, 0));
const mean = (v) => v.reduce((s, x) => s + x, 0) / v.length;
const error = (v) => Math.sqrt(v.reduce((s, x) => s + (x - mean(v)) ** 2, 0) / (v.length - 1) / v.length);

/* Rows [[...], ...] as the engine stores them, feature by feature; and back. */
const pack = (rows) => Float64Array.from({ length: rows.length * rows[0].length },
  (_, i) => rows[i % rows.length][Math.floor(i / rows.length)]);
const unpack = (flat, B) => Array.from({ length: B }, (_, b) =>
  Float64Array.from({ length: flat.length / B }, (_, d) => flat[d * B + b]));

/* The share alpha of the way from a to b: on the straight line, and with the norm kept. */
export function between(a, b, alpha) {
  const line = a.map((v, i) => (1 - alpha) * v + alpha * b[i]);
  const scale = ((1 - alpha) * norm(a) + alpha * norm(b)) / norm(line);
  return { line, kept: line.map((v) => v * scale) };
}

/* Log-weights of one digit, RUNS runs of K: what they say about its gap and its bits. */
export function measure(logW) {
  const runs = Array.from({ length: RUNS }, (_, r) => {
    const w = logW.subarray(r * K, (r + 1) * K), top = Math.max(...w);
    return { value: top + Math.log(mean(w.map((v) => Math.exp(v - top)))), elbo: mean(w) };
  });
  const gap = runs.map(({ value, elbo }) => value - elbo), nll = runs.map(({ value }) => -value), nat = PIXELS * Math.log(2);
  return { gap: mean(gap), gapSe: error(gap), nll: mean(nll), bits: mean(nll) / nat, bitsSe: error(nll) / nat };
}

export class Digits {
  constructor(spec, images) {
    const drops = spec.layers.map(({ layer }) => (layer && layer.kind === "slice" && !layer.law ? layer.drop : 0));
    Object.assign(this, { flow: new Flow(spec), images, noise: drops.reduce((s, n) => s + n, 0) });
  }

  decode(latents) { return unpack(this.flow.inverse(pack(latents), latents.length).x, latents.length); }

  draws(seed, what, features, rows) { return unpack(normals(1000 * what + seed, features * rows), rows); }

  /* Dequantisation noise, then augmentation noise. */
  noiseFor(seed, what, B) {
    const u = uniforms(1000 * what + seed, PIXELS * B), e = normals(1000 * (what + 1) + seed, this.noise * B);
    const both = new Float64Array(u.length + e.length);
    both.set(u);
    both.set(e, u.length);
    return both;
  }

  samples(seed) { return this.decode(this.draws(seed, 0, PIXELS + this.noise, SAMPLES)); }

  codes(seed) {
    const B = this.images.length;
    return unpack(this.flow.forward(pack(this.images), B, this.noiseFor(seed, 1, B)).z, B);
  }

  /* One latent decoded whole, with y = 0, with fresh y, with fresh z. */
  redrawn(code, seed) {
    const y = code.slice(0, PIXELS), z = code.slice(PIXELS), join = (a, b) => Float64Array.from([...a, ...b]);
    const found = this.decode([
      code, join(y.map(() => 0), z),
      ...this.draws(seed, 3, PIXELS, FRESH).map((fresh) => join(fresh, z)),
      ...this.draws(seed, 4, this.noise, FRESH).map((fresh) => join(y, fresh)),
    ]);
    return { all: found[0], middle: found[1], zKept: found.slice(2, 2 + FRESH), yKept: found.slice(2 + FRESH) };
  }

  logWeights(seed, digit) {
    const B = RUNS * K, x = pack([this.images[digit]]), rows = new Float64Array(PIXELS * B);
    x.forEach((v, d) => rows.fill(v, d * B, (d + 1) * B));
    return this.flow.logWeight(rows, B, this.noiseFor(seed, 5 + 2 * digit, B));
  }
}

/* Root of the mean squared difference of images from one, in grey levels. */
export const distance = (images, x) => Math.sqrt(mean(images.map((v) => mean(v.map((p, i) => (p - x[i]) ** 2)))));

/* Between these lie 95 % of the norms of N(0, I) of n features, by Wilson and Hilferty's approximation. */
export function normRange(n) {
  const v = 2 / (9 * n);
  return [-Z95, Z95].map((q) => Math.sqrt(n * (1 - v + q * Math.sqrt(v)) ** 3));
}
