/* Noise from a seed. Number i is a function of seed and i alone, so Python makes the same draws
   (draws.py) and a test can hand them to torch. Good for pictures, not for science. */

/* Spread every bit of a 32-bit number over all others: the last step of Appleby's MurmurHash3. */
function scramble(h) {
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/* n numbers in (0, 1). */
export function uniforms(seed, n) {
  const start = scramble(seed + 0x9e3779b9), u = new Float64Array(n);
  for (let i = 0; i < n; i++) u[i] = (scramble(start + Math.imul(i, 0x9e3779b9)) + 0.5) / 2 ** 32;
  return u;
}

/* n standard normal numbers, by Box and Muller. */
export function normals(seed, n) {
  const u = uniforms(seed, n + (n % 2)), e = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    const pair = i - (i % 2), radius = Math.sqrt(-2 * Math.log(u[pair])), turn = 2 * Math.PI * u[pair + 1];
    e[i] = radius * (i === pair ? Math.cos(turn) : Math.sin(turn));
  }
  return e;
}
