import { fixed, h } from "./base.js";

/* About n round numbers between low and high. */
export function ticks(low, high, n = 5) {
  const raw = (high - low) / n, unit = 10 ** Math.floor(Math.log10(raw));
  const step = unit * [1, 2, 5, 10].find((m) => m * unit >= raw * 0.999);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9)), out = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + 1e-9 * step; v += step) out.push(v);
  return out.map((value) => ({ value, text: fixed(value, digits) }));
}

/* The first of some round numbers that reaches the value: an axis that moves in steps. */
export const atLeast = (steps, value) => steps.find((v) => v >= value) || 2 * steps[steps.length - 1];

/* A picture starts empty, with one unit of the drawing for one pixel of the page. */
export function clear(svg, width, height) {
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
}

/* Axes in a box of an SVG picture, and marks in the axes' units; what leaves the box stops at its edge. */
export class Plot {
  constructor(svg, { box: [left, top, width, height], x, y, xLabel = "", yLabel = "", xTicks = 6, yTicks = 4 }) {
    Object.assign(this, { svg, left, top, width, height, x, y });
    const bottom = top + height;
    this.line(left, bottom, left + width, bottom, "afx-axis");
    for (const { value, text } of xTicks ? ticks(...x, xTicks) : []) {
      this.line(this.X(value), bottom, this.X(value), bottom + 4, "afx-axis");
      if (xLabel) this.text(this.X(value), bottom + 17, text, { "text-anchor": "middle", class: "afx-tick" });
    }
    for (const { value, text } of yTicks ? ticks(...y, yTicks) : []) {
      this.line(left, this.Y(value), left + width, this.Y(value), "afx-grid");
      this.text(left - 5, this.Y(value) + 4, text, { "text-anchor": "end", class: "afx-tick" });
    }
    if (xLabel) this.text(left + width, bottom + 33, xLabel, { "text-anchor": "end" });
    if (yLabel) this.text(left, top - 7, yLabel, { "text-anchor": "start" });
  }

  X(v) { return this.left + this.width * Math.min(Math.max((v - this.x[0]) / (this.x[1] - this.x[0]), 0), 1); }
  Y(v) { return this.top + this.height * (1 - Math.min(Math.max((v - this.y[0]) / (this.y[1] - this.y[0]), 0), 1)); }

  add(tag, attributes, ...children) {
    const node = h(tag, attributes, ...children);
    this.svg.append(node);
    return node;
  }

  line(x1, y1, x2, y2, kind) { return this.add("line", { x1, y1, x2, y2, class: kind }); }
  text(x, y, text, attributes = {}) { return this.add("text", { x, y, ...attributes }, text); }

  points(xs, ys) {
    return Array.from(xs, (v, i) => `${this.X(v).toFixed(2)},${this.Y(ys[i]).toFixed(2)}`).join("L");
  }

  curve(xs, ys, colour, kind = "line") {
    const look = { class: `afx-curve afx-${kind}`, stroke: `var(--afx-${colour})` };
    this.add("path", { d: `M${this.points(xs, ys)}`, ...look });
  }

  area(xs, ys, colour, kind) {
    const base = this.Y(this.y[0]).toFixed(2), last = xs.length - 1;
    const d = `M${this.X(xs[0])},${base}L${this.points(xs, ys)}L${this.X(xs[last])},${base}Z`;
    this.add("path", { d, class: `afx-area afx-${kind}`, fill: this.fill(colour, kind) });
  }

  fill(colour, kind) { return kind === "hatch" ? hatch(this.svg, colour) : `var(--afx-${colour})`; }

  rect(x0, x1, y0, y1, colour, kind = "block") {
    const left = this.X(x0), top = this.Y(y1);
    this.add("rect", {
      x: left, y: top, width: Math.max(0, this.X(x1) - left),   // a gap of rounding size may be negative
      height: this.Y(y0) - top,
      fill: this.fill(colour, kind), stroke: `var(--afx-${colour})`,
    });
  }
}

/* Stripes in a colour: a second sign beside the colour itself. */
function hatch(svg, colour) {
  const id = `afx-hatch-${Math.random().toString(36).slice(2)}`;
  const shape = { width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" };
  svg.append(h("defs", {}, h("pattern", { id, ...shape },
    h("rect", { width: 6, height: 6, fill: `var(--afx-${colour})`, opacity: 0.25 }),
    h("rect", { width: 2.5, height: 6, fill: `var(--afx-${colour})` }))));
  return `url(#${id})`;
}
