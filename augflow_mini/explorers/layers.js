import { addLogNormal, addOuter, addRowSums, addTo, copied, invert, linear, room, tanh, transpose } from "./arrays.js";

/* The layers of augflow_mini. Same names, same directions, same signs as in Python:

     layer.forward(x, run)    data towards noise; adds the layer's contribution to run.contrib
     layer.inverse(z, run)    noise towards data; adds minus that contribution
     layer.backward(dz, run)  gradient in the input of what ran last; adds to the weights' gradients

   `run` holds what one pass needs: the batch size B, contrib, the noise to draw from, and (for a
   gradient) the tape, to which a layer pushes on its way out what it pops on its way back. */

export class MLP {
  constructor({ widths, activation, weights }, take) {
    if (activation !== "tanh" && activation !== "relu") throw new Error(`unknown activation ${activation}`);
    this.tanh = activation === "tanh";
    const flat = take(weights);           // for each linear map: W row by row, then its bias
    let at = 0;
    const piece = (n) => {
      const p = { value: flat.value.subarray(at, at + n), grad: flat.grad.subarray(at, at + n) };
      at += n;
      return p;
    };
    this.maps = widths.slice(1).map((O, l) => ({ I: widths[l], O, W: piece(widths[l] * O), b: piece(O) }));
    if (at !== flat.value.length) throw new Error(`MLP ${widths}: ${at} weights expected, got ${flat.value.length}`);
  }

  forward(x, run) {
    const last = this.maps.length - 1, inputs = [];
    this.maps.forEach(({ W, b, I, O }, l) => {
      inputs.push(x);
      x = linear(W.value, b.value, I, O, x, run.B);
      if (l === last) return;
      if (this.tanh) for (let i = 0; i < x.length; i++) x[i] = tanh(x[i]);
      else for (let i = 0; i < x.length; i++) if (!(x[i] > 0)) x[i] = 0;
    });
    if (run.tape) run.tape.push(inputs);
    return x;
  }

  backward(dy, run) {
    const inputs = run.tape.pop();
    for (let l = this.maps.length - 1; l >= 0; l--) {
      const { W, b, I, O } = this.maps[l], x = inputs[l];
      addOuter(W.grad, dy, x, I, O, run.B);
      addRowSums(b.grad, dy, O, run.B);
      dy = linear(transpose(W.value, O, I), null, O, I, dy, run.B);
      if (l === 0) break;
      if (this.tanh) for (let i = 0; i < dy.length; i++) dy[i] *= 1 - x[i] * x[i];
      else for (let i = 0; i < dy.length; i++) if (!(x[i] > 0)) dy[i] = 0;
    }
    return dy;
  }
}

export class Coupling {
  constructor({ kind, net, writes, reads, clamp }, take) {
    this.affine = kind === "affine";
    this.clamp = clamp;
    [this.from, this.to] = writes;
    this.reads = reads;
    this.net = new MLP(net, take);
  }

  forward(x, run) { return this.apply(x, run, false); }
  inverse(z, run) { return this.apply(z, run, true); }

  /* forward  z = x exp(log_s) + m        contribution  + sum log_s
     undo     z = (x - m) exp(-log_s)     contribution  - sum log_s   (here x is the layer's output) */
  apply(x, run, undo) {
    const { B, contrib, tape } = run, n = (this.to - this.from) * B, at = this.from * B;
    const out = this.net.forward(this.gather(x, B), run), z = copied(x), scale = room(n).fill(1);
    const logS = this.affine ? out.subarray(0, n) : null, m = this.affine ? out.subarray(n) : out;
    for (let i = 0, b = 0; i < n; i++, b = b + 1 === B ? 0 : b + 1) {
      if (logS) {
        if (this.clamp) logS[i] = this.clamp * tanh(logS[i] / this.clamp);
        const l = undo ? -logS[i] : logS[i];
        scale[i] = Math.exp(l);
        contrib[b] += l;
      }
      z[at + i] = undo ? (x[at + i] - m[i]) * scale[i] : x[at + i] * scale[i] + m[i];
    }
    if (tape) tape.push({ x, z, logS, scale, undo });
    return z;
  }

