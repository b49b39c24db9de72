import { fixed, h } from "./base.js";
import { Z95, norm } from "./digits_model.js";
import { Plot, atLeast, clear } from "./plot.js";

const LEVELS = 17;

/* Many small images in a few paths: one for each grey level, whatever the number of images. */
class Tiles {
  constructor(svg) { Object.assign(this, { svg, levels: Array.from({ length: LEVELS }, () => []), frames: [[], []] }); }

  put(image, left, top, cell, chosen = false) {
    const side = cell / 8;
    image.forEach((v, p) => {
      if (v > 0) this.levels[v].push(`M${left + side * (p % 8)},${top + side * Math.floor(p / 8)}h${side}v${side}h${-side}z`);
    });
    this.frames[Number(chosen)].push(`M${left - 1},${top - 1}h${cell + 2}v${cell + 2}h${-cell - 2}z`);
  }

  draw() {
    const add = (d, look) => { if (d.length) this.svg.append(h("path", { d: d.join(""), ...look })); };
    this.levels.forEach((d, level) => add(d, { class: "afx-pixels", "fill-opacity": level / (LEVELS - 1) }));
    this.frames.forEach((d, chosen) => add(d, { class: `afx-tile${chosen ? " afx-chosen" : ""}` }));
  }

  text(x, y, words, look = {}) { this.svg.append(h("text", { x, y, ...look }, words)); }
}

/* A picture of images alone, six beside each other. */
function sheet(page, name, height) {
  const width = page.width(name), cell = 8 * Math.floor((width - 4) / 6 / 9), step = (width - 4 - cell) / 5;
  clear(page.svg[name], width, height(cell));
  return { tiles: new Tiles(page.svg[name]), cell, left: (i) => 2 + Math.round(i * Math.min(step, cell + 16)) };
}

export function drawSamples(page, images) {
  const { tiles, cell, left } = sheet(page, "samples", (size) => 4 * (size + 10));
  images.forEach((image, i) => tiles.put(image, left(i % 6), 2 + Math.floor(i / 6) * (cell + 10), cell));
  tiles.draw();
  page.describe("samples", `${images.length} samples of the model, small grey images.`);
}

export function drawRedrawn(page, digit, x, { all, middle, zKept, yKept }) {
  const { tiles, cell, left } = sheet(page, "latents", (size) => 3 * (size + 24));
  const row = (r) => 18 + r * (cell + 24);
  [[`x: ${digit}`, x, 0], ["all of (y, z)", all, 1], ["z kept, y = 0", middle, 3]].forEach(([name, image, i]) => {
    tiles.put(image, left(i), row(0), cell);
    tiles.text(left(i), row(0) - 5, name);
  });
  [["z kept, y drawn anew", zKept], ["y kept, z drawn anew", yKept]].forEach(([name, images], r) => {
    tiles.text(left(0), row(r + 1) - 5, name);
    images.forEach((image, i) => tiles.put(image, left(i), row(r + 1), cell));
  });
  tiles.draw();
  page.describe("latents", "The digit; the same from its whole latent; from z with y = 0; six images with z kept "
    + "and y drawn anew; six with y kept and z drawn anew.");
}

