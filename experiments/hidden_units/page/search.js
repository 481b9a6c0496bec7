// Searching, saving pictures, and what the reader's hands do.

// ---- Search

let places = [], place = -1;

function searchText() {
  const run = runs[state.run], query = $("query").value;
  if (state.query !== query) {
    state.query = query;
    places = [];
    place = -1;
    found = new Set();
    if (query) findAll(run, query);
  }
  next(`of “${state.query}”`);
}

// Of every place the steps that the query touches, a step being a character or a whole word.
function findAll(run, query) {
  run.joined ??= run.characters.join("");
  let step = 0, begin = 0; // of the step, in the joined text
  for (let at = run.joined.indexOf(query); at >= 0; at = run.joined.indexOf(query, at + 1)) {
    while (begin + run.characters[step].length <= at) begin += run.characters[step++].length;
    places.push(step);
    for (let last = step, end = begin; end < at + query.length; end += run.characters[last++].length) found.add(last);
  }
}

function next(what) {
  if (!places.length) {
    $("status").textContent = `No place ${what}`;
    draw();
    return;
  }
  place = (place + 1) % places.length;
  $("status").textContent = `Place ${place + 1} of ${places.length.toLocaleString()} ${what}`;
  jump(places[place]);
}

function selectedSteps() {
  const selection = getSelection();
  if (!selection.rangeCount) return [];
  const steps = Array.from(document.querySelectorAll(".panel:first-child .row span"))
    .filter((sign) => selection.containsNode(sign, true)).map((sign) => Number(sign.dataset.step));
  return steps;
}

function searchAlike() {
  const run = runs[state.run], steps = selectedSteps();
  if (!steps.length) {
    $("status").textContent = "Select some characters of the text first";
    return;
  }
  const isOn = (unit, step) => scaled(run, unit, step) >= ON;
  const on = run.signals.map((_, unit) => unit).filter((unit) => steps.every((step) => isOn(unit, step)));
  const counts = new Uint16Array(run.steps);
  for (const unit of on) {
    const [low, high] = range(run, unit), least = low + ON * (high - low), track = run.tracks[unit];
    for (let step = 0; step < run.steps; step++) if (track[step] >= least) counts[step]++;
  }
  const inside = new Set(steps), enough = Math.max(1, Math.ceil(0.8 * on.length));
  found = new Set();
  places = [];
  for (let step = 0; step < run.steps; step++) {
    if (counts[step] >= enough && !inside.has(step)) {
      if (!found.has(step - 1)) places.push(step);
      found.add(step);
    }
  }
  places.sort((a, b) => counts[b] - counts[a]);
  place = -1;
  state.query = $("query").value = "";
  if (!on.length) places = [];
  next(`where ${enough} of the ${on.length} units that are on in the selection are on`);
}

// ---- Pictures of what one sees

function picture() {
  const panel = panels[0], { run, box } = panel, unit = panel.unit(), width = 8;
  const first = Math.floor(box.scrollTop / ROW);
  const rows = run.lines.slice(first, first + Math.ceil(box.clientHeight / ROW));
  const signs = rows.flatMap(([start, end], y) => {
    let x = 0;
    return run.characters.slice(start, end).map((character, i) => {
      const [paper, ink] = colour(run, unit, start + i), text = shown(character), cell = text.length * width;
      x += cell;
      return { x: x - cell, y: y * ROW, cell, text, paper, ink };
    });
  });
  const widest = Math.max(WRAP * width, ...signs.map(({ x, cell }) => x + cell));
  return { signs, width: widest, height: rows.length * ROW };
}

function svg() {
  const { signs, width, height } = picture();
  const safe = (text) => text.replace(/[&<>"\u0000-\u001f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (c) => `&#${c < " " ? 0xfffd : c.codePointAt(0)};`);
  const marks = signs.map(({ x, y, cell, text, paper, ink }) =>
    `<rect x="${x}" y="${y}" width="${cell}" height="${ROW}" fill="${paper}"/>` +
    `<text x="${x + cell / 2}" y="${y + 14}" fill="${ink}">${safe(text)}</text>`);
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" ` +
    `font-family="monospace" font-size="13" text-anchor="middle">${marks.join("")}</svg>`;
}

function save(blob, suffix) {
  const link = document.createElement("a"), [layer, name, unit] = runs[state.run].signals[state.unit];
  link.href = URL.createObjectURL(blob);
  link.download = `${name}_${unit}_layer_${layer}.${suffix}`;
  link.click();
  URL.revokeObjectURL(link.href);
  $("status").textContent = `Saved ${link.download}`;
}

function savePng() {
  const { signs, width, height } = picture(), canvas = document.createElement("canvas");
  canvas.width = 2 * width;
  canvas.height = 2 * height;
  const pen = canvas.getContext("2d");
  pen.scale(2, 2);
  pen.font = "13px monospace";
  pen.textAlign = "center";
  for (const { x, y, cell, text, paper, ink } of signs) {
    pen.fillStyle = paper;
    pen.fillRect(x, y, cell, ROW);
    pen.fillStyle = ink;
    pen.fillText(text, x + cell / 2, y + 14);
  }
  canvas.toBlob((blob) => save(blob, "png"));
}

// ---- Events

for (const name of ["run", "beside", "label"]) $(name).addEventListener("change", (e) => change(name, e.target.value));
$("list").addEventListener("scroll", drawUnits);
$("list").addEventListener("click", (event) => {
  const row = event.target.closest(".unit");
  if (row) choose(Number(row.dataset.unit));
});
$("search").addEventListener("submit", (event) => { event.preventDefault(); searchText(); });
$("alike").addEventListener("mousedown", (event) => event.preventDefault()); // the selection stays
$("alike").addEventListener("click", searchAlike);
$("moved").addEventListener("click", explainNext);
$("svg").addEventListener("click", () => save(new Blob([svg()], { type: "image/svg+xml" }), "svg"));
$("png").addEventListener("click", savePng);
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, select")) return;
  const steps = { ArrowDown: 1, ArrowUp: -1, j: 1, k: -1, PageDown: 10, PageUp: -10 };
  const inText = event.target.closest(".text");
  if (event.key in steps && !inText) { event.preventDefault(); move(steps[event.key]); }
  if (event.key === "/") { event.preventDefault(); $("query").focus(); }
});
addEventListener("hashchange", begin);
addEventListener("resize", draw);
begin();
