"use strict";
// One page: units of a recorded model, sorted by how closely they follow a label, and the text coloured by one.

const WRAP = 96, ROW = 20, UNIT = 30, LEVELS = 255;
const ON = 0.75; // of a unit's range, from which it counts as on
const SHOWN = 0.2; // how closely a unit follows the labels that are listed beside it
const $ = (id) => document.getElementById(id);

function bytes(base64) {
  const binary = atob(base64), found = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) found[i] = binary.charCodeAt(i);
  return found;
}

const runs = JSON.parse($("data").textContent).runs.map((run) => {
  const characters = Array.from(run.text), steps = characters.length, all = bytes(run.values);
  const tracks = run.signals.map((_, unit) => all.subarray(unit * steps, (unit + 1) * steps));
  const labels = run.labels.map((label) => ({ ...label, values: bytes(label.values) }));
  const nats = run.nats && bytes(run.nats), movedValues = run.moved && bytes(run.moved.values);
  return { ...run, strange: new Set(run.strange), characters, steps, tracks, labels, nats, movedValues, lines: wrapped(characters), ends: null };
});

// Steps of every line; a step that ends with two line ends leaves an empty line behind.
function wrapped(characters) {
  const lines = [];
  let start = 0, width = 0;
  characters.forEach((character, i) => {
    width += character.length;
    if (character.endsWith("\n") || width >= WRAP || i + 1 === characters.length) {
      lines.push([start, i + 1]);
      if (character.endsWith("\n\n")) lines.push([i + 1, i + 1]);
      start = i + 1;
      width = 0;
    }
  });
  return lines;
}

// ---- State, kept in the address

const state = { run: 0, beside: -1, label: 0, unit: 0, at: 0, output: -1, query: "" };

function remember() {
  history.replaceState(null, "", "#" + new URLSearchParams(state));
}

const bestOf = (run, label) => {
  const score = run.scores[label.name];
  return run.signals.reduce((best, _, unit) => (strength(score, unit) > strength(score, best) ? unit : best), 0);
};

function recall() {
  if (!location.hash) state.unit = bestOf(runs[0], runs[0].labels[0]);
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
    if (name in state) state[name] = name === "query" ? value : Number(value) || 0;
  }
  state.run = within(state.run, 0, runs.length - 1);
  state.beside = within(state.beside, -1, runs.length - 1);
  state.label = within(state.label, 0, runs[state.run].labels.length - 1);
  state.unit = within(state.unit, 0, runs[state.run].signals.length - 1);
  state.at = within(state.at, 0, runs[state.run].steps - 1);
}

const within = (value, low, high) => Math.max(low, Math.min(high, value));

// ---- Colours: purple to orange, which colour-blind readers tell apart, through the paper's own

const dark = matchMedia("(prefers-color-scheme: dark)");
let colours = palette();
dark.addEventListener("change", () => { colours = palette(); draw(); });

