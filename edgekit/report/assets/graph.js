"use strict";
// Draws the edges of all unfolded blocks. The page defines rows, columns and lanes; the browser computes their positions.
const SVG = "http://www.w3.org/2000/svg";

function draw(inside) {
  const places = [...inside.children].filter((place) => place.dataset.row !== undefined);
  const rows = [];
  for (const place of places) {
    const row = (rows[place.dataset.row] ??= { top: Infinity, bottom: -Infinity });
    row.top = Math.min(row.top, place.offsetTop);
    row.bottom = Math.max(row.bottom, place.offsetTop + place.offsetHeight);
  }
  const parts = inside.dataset.edges.split(" ").filter(Boolean).map((edge) => {
    const [source, target] = edge.split("-").map((index) => places[index]);
    return path(source, target, rows[source.dataset.row].bottom, rows[target.dataset.row]);
  });
  const svg = inside.querySelector(":scope > .edges") ?? inside.insertBefore(document.createElementNS(SVG, "svg"), inside.firstChild);
  svg.setAttribute("class", "edges");
  svg.innerHTML = parts.join("");
}

// Goes straight down to the end of its row, in a curve to the next row, and straight down there.
function path(source, target, bend, row) {
  const x = source.offsetLeft + source.offsetWidth / 2, toX = target.offsetLeft + target.offsetWidth / 2;
  const lane = target.classList.contains("lane"), tip = !lane && !target.classList.contains("frame");
  const start = source.offsetTop + source.offsetHeight, middle = (bend + row.top) / 2;
  const end = lane ? row.bottom : row.top - (tip ? 5 : 0);
  const curve = `M${x} ${start}V${bend}C${x} ${middle} ${toX} ${middle} ${toX} ${Math.min(row.top, end)}V${end}`;
  return `<path d="${curve}"/>` + (tip ? `<path class="tip" d="M${toX} ${row.top}l-3.5 -7h7z"/>` : "");
}

// Whether no folded block contains it.
const seen = (element) => !element.closest("details:not([open]) > .inside");

function drawNow() {
  for (const inside of document.querySelectorAll(".inside")) if (seen(inside)) draw(inside);
}

let waiting = 0;
function drawAll() {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(drawNow);
}

// Keeps the clicked element under the pointer while the rest of the drawing moves.
function keepingInPlace(element, change) {
  const before = element.getBoundingClientRect();
  change();
  const after = element.getBoundingClientRect();
  scrollBy(after.left - before.left + (after.width - before.width) / 2, after.top - before.top);
}

function fold(what) {
  const blocks = [...document.querySelectorAll("details")];
  const shown = blocks.filter((block) => !block.open && seen(block));
  if (what === "more") for (const block of shown) block.open = true;
  else for (const block of blocks) block.open = what === "all";
}

function move(from, steps) {
  const shown = [...document.querySelectorAll("summary")].filter(seen);
  shown[shown.indexOf(from) + steps]?.focus();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  const summary = event.target.closest("summary");
  if (button) keepingInPlace(button, () => fold(button.dataset.do));
  if (!summary) return;
  event.preventDefault();
  keepingInPlace(summary, () => { summary.parentElement.open = !summary.parentElement.open; });
});

document.addEventListener("keydown", (event) => {
  const summary = event.target.closest("summary");
  if (!summary || event.ctrlKey || event.altKey || event.metaKey) return;
  const block = summary.parentElement;
  const keys = {
    ArrowDown: () => move(summary, 1),
    ArrowUp: () => move(summary, -1),
    ArrowRight: () => { block.open = true; },
    ArrowLeft: () => { block.open = false; },
  };
  if (!(event.key in keys)) return;
  event.preventDefault();
  keys[event.key]();
});

document.addEventListener("toggle", drawAll, true);
new ResizeObserver(drawAll).observe(document.querySelector(".graph"));
drawNow();  // without waiting for a frame, which a background page never gets
