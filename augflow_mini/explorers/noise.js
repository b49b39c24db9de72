import { LOG_2PI, grid } from "./arrays.js";
import { fixed } from "./base.js";
import { Plot, atLeast, clear } from "./plot.js";

export const E = grid(-5, 5, 301);
export const NOISE_LEGEND = [["q(e)", "orange", "dash"], ["p(e | x)", "blue", "line"], ["gap", "purple", "hatch"]];

/* q(e) = N(0, 1) against p(e | x), given as its log at the nodes E; and KL(q || p) as an area below:
   q log(q / p) - q + p is nowhere negative and integrates to it. */
export function drawNoise(page, logP, mean) {
  const svg = page.svg.noise, width = page.width("noise"), tall = page.narrow() ? 80 : 112, low = tall + 48;
  const logQ = E.map((e) => -0.5 * (e * e + LOG_2PI)), q = logQ.map(Math.exp), p = logP.map(Math.exp);
  const lost = E.map((_, i) => q[i] * (logQ[i] - logP[i]) - q[i] + p[i]);
  clear(svg, width, low + 88);
  const upper = new Plot(svg, {
    box: [34, 18, width - 44, tall], x: [-5, 5], y: [0, atLeast([1, 2, 4, 10, 20], Math.max(...p))],
    yLabel: "density", yTicks: 2,
  });
  upper.curve(E, q, "orange", "dash");
  upper.curve(E, p, "blue");
  if (Math.abs(mean) > 5) {
    const right = mean > 0;
    const place = { "text-anchor": right ? "end" : "start" };
    upper.text(right ? width - 12 : 40, 40, `p(e | x) lies at e = ${fixed(mean, 1)}`, place);
  }
  const lower = new Plot(svg, {
    box: [34, low, width - 44, 52], x: [-5, 5], y: [0, atLeast([0.5, 1, 2, 5, 10, 20, 50], Math.max(...lost))],
    xLabel: "noise e", yLabel: "nats per unit of e: the area is the gap", yTicks: 2,
  });
  lower.area(E, lost, "purple", "hatch");
}
