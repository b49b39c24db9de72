/* Numbers in the page: weights from text, and the few loops that all layers share.

   A batch of B rows is stored feature by feature, x[d * B + b]: a block of features is then one
   contiguous piece of memory, and a matrix product is a few long loops over b. */

export const LOG_2PI = Math.log(2 * Math.PI);

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

/* y = W x + bias. W is O x I, row by row. Four inputs in one pass: y is read and written a quarter
   as often, which is most of the cost. */
export function linear(W, bias, I, O, x, B) {
  const y = new Float64Array(O * B);
  for (let o = 0; o < O; o++) {
    const to = o * B;
    if (bias) y.fill(bias[o], to, to + B);
    let i = 0;
    for (; i + 4 <= I; i += 4) {
      const w = o * I + i, w0 = W[w], w1 = W[w + 1], w2 = W[w + 2], w3 = W[w + 3];
      const p0 = i * B, p1 = p0 + B, p2 = p1 + B, p3 = p2 + B;
      for (let b = 0; b < B; b++) {
        y[to + b] += w0 * x[p0 + b] + w1 * x[p1 + b] + w2 * x[p2 + b] + w3 * x[p3 + b];
      }
    }
    for (; i < I; i++) {
      const w0 = W[o * I + i], p0 = i * B;
      for (let b = 0; b < B; b++) y[to + b] += w0 * x[p0 + b];
    }
  }
  return y;
}

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
  const T = new Float64Array(O * I);
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

export function sumRows(dy, O, B) {
  return Float64Array.from({ length: O }, (_, o) => {
    let s = 0;
    for (let b = o * B; b < (o + 1) * B; b++) s += dy[b];
    return s;
  });
}

export function addTo(total, part) { for (let i = 0; i < part.length; i++) total[i] += part[i]; }

/* Adds log N(e; 0, I), times `sign`, to out[b]. */
export function addLogNormal(out, e, B, sign) {
  for (let i = 0; i < e.length; i++) out[i % B] -= sign * 0.5 * (e[i] * e[i] + LOG_2PI);
}
