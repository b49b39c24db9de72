import { LOG_2PI, grid, tanh } from "./arrays.js";

/* Two problems whose joint KL = model error + gap is exact, and the moves that lower it.

   Both have one number of data and one of noise. p: z ~ N(0, 1), x = mean(z) + d y. q: z = g(e; x)
   with e ~ N(0, 1). A problem says which parameters are whose, and gives

     sum(s)    the joint KL: a mean over data and noise, with no integral inside a logarithm
     error(s)  KL(data || p), from p alone;    the gap is what is left of the sum */

const normal = (v, mean, sd) => Math.exp(-0.5 * (((v - mean) / sd) ** 2 + LOG_2PI)) / sd;

/* Nodes of N(0, 1) and their probabilities: the trapezoid rule, exact to rounding for what is smooth. */
function rule(reach, nodes) {
  const t = grid(-reach, reach, nodes), h = t[1] - t[0];
  return { t, weight: t.map((v) => h * normal(v, 0, 1)) };
}

// ---- data N(0, 4), decoder x = c z + d y, encoder z = a e + b x: formulas -------------------------

const VARIANCE = 4;

export const LINEAR = {
  key: "two_bars", title: "a linear model of Gaussian data",
  q: ["b", "a"], p: ["c", "d"], families: null, presets: {}, reach: 5,
  entropy: 0.5 * (1 + LOG_2PI + Math.log(VARIANCE)),
  data: (x) => normal(x, 0, Math.sqrt(VARIANCE)),
  mean: ({ c }, z) => c * z,
  encode: ({ a, b }, x, e) => a * e + b * x,

  error({ c, d }) {
    const ratio = VARIANCE / (c * c + d * d);
    return 0.5 * (ratio - 1 - Math.log(ratio));
  },

  sum({ a, b, c, d }) {
    const zz = a * a + b * b * VARIANCE, xz = b * VARIANCE;      // moments of z = a e + b x
    const miss = VARIANCE - 2 * c * xz + c * c * zz;              // mean of (x - c z)^2
    return 0.5 * (miss / (d * d) + zz - 2 - Math.log(VARIANCE)) + Math.log(d / a);
  },
};

// ---- two modes at -2 and 2, decoder x = c tanh(t z) + d y: quadrature ------------------------------

const MODE = 2, SD = 0.5, Z = grid(-9, 9, 561);
const modes = (x) => 0.5 * (normal(x, -MODE, SD) + normal(x, MODE, SD));

/* Nodes for data and noise: fine ones for what is shown, coarse ones to search with. The problem keeps
   its form when x, z and e change their signs, so one of the modes is enough. */
function nodes(reach, overX, overE) {
  const x = rule(reach, overX), e = rule(reach, overE);
  return { e, root: e.t.map((v) => Math.sqrt(1 + v * v)), x: x.t.map((t) => MODE + SD * t), weight: x.weight };
}
const FINE = nodes(8, 81, 241), COARSE = nodes(6, 33, 97);
const meanOverData = (f, { x, weight } = FINE) => x.reduce((total, v, i) => total + weight[i] * f(v), 0);

/* q in three families, each with the one before it in it: at h = 0 the flow is the Gaussian. */
const FAMILIES = {
  "N(0, 1)": (s) => ({ ...s, a: 1, b: 0, h: 0 }),
  "Gaussian": (s) => ({ ...s, h: 0 }),
  "flow": (s) => s,
};

/* The flow z = b x + a sinh(asinh(e) + h tanh(x)) skews the noise away from 0. With
   r = (e + sqrt(1 + e^2)) exp(h tanh(x)): sinh(...) = (r - 1/r)/2 and dz/de = a (r + 1/r)/2 / sqrt(1 + e^2). */
