import { LOG_2PI, grid } from "./arrays.js";

/* log of the trapezoid sum of exp(f) over every `stride`-th node. */
function logTrapezoid(f, h, stride = 1) {
  const top = f.reduce((m, v) => Math.max(m, v), -Infinity), last = f.length - 1;
  let s = 0;
  for (let i = 0; i <= last; i += stride) s += Math.exp(f[i] - top) * (i === 0 || i === last ? 0.5 : 1);
  return top + Math.log(s * h * stride);
}

/* One number of noise integrated out of a flow at one x, by the trapezoid rule:

     log p(x) = log of the integral of p(x, e) over e,   on a grid that follows p(e | x)
     ELBO(x)  = integral of q(e) [log p(x, e) - log q(e)],   on a grid that follows q = N(0, 1)

   `error` is the change when every second node is left out; gap = log p(x) - ELBO(x). */
export function integrate(flow, x, { nodes = 161, reach = 8 } = {}) {
  const e = grid(-reach, reach, nodes), h = e[1] - e[0], joint = flow.logJoint(x, e);
  let elbo = 0, half = 0;
  for (let i = 0; i < nodes; i++) {
    const logQ = -0.5 * (e[i] * e[i] + LOG_2PI), term = h * Math.exp(logQ) * (joint[i] - logQ);
    elbo += term;
    if (i % 2 === 0) half += 2 * term;
  }
  const fine = posteriorGrid(flow, x, e, joint, nodes);
  const logProb = logTrapezoid(fine.joint, fine.h), coarse = logTrapezoid(fine.joint, fine.h, 2);
  return { ...fine, logProb, elbo, gap: logProb - elbo, error: Math.abs(elbo - half) + Math.abs(logProb - coarse) };
}

/* Looks wider while mass stands at an edge, closer where it fills only part of the window. */
function posteriorGrid(flow, x, e, joint, nodes) {
  const last = nodes - 1;
  for (let tries = 0; tries < 8; tries++) {
    const top = joint.reduce((m, v) => Math.max(m, v), -Infinity), seen = (i) => joint[i] > top - 40;
    let from = 0, to = last;
    while (from < last && !seen(from)) from++;    // a flow that overflows has nothing to see
    while (to > 0 && !seen(to)) to--;
    const width = e[last] - e[0];
    let low = e[Math.max(from - 1, 0)], high = e[Math.min(to + 1, last)];
    if (from === 0) low -= width;
    if (to === last) high += width;
    if (from > 0 && to < last && high - low > 0.6 * width) break;
    e = grid(low, high, nodes);
    joint = flow.logJoint(x, e);
  }
  return { e, joint, h: e[1] - e[0] };
}