function palette() {
  const middle = dark.matches ? [34, 36, 40] : [255, 255, 255];
  const ends = dark.matches ? [[158, 128, 214], [240, 148, 60]] : [[84, 39, 136], [179, 88, 6]];
  return Array.from({ length: LEVELS + 1 }, (_, level) => {
    const x = (2 * level) / LEVELS - 1, end = ends[x < 0 ? 0 : 1], part = Math.abs(x) ** 0.8;
    const rgb = middle.map((m, i) => Math.round(m + (end[i] - m) * part));
    const [r, g, b] = rgb.map((c) => ((c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    const light = 0.2126 * r + 0.7152 * g + 0.0722 * b;
    return [`rgb(${rgb})`, (light + 0.05) / 0.05 > 1.05 / (light + 0.05) ? "#000000" : "#ffffff"];
  });
}

function countsOf(run, unit) {
  const counts = new Uint32Array(LEVELS + 1);
  for (const value of run.tracks[unit]) counts[value]++;
  return counts;
}

// A unit's own range fills the palette: nine tenths of its values lie between the ends.
function range(run, unit) {
  run.ends ??= [];
  if (!run.ends[unit]) {
    const counts = countsOf(run, unit);
    const at = (part) => {
      let seen = 0, level = 0;
      while (level < LEVELS && (seen += counts[level]) <= part * run.steps) level++;
      return level;
    };
    const low = at(0.05), high = at(0.95);
    run.ends[unit] = [low, Math.max(high, low + 1)];
  }
  return run.ends[unit];
}

function scaled(run, unit, step) {
  const [low, high] = range(run, unit);
  return within((run.tracks[unit][step] - low) / (high - low), 0, 1);
}

const colour = (run, unit, step) => colours[Math.round(scaled(run, unit, step) * LEVELS)];
const exact = (run, unit, step) =>
  run.low[unit] + (run.tracks[unit][step] * (run.high[unit] - run.low[unit])) / LEVELS;
const nameOf = (run, unit) => {
  const [layer, name, number] = run.signals[unit];
  return `${name.replace("backward.", "←")} ${number}, layer ${layer}`;
};
const shown = (character) =>
  ({ "\n": "↵", "\t": "⇥", "\r": "␍" })[character] ?? character.replace(/\n+$/, "");
const figure = (value, digits = 3) => (value === null || value === undefined ? "" : value.toFixed(digits));

// ---- Units, best first

let order = [];

function strength(score, unit) {
  const area = score.area[unit];
  return area === null ? Math.abs(score.r[unit] ?? 0) : 2 * Math.abs(area - 0.5);
}

function sortUnits() {
  const run = runs[state.run], label = run.labels[state.label], score = run.scores[label.name];
  order = run.signals.map((_, unit) => unit).sort((a, b) => strength(score, b) - strength(score, a));
  $("sorted").textContent = `Units that follow “${label.name}”`;
}

function drawUnits() {
  const run = runs[state.run], label = run.labels[state.label], score = run.scores[label.name];
  const list = $("list"), rows = $("rows");
  rows.style.height = `${order.length * UNIT}px`;
  const first = Math.max(0, Math.floor(list.scrollTop / UNIT) - 2);
  const last = Math.min(order.length, first + Math.ceil(list.clientHeight / UNIT) + 5);
  rows.replaceChildren(...order.slice(first, last).map((unit, i) => {
    const row = document.createElement("div");
    row.className = "unit";
    row.style.top = `${(first + i) * UNIT}px`;
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", unit === state.unit);
    row.dataset.unit = unit;
    const name = document.createElement("b"), area = document.createElement("span");
    name.textContent = nameOf(run, unit);
    area.className = "score";
    area.textContent = figure(score.area[unit] ?? score.r[unit], 3);
    row.append(name, area, sparkline(run, unit));
    return row;
  }));
}

function sparkline(run, unit) {
  const canvas = document.createElement("canvas"), width = 84, height = 20, scale = devicePixelRatio || 1;
  canvas.width = width * scale;
  canvas.height = height * scale;
  canvas.style.width = `${width}px`;
  const pen = canvas.getContext("2d"), from = lineStart(run, state.at), many = Math.min(168, run.steps - from);
  pen.scale(scale, scale);
  pen.strokeStyle = getComputedStyle(document.body).color;
  pen.beginPath();
  for (let i = 0; i < many; i++) {
    pen.lineTo((i * width) / 168, (1 - scaled(run, unit, from + i)) * (height - 2) + 1);
  }
  pen.stroke();
  return canvas;
}

function choose(unit) {
  state.unit = unit;
  draw();
}

function move(by) {
  const place = within(order.indexOf(state.unit) + by, 0, order.length - 1), list = $("list");
  if (place * UNIT < list.scrollTop) list.scrollTop = place * UNIT;
  if ((place + 1) * UNIT > list.scrollTop + list.clientHeight) {
    list.scrollTop = (place + 1) * UNIT - list.clientHeight;
  }
  choose(order[place]);
}

// ---- Text

const panels = []; // {run, unit: () => number, box, lines, title, rows: lines drawn, by their number}
let found = new Set(); // steps that a search has found

function makePanels() {
  panels.length = 0;
  $("panels").replaceChildren();
  for (const number of state.beside < 0 ? [state.run] : [state.run, state.beside]) {
    const run = runs[number], part = document.createElement("div");
    const title = document.createElement("h2"), box = document.createElement("div");
    const lines = document.createElement("div");
    part.className = "panel";
    box.className = "text";
    box.tabIndex = 0;
    lines.className = "lines";
    lines.style.height = `${run.lines.length * ROW}px`;
    box.append(lines);
    part.append(title, box);
    $("panels").append(part);
    const panel = { run, box, lines, title, rows: new Map(), unit: () => (number === state.run ? state.unit : bestOf(run, run.labels[state.label])) };
    box.addEventListener("scroll", () => { drawText(panel, false); follow(panel); });
    box.addEventListener("mousemove", (event) => tell(panel, event));
    box.addEventListener("click", (event) => clicked(panel, event));
    box.addEventListener("mouseleave", () => { $("tip").hidden = true; });
    panels.push(panel);
  }
}

// Lines that were there before stay, and are painted anew if something has changed: to move them costs more.
function drawText(panel, changed = true) {
  const { run, box, lines } = panel, before = panel.rows;
  const look = { unit: panel.unit(), moved: movedBy(run, state.output) };
  panel.title.textContent = `${run.name}: ${nameOf(run, look.unit)}`;
  const first = Math.max(0, Math.floor(box.scrollTop / ROW) - 3);
  const last = Math.min(run.lines.length, first + Math.ceil(box.clientHeight / ROW) + 6);
  panel.rows = new Map();
  for (const [number, row] of before) if (number < first || number >= last) row.remove();
  let place = lines.firstChild;
  for (let number = first; number < last; number++) {
    const known = before.get(number), row = known ?? lineOfSigns(run, number);
    if (changed || !known) paint(run, row, run.lines[number][0], look);
    if (known) place = row.nextSibling; else lines.insertBefore(row, place);
    panel.rows.set(number, row);
  }
}

function lineOfSigns(run, number) {
  const row = document.createElement("div"), [start, end] = run.lines[number];
  row.className = "row";
  row.style.top = `${number * ROW}px`;
  for (let step = start; step < end; step++) {
    const sign = document.createElement("span");
    sign.textContent = shown(run.characters[step]);
    sign.dataset.step = step;
    row.append(sign);
  }
  return row;
}

function paint(run, row, start, { unit, moved }) {
  let step = start;
  for (const sign of row.children) {
    const [paper, ink] = colour(run, unit, step), weight = moved?.get(step);
    sign.className = found.has(step) ? "found" : "";
    if (run.strange.has(step)) sign.classList.add("strange");
    if (moved && step === state.output) sign.classList.add("output");
    sign.style.cssText = weight === undefined ? `background:${paper};color:${ink}` : barOf(weight);
    step++;
  }
}

const lineOf = (run, step) => {
  let low = 0, high = run.lines.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (run.lines[middle][0] <= step) low = middle; else high = middle - 1;
  }
  return low;
};
const lineStart = (run, step) => run.lines[lineOf(run, step)][0];

const alike = (run) => run.steps === runs[state.run].steps; // the same text: others are scrolled by hand
let following = false;
function follow(panel) {
  if (following) return;
  following = true;
  const line = Math.floor(panel.box.scrollTop / ROW);
  if (alike(panel.run)) state.at = panel.run.lines[Math.min(line, panel.run.lines.length - 1)][0];
  for (const other of panels) {
    if (other !== panel && alike(other.run) && alike(panel.run)) other.box.scrollTop = panel.box.scrollTop;
  }
  remember();
  requestAnimationFrame(() => { following = false; });
}

function jump(step) {
  state.at = step;
  for (const panel of panels.filter(({ run }) => alike(run))) {
    panel.box.scrollTop = Math.max(0, (lineOf(panel.run, step) - 3) * ROW);
    drawText(panel);
  }
  remember();
}

function tell(panel, event) {
  const step = Number(event.target.dataset?.step ?? NaN), tip = $("tip"), { run } = panel, unit = panel.unit();
  tip.hidden = Number.isNaN(step);
  if (tip.hidden) return;
  const numberOf = ({ low, high, values }) => +(low + (values[step] * (high - low)) / LEVELS).toFixed(1);
  const holds = run.labels.filter((label) => label.kind === "number" || label.values[step])
    .map((label) => (label.kind === "number" ? `${label.name} ${numberOf(label)}` : label.name));
  tip.textContent = [
    `${JSON.stringify(run.characters[step])}, step ${step.toLocaleString()}`,
    `${nameOf(run, unit)}: ${exact(run, unit, step).toFixed(3)}`,
    ...(run.nats ? [`next character: ${(run.nats[step] / 20).toFixed(2)} nats`] : []),
    holds.join("\n"),
  ].join("\n");
  tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 4)}px`;
  tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 4)}px`;
}

