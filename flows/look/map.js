// The map of a database: points on a canvas; drag to move, wheel to come nearer, pictures where there is room for them.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const atlas = document.getElementById("atlas");
const canvas = document.getElementById("map");
const context = canvas.getContext("2d");
const choice = document.getElementById("colour");
const legend = document.getElementById("legend");
const told = document.getElementById("told");
const picture = document.getElementById("picture");
const COLOURS = ["#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#9c755f", "#edc948", "#76b7b2", "#ff9da7", "#1f77b4", "#7a7a00", "#d62783"];
const OTHER = "#9aa0a6";
const PICTURE_FROM = 2.2; // pixels a picture's side has at least, as a share of the mean gap between points
let view = { x: 0.5, y: 0.5, scale: 1 };
let hidden = new Set();
let drag = null;
let chosen = -1;

function size() {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  draw();
}

function side() { return (Math.min(canvas.clientWidth, canvas.clientHeight) - data.cell - 8) * view.scale; } // whole pictures at the edge

function placeOf(i) {
  const [x, y] = data.points[i];
  return [canvas.clientWidth / 2 + (x - view.x) * side(), canvas.clientHeight / 2 - (y - view.y) * side()];
}

function colourOf(column, i) {
  const value = column.values[i];
  if (value === null) return OTHER;
  if (column.names) return value < COLOURS.length ? COLOURS[value] : OTHER;
  const share = (value - column.low) / (column.high - column.low || 1);
  return `hsl(${240 - 240 * share} 70% 50%)`;
}

function shown(column, i) { return !(column.names && hidden.has(Math.min(column.values[i], COLOURS.length))); }

function draw() {
  const column = data.columns[choice.value];
  context.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  const gap = side() / Math.sqrt(data.points.length);
  const asPictures = gap > data.cell / PICTURE_FROM;
  const cell = Math.min(data.cell, gap * PICTURE_FROM);
  for (let i = 0; i < data.points.length; i++) {
    if (!shown(column, i)) continue;
    const [x, y] = placeOf(i);
    if (x < -cell || y < -cell || x > canvas.clientWidth + cell || y > canvas.clientHeight + cell) continue;
    context.fillStyle = colourOf(column, i);
    if (asPictures) {
      context.fillRect(x - cell / 2 - 2, y - cell / 2 - 2, cell + 4, cell + 4);
      const left = (i % data.across) * data.cell, top = Math.floor(i / data.across) * data.cell;
      context.drawImage(atlas, left, top, data.cell, data.cell, x - cell / 2, y - cell / 2, cell, cell);
    } else {
      context.beginPath();
      context.arc(x, y, i === chosen ? 6 : 2.5 + Math.min(2, view.scale / 3), 0, 7);
      context.fill();
    }
  }
}

function showLegend() {
  const column = data.columns[choice.value];
  legend.replaceChildren();
  hidden = new Set();
  if (!column.names) {
    const item = document.createElement("li");
    item.textContent = `${column.low.toPrecision(4)} (blue) to ${column.high.toPrecision(4)} (red)`;
    legend.append(item);
    return;
  }
  column.names.slice(0, COLOURS.length).concat(column.names.length > COLOURS.length ? ["other"] : []).forEach((name, place) => {
    const count = column.values.filter((value) => Math.min(value, COLOURS.length) === place).length;
    const item = document.createElement("li"), button = document.createElement("button"), dot = document.createElement("span");
    dot.style.background = place < COLOURS.length ? COLOURS[place] : OTHER;
    button.append(dot, `${name} (${count})`);
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      hidden.has(place) ? hidden.delete(place) : hidden.add(place);
      button.setAttribute("aria-pressed", String(!hidden.has(place)));
      draw();
    });
    item.append(button);
    legend.append(item);
  });
}

function nearest(event) {
  const box = canvas.getBoundingClientRect(), column = data.columns[choice.value];
  let best = -1, least = 30 * 30;
  for (let i = 0; i < data.points.length; i++) {
    const [x, y] = placeOf(i);
    const distance = (x - event.clientX + box.left) ** 2 + (y - event.clientY + box.top) ** 2;
    if (distance < least && shown(column, i)) [best, least] = [i, distance];
  }
  return best;
}

function tell(i) {
  if (i < 0 || i === chosen) return;
  chosen = i;
  const painter = picture.getContext("2d");
  const left = (i % data.across) * data.cell, top = Math.floor(i / data.across) * data.cell;
  painter.imageSmoothingEnabled = false;
  painter.drawImage(atlas, left, top, data.cell, data.cell, 0, 0, picture.width, picture.height);
  told.replaceChildren();
  for (const [name, value] of [["key", data.keys[i]], ...Object.entries(data.told).map(([n, values]) => [n, values[i]])]) {
    const term = document.createElement("dt"), text = document.createElement("dd");
    term.textContent = name;
    text.textContent = value || "not stated";
    told.append(term, text);
  }
  draw();
}

canvas.addEventListener("pointerdown", (event) => { drag = [event.clientX, event.clientY, view.x, view.y]; canvas.setPointerCapture(event.pointerId); });
canvas.addEventListener("pointerup", () => { drag = null; });
canvas.addEventListener("pointermove", (event) => {
  if (!drag) return tell(nearest(event));
  view.x = drag[2] - (event.clientX - drag[0]) / side();
  view.y = drag[3] + (event.clientY - drag[1]) / side();
  draw();
});
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = canvas.getBoundingClientRect();
  const dx = event.clientX - box.left - canvas.clientWidth / 2, dy = event.clientY - box.top - canvas.clientHeight / 2;
  const before = side();
  view.scale = Math.min(60, Math.max(0.5, view.scale * Math.exp(-event.deltaY / 500)));
  view.x += dx / before - dx / side();
  view.y -= dy / before - dy / side();
  draw();
}, { passive: false });
choice.addEventListener("change", () => { showLegend(); draw(); });
window.addEventListener("resize", size);
for (const name of Object.keys(data.columns)) choice.append(new Option(name, name));
showLegend();
atlas.decode().then(size, size);
