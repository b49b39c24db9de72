/* Draws the formulas when the explorers stand, first those in sight, and some at a time: in between a
   slow machine can answer its reader. The text around them can be read before. */
(function () {
  "use strict";
  const { mathjax } = document.currentScript.dataset, AT_ONCE = 30;
  const pause = () => new Promise((go) => setTimeout(go));
  const load = () => document.head.append(Object.assign(document.createElement("script"), { src: mathjax }));

  async function draw() {
    const middle = innerHeight / 2, from = ({ top, bottom }) => Math.abs((top + bottom) / 2 - middle);
    const found = [...document.querySelectorAll(".math")].map((node) => [from(node.getBoundingClientRect()), node]);
    const nodes = found.sort(([a], [b]) => a - b).map(([, node]) => node);
    for (let i = 0; i < nodes.length; i += AT_ONCE) {
      await MathJax.typesetPromise(nodes.slice(i, i + AT_ONCE));
      await pause();
    }
    await MathJax.typesetPromise();      // what stands outside such a node, if there is any
    document.dispatchEvent(new Event("formulas"));
  }

  window.MathJax = { ...window.MathJax, startup: { pageReady: draw } };
  Promise.resolve(window.explorers).then(pause, pause).then(load);     // also where an explorer has failed
})();
