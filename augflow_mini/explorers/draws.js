/* Noise from a seed. Number i is a function of seed and i alone, so Python makes the same draws
   (draws.py). Good for pictures, not for science. */

/* Spread every bit of a 32-bit number over all others: the last step of Appleby's MurmurHash3. */
function scramble(h) {
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/* Numbers in (0, 1), one after another. */
export function stream(seed) {
  const start = scramble(seed + 0x9e3779b9);
  let i = 0;
  return () => (scramble(start + Math.imul(i++, 0x9e3779b9)) + 0.5) / 2 ** 32;
}

/* The first n of them. */
export function uniforms(seed, n) {
  const next = stream(seed), u = new Float64Array(n);
  for (let i = 0; i < n; i++) u[i] = next();
  return u;
}

/* Two uniform numbers -> two normal ones (Box and Muller). */
export function normalPair(u, v) {
  const r = Math.sqrt(-2 * Math.log(u)), turn = 2 * Math.PI * v;
  return [r * Math.cos(turn), r * Math.sin(turn)];
}

/* n standard normal numbers, from a seed or from a stream. */
export function normals(from, n) {
  const next = typeof from === "function" ? from : stream(from), e = new Float64Array(n);
  for (let i = 0; i < n; i += 2) [e[i], e[i + 1]] = normalPair(next(), next());
  return e;
}