/* Strips of images over the norm of their latents; the share of the way, and the two images there. */
export function drawWay(page, { steps, strips, here, images, alpha, radius }) {
  const svg = page.svg.way, width = page.width("way"), cell = 8 * Math.floor(Math.min(40, (width - 40) / 9.6) / 8);
  const low = 2 * (cell + 24) + 20, tall = 72, bottom = low + tall + 44, big = 64;
  clear(svg, width, bottom + big + 4);
  const norms = steps.flatMap(({ line, kept }) => [norm(line), norm(kept)]);
  const plot = new Plot(svg, {
    box: [36, low, width - 40 - cell / 2, tall], x: [0, 1], y: [4, atLeast([10, 11, 12, 14], Math.max(...norms, radius[1]))],
    xLabel: "share α of the way (drag)", yLabel: "norm of the latent", xTicks: 4, yTicks: 3,
  });
  const T = steps.map((_, i) => i / (steps.length - 1));
  plot.rect(0, 1, ...radius, "blue", "soft");
  svg.lastChild.setAttribute("class", "afx-area afx-soft");
  plot.curve(T, steps.map(({ line }) => norm(line)), "muted", "dash");
  plot.curve(T, steps.map(({ kept }) => norm(kept)), "ink");
  plot.line(plot.X(alpha), 4, plot.X(alpha), low + tall, "afx-mark");
  const tiles = new Tiles(svg);
  strips.forEach(([name, list], r) => {
    const top = 18 + r * (cell + 24);
    tiles.text(2, top - 5, name);
    list.forEach((image, i) => tiles.put(image, Math.round(plot.X(i / (list.length - 1)) - cell / 2), top, cell));
  });
  [["straight line", here.line, images[0]], ["norm kept", here.kept, images[1]]].forEach(([name, latent, image], i) => {
    const left = 2 + i * 0.5 * width;
    tiles.put(image, left, bottom, big);
    [name, `at α = ${fixed(alpha, 2)}:`, `norm ${fixed(norm(latent), 2)}`].forEach((words, n) =>
      tiles.text(left + big + 8, bottom + 22 + 16 * n, words));
  });
  tiles.draw();
  page.describe("way", "Images from one digit to the other on the straight line and with the norm kept; "
    + `their latents' norms; at α = ${fixed(alpha, 2)} these are ${fixed(norm(here.line), 2)} and ${fixed(norm(here.kept), 2)}.`);
  return plot;
}

/* Ten digits by their gap: gap and bits/dim with 95 % intervals over the noise, the images below. Returns the order. */
export function drawOrder(page, images, found, chosen) {
  const svg = page.svg.order, width = page.width("order"), n = found.length, tall = 116, low = tall + 56, flat = 76;
  const each = (width - 44) / n, cell = 8 * Math.floor(Math.min(40, each - 4) / 8), at = low + flat + 14;
  clear(svg, width, at + cell + 24);
  if (n < images.length) return [];
  const order = found.map((_, i) => i).sort((a, b) => found[a].gap - found[b].gap), place = (i) => i + 0.5;
  const highest = Math.max(...found.map(({ gap, gapSe }) => gap + Z95 * gapSe)), bits = found.map((f) => f.bits);
  const axes = { x: [0, n], xTicks: 0 };
  const upper = new Plot(svg, {
    ...axes, box: [36, 20, width - 40, tall], y: [0, atLeast([4, 6, 8, 10, 12, 16, 20, 30, 50], highest)],
    yLabel: "gap, at least, nats",
  });
  const lower = new Plot(svg, {
    ...axes, box: [36, low, width - 40, flat], yLabel: "bits/dim, at most", yTicks: 3,
    y: [Math.floor(5 * Math.min(...bits) - 0.5) / 5, Math.ceil(5 * Math.max(...bits) + 0.5) / 5],
  });
  const whisker = (plot, i, value, se) => {
    const [low, high] = [-1, 1].map((s) => plot.Y(value + s * Z95 * se)), x = plot.X(i);
    plot.add("path", { class: "afx-whisker", d: `M${x - 5},${low}h10M${x - 5},${high}h10M${x},${low}V${high}` });
  };
  const fill = upper.fill("purple", "hatch"), tiles = new Tiles(svg);
  order.forEach((digit, i) => {
    const { gap, gapSe, bits: cost, bitsSe } = found[digit], x = upper.X(place(i));
    const bar = { x: x - 0.32 * each, width: 0.64 * each, y: upper.Y(gap), height: upper.Y(0) - upper.Y(gap) };
    upper.add("rect", { ...bar, fill, stroke: "var(--afx-purple)" });
    whisker(upper, place(i), gap, gapSe);
    whisker(lower, place(i), cost, bitsSe);
    lower.add("circle", { cx: x, cy: lower.Y(cost), r: 4, fill: "var(--afx-blue)" });
    const marked = chosen.includes(digit);
    tiles.put(images[digit], Math.round(x - cell / 2), at, cell, marked);
    tiles.text(x, at + cell + 17, String(digit), { "text-anchor": "middle", ...(marked ? { class: "afx-chosen" } : {}) });
  });
  tiles.draw();
  const spoken = order.map((digit) => `${digit}: ${fixed(found[digit].gap, 1)} and ${fixed(found[digit].bits, 2)}`);
  page.describe("order", `Ten digits from the smallest gap to the largest, gap in nats and bits per dimension. ${spoken.join("; ")}.`);
  return order;
}