// ---- All together

function options(select, texts, chosen, first = 0) {
  select.replaceChildren(...texts.map((text, i) => {
    const option = document.createElement("option");
    option.value = i + first;
    option.textContent = text;
    option.selected = i + first === chosen;
    return option;
  }));
}

function draw() {
  drawUnits();
  panels.forEach((panel) => drawText(panel));
  requestAnimationFrame(drawAbout); // a frame of its own
  remember();
}

function begin() {
  recall();
  options($("run"), runs.map((run) => run.name), state.run);
  options($("beside"), ["nothing", ...runs.map((run) => run.name)], state.beside, -1);
  options($("label"), runs[state.run].labels.map((label) => label.name), state.label);
  $("beside").parentElement.hidden = runs.length < 2;
  $("moved").hidden = !runs[state.run].moved?.starts.length;
  $("query").value = state.query;
  sortUnits();
  makePanels();
  draw();
  const at = state.at;
  for (const panel of panels) if (alike(panel.run)) panel.box.scrollTop = lineOf(panel.run, at) * ROW;
}

function change(name, value) {
  state[name] = Number(value);
  if (name === "run") Object.assign(state, { label: 0, unit: -1, at: 0, output: -1 });
  const run = runs[state.run], label = run.labels[within(state.label, 0, run.labels.length - 1)];
  if (name !== "beside") {
    state.unit = bestOf(run, label);
    $("list").scrollTop = 0;
  }
  remember();
  begin();
}
