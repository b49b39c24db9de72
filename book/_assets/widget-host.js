/* Draws the book's explorers in a built page, where no kernel runs.

   The build saves every widget's state in the page as JSON: one script of type
   "...widget-state+json" with all models, and one script of type "...widget-view+json" in each
   place where a widget was shown. An explorer is an anywidget: its state carries its own ES module
   (`_esm`) and style sheet (`_css`), so this file only has to hand the module a model and an element.

   - Anything that is not an anywidget (a slider of ipywidgets, say) needs Python: the reader is told
     where it runs and sees the static picture if the cell has one.
   - A module that fails shows its error in its place and in the console. Nothing is swallowed. */
(function () {
  "use strict";
  const MIME = "application/vnd.jupyter.widget-";
  const models = new Map();       // model id -> model
  const modules = new Map();      // ES module text -> { url, promise }
  const shownBy = new Map();      // module URL -> elements it draws in, to place later errors
  const cleanups = [];            // what the modules asked to run when the page goes away

  /* The part of a Jupyter widget model that a module may use. As in Jupyter, `set` tells the
     listeners at once; `save_changes` and `send` would go to Python, and here they go nowhere. */
  class Model {
    constructor(state) { this.state = { ...state }; this.listeners = new Map(); }
    get(key) { return this.state[key]; }
    set(key, value) {
      if (typeof key === "object") { for (const k of Object.keys(key)) this.set(k, key[k]); return; }
      if (Object.is(this.state[key], value)) return;
      this.state[key] = value;
      this.emit("change:" + key, value);
      this.emit("change");
    }
    on(names, listener) {
      for (const name of names.split(/\s+/)) {
        if (!this.listeners.has(name)) this.listeners.set(name, []);
        this.listeners.get(name).push(listener);
      }
    }
    off(names, listener) {
      if (!names) { this.listeners.clear(); return; }
      for (const name of names.split(/\s+/)) {
        const left = (this.listeners.get(name) || []).filter((f) => listener && f !== listener);
        this.listeners.set(name, left);
      }
    }
    emit(name, value) { for (const f of [...(this.listeners.get(name) || [])]) f(this, value); }
    save_changes() {}
    send() {}
  }

  function fail(el, error) {
    console.error(error);
    if (el.querySelector(":scope > .afx-error")) return;
    const p = document.createElement("p");
    p.className = "afx-error";
    p.setAttribute("role", "alert");
    p.textContent = "This explorer stopped: " + ((error && error.message) || error);
    el.append(p);
  }

  function load(esm) {
    if (!modules.has(esm)) {
      const url = URL.createObjectURL(new Blob([esm], { type: "text/javascript" }));
      modules.set(esm, { url, promise: import(url).then(async (m) =>
        typeof m.default === "function" ? m.default() : m.default) });
    }
    return modules.get(esm);
  }

  async function draw(id, record, el) {
    if (record.buffers && record.buffers.length) {
      throw new Error("binary trait " + record.buffers[0].path.join(".") + ": use JSON or base64 text");
    }
    const { url, promise } = load(record.state._esm);
    shownBy.set(url, [...(shownBy.get(url) || []), el]);
    if (record.state._css) {
      const style = document.createElement("style");
      style.textContent = record.state._css;
      el.before(style);
    }
    const widget = await promise, model = models.get(id);
    await styled;
    if (widget.initialize && !model.ready) model.ready = widget.initialize({ model });
    for (const end of [await model.ready, await widget.render({ model, el })]) {
      if (typeof end === "function") cleanups.push(end);
    }
    await new Promise(requestAnimationFrame);    // the frame in which it is drawn
  }

  /* ipywidgets.jslink and jsdlink: models that tie a trait of one widget to a trait of another. */
  function link(state) {
    const end = ([ref, trait]) => ({ model: models.get(ref.replace("IPY_MODEL_", "")), trait });
    const from = end(state.source), to = end(state.target);
    const tie = (a, b) => a.model.on("change:" + a.trait, () => b.model.set(b.trait, a.model.get(a.trait)));
    to.model.set(to.trait, from.model.get(from.trait));
    tie(from, to);
    if (state._model_name === "LinkModel") tie(to, from);
  }

  /* A widget that only a kernel can run: say so, and let the no-script picture be seen. */
  function needsKernel(el, cell) {
    const p = document.createElement("p");
    p.className = "afx-offline";
    p.textContent = "This control needs Python. Open the page in Colab or Jupyter to run it.";
    el.append(p);
    const still = cell && cell.querySelector("noscript");
    if (still) p.insertAdjacentHTML("beforebegin", still.textContent);
  }

  function saved() {
    const records = {};
    for (const s of document.querySelectorAll(`script[type="${MIME}state+json"]`)) {
      Object.assign(records, JSON.parse(s.textContent).state);
    }
    return records;
  }

  function start() {
    const records = saved();
    for (const [id, record] of Object.entries(records)) models.set(id, new Model(record.state));
    for (const record of Object.values(records)) {
      if (/^(Directional)?LinkModel$/.test(record.model_name)) {
        link({ ...record.state, _model_name: record.model_name });
      }
    }
    const drawn = [];
    for (const view of document.querySelectorAll(`script[type="${MIME}view+json"]`)) {
      const id = JSON.parse(view.textContent).model_id, record = records[id];
      const el = document.createElement("div");
      el.className = "afx-host";
      view.after(el);
      if (!record || record.model_name !== "AnyModel") needsKernel(el, view.closest(".cell_output"));
      else drawn.push(draw(id, record, el).catch((error) => fail(el, error)));
    }
    return Promise.all(drawn);
  }

  /* Errors in a module's event handlers carry the module's URL: show them beside its picture. */
  window.addEventListener("error", (event) => {
    for (const el of shownBy.get(event.filename) || []) fail(el, event.error || event.message);
  });
  window.addEventListener("pagehide", (event) => {
    if (!event.persisted) for (const end of cleanups) end();
  });
  // The modules load while the page is read, and are drawn before its other scripts run, which wait for the
  // styles. So do we: the sizes of a page without styles would be wrong.
  for (const { state } of Object.values(saved())) {
    if (state._esm) load(state._esm).promise.catch(() => "told where it is drawn");
  }
  const read = new Promise((go) => {
    if (document.readyState !== "loading") go();
    else document.addEventListener("readystatechange", go, { once: true });
  });
  const loaded = new Promise((go) => {             // no style comes later, if one is missing
    if (document.readyState === "complete") go();
    else window.addEventListener("load", go, { once: true });
  });
  const styled = read.then(() => Promise.all([...document.querySelectorAll("link[rel=stylesheet]")].map((link) =>
    link.sheet || Promise.race([loaded, new Promise((go) => link.addEventListener("load", go))]))));
  window.explorers = read.then(start);   // formulas.js waits for them
})();
