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

// ---- the frame of an explorer ---------------------------------------------------------------------

/* Build the frame in `el` and keep it in step with the model; returns the cleanup function.

     key       name of the state in the address
     label     what the explorer is, for screen readers
     pictures  [{ name, caption, legend: [[text, colour, kind]] }]
     buttons   [{ text, run(page) }], beside the ones that every explorer has
     traits    traits other than the controls' that change the picture
     draw      draw(page): page.get(trait), page.svg[name], page.width(name), page.say(items, note),
               page.describe(name, text); returns the numbers for the trait `shown` */
export function mount({ model, el }, { key, label, pictures, buttons = [], traits = [], draw }) {
  const inputs = model.get("inputs"), svg = {}, end = [];
  const on = (target, name, f) => {
    (target.on || target.addEventListener).call(target, name, f);
    end.push(() => (target.off || target.removeEventListener).call(target, name, f));
  };
  const status = h("p", { role: "status" });
  const page = {
    model, svg, moving: null,
    get: (name) => model.get(name),
    width: (name) => svg[name].clientWidth || svg[name].parentNode.clientWidth || 320,
    narrow: () => el.clientWidth < 560,    // pictures stand below each other: draw them lower
    describe: (name, text) => svg[name].setAttribute("aria-label", text),
    say(items, note = "") {
      status.replaceChildren(...items.map(([name, value, colour = "line"]) =>
        h("span", { class: "afx-item", style: `border-color: var(--afx-${colour})` },
          h("span", {}, name), h("span", { class: "afx-sr" }, " = "), h("b", {}, value),
          h("span", { class: "afx-sr" }, "; "))), h("span", { class: "afx-note" }, note));
    },
    note: (text) => status.lastChild.replaceChildren(text),
    set(state) { for (const [name, value] of Object.entries(state)) model.set(name, value); },
    /* Glide numbers to a new state; at once where the reader asked for less motion. */
    glide(state, ms = 600) {
      const from = Object.fromEntries(Object.keys(state).map((name) => [name, model.get(name)])), start = performance.now();
      cancelAnimationFrame(page.moving);
      if (matchMedia("(prefers-reduced-motion: reduce)").matches) ms = 0;
      const step = (now) => {
        const t = ms ? clamp((now - start) / ms, 0, 1) : 1, eased = t * t * (3 - 2 * t);
        page.moving = t < 1 ? requestAnimationFrame(step) : null;
        for (const name of Object.keys(state)) {
          model.set(name, t < 1 ? from[name] + (state[name] - from[name]) * eased : state[name]);
        }
      };
      step(start);
    },
  };

  // Several traits may change in one event: draw once, right after it.
  let waiting = false;
  const redraw = () => {
    waiting = false;
    model.set("shown", draw(page));
    if (page.moving === null) model.save_changes();
  };
  const later = page.redraw = () => { if (!waiting) { waiting = true; queueMicrotask(redraw); } };

  const figures = pictures.map(({ name, caption, legend = [] }) => {
    svg[name] = h("svg", { role: "img", "aria-label": caption });
    const keys = legend.map(([text, colour, kind]) => h("span", { class: "afx-key" },
      h("span", { class: `afx-swatch afx-${kind}`, style: `color: var(--afx-${colour})`, "aria-hidden": "true" }), text));
    return h("figure", { class: `afx-${name}` }, h("figcaption", {}, h("b", {}, caption), h("span", { class: "afx-legend" }, ...keys)), svg[name]);
  });
  const rows = inputs.map((input) => control(page, input, (name) => on(model, "change:" + name, later)));
  const action = ({ text, run }) => {
    const button = h("button", { type: "button" }, text);
    button.addEventListener("click", () => { cancelAnimationFrame(page.moving); page.moving = null; run(page); });
    return button;
  };
  const all = [...buttons, {
    text: "Reset",
    run: () => {
      page.set(Object.fromEntries(inputs.map(({ name, start }) => [name, start])));
      redraw();
      page.note("Back at the start.");
    },
  }];
  if (inBook()) all.push({ text: "Copy link to this state", run: () => copyLink(page, key, inputs) });

  el.classList.add("afx");
  el.setAttribute("role", "group");
  el.setAttribute("aria-label", label);
  el.append(h("div", { class: "afx-pictures" }, ...figures), status,
    h("div", { class: "afx-controls" }, ...rows), h("div", { class: "afx-buttons" }, ...all.map(action)));

  const fromAddress = () => {
    const state = parseState(location.hash, key, inputs);
    if (!Object.keys(state).length) return;
    page.set(state);
    el.scrollIntoView({ block: "nearest" });
  };
  for (const name of traits) on(model, "change:" + name, later);
  on(window, "hashchange", fromAddress);
  fromAddress();
  redraw();
  const sizes = new ResizeObserver(later);   // also calls once when the explorer first has a size
  figures.forEach((figure) => sizes.observe(figure));
  return () => { sizes.disconnect(); cancelAnimationFrame(page.moving); end.forEach((f) => f()); };
}

/* A labelled native input tied to its trait. */
function control(page, { name, label, min, max, step, options }, watch) {
  const { model } = page, shown = h("b", { "aria-hidden": "true" });
  const input = options
    ? h("select", {}, ...options.map((text) => h("option", {}, text)))
    : h("input", { type: "range", min, max, step });
  const show = () => {
    input.value = model.get(name);
    if (!options) shown.textContent = fixed(model.get(name), decimals(step));
  };
  input.addEventListener("input", () => {
    cancelAnimationFrame(page.moving);
    page.moving = null;
    model.set(name, options ? input.value : Number(input.value));
  });
  model.on("change:" + name, show);
  watch(name);
  show();
  return h("label", {}, h("span", {}, label, " ", shown), input);
}

/* A link to the page makes sense in the book, not inside JupyterLab or Colab's frames. */
function inBook() {
  return window === window.top && !document.querySelector("#jupyter-config-data, [data-jp-theme-name]");
}

function copyLink(page, key, inputs) {
  location.replace(writeState(key, inputs, page.get));
  const told = (text) => page.note(text);
  if (!navigator.clipboard) told("The link is in the address bar.");
  else navigator.clipboard.writeText(location.href).then(
    () => told("Link copied."), () => told("The link is in the address bar."));
}