  backward(dz, run) {
    const { x, z, logS, scale, undo } = run.tape.pop(), { B, dcontrib } = run;
    const n = scale.length, at = this.from * B, dx = copied(dz), dout = room(logS ? 2 * n : n);
    for (let i = 0, b = 0; i < n; i++, b = b + 1 === B ? 0 : b + 1) {
      const d = dz[at + i];
      dx[at + i] = d * scale[i];
      dout[logS ? n + i : i] = undo ? -d * scale[i] : d;
      if (!logS) continue;
      const dl = undo ? -d * z[at + i] - dcontrib[b] : d * x[at + i] * scale[i] + dcontrib[b];
      dout[i] = this.clamp ? dl * (1 - (logS[i] / this.clamp) ** 2) : dl;
    }
    const dseen = this.net.backward(dout, run);
    let used = 0;
    for (const [a, b] of this.reads) {
      addTo(dx.subarray(a * B, b * B), dseen.subarray(used, used += (b - a) * B));
    }
    return dx;
  }

  gather(x, B) {
    const parts = this.reads.map(([a, b]) => x.subarray(a * B, b * B));
    if (parts.length === 1) return parts[0];
    const all = room(parts.reduce((n, p) => n + p.length, 0));
    parts.reduce((to, p) => { all.set(p, to); return to + p.length; }, 0);
    return all;
  }
}

/* z = W x with W = P L U; weights: one D x D matrix with L below its diagonal, U above it, log |diag U|
   on it. */
export class InvertibleLinear {
  constructor({ features: D, p, sign, weights }, take) {
    Object.assign(this, { D, P: Float64Array.from(p), sign, ...take(weights) });
    if (this.value.length !== D * D) throw new Error(`linear ${D}: ${this.value.length} weights`);
  }

  matrices() {
    const { D, value } = this, L = room(D * D).fill(0), U = room(D * D).fill(0);
    for (let r = 0; r < D; r++) {
      for (let c = 0; c < D; c++) (c < r ? L : U)[r * D + c] = value[r * D + c];
      L[r * D + r] = 1;
      U[r * D + r] = this.sign[r] * Math.exp(value[r * D + r]);
    }
    return { L, U, W: linear(linear(this.P, null, D, D, L, D), null, D, D, U, D) };
  }

  forward(x, run) { return this.apply(x, run, false); }
  inverse(z, run) { return this.apply(z, run, true); }

  apply(x, run, undo) {
    const { D } = this, { W } = this.matrices(), M = undo ? invert(W, D) : W;
    let logDet = 0;
    for (let r = 0; r < D; r++) logDet += this.value[r * D + r];
    for (let b = 0; b < run.B; b++) run.contrib[b] += undo ? -logDet : logDet;
    const z = linear(M, null, D, D, x, run.B);
    if (run.tape) run.tape.push({ x, z, M, undo });
    return z;
  }

  backward(dz, run) {
    const { D, grad } = this, { x, z, M, undo } = run.tape.pop(), { L, U } = this.matrices();
    const dx = linear(transpose(M, D, D), null, D, D, dz, run.B), dW = room(D * D).fill(0);
    if (undo) addOuter(dW, dx.map((v) => -v), z, D, D, run.B);   // d(W^-1) = -W^-1 dW W^-1
    else addOuter(dW, dz, x, D, D, run.B);
    const PtdW = linear(transpose(this.P, D, D), null, D, D, dW, D);
    const dL = linear(PtdW, null, D, D, transpose(U, D, D), D);
    const dU = linear(transpose(L, D, D), null, D, D, PtdW, D);
    const dLogDet = run.dcontrib.reduce((s, v) => s + v, 0) * (undo ? -1 : 1);
    for (let r = 0; r < D; r++) {
      for (let c = 0; c < D; c++) {
        const i = r * D + c;
        grad[i] += c < r ? dL[i] : c > r ? dU[i] : dU[i] * U[i] + dLogDet;
      }
    }
    return dx;
  }
}

