/* Numbers in the page: weights from text, and the few loops that all layers share.

   A batch of B rows is stored feature by feature, x[d * B + b]: a block of features is then one
   contiguous piece of memory, and a matrix product is a few long loops over b. */

export const LOG_2PI = Math.log(2 * Math.PI);

/* Space for one pass. To make and clear an array of this size costs more than the arithmetic in it, so
   a pass takes its arrays, not cleared, from one pool, and all of them are given back when `pooled`
   ends: what is to last must be copied. Outside `pooled` each is an array of its own. */
const POOL = { space: new Float64Array(0), used: 0, depth: 0 };

export function room(n) {
  if (!POOL.depth) return new Float64Array(n);
  if (POOL.used + n > POOL.space.length) {          // who holds parts of the old space keeps them
    POOL.space = new Float64Array(2 * (POOL.used + n));
    POOL.used = 0;
  }
  return POOL.space.subarray(POOL.used, POOL.used += n);
}

export function pooled(pass) {
  const { used } = POOL;
  POOL.depth++;
  try { return pass(); } finally { Object.assign(POOL, { used, depth: POOL.depth - 1 }); }
}

export function copied(x) {
  const y = room(x.length);
  y.set(x);
  return y;
}

/* Evenly spaced numbers. */
export const grid = (from, to, n) => Float64Array.from({ length: n }, (_, i) => from + (to - from) * i / (n - 1));

/* base64 text of little-endian floats (`export_flow` writes it) -> Float64Array. */
export function decode(text, dtype) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0)), view = new DataView(bytes.buffer);
  if (dtype !== "float32" && dtype !== "float64") throw new Error(`unknown dtype ${dtype}`);
  const size = dtype === "float32" ? 4 : 8;
  return Float64Array.from({ length: bytes.length / size }, (_, i) =>
    size === 4 ? view.getFloat32(4 * i, true) : view.getFloat64(8 * i, true));
}

/* Numbers -> base64 text of little-endian float64, which `decode` and `import_flow` read. */
export function encode(values) {
  const view = new DataView(new ArrayBuffer(8 * values.length));
  values.forEach((v, i) => view.setFloat64(8 * i, v, true));
  return btoa(Array.from(new Uint8Array(view.buffer), (c) => String.fromCharCode(c)).join(""));
}

/* Within 4e-16 of Math.tanh and five times as fast: most of a small network's time is spent here. */
export const tanh = (v) => 1 - 2 / (Math.exp(2 * v) + 1);

/* y = W x + bias. W is O x I, row by row. Four inputs and two outputs in one pass: numbers are read
   and written a quarter as often, which is most of the cost. */
export function linear(W, bias, I, O, x, B) {
  const y = room(O * B);
  for (let o = 0; o < O; o++) y.fill(bias ? bias[o] : 0, o * B, (o + 1) * B);
  for (let o = 0; o < O; o += 2) {
    const v = o * I, t = o * B;
    let i = 0;
    if (o + 1 === O) {
      for (; i < I; i++) addRow(y, t, W[v + i], x, i * B, B);
      break;
    }
    const u = v + I, s = t + B;
    for (; i + 4 <= I; i += 4) {
      const v0 = W[v + i], v1 = W[v + i + 1], v2 = W[v + i + 2], v3 = W[v + i + 3];
      const u0 = W[u + i], u1 = W[u + i + 1], u2 = W[u + i + 2], u3 = W[u + i + 3];
      const p0 = i * B, p1 = p0 + B, p2 = p1 + B, p3 = p2 + B;
      for (let b = 0; b < B; b++) {
        const x0 = x[p0 + b], x1 = x[p1 + b], x2 = x[p2 + b], x3 = x[p3 + b];
        y[t + b] += v0 * x0 + v1 * x1 + v2 * x2 + v3 * x3;
        y[s + b] += u0 * x0 + u1 * x1 + u2 * x2 + u3 * x3;
      }
    }
    for (; i < I; i++) {
      addRow(y, t, W[v + i], x, i * B, B);
      addRow(y, s, W[u + i], x, i * B, B);
    }
  }
  return y;
}

function addRow(y, to, w, x, from, B) { for (let b = 0; b < B; b++) y[to + b] += w * x[from + b]; }

/* dW += dy x^T, the gradient of `linear` in W. */
export function addOuter(dW, dy, x, I, O, B) {
  for (let o = 0; o < O; o++) {
    const g = o * B;
    let i = 0;
    for (; i + 4 <= I; i += 4) {
      const p0 = i * B, p1 = p0 + B, p2 = p1 + B, p3 = p2 + B;
      let s0 = 0, s1 = 0, s2 = 0, s3 = 0;
      for (let b = 0; b < B; b++) {
        const d = dy[g + b];
        s0 += d * x[p0 + b]; s1 += d * x[p1 + b]; s2 += d * x[p2 + b]; s3 += d * x[p3 + b];
      }
      const w = o * I + i;
      dW[w] += s0; dW[w + 1] += s1; dW[w + 2] += s2; dW[w + 3] += s3;
    }
    for (; i < I; i++) {
      let s = 0;
      for (let b = 0; b < B; b++) s += dy[g + b] * x[i * B + b];
      dW[o * I + i] += s;
    }
  }
}

export function transpose(W, O, I) {
  const T = room(O * I);
  for (let o = 0; o < O; o++) for (let i = 0; i < I; i++) T[i * O + o] = W[o * I + i];
  return T;
}

/* Inverse of a small n x n matrix, Gauss and Jordan with pivots. */
export function invert(matrix, n) {
  const a = Float64Array.from(matrix), inv = new Float64Array(n * n);
  for (let i = 0; i < n; i++) inv[i * n + i] = 1;
  const onRows = (f) => [a, inv].forEach((m) => { for (let j = 0; j < n; j++) f(m, j); });
  for (let c = 0; c < n; c++) {
    let p = c;
    for (let r = c + 1; r < n; r++) if (Math.abs(a[r * n + c]) > Math.abs(a[p * n + c])) p = r;
    onRows((m, j) => { const t = m[c * n + j]; m[c * n + j] = m[p * n + j]; m[p * n + j] = t; });
    const pivot = a[c * n + c];
    onRows((m, j) => { m[c * n + j] /= pivot; });
    for (let r = 0; r < n; r++) {
      const f = a[r * n + c];
      if (r !== c && f !== 0) onRows((m, j) => { m[r * n + j] -= f * m[c * n + j]; });
    }
  }
  return inv;
}

/* sums += dy summed over each row of B, the gradient of `linear` in its bias. */
export function addRowSums(sums, dy, O, B) {
  for (let o = 0; o < O; o++) {
    let s = 0;
    for (let b = o * B; b < (o + 1) * B; b++) s += dy[b];
    sums[o] += s;
  }
}

export function addTo(total, part) { for (let i = 0; i < part.length; i++) total[i] += part[i]; }

/* Adds log N(e; 0, I), times `sign`, to out[b]. */
export function addLogNormal(out, e, B, sign) {
  for (let i = 0; i < e.length; i++) out[i % B] -= sign * 0.5 * (e[i] * e[i] + LOG_2PI);
}
