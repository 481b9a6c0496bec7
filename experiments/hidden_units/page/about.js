// What is beside the text: all about a unit; and what moved an output.

// ---- About a unit

function drawAbout() {
  const run = runs[state.run], unit = state.unit, about = $("about");
  const title = document.createElement("h2"), table = document.createElement("table");
  title.textContent = nameOf(run, unit);
  table.append(rowOf("th", ["follows", "area", "r", "p"]));
  const held = document.createElement("table");
  held.append(rowOf("th", ["held at its mean, nats", "inside", "outside"]));
  for (const label of run.labels) {
    const score = run.scores[label.name], of = (name, digits) => figure(score[name][unit], digits);
    if (strength(score, unit) > SHOWN) table.append(rowOf("td", [label.name, of("area"), of("r", 2), of("p", 4)]));
    if (score.outside[unit] !== null) held.append(rowOf("td", [label.name, of("inside"), of("outside")]));
  }
  const high = passages(run, unit, 1), low = passages(run, unit, -1);
  about.replaceChildren(title, table, ...(held.rows.length > 1 ? [held] : []), heading("Highest"), ...high, heading("Lowest"), ...low, ...gates(run));
}

function rowOf(kind, texts) {
  const row = document.createElement("tr");
  texts.forEach((text, i) => {
    const cell = document.createElement(i ? kind : "th");
    cell.textContent = text;
    row.append(cell);
  });
  return row;
}

function heading(text) {
  const found = document.createElement("h2");
  found.textContent = text;
  return found;
}

const AROUND = 14; // characters on either side of a place
const PLACES = 5, APART = 60; // passages, and steps between them

function reachOf(run, place, way) {
  let step = place, width = 0;
  while (run.characters[step + way] !== undefined && (width += run.characters[step + way].length) <= AROUND) step += way;
  return step;
}

function passages(run, unit, sign) {
  const track = run.tracks[unit], places = [], counts = countsOf(run, unit);
  // A place rules out those around it: the most extreme of all are among so many.
  let level = sign > 0 ? LEVELS : 0;
  for (let many = counts[level]; many < PLACES * (2 * APART + 1) && counts[level - sign] !== undefined; ) many += counts[level -= sign];
  const steps = [];
  for (let step = 0; step < run.steps; step++) if (sign * (track[step] - level) >= 0) steps.push(step);
  steps.sort((a, b) => sign * (track[b] - track[a]) || a - b);
  for (const step of steps) {
    if (places.length < PLACES && places.every((other) => Math.abs(other - step) > APART)) places.push(step);
  }
  return places.map((place) => {
    const button = document.createElement("button");
    button.className = "passage";
    button.type = "button";
    for (let step = reachOf(run, place, -1); step <= reachOf(run, place, 1); step++) {
      const sign = document.createElement("span"), [paper, ink] = colour(run, unit, step);
      sign.textContent = shown(run.characters[step]);
      sign.style.background = paper;
      sign.style.color = ink;
      button.append(sign);
    }
    button.addEventListener("click", () => jump(place));
    return button;
  });
}

function gates(run) {
  if (!run.gates.length) return [];
  const table = document.createElement("table");
  table.append(rowOf("th", ["gate", "below 0.1", "above 0.9"]));
  for (const gate of run.gates) {
    const part = (value) => `${(100 * value).toFixed(1)} %`;
    table.append(rowOf("td", [`${gate.name.replace("backward.", "←")}, layer ${gate.layer}`, part(gate.below), part(gate.above)]));
  }
  return [heading("Saturation of gates"), table];
}

// ---- What moved the logit of a character

const BARS = [["#542788", "#b35806"], ["#9e80d6", "#f0943c"]]; // in light and in dark: lowered, raised
const BAR = 7; // pixels under a character, at most

// By step, what it did for the logit of the character after the chosen one, from −1 to 1.
function movedBy(run, output) {
  const place = run.moved ? run.moved.starts.findIndex((start) => output >= start && output < start + run.moved.outputs) : -1;
  if (place < 0) return null;
  const { starts, outputs, back } = run.moved, row = (place * outputs + output - starts[place]) * back;
  return new Map(Array.from({ length: back }, (_, by) => [output - by, (run.movedValues[row + by] - 128) / 127]));
}

// On plain paper, where the bar is seen.
function barOf(weight) {
  const bar = Math.round(Math.abs(weight) * BAR);
  return bar ? `box-shadow:inset 0 -${bar}px ${BARS[dark.matches ? 1 : 0][weight < 0 ? 0 : 1]}` : "";
}

function explain(step) {
  const run = runs[state.run];
  state.output = step;
  if (movedBy(run, step)) {
    const [read, next] = [step, step + 1].map((at) => shown(run.characters[at]));
    $("status").textContent = `What moved the logit of “${next}” after “${read}”: orange raised it, purple lowered it`;
  }
  draw();
}

function explainNext() {
  const { characters, moved: { starts, outputs } } = runs[state.run];
  const start = starts.find((of) => of > state.output) ?? starts[0];
  let step = start + Math.floor(outputs / 2); // or the next one before what is no blank
  while (step + 1 < start + outputs && !characters[step + 1].trim()) step++;
  jump(step);
  explain(step);
}

function clicked(panel, event) {
  const step = Number(event.target.dataset?.step ?? NaN);
  if (panel.run === runs[state.run] && getSelection().isCollapsed && movedBy(panel.run, step)) explain(step);
}
