"use strict";
// Sorts, filters and folds tables, and shows tooltips. Without it, the page can be read as it is.

const number = (cell) => cell?.dataset.v === undefined ? NaN : Number(cell.dataset.v);
const order = (column, down) => (a, b) => {
  const [left, right] = [a.cells[column], b.cells[column]], [x, y] = [number(left), number(right)];
  const found = Number.isNaN(x) || Number.isNaN(y) ? left.textContent.localeCompare(right.textContent, "en", { numeric: true }) : x - y;
  return (down ? -found : found) || a.dataset.i - b.dataset.i;
};

function short(value) {
  for (const letter of ["", "k", "M", "G"]) {
    if (value < 999.5) return value ? (letter || value % 1 ? value.toPrecision(3) : value) + letter : "";
    value /= 1000;
  }
  return value.toPrecision(3) + "T";
}
const timed = (label) => /(^| )ms$/.test(label);
const milliseconds = (value) => 0 < value && value < 0.01 ? String(Number(value.toPrecision(2))) : value.toFixed(value < 1 ? 3 : value < 10 ? 2 : value < 100 ? 1 : 0);

function sortable(table) {
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
  const tools = table.closest("section").querySelector(".tools"), at = (name) => heads.findIndex((head) => head.textContent === name);
  const state = { column: -1, down: false, group: "", words: "", open: new Set() };
  rows.forEach((row, i) => { row.dataset.i ??= i; });

  const longest = Math.max(...rows.map((row) => number(row.cells[at("share")]) || 0)) || 1;
  const sum = (members, column) => members.reduce((total, row) => total + (number(row.cells[column]) || 0), 0);
  function heading(name, members) {
    const row = body.insertRow();
    row.className = "group";
    row.dataset.i = members[0].dataset.i;
    heads.forEach((head, column) => {
      const cell = row.appendChild(document.createElement(column ? "td" : "th"));
      cell.className = members[0].cells[column].className;
      if (!column) {
        const button = cell.appendChild(document.createElement("button"));
        const open = state.open.has(name);
        button.type = "button";
        button.setAttribute("aria-expanded", open);
        button.textContent = `${open ? "▾" : "▸"} ${name || "(no module)"} (${members.length})`;
        button.onclick = () => { open ? state.open.delete(name) : state.open.add(name); show(); };
        return;
      }
      const label = head.textContent, total = sum(members, column);
      if (!timed(label) && !["share", "MACs", "bytes"].includes(label)) return;
      cell.dataset.v = total;
      cell.textContent = timed(label) ? milliseconds(total) : label === "share" ? `${(100 * total).toFixed(1)} %` : short(total);
      if (label === "share") cell.insertAdjacentHTML("afterbegin", `<i class="share" style="width:${100 * Math.min(total / longest, 1)}%"></i>`);
    });
    return row;
  }

  function show() {
    const matching = rows.filter((row) => `${row.textContent} ${row.dataset.words ?? ""} ${row.dataset.module ?? ""}`.toLowerCase().includes(state.words));
    const sorted = state.column < 0 ? [...matching].sort((a, b) => a.dataset.i - b.dataset.i) : [...matching].sort(order(state.column, state.down));
    body.replaceChildren();
    if (!state.group) body.append(...sorted);
    else {
      const groups = new Map();
      for (const row of sorted) {
        const name = state.group === "module" ? row.dataset.module : row.cells[at("operator")].textContent;
        groups.set(name, [...(groups.get(name) ?? []), row]);
      }
      const headings = [...groups].map(([name, members]) => [name, members, heading(name, members)]);
      if (state.column >= 0) headings.sort((a, b) => order(state.column, state.down)(a[2], b[2]));
      body.replaceChildren();
      for (const [name, members, row] of headings) body.append(row, ...(state.open.has(name) || state.words ? members : []));
    }
    heads.forEach((head, column) => {
      if (column === state.column) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    if (!tools) return;
    const column = heads.findLastIndex((head) => timed(head.textContent)), all = sum(rows, column), shown = sum(matching, column);
    tools.querySelector("output").textContent = `${matching.length} of ${rows.length} layers, ${milliseconds(shown)} ms, ${(100 * shown / (all || 1)).toFixed(0)} %`;
    for (const button of tools.querySelectorAll("[data-group]")) button.setAttribute("aria-pressed", button.dataset.group === state.group);
  }

  heads.forEach((head, column) => {
    head.tabIndex = 0;
    const sort = () => {
      const numbers = rows.some((row) => !Number.isNaN(number(row.cells[column])));
      if (state.column !== column) Object.assign(state, { column, down: numbers });
      else if (state.down === numbers) state.down = !numbers;
      else state.column = -1;
      show();
    };
    head.onclick = sort;
    head.onkeydown = (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(); } };
  });
  if (tools) {
    tools.hidden = false;
    tools.querySelector("input").oninput = (event) => { state.words = event.target.value.trim().toLowerCase(); show(); };
    for (const button of tools.querySelectorAll("[data-group]")) button.onclick = () => { state.group = button.dataset.group; show(); };
    show();
  }
}

// Tooltips: the text of an SVG element's title, or of data-tip; on a phone, a tap shows them.
const tip = document.body.appendChild(document.createElement("div"));
tip.id = "tip";
tip.hidden = true;
for (const title of document.querySelectorAll("svg title")) {
  title.parentElement.dataset.tip = title.textContent;
  title.remove();
}
function tell(event) {
  const element = event.target.closest?.("[data-tip]");
  tip.hidden = !element;
  if (!element) return;
  tip.textContent = element.dataset.tip;
  const box = element.getBoundingClientRect(), x = event.clientX || box.x + box.width / 2, y = event.clientY || box.y;
  tip.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${y + 18 + tip.offsetHeight > innerHeight ? y - tip.offsetHeight - 10 : y + 18}px`;
}
for (const kind of ["pointerover", "pointermove", "focusin", "click"]) document.addEventListener(kind, tell);
document.addEventListener("scroll", () => { tip.hidden = true; }, true);
document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

document.querySelectorAll("table.sorts").forEach(sortable);
