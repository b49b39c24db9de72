import { LOG_2PI } from "./arrays.js";
import { iwGap, scalarAnf } from "./closed_form.js";
import { fixed, mount } from "./base.js";
import { E, NOISE_LEGEND, drawNoise } from "./noise.js";
import { Plot, clear } from "./plot.js";

/* The augmentation gap where everything is a formula: q(e) against p(e | x), and the bound beside
   log p(x). a and b belong to the encoder, so log p(x) does not move with them: the gap does. */

const encoder = (page) => Object.fromEntries(["a", "b", "c", "d"].map((name) => [name, page.get(name)]));

function draw(page) {
  const x = page.get("x"), k = page.get("k"), { a, b } = encoder(page);
  const at = scalarAnf(encoder(page), x), gapK = iwGap(at, k), nll = -at.logProb, bound = at.logProb - gapK;

  const logP = E.map((e) => -0.5 * ((e - at.mean) ** 2 / at.variance + Math.log(at.variance) + LOG_2PI));
  drawNoise(page, logP, at.mean);
  page.describe("noise", "Two bell curves over the noise e. q is centred at 0 with deviation 1; p of e given x "
    + `is centred at ${fixed(at.mean, 2)} with deviation ${fixed(Math.sqrt(at.variance), 2)}. `
    + "Below them the area that is the gap.");
  drawBars(page, nll, [["ELBO (K = 1)", at.gap], [`K = ${k}`, gapK]]);
  page.say([
    ["log p(x), nats", fixed(at.logProb), "blue"], ["NLL", fixed(nll), "blue"],
    ["ELBO", fixed(at.elbo), "orange"], ["gap", fixed(at.gap), "purple"],
    [`bound, K = ${k}`, fixed(bound), "orange"], [`gap, K = ${k}`, fixed(gapK), "purple"],
  ], `At x = ${fixed(x, 2)}: ${remark(at)}`);
  return { a, b, x, k, log_prob: at.logProb, elbo: at.elbo, gap: at.gap, bound, gap_k: gapK };
}

function remark({ gap, variance }) {
  if (gap < 5e-5) return "the encoder is the exact posterior: p(e | x) is q(e), the gap is zero.";
  if (variance >= 2) return "p(e | x) is so wide that the weights have infinite variance: K helps only slowly.";
  return "a and b belong to the encoder: they move the gap, never log p(x).";
}

function drawBars(page, nll, bars) {
  const svg = page.svg.bars, width = page.width("bars"), tall = page.narrow() ? 106 : 160;
  // The axis follows x alone: a and b move bars, not the scale.
  const nats = [3, 6, 12, 24, 48].find((n) => n > 1.6 * nll + 0.5) || 96;
  clear(svg, width, tall + 60);
  const plot = new Plot(svg, {
    box: [12, 22, width - 26, tall], x: [0, nats], y: [0, 2], xLabel: "nats, less is better", yTicks: 0,
  });
  plot.line(plot.X(nll), plot.top, plot.X(nll), plot.top + tall, "afx-mark");
  plot.text(plot.X(nll), plot.top - 6, "\u2212log p(x)", { "text-anchor": "middle" });
  bars.forEach(([name, gap], i) => {
    const low = 1.12 - i, high = low + 0.42, total = nll + gap, beside = total < 0.7 * nats;
    plot.text(12, plot.Y(high) - 5, `${name}: \u2212bound = ${fixed(total)}`);
    plot.rect(0, nll, low, high, "blue");
    plot.rect(nll, total, low, high, "purple", "hatch");
    const label = `gap ${fixed(gap)}${total > nats ? " \u2192" : ""}`, anchor = beside ? "start" : "end";
    plot.text(plot.X(total) + (beside ? 6 : -6), plot.Y(low + 0.21) + 4, label, { "text-anchor": anchor });
  });
  const spoken = bars.map(([name, gap]) => `${name} adds a gap of ${fixed(gap, 2)}`).join("; ");
  page.describe("bars", `Two bars in nats. Both start with minus log p of x, ${fixed(nll, 2)}; ${spoken}.`);
}

function render(context) {
  return mount(context, {
    key: "gap",
    label: "Explorer: the augmentation gap of a linear-Gaussian flow",
    pictures: [
      { name: "noise", caption: "The noise: q(e) against p(e | x)", legend: NOISE_LEGEND },
      {
        name: "bars",
        caption: "The bound: NLL plus gap",
        legend: [["NLL = \u2212log p(x)", "blue", "block"], ["gap", "purple", "hatch"]],
      },
    ],
    buttons: [{ text: "Make the encoder exact", run: (page) => page.glide(scalarAnf(encoder(page), 0).exact) }],
    traits: ["c", "d"],
    draw,
  });
}

export default { render };
