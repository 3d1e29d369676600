"use strict";
// Drawings of graphs: edges of all unfolded blocks, zoom, search, facts. The page defines rows, columns and lanes; the browser computes their positions.
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

function graphView(root) {
  const alone = root === document.body;  // the page has nothing but the graph

  // Whether no folded block contains it.
  const seen = (element) => !element.closest("details:not([open]) > .inside");

  function drawNow() {
    for (const inside of root.querySelectorAll(".inside")) if (seen(inside)) draw(inside);
  }

  let waiting = 0;
  function drawAll() {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(drawNow);
  }

  // The viewport: the drawing is moved and scaled in it. Without scripts, the page scrolls instead.
  const port = root.querySelector(".graph"), view = port.querySelector(".view"), map = root.querySelector(".graph-map");
  const LEAST = 0.02, MOST = 4, EDGE = 24;
  let x = 0, y = 0, scale = 1;

  function place() {
    const wide = view.offsetWidth * scale, high = view.offsetHeight * scale, room = 80;
    x = Math.min(Math.max(x, room - wide), port.clientWidth - room);
    y = Math.min(Math.max(y, room - high), port.clientHeight - room);
    view.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
    drawMap();
  }

  function zoom(factor, atX = port.clientWidth / 2, atY = port.clientHeight / 2) {
    const next = Math.min(Math.max(scale * factor, LEAST), MOST);
    x = atX - (atX - x) * next / scale;
    y = atY - (atY - y) * next / scale;
    scale = next;
    place();
  }

  function fit(whole) {
    const width = (port.clientWidth - 2 * EDGE) / view.offsetWidth, height = (port.clientHeight - 2 * EDGE) / view.offsetHeight;
    scale = Math.min(1, width, whole ? height : 1);
    if (!whole) scale = Math.max(scale, 0.4);
    x = (port.clientWidth - view.offsetWidth * scale) / 2;
    y = EDGE;
    place();
  }

  function bring(element, least = 0) {
    if (scale < least) scale = least;
    const at = element.getBoundingClientRect(), own = view.getBoundingClientRect(), ratio = scale * view.offsetWidth / own.width;
    x = port.clientWidth / 2 - (at.left - own.left + at.width / 2) * ratio;
    y = Math.min(port.clientHeight / 3, port.clientHeight / 2) - (at.top - own.top) * ratio;
    place();
  }

  // A map of the whole drawing, if it is much higher than the viewport; a click goes there.
  function drawMap() {
    const high = port.clientHeight - 2 * EDGE, ratio = high / view.offsetHeight;
    map.hidden = view.offsetHeight * scale < 3 * port.clientHeight || port.clientWidth < 500;
    if (map.hidden) return;
    map.width = Math.min(Math.max(view.offsetWidth * ratio, 24), 90);
    map.height = high;
    const paint = map.getContext("2d"), style = getComputedStyle(document.body), own = view.getBoundingClientRect();
    paint.fillStyle = style.getPropertyValue("--edge");
    for (const card of view.querySelectorAll(".card")) {
      if (!seen(card)) continue;
      const at = card.getBoundingClientRect(), shrink = map.width / own.width;
      paint.fillRect((at.left - own.left) * shrink, (at.top - own.top) / own.height * high, Math.max(at.width * shrink, 2), Math.max(at.height / own.height * high, 1));
    }
    paint.strokeStyle = style.getPropertyValue("--two");
    paint.lineWidth = 2;
    paint.strokeRect(1, -y / own.height * high, map.width - 2, Math.max(port.clientHeight / own.height * high, 4));
  }

  // Keeps the clicked element under the pointer while the rest of the drawing moves.
  function keepingInPlace(element, change) {
    const before = element.getBoundingClientRect();
    change();
    const after = element.getBoundingClientRect();
    x -= after.left - before.left + (after.width - before.width) / 2;
    y -= after.top - before.top;
    place();
  }

  function fold(what) {
    const blocks = [...root.querySelectorAll("details")];
    const shown = blocks.filter((block) => !block.open && seen(block));
    if (what === "more") for (const block of shown) block.open = true;
    else for (const block of blocks) block.open = what === "all";
    fit(false);
  }

  function move(from, steps) {
    const shown = [...root.querySelectorAll("summary")].filter(seen), next = shown[shown.indexOf(from) + steps];
    if (!next) return;
    next.focus({ preventScroll: true });
    bring(next);
  }

  // The facts of a layer or a block: the lines of its title.
  const facts = root.querySelector(".graph-facts"), cards = [...root.querySelectorAll(".card")];
  for (const card of cards) {
    card.dataset.facts = card.title;
    card.removeAttribute("title");
  }
  function tell(card) {
    for (const other of root.querySelectorAll(".chosen")) other.classList.remove("chosen");
    facts.hidden = !card;
    if (!card) return;
    card.classList.add("chosen");
    const [name, ...lines] = card.dataset.facts.split("\n");
    facts.replaceChildren(...[["b", name], ...lines.map((line) => ["span", line])].map(([tag, text]) => {
      const element = document.createElement(tag);
      element.textContent = text;
      return element;
    }));
  }

  // Search: every word must be in the facts; Enter goes to the next match and unfolds what it is in.
  const search = root.querySelector("[type=search]"), count = root.querySelector(".tools output");
  let hits = [], hit = -1;
  function find() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    hits = words.length ? cards.filter((card) => words.every((word) => `${card.textContent}\n${card.dataset.facts}`.toLowerCase().includes(word))) : [];
    hit = -1;
    for (const card of cards) card.classList.toggle("hit", hits.includes(card));
    count.textContent = words.length ? `${hits.length} found` : "";
  }
  function next(step) {
    if (!hits.length) return;
    hit = (hit + step + hits.length) % hits.length;
    for (let block = hits[hit].parentElement.closest("details"); block; block = block.parentElement.closest("details")) {
      if (!block.contains(hits[hit]) || hits[hit].parentElement !== block) block.open = true;
    }
    bring(hits[hit], 0.8);
    tell(hits[hit]);
    count.textContent = `${hit + 1} of ${hits.length}`;
  }
  search.addEventListener("input", find);

  const pointers = new Map();
  let dragged = false;
  port.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    dragged = false;
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  });
  addEventListener("pointermove", (event) => {
    const last = pointers.get(event.pointerId);
    if (!last) return;
    const now = { x: event.clientX, y: event.clientY }, other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (!dragged && Math.hypot(now.x - last.x, now.y - last.y) < 4) return;
    dragged = true;
    if (other) {
      const box = port.getBoundingClientRect(), length = (point) => Math.hypot(point.x - other.x, point.y - other.y);
      zoom(length(now) / (length(last) || 1), (now.x + other.x) / 2 - box.left, (now.y + other.y) / 2 - box.top);
    }
    x += (now.x - last.x) / pointers.size;
    y += (now.y - last.y) / pointers.size;
    pointers.set(event.pointerId, now);
    place();
  });
  for (const kind of ["pointerup", "pointercancel"]) addEventListener(kind, (event) => pointers.delete(event.pointerId));
  port.addEventListener("wheel", (event) => {
    const box = port.getBoundingClientRect(), zooms = event.ctrlKey || event.metaKey;
    if (!zooms && !alone) return;  // in a page with more than the graph, the wheel scrolls the page
    event.preventDefault();
    if (zooms) zoom(Math.exp(-event.deltaY / 200), event.clientX - box.left, event.clientY - box.top);
    else { x -= event.shiftKey ? event.deltaY : event.deltaX; y -= event.shiftKey ? 0 : event.deltaY; place(); }
  }, { passive: false });
  port.addEventListener("scroll", () => port.scrollTo(0, 0));
  map.addEventListener("click", (event) => {
    y = port.clientHeight / 2 - event.offsetY / map.height * view.offsetHeight * scale;
    place();
  });

  const ACTIONS = { in: () => zoom(1.3), out: () => zoom(1 / 1.3), fit: () => fit(true), next: () => next(1) };
  root.addEventListener("click", (event) => {
    const button = event.target.closest("[data-do]"), card = event.target.closest(".card"), summary = event.target.closest("summary");
    if (button) (ACTIONS[button.dataset.do] ?? (() => fold(button.dataset.do)))();
    if (summary) event.preventDefault();
    if (dragged && port.contains(event.target)) return;
    if (port.contains(event.target)) tell(card);
    if (summary) keepingInPlace(summary, () => { summary.parentElement.open = !summary.parentElement.open; });
  });

  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.target === search) {
      if (event.key === "Enter") next(event.shiftKey ? -1 : 1);
      return;
    }
    const summary = event.target.closest("summary"), block = summary?.parentElement;
    const keys = {
      "+": () => zoom(1.3), "-": () => zoom(1 / 1.3), 0: () => fit(true), "/": () => search.focus(), Escape: () => tell(null),
      ...(summary && {
        ArrowDown: () => move(summary, 1),
        ArrowUp: () => move(summary, -1),
        ArrowRight: () => { block.open = true; },
        ArrowLeft: () => { block.open = false; },
      }),
    };
    if (!(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });

  root.addEventListener("toggle", drawAll, true);
  new ResizeObserver(drawAll).observe(view);
  root.classList.add("zooms");
  drawNow();  // without waiting for a frame, which a background page never gets
  fit(false);
  let width = port.clientWidth;
  addEventListener("resize", () => { x += (port.clientWidth - width) / 2; width = port.clientWidth; place(); });
}

document.querySelectorAll(".graph-view").forEach(graphView);
