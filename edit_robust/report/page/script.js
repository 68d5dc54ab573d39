"use strict";
/* Tables sort by their headings, edits unfold, and a link to a folded run unfolds it. Without this all is shown. */
(() => {
  const units = { h: 3600, min: 60, s: 1 };

  function number(text) {
    const plain = text.replace(/[\u00a0,]/g, (c) => (c === "," ? "" : " ")).trim();
    if (/^infinite/.test(plain)) return Infinity;
    const times = [...plain.matchAll(/([\d.]+) (h|min|s)\b/g)];
    if (times.length) return times.reduce((sum, [, n, unit]) => sum + n * units[unit], 0);
    const found = plain.match(/^(?:p [=<] |[<>] )?([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)/i);
    return found ? Number(found[1]) : NaN;
  }

  function key(body, column) {
    const cell = body.rows[0].cells[column];
    return (cell && (cell.dataset.value ?? cell.textContent.trim())) || "";
  }

  function compare(a, b, up) {
    if (a === "" || b === "") return (a === "") - (b === "");
    const [x, y] = [number(a), number(b)];
    const order = Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x - y || 0;
    return up ? order : -order;
  }

  function sort(table, heading) {
    const up = heading.getAttribute("aria-sort") !== "ascending";
    for (const one of table.tHead.rows[0].cells) one.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const column = heading.cellIndex;
    const each = table.classList.contains("edits");
    const parts = each ? [...table.tBodies] : [...table.tBodies[0].rows].map((row) => ({ rows: [row], row }));
    parts.sort((a, b) => compare(key(a, column), key(b, column), up));
    for (const part of parts) (each ? table : table.tBodies[0]).append(part.row ?? part);
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const heading of table.tHead.rows[0].cells) {
      if (!heading.textContent.trim()) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      heading.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => sort(table, heading));
    }
  }

  for (const body of document.querySelectorAll("table.edits > tbody")) {
    const cell = body.rows[0].cells[0];
    const button = document.createElement("button");
    button.type = "button";
    button.className = "open-it";
    button.setAttribute("aria-expanded", "false");
    button.setAttribute("aria-label", `edit ${cell.textContent.trim()}: what was asked and answered`);
    button.append(...cell.childNodes);
    cell.append(button);
    button.addEventListener("click", () => {
      button.setAttribute("aria-expanded", String(body.classList.toggle("open")));
    });
  }

  function unfold() {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
    if (target) target.scrollIntoView();
  }
  addEventListener("hashchange", unfold);
  unfold();
})();
