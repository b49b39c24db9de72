import { LAYERS } from "./flow.js";

/* The layers of dequantisation, with the signs of layers.js. Only an explorer that names this file
   carries them. */

const EPS = 2 ** -52, TINY = 2 ** -1022;

/* y -> [integers, noise] undone: (x, u) -> (x + u) / L, contribution -D log L. */
class Carry {
  constructor({ levels }) { this.levels = levels; }

  forward(x, run) {
    const n = x.length / 2, z = new Float64Array(n);
    // Rounding must not lead to the next integer: stay below it.
    for (let i = 0; i < n; i++) z[i] = Math.min(x[i] + x[n + i], (x[i] + 1) * (1 - EPS / 2)) / this.levels;
    return this.pass(z, n, run, -1);
  }

  inverse(z, run) {
    const n = z.length, x = new Float64Array(2 * n), top = this.levels - 1;
    for (let i = 0; i < n; i++) {
      const scaled = z[i] * this.levels, whole = Math.floor(scaled);
      x[i] = Math.min(Math.max(whole, 0), top);
      x[n + i] = Math.min(Math.max(scaled - whole, EPS / 2), 1 - EPS);
    }
    return this.pass(x, n, run, 1);
  }

  pass(out, n, { B, contrib, tape }, sign) {
    addEach(contrib, sign * (n / B) * Math.log(this.levels));
    if (tape) tape.push(sign);
    return out;
  }

  backward(dz, run) {
    const { levels } = this, n = dz.length;
    if (run.tape.pop() > 0) return dz.slice(n / 2).map((d) => d * levels);
    return Float64Array.from({ length: 2 * n }, (_, i) => dz[i % n] / levels);
  }
}

/* z = scale x + shift, contribution D log |scale|. */
class Scale {
  constructor({ scale, shift }) { Object.assign(this, { scale, shift }); }

  forward(x, run) { return this.pass(x.map((v) => this.scale * v + this.shift), run, this.scale, 1); }
  inverse(z, run) { return this.pass(z.map((v) => (v - this.shift) / this.scale), run, 1 / this.scale, -1); }

  pass(out, { B, contrib, tape }, slope, sign) {
    addEach(contrib, sign * (out.length / B) * Math.log(Math.abs(this.scale)));
    if (tape) tape.push(slope);
    return out;
  }

  backward(dz, run) {
    const slope = run.tape.pop();
    return dz.map((d) => d * slope);
  }
}

/* z = 1 / (1 + exp(-x)), contribution sum log z + log(1 - z). Its inverse is Logit. */
class Sigmoid {
  forward(x, run) {
    return this.pass(x, x.map((v) => Math.min(Math.max(1 / (1 + Math.exp(-v)), TINY), 1 - EPS)), run, 1);
  }

  inverse(z, run) {
    const bad = z.find((v) => !(v > 0 && v < 1));
    if (bad !== undefined) throw new Error(`Logit got ${bad}, expected a number in (0, 1)`);
    return this.pass(z.map((v) => Math.log(v / (1 - v))), z, run, -1);
  }

  pass(x, z, { B, contrib, tape }, sign) {
    for (let i = 0; i < x.length; i++) {
      const v = Math.abs(x[i]);
      contrib[i % B] -= sign * (v + 2 * Math.log1p(Math.exp(-v)));
    }
    if (tape) tape.push({ z, sign });
    return sign > 0 ? z : x;
  }

  backward(d, { B, dcontrib, tape }) {
    const { z, sign } = tape.pop();
    return d.map((v, i) => {
      const slope = z[i] * (1 - z[i]), bend = dcontrib[i % B] * (1 - 2 * z[i]);
      return sign > 0 ? v * slope + bend : (v - bend) / slope;
    });
  }
}

function addEach(contrib, v) { for (let b = 0; b < contrib.length; b++) contrib[b] += v; }

Object.assign(LAYERS, { carry: Carry, scale: Scale, sigmoid: Sigmoid });
