/* Repairs of what the theme and docutils leave out; axe-core checks the result on every page. */
(function () {
  "use strict";

  function repair() {
    // A name that differs from the visible text confuses voice control: let the text be the name.
    for (const e of document.querySelectorAll(".search-button-field, .nav-link, summary")) {
      if (e.textContent.trim()) e.removeAttribute("aria-label");
    }
    // The book's title stands outside every landmark.
    const title = document.querySelector(".sidebar-primary-items__start > .sidebar-primary-item");
    if (title) { title.setAttribute("role", "region"); title.setAttribute("aria-label", "Book title"); }
    // docutils puts entries of role doc-biblioentry (deprecated) into a list: they are its items.
    for (const e of document.querySelectorAll(".citation-list > .citation")) e.setAttribute("role", "listitem");
    // The contents name pages of two languages, and a Korean page has an English frame: say which is which.
    for (const e of document.querySelectorAll(".bd-sidebar-primary, .bd-header-article, .bd-sidebar-secondary h2, footer p")) {
      if (!e.matches(".page-facts")) e.lang = "en";
    }
    for (const e of document.querySelectorAll(".bd-links a, .bd-links .caption-text, .prev-next-area a")) {
      e.lang = /[\uac00-\ud7a3]/.test(e.textContent) ? "ko" : "en";
    }
    // What scrolls sideways must be reachable by keyboard.
    // First asked, then changed: a change between two questions makes the browser lay out the page again.
    const boxes = [...document.querySelectorAll("div.math, .bd-article table, .cell_output pre, .highlight pre")];
    const wide = boxes.map((e) => e.scrollWidth > e.clientWidth);
    boxes.forEach((e, i) => (wide[i] ? e.setAttribute("tabindex", "0") : e.removeAttribute("tabindex")));
  }

  window.addEventListener("load", repair);          // the theme builds part of the page late
  document.addEventListener("formulas", repair);    // formulas.js, when all are drawn
  window.addEventListener("resize", repair);
})();
