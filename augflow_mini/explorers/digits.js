import { fixed, mount } from "./base.js";
import { Digits, PIXELS, Z95, between, distance, measure, norm, normRange } from "./digits_model.js";
import { drawOrder, drawRedrawn, drawSamples, drawWay } from "./digits_draw.js";

/* A small trained flow of 8 x 8 digits: its samples; one digit with a part of its latent (y, z) drawn
   anew; the way between two digits; ten digits sorted by their gap. */

const WAY = 9;

function render({ model, el }) {
  const digits = new Digits(model.get("spec"), model.get("images").map((image) => Float64Array.from(image)));
  const radius = normRange(PIXELS + digits.noise);
  let noise = null, found = [], next = null, work = null, way = null, order = [];

  /* All that belongs to one seed; the gaps of the last seed stay in the picture until the new ones are there. */
  function drawNoise(seed) {
    if (noise && noise.seed === seed) return;
    noise = { seed, samples: digits.samples(seed), codes: digits.codes(seed) };
    next = [];
  }

  function draw(page) {
    const [start, end, alpha, seed] = ["start", "end", "alpha", "seed"].map((name) => page.get(name));
    drawNoise(seed);
    const { images } = digits, x = images[start], a = noise.codes[start], b = noise.codes[end];
    const parts = digits.redrawn(a, seed), here = between(a, b, alpha), curve = [], spots = [];
    for (let i = 0; i <= 40; i++) curve.push(between(a, b, i / 40));
    for (let i = 0; i < WAY; i++) spots.push(between(a, b, i / (WAY - 1)));
    const all = [...spots.map((s) => s.line), ...spots.map((s) => s.kept), here.line, here.kept], shown = digits.decode(all);
    drawSamples(page, noise.samples);
    drawRedrawn(page, start, x, parts);
    way = drawWay(page, {
      steps: curve, here, alpha, radius, images: shown.slice(2 * WAY),
      strips: [["straight line", shown.slice(0, WAY)], ["norm kept", shown.slice(WAY, 2 * WAY)]],
    });
    const done = next.length === images.length;
    if (done) found = next;
    order = drawOrder(page, images, found, [start, end]);

    const at = done ? found[start] : null, differ = parts.all.filter((v, i) => v !== x[i]).length;
    const zKept = distance(parts.zKept, x), yKept = distance(parts.yKept, x);
    const plusMinus = (value, se, places) => `${fixed(value, places)} ± ${fixed(Z95 * se, places)}`;
    page.say([
      ["gap ≥, nats", at ? plusMinus(at.gap, at.gapSe, 2) : "computing", "purple"],
      ["NLL ≤, nats", at ? fixed(at.nll, 2) : "computing", "blue"],
      ["bits/dim ≤", at ? plusMinus(at.bits, at.bitsSe, 2) : "computing", "blue"],
      ["z, y kept: off by", `${fixed(zKept, 2)}, ${fixed(yKept, 2)}`, "muted"],
      ["norms at α", `${fixed(norm(here.line), 2)}, ${fixed(norm(here.kept), 2)}`, "ink"],
    ], `Digit ${start}, on the way to ${end}: α = ${fixed(alpha, 2)}; noise ${seed}. From all of (y, z) `
      + `${differ ? `${differ} pixels differ` : "every pixel comes back"}. ${remark(found)}`);

    // Gaps take some frames: a few digits between two of them.
    cancelAnimationFrame(work);
    work = done ? null : requestAnimationFrame(() => {
      const until = performance.now() + 12;
      do next.push(measure(digits.logWeights(seed, next.length)));
      while (next.length < images.length && performance.now() < until);
      page.redraw();
    });
    return {
      start, end, alpha, seed, differ, z_kept: zKept, y_kept: yKept, norm_line: norm(here.line), norm_kept: norm(here.kept),
      ...(at ? { gap: at.gap, gap_se: at.gapSe, nll: at.nll, bits: at.bits, bits_se: at.bitsSe } : {}),
    };
  }

  const finish = mount({ model, el }, {
    key: "digits",
    label: "Explorer: a small flow of the digits",
    pictures: [
      { name: "samples", caption: "Samples of the model", legend: [] },
      { name: "latents", caption: "One digit, a part of its latent drawn anew", legend: [] },
      {
        name: "way",
        caption: "From digit to digit",
        legend: [["straight line", "muted", "dash"], ["norm kept", "ink", "line"], ["95 % of the base", "blue", "soft"]],
      },
      {
        name: "order",
        caption: "Sorted by the gap, with 95 % intervals",
        legend: [["gap", "purple", "hatch"], ["bits/dim", "blue", "block"]],
      },
    ],
    buttons: [{ text: "Walk across", run: (page) => page.glide({ alpha: page.get("alpha") < 1 ? 1 : 0 }, 2500) }],
    draw,
  });

  // In the pictures: drag to a place on the way, click on a digit to start from it.
  const share = (svg, event, plot) => (event.clientX - svg.getBoundingClientRect().left - plot.left) / plot.width;
  const [path, sorted] = ["way", "order"].map((name) => el.querySelector(`.afx-${name} svg`));
  const drag = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    model.set("alpha", Math.round(20 * Math.min(Math.max(share(path, event, way), 0), 1)) / 20);
  };
  path.addEventListener("pointerdown", drag);
  path.addEventListener("pointermove", drag);
  sorted.addEventListener("click", (event) => {
    const i = Math.floor(order.length * share(sorted, event, { left: 36, width: sorted.clientWidth - 40 }));
    if (order[i] !== undefined) model.set("start", order[i]);
  });
  return () => { cancelAnimationFrame(work); finish(); };
}

function remark(found) {
  if (!found.length) return "";
  const most = (key) => found.reduce((best, f, i) => (f[key] > found[best][key] ? i : best), 0);
  const [gap, bits] = [most("gap"), most("bits")];
  return gap === bits ? `The ${gap} has the largest gap and needs the most bits.`
    : `The ${gap} has the largest gap; the ${bits} needs the most bits.`;
}

export default { render };
