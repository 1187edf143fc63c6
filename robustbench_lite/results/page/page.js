"use strict";
(() => {
  const root = document.documentElement, key = "robustbench-lite-theme";
  // a page opened from a file, or in a private window, may have no storage: then the choice holds until it is closed
  const kept = { get: () => { try { return localStorage.getItem(key); } catch { return null; } },
    set: (value) => { try { localStorage.setItem(key, value); } catch { /* not kept */ } } };
  if (["light", "dark"].includes(kept.get())) root.dataset.theme = kept.get();

  const byId = (id) => document.getElementById(id);
  const say = (text) => { byId("status").textContent = text; };

  function themes() {
    const button = byId("theme"), wish = matchMedia("(prefers-color-scheme: dark)");
    const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : wish.matches);
    const show = () => button.setAttribute("aria-pressed", String(dark()));
    button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; kept.set(root.dataset.theme); show(); });
    wish.addEventListener("change", show);
    button.hidden = false;
    show();
  }

  // the number that a cell begins with; what has none comes last, whichever way it is sorted
  function number(text) {
    const plain = text.trim().replace(/^<\s*/, "");
    return plain.startsWith("inf") ? Infinity : parseFloat(plain);
  }

  function sortBy(table, place, head, isNumber) {
    const current = head.getAttribute("aria-sort");
    const up = current ? current === "descending" : !isNumber;  // first click: best accuracy on top, words from a to z
    const rows = [...table.tBodies[0].rows].map((row) => ({ row, text: row.cells[place].textContent }));
    const order = up ? 1 : -1;
    if (isNumber) {
      for (const one of rows) one.value = number(one.text);
      rows.sort((a, b) => (isNaN(a.value) - isNaN(b.value)) || (a.value === b.value ? 0 : order * (a.value < b.value ? -1 : 1)) || 0);
    } else rows.sort((a, b) => order * a.text.localeCompare(b.text, "en", { numeric: true }));
    table.tBodies[0].append(...rows.map((one) => one.row));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    say(`${table.caption.textContent}: sorted by ${head.textContent}, ${up ? "ascending" : "descending"}.`);
  }

  function sorting() {
    for (const table of document.querySelectorAll("table.sortable")) {
      [...table.tHead.rows[0].cells].forEach((head, place) => {
        const button = document.createElement("button");
        button.type = "button";
        button.append(...head.childNodes);
        head.append(button);
        button.addEventListener("click", () => sortBy(table, place, head, head.classList.contains("num")));
      });
    }
  }

  function filtering() {
    const form = byId("filter"), [text, dataset, threat, flagged] = ["text", "dataset", "threat", "flagged"].map((name) => byId(`f-${name}`));
    const parts = [...document.querySelectorAll("[data-row], [data-part]")].map((part) => ({ part,
      text: (part.matches("details") ? part.querySelector("summary") : part).textContent.toLowerCase(),
      counted: part.closest("[data-counted]") !== null }));
    const every = parts.filter((one) => one.counted).length;
    const apply = () => {
      const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const one of parts) {
        const own = one.part.dataset;
        const fits = words.every((word) => one.text.includes(word))
          && (!dataset.value || !own.dataset || own.dataset === dataset.value)
          && (!threat.value || !own.threat || own.threat === threat.value)
          && (!flagged.checked || "flagged" in own || !one.part.closest("[data-counted], #diagnostics"));
        if (one.part.hidden === fits) one.part.hidden = !fits;
        shown += one.counted && fits;
      }
      say(`${shown} of ${every} rows shown.`);
    };
    form.addEventListener("input", apply);
    form.addEventListener("reset", () => setTimeout(apply));
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
    form.reset();
    apply();
  }

  function copying() {
    const button = byId("copy"), plan = byId("plan-text");
    if (!button) return;
    const byHand = () => { getSelection().selectAllChildren(plan); return document.execCommand("copy"); };
    button.addEventListener("click", async () => {
      let done = false;
      try { await navigator.clipboard.writeText(plan.textContent); done = true; } catch { done = byHand(); }
      byId("copied").textContent = done ? "Copied." : "It is selected now; copy it with the keyboard.";
    });
    button.hidden = false;
  }

  addEventListener("DOMContentLoaded", () => { themes(); sorting(); filtering(); copying(); });
})();
