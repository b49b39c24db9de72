/* What every explorer shares: native controls tied to the model's traits, one status line, a link
   that carries the state, and plots in SVG. Colours are CSS variables, so pictures follow the theme. */

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "g", "path", "line", "rect", "circle", "text", "defs", "pattern"]);

/* Make an element: h("p", { class: "x" }, "text", child). Text never becomes markup. */
export function h(tag, attributes = {}, ...children) {
  const node = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/* A number as a reader sees it: fixed digits, a real minus sign, no "-0". */
export function fixed(value, digits = 4) {
  if (!Number.isFinite(value)) return value > 0 ? "\u221e" : value < 0 ? "\u2212\u221e" : "not a number";
  return value.toFixed(digits).replace(/^-(?=0\.?0*$)/, "").replace("-", "\u2212");
}

const decimals = (step) => (String(step).split(".")[1] || "").length;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// ---- state in the address -----------------------------------------------------------------------

/* "#gap?a=0.7&x=1" -> { a: 0.7, x: 1 }. Only known names and sensible values count: numbers are held
   to their range, choices to their options, anything else is left out. */
export function parseState(hash, key, inputs) {
  const state = {}, [head, ...rest] = hash.replace(/^#/, "").split("?");
  if (head !== key) return state;
  const asked = new URLSearchParams(rest.join("?"));
  for (const { name, options, min, max, step } of inputs) {
    const text = asked.get(name);
    if (text === null) continue;
    if (options) { if (options.includes(text)) state[name] = text; continue; }
    if (!/^-?\d+(\.\d+)?$/.test(text)) continue;
    const value = clamp(Number(text), min, max);
    state[name] = step === 1 ? Math.round(value) : value;
  }
  return state;
}

export function writeState(key, inputs, get) {
  const pairs = inputs.map(({ name }) => {
    const value = get(name);
    return [name, typeof value === "number" ? String(Number(value.toFixed(6))) : value];
  });
  return `#${key}?${new URLSearchParams(pairs)}`;
}

// ---- the frame of an explorer -------------------------------------------------------------------

/* What `draw` and a button's `run` get: the state, the pictures and the status line. */
class Page {
  constructor(model, el) {
    Object.assign(this, { model, el, svg: {}, sizes: new Map(), status: h("p", { role: "status" }), moving: null });
  }

  get(name) { return this.model.get(name); }
  set(state) { for (const [name, value] of Object.entries(state)) this.model.set(name, value); }

  // Told by the browser: to ask for a width in the middle of drawing would make it lay out the whole page.
  width(name) { return this.sizes.get(this.svg[name]) || 320; }
  narrow() { return this.sizes.get(this.el) < 560; }    // pictures stand below each other: draw them lower
  describe(name, text) { this.svg[name].setAttribute("aria-label", text); }

  /* The status line: numbers, each with its name and the colour it has in the pictures; a sentence. */
  say(items, sentence) {
    const hidden = (text) => h("span", { class: "afx-sr" }, text);
    this.status.replaceChildren(...items.map(([name, value, colour]) =>
      h("span", { class: "afx-item", style: `border-color: var(--afx-${colour})` },
        h("span", {}, name), hidden(" = "), h("b", {}, value), hidden("; "))),
    h("span", { class: "afx-note" }, sentence));
  }

  /* Glide numbers to a new state; at once where the reader asked for less motion. */
  glide(state, ms = 600) {
    this.stop();
    const names = Object.keys(state), from = names.map((name) => this.get(name));
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches, start = performance.now();
    const step = (now) => {
      const t = still ? 1 : clamp((now - start) / ms, 0, 1), eased = t * t * (3 - 2 * t);
      this.moving = t < 1 ? requestAnimationFrame(step) : null;
      names.forEach((name, i) =>
        this.model.set(name, t < 1 ? from[i] + (state[name] - from[i]) * eased : state[name]));
    };
    step(start);
  }

  stop() {
    cancelAnimationFrame(this.moving);
    this.moving = null;
  }
}

/* Build the frame in `el` and keep it in step with the model; returns the cleanup function.

     key       name of the state in the address
     label     what the explorer is, for screen readers
     pictures  [{ name, caption, legend: [[text, colour, kind]] }]
     buttons   [{ text, run(page) }], beside those that every explorer has
     traits    traits other than the controls' that change the picture
     draw      draw(page) draws, calls page.say and page.describe, returns the numbers for `shown`

   page.redraw() draws soon; page.tell(text) also adds a sentence to the status, until a change. */
export function mount({ model, el }, { key, label, pictures, buttons = [], traits = [], draw }) {
  const inputs = model.get("inputs"), page = new Page(model, el), end = [() => page.stop()];
  const onModel = (name, f) => {
    model.on("change:" + name, f);
    end.push(() => model.off("change:" + name, f));
  };

  // Several traits may change in one event: draw once, right after it.
  let waiting = false, told = "";
  const redraw = () => {
    waiting = false;
    model.set("shown", draw(page));
    if (told) page.status.lastChild.append(" ", told);
    if (page.moving === null) model.save_changes();
  };
  page.redraw = () => { if (!waiting) { waiting = true; queueMicrotask(redraw); } };
  page.tell = (text) => { told = text; page.redraw(); };
  for (const name of [...inputs.map((input) => input.name), ...traits]) onModel(name, () => page.tell(""));

  const all = [...buttons, { text: "Reset", run: () => reset(page, inputs) }];
  if (inBook()) all.push({ text: "Copy link to this state", run: () => copyLink(page, key, inputs) });
  el.classList.add("afx");
  el.setAttribute("role", "group");
  el.setAttribute("aria-label", label);
  el.append(
    h("div", { class: "afx-pictures" }, ...pictures.map((picture) => figure(page, picture))),
    page.status,
    h("div", { class: "afx-controls" },
      ...inputs.filter(({ hidden }) => !hidden).map((input) => control(page, input, onModel))),
    h("div", { class: "afx-buttons" }, ...all.map((action) => button(page, action))));

  const fromAddress = () => {
    const state = parseState(location.hash, key, inputs);
    const ours = location.hash === writeState(key, inputs, (name) => page.get(name));
    if (ours || !Object.keys(state).length) return;
    page.set(state);
    el.scrollIntoView({ block: "nearest" });
  };
  window.addEventListener("hashchange", fromAddress);
  end.push(() => window.removeEventListener("hashchange", fromAddress));
  fromAddress();
  const { status } = page, sizes = new ResizeObserver((entries) => {    // calls once there is a size: draws
    for (const { target, contentRect } of entries) {
      const width = Math.round(contentRect.width), same = page.sizes.get(target) === width;
      page.sizes.set(target, width);
      // The status line keeps the height it once needed: else the page below jumps with its sentences.
      if (target === status) status.style.minHeight = same || !status.style.minHeight ? `${contentRect.height}px` : "";
      else if (!same) page.redraw();
    }
  });
  for (const node of [el, status, ...Object.values(page.svg)]) sizes.observe(node);
  return () => { sizes.disconnect(); end.forEach((f) => f()); };
}

function figure(page, { name, caption, legend }) {
  const keys = legend.map(([text, colour, kind]) => {
    const style = `color: var(--afx-${colour})`;
    const swatch = h("span", { class: `afx-swatch afx-${kind}`, style, "aria-hidden": "true" });
    return h("span", { class: "afx-key" }, swatch, text);
  });
  page.svg[name] = h("svg", { role: "img", "aria-label": caption });
  return h("figure", { class: `afx-${name}` },
    h("figcaption", {}, h("b", {}, caption), h("span", { class: "afx-legend" }, ...keys)), page.svg[name]);
}

/* On a focused control: else JupyterLab takes the arrow keys and Enter for itself. */
const KEYS = { "data-lm-suppress-shortcuts": "true" };

/* A labelled native input tied to its trait. */
function control(page, { name, label, min, max, step, options }, onModel) {
  const shown = h("b", { "aria-hidden": "true" });
  const input = options
    ? h("select", KEYS, ...options.map((text) => h("option", {}, text)))
    : h("input", { type: "range", min, max, step, ...KEYS });
  const show = () => {
    input.value = page.get(name);
    if (!options) shown.textContent = fixed(page.get(name), decimals(step));
  };
  input.addEventListener("input", () => {
    page.stop();
    page.set({ [name]: options ? input.value : Number(input.value) });
  });
  onModel(name, show);
  show();
  return h("label", {}, h("span", {}, label, " ", shown), input);
}

function button(page, { text, run }) {
  const node = h("button", { type: "button", ...KEYS }, text);
  node.addEventListener("click", () => { page.stop(); run(page); });
  return node;
}

function reset(page, inputs) {
  page.set(Object.fromEntries(inputs.map(({ name, start }) => [name, start])));
  page.tell("Back at the start.");
}

/* A link to the page makes sense in the book, not inside JupyterLab or Colab's frames. */
function inBook() {
  return window === window.top && !document.querySelector("#jupyter-config-data, [data-jp-theme-name]");
}

function copyLink(page, key, inputs) {
  location.replace(writeState(key, inputs, (name) => page.get(name)));
  const inBar = () => page.tell("The link is in the address bar.");
  if (!navigator.clipboard) inBar();
  else navigator.clipboard.writeText(location.href).then(() => page.tell("Link copied."), inBar);
}