/* z = (x + shift) exp(log_s); weights: log_s, shift. */
export class ActNorm {
  constructor({ features: D, weights }, take) { Object.assign(this, { D }, take(weights)); }

  forward(x, run) { return this.apply(x, run, false); }
  inverse(z, run) { return this.apply(z, run, true); }

  apply(x, run, undo) {
    const { D, value } = this, { B, contrib } = run, z = room(D * B);
    for (let d = 0; d < D; d++) {
      const l = value[d], shift = value[D + d], scale = Math.exp(undo ? -l : l);
      for (let b = 0; b < B; b++) {
        z[d * B + b] = undo ? x[d * B + b] * scale - shift : (x[d * B + b] + shift) * scale;
        contrib[b] += undo ? -l : l;
      }
    }
    if (run.tape) run.tape.push({ x, z, undo });
    return z;
  }

  backward(dz, run) {
    const { D, value, grad } = this, { x, z, undo } = run.tape.pop(), { B, dcontrib } = run;
    const dx = room(D * B);
    for (let d = 0; d < D; d++) {
      const scale = Math.exp(undo ? -value[d] : value[d]);
      for (let b = 0, i = d * B; b < B; b++, i++) {
        dx[i] = dz[i] * scale;
        grad[d] += undo ? -dz[i] * x[i] * scale - dcontrib[b] : dz[i] * z[i] + dcontrib[b];
        grad[D + d] += undo ? -dz[i] : dx[i];
      }
    }
    return dx;
  }
}

export class Permute {
  constructor({ order }) {
    this.order = order;
    this.back = order.map((_, i) => order.indexOf(i));
  }

  forward(x, run) { return this.move(x, run, this.order, this.back); }
  inverse(z, run) { return this.move(z, run, this.back, this.order); }
  backward(dz, run) { return this.take(dz, run.B, run.tape.pop()); }

  move(x, run, order, back) {
    if (run.tape) run.tape.push(back);
    return this.take(x, run.B, order);
  }

  take(x, B, order) {
    const z = room(x.length);
    order.forEach((from, to) => z.set(x.subarray(from * B, (from + 1) * B), to * B));
    return z;
  }
}

/* Keeps the first `keep` features; the dropped ones count as N(0, I) or uniform. Its inverse is Augment. */
export class Slice {
  constructor({ keep, drop, law }) { Object.assign(this, { keep, drop, normal: law === "uniform" ? 0 : 1 }); }

  forward(x, run) {
    const at = this.keep * run.B;
    addLogNormal(run.contrib, x.subarray(at), run.B, this.normal);
    if (run.tape) run.tape.push({ dropped: x.subarray(at) });
    return x.slice(0, at);
  }

  inverse(x, run) {
    const n = this.drop * run.B, e = run.noise.subarray(run.used, run.used += n);
    if (e.length !== n) throw new Error(`${run.used} noise numbers are needed, got ${run.noise.length}`);
    addLogNormal(run.contrib, e, run.B, -this.normal);
    if (run.tape) run.tape.push({});
    const z = room(x.length + n);
    z.set(x);
    z.set(e, x.length);
    return z;
  }

  backward(dz, run) {
    const { dropped } = run.tape.pop();
    if (!dropped) return dz.slice(0, this.keep * run.B);
    const dx = room(dz.length + dropped.length);
    dx.set(dz);
    dropped.forEach((v, i) => { dx[dz.length + i] = -this.normal * v * run.dcontrib[i % run.B]; });
    return dx;
  }
}

export class Inverse {
  constructor(layer) { this.layer = layer; }
  forward(x, run) { return this.layer.inverse(x, run); }
  inverse(z, run) { return this.layer.forward(z, run); }
  backward(dz, run) { return this.layer.backward(dz, run); }
}
