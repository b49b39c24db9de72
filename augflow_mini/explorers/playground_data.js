/* The playground's data: targets that are functions of uniform numbers. A training batch feeds them
   random numbers, the test points an even sequence, so a mean over few test points is close. */

import { LOG_2PI } from "./arrays.js";
import { normalPair, stream } from "./draws.js";

const TURN = 2 * Math.PI;

const near = (x, y, sd, c, d) => {
  const [a, b] = normalPair(c, d);
  return [x + sd * a, y + sd * b];
};
const mirrored = (x, y, b) => (b < 0.5 ? [x, y] : [-x, -y]);

/* Four uniform numbers -> one point. The same laws as in augflow_mini.data. */
const TARGETS = {
  "two moons": (a, b, c, d) => {
    const t = 0.5 * TURN * a;
    return near(...mirrored(2 * (Math.cos(t) - 0.5), 2 * (Math.sin(t) - 0.25), b), 0.15, c, d);
  },
  "eight Gaussians": (a, _, c, d) => {
    const t = TURN * Math.floor(8 * a) / 8;
    return near(2 * Math.cos(t), 2 * Math.sin(t), 0.15, c, d);
  },
  checkerboard: (a, b, c) => {
    const cell = Math.floor(8 * a), row = cell >> 1, column = 2 * (cell & 1) + row % 2;
    return [2 * (column + b) - 4, 2 * (row + c) - 4];
  },
  rings: (a, b, c, d) => {
    const r = 1 + Math.floor(3 * a);
    return near(r * Math.cos(TURN * b), r * Math.sin(TURN * b), 0.1, c, d);
  },
  spirals: (a, b, c, d) => {
    const t = Math.sqrt(a), r = 0.5 + 2.5 * t, angle = 1.5 * TURN * t;
    return near(...mirrored(r * Math.cos(angle), r * Math.sin(angle), b), 0.1, c, d);
  },
  "two modes, 1-D": (a, _, c, d) => [(a < 0.5 ? -2 : 2) + 0.5 * normalPair(c, d)[0]],
};
export const twoModes = (x) => (Math.exp(-2 * (x - 2) ** 2) + Math.exp(-2 * (x + 2) ** 2)) / Math.sqrt(TURN);
export const OWN = "your drawing";
const SPREAD = 0.15;                     // of the ink around a drawn point

export class Data {
  constructor(target, drawn) {
    this.drawn = drawn;
    this.point = target === OWN ? (...u) => this.ink(...u) : TARGETS[target];
    this.dims = this.point(0.5, 0.5, 0.5, 0.5).length;
  }

  /* A Gaussian around one of the drawn points; N(0, I) while there is none. */
  ink(a, _, c, d) {
    const { drawn } = this;
    if (!drawn.length) return normalPair(c, d);
    return near(...drawn[Math.min(Math.floor(a * drawn.length), drawn.length - 1)], SPREAD, c, d);
  }

  inkLogDensity(x, y) {
    const terms = this.drawn.map(([u, v]) => -0.5 * ((x - u) ** 2 + (y - v) ** 2) / SPREAD ** 2);
    const top = Math.max(...terms), sum = terms.reduce((s, t) => s + Math.exp(t - top), 0);
    return top + Math.log(sum / terms.length) - LOG_2PI - 2 * Math.log(SPREAD);
  }

  /* n points by a source of four uniform numbers, feature by feature. */
  fill(n, source) {
    const x = new Float64Array(this.dims * n);
    for (let i = 0; i < n; i++) this.point(...source(i)).forEach((v, d) => { x[d * n + i] = v; });
    return x;
  }

  batch(n, random) { return this.fill(n, () => [random(), random(), random(), random()]); }

  /* n points spread evenly over the law: a Hammersley set, the digits of i read backwards. */
  test(n) { return this.fill(n, (i) => [mirror(i, 2, n), mirror(i, 3, n), (i + 0.5) / n, mirror(i, 5, n)]); }
}

/* 0.d1 d2 d3 ... in the given base from i = ... d3 d2 d1, moved to the middle of its last digit. */
function mirror(i, base, n) {
  let value = 0, place = 1;
  for (let left = n; left > 1; left /= base) {
    place /= base;
    value += (i % base) * place;
    i = Math.floor(i / base);
  }
  return value + place / 2;
}