export const TWO_MODES = {
  key: "two_modes", title: "a curved decoder for two modes",
  q: ["b", "a", "h"], p: ["c", "t", "d"], families: FAMILIES, reach: 4,
  presets: { "Ignore the noise": { a: 1, b: 0, h: 0, c: 0, d: Math.sqrt(MODE * MODE + SD * SD) } },
  entropy: -meanOverData((x) => Math.log(modes(x))),
  data: modes,
  mean: ({ c, t }, z) => c * tanh(t * z),
  encode: ({ a, b, h }, x, e) => b * x + a * Math.sinh(Math.asinh(e) + h * Math.tanh(x)),

  error(state) {
    const { d } = state, h = Z[1] - Z[0], means = Z.map((z) => this.mean(state, z));
    const prior = Z.map((z) => h * normal(z, 0, 1) / (d * Math.sqrt(2 * Math.PI)));
    return -this.entropy - meanOverData((x) => {
      let near = Infinity, p = 0;
      for (const m of means) near = Math.min(near, (x - m) ** 2);
      for (let i = 0; i < Z.length; i++) p += prior[i] * Math.exp(0.5 * (near - (x - means[i]) ** 2) / (d * d));
      return Math.log(p) - 0.5 * near / (d * d);
    });
  },

  sum({ a, b, c, d, h, t }, on = FINE) {
    const { t: e, weight } = on.e, { root } = on;
    const logRatio = meanOverData((x) => {       // log q(z | x) - log p(x, z), its mean over e
      const skew = Math.exp(h * tanh(x));
      let total = 0;
      for (let i = 0; i < e.length; i++) {
        const r = (e[i] + root[i]) * skew, z = b * x + 0.5 * a * (r - 1 / r), y = (x - c * tanh(t * z)) / d;
        total += weight[i] * (0.5 * (y * y + z * z - e[i] * e[i]) - Math.log((r + 1 / r) / root[i]));
      }
      return total;
    }, on);
    return logRatio + 0.5 * LOG_2PI + Math.log(2 * d / a) - this.entropy;
  },
};

export const PROBLEMS = { "linear": LINEAR, "two modes": TWO_MODES };

/* The state as the family of q reads it. */
export const within = ({ families }, state) => (families ? families[state.family](state) : state);

/* Both bars, their sum and the NLL, in nats. */
export function bars(problem, state) {
  const now = within(problem, state), sum = problem.sum(now), error = problem.error(now);
  return { error, gap: sum - error, sum, nll: error + problem.entropy };
}

// ---- moves ---------------------------------------------------------------------------------------

const GOLDEN = (Math.sqrt(5) - 1) / 2, SWEEPS = 3;

/* A low point of f on [low, high]: the best of 9 nodes, then golden section between its neighbours. */
function lowest(f, low, high) {
  const at = grid(low, high, 9), values = at.map(f), best = values.indexOf(Math.min(...values));
  let from = at[Math.max(best - 1, 0)], to = at[Math.min(best + 1, 8)];
  let l = to - GOLDEN * (to - from), r = from + GOLDEN * (to - from), fl = f(l), fr = f(r);
  for (let i = 0; i < 26; i++) {
    if (fl < fr) { to = r; r = l; fr = fl; l = to - GOLDEN * (to - from); fl = f(l); }
    else { from = l; l = r; fl = fr; r = from + GOLDEN * (to - from); fr = f(r); }
  }
  return [fl < fr ? l : r, Math.min(fl, fr)];
}

/* One press. In q or in p: the best value of each of its parameters in turn, the others held, within
   [min, max], three times round. Both: one step down the gradient of the sum, as far as pays. What is
   found is taken only where the sum is lower, so no move raises it; and a move in q cannot touch the
   model error, so what falls with it is the gap. */
export function move(problem, state, which, ranges) {
  const sum = (s, on) => problem.sum(within(problem, s), on), search = (s) => sum(s, COARSE);
  let found = state;
  if (which === "both") found = downhill(problem, state, search, ranges);
  else for (let i = 0; i < SWEEPS; i++) for (const name of problem[which]) found = along(found, name, search, ranges);
  return sum(found) < sum(state) ? found : state;
}

function along(state, name, sum, ranges) {
  const [value, low] = lowest((v) => sum({ ...state, [name]: v }), ...ranges[name]);
  return low < sum(state) ? { ...state, [name]: value } : state;
}

function downhill(problem, state, sum, ranges) {
  const h = 1e-5, held = (name, v) => Math.min(Math.max(v, ranges[name][0]), ranges[name][1]);
  const slopes = [...problem.q, ...problem.p].map((name) => {
    const at = (v) => sum({ ...state, [name]: state[name] + v });
    return [name, (at(h) - at(-h)) / (2 * h)];
  });
  const step = (u) => ({      // u cubed: short steps are looked at as closely as long ones
    ...state, ...Object.fromEntries(slopes.map(([name, v]) => [name, held(name, state[name] - u ** 3 * v)])),
  });
  return step(lowest((u) => sum(step(u)), 0, 1)[0]);
}
