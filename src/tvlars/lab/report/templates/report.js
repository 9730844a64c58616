"use strict";
// -- theme: the reader's choice, else the system's -----------------------------------------------------------
const root = document.documentElement;
const every = (selector, inside = document) => [...inside.querySelectorAll(selector)];
const dark = window.matchMedia("(prefers-color-scheme: dark)");
let chosen = null;
try { chosen = localStorage.getItem("tvlars-theme"); } catch { /* a page from a file may have no storage */ }
const color = name => getComputedStyle(root).getPropertyValue(name).trim();
function applyTheme(theme) {
  root.dataset.theme = typeof theme === "string" ? theme : chosen || (dark.matches ? "dark" : "light");
  for (const place of every(".figure.drawn")) Plotly.relayout(place, colors(place));
}
document.getElementById("theme").addEventListener("click", () => {
  chosen = root.dataset.theme === "dark" ? "light" : "dark";
  try { localStorage.setItem("tvlars-theme", chosen); } catch { /* it holds until the page is left */ }
  applyTheme();
});
dark.addEventListener("change", applyTheme);
applyTheme();

// -- tables sort ----------------------------------------------------------------------------------------------
for (const table of every("table.sortable")) {
  every("th", table).forEach((head, column) => head.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") === "descending";
    const body = table.tBodies[0];
    const key = row => row.cells[column].dataset.key;
    const compare = (a, b) => (isFinite(key(a)) && isFinite(key(b)) && key(a) !== "" && key(b) !== "")
      ? Number(key(a)) - Number(key(b)) : key(a).localeCompare(key(b));
    const rows = [...body.rows].sort((a, b) => up ? compare(a, b) : compare(b, a));
    body.append(...rows);
    every("th", table).forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
  }));
}

// -- one of several tables is shown ---------------------------------------------------------------------------
for (const select of every("select.chooser")) {
  const stack = select.closest(".choices").querySelector(".stack");
  const show = () => [...stack.children].forEach((one, i) => one.classList.toggle("chosen", i === Number(select.value)));
  stack.classList.add("live");
  select.addEventListener("change", show);
  show();
}

// -- figures: what is drawn follows from their data and from the controls ---------------------------------------
let figures = [];
const state = { x: "epoch", y: "log", smooth: "0", size: "", quantity: "", span: "0", hidden: new Set() };

function colors(place) {
  const found = { "font.color": color("--soft") };
  if (kind(figures[place.dataset.number]) === "heat") found.plot_bgcolor = color("--missing");
  return found;
}
const kind = figure => (figure.layout.meta || {}).kind || "";

// Epochs in the unit of the x axis: clocks have steps per epoch, batch size, and the time at the end of some epochs.
const UNITS = { epoch: "epoch", step: "optimizer steps", samples: "training samples" };
function inUnit(epoch, clock) {
  if (epoch === null || !clock || state.x === "epoch") return epoch;
  if (state.x === "step") return epoch * clock.per_epoch;
  if (state.x === "samples") return epoch * clock.per_epoch * clock.batch;
  const ends = [0, ...clock.epochs], times = [0, ...clock.seconds];
  const i = Math.max(1, ends.findIndex(end => end >= epoch));
  const after = ends.findIndex(end => end >= epoch) < 0 ? ends.length - 1 : i;
  if (after < 1) return null;
  const share = (epoch - ends[after - 1]) / (ends[after] - ends[after - 1]);
  return times[after - 1] + share * (times[after] - times[after - 1]);
}

// Exponential moving average, corrected for its start, as in TensorBoard.
function smoothed(values, weight) {
  let sum = 0, total = 0;
  return values.map(value => {
    if (value === null || !weight) return value;
    sum = weight * sum + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return sum / total;
  });
}
function halves(values, band, change) {
  if (!band) return change(values);
  const middle = values.length / 2;
  return [...change(values.slice(0, middle)), ...change(values.slice(middle).reverse()).reverse()];
}

function shown(figure) {
  const { data, layout } = structuredClone(figure);
  const is = kind(figure), meta = layout.meta || {};
  delete layout.title;
  layout.margin = { ...layout.margin, t: 12, b: layout.showlegend === false ? 44 : 70 };
  for (const trace of data) if (state.hidden.has(trace.meta)) trace.visible = false;
  const bands = data.filter(trace => trace.fill === "toself" && trace.visible !== false);
  if (bands.length > 6) for (const trace of bands) trace.fillcolor = trace.fillcolor.replace("0.18)", "0.06)");  // many bands make one mush
  if (is === "heat") {
    const all = meta.quantities, one = all[state.quantity] || Object.values(all)[0];
    Object.assign(data[0], { x: one.x[state.span], z: one.z[state.span], zmin: one.zmin, zmax: one.zmax });
    layout.plot_bgcolor = color("--missing");
    layout.margin.b = 40;
  } else if (meta.clocks) {
    const clock = trace => meta.clocks[trace.meta];
    let most = 0;
    for (const trace of data) {
      trace.x = trace.x.map(x => inUnit(x, clock(trace)));
      most = Math.max(most, ...trace.x);
      const weight = is === "schedule" ? 0 : Number(state.smooth);
      trace.y = halves(trace.y, trace.fill === "toself", half => smoothed(half, weight));
    }
    layout.xaxis.title.text = UNITS[state.x];
    if (state.x === "seconds") {
      const [length, unit] = most > 7200 ? [3600, "h"] : most > 120 ? [60, "min"] : [1, "s"];
      for (const trace of data) trace.x = trace.x.map(x => x === null ? null : x / length);
      layout.xaxis.title.text = `training time, ${unit}`;
    }
    if (state.x !== "epoch") layout.hovermode = "closest";
  }
  if (is === "accuracy" && state.y !== "accuracy") {
    for (const trace of data) trace.y = trace.y.map(y => y === null ? null : 100 - y);
    if (state.y === "log") {  // an error of 0 is drawn at half of the smallest one
      const least = Math.min(...data.flatMap(trace => trace.y).filter(y => y > 1e-9)) / 2;
      for (const trace of data) trace.y = trace.y.map(y => y === null ? null : Math.max(y, isFinite(least) ? least : 0.1));
      layout.yaxis.type = "log";
    }
  }
  for (const trace of data) {
    if (trace.mode === "lines" && !trace.fill && trace.x.filter(x => x !== null).length === 1) trace.mode = "markers";
  }
  layout.font.color = color("--soft");
  return { data, layout };
}

// Labels of a logarithmic axis in full: powers of ten over long ranges, else 1, 2, 5.
function logTicks([low, high]) {
  const inside = value => Math.log10(value) >= low - 1e-9 && Math.log10(value) <= high + 1e-9;
  const values = [];
  const each = high - low > 2.2 ? Math.max(1, Math.round((high - low) / 5)) : 1;
  for (let power = Math.floor(low); power <= high; power += each) {
    for (const digit of high - low > 2.2 ? [1] : [1, 2, 5]) values.push(digit * 10 ** power);
  }
  if (values.filter(inside).length < 3) {
    const width = (10 ** high - 10 ** low) / 4, unit = 10 ** Math.floor(Math.log10(width));
    const step = unit * [1, 2, 5, 10].find(one => one * unit >= 0.7 * width);
    values.length = 0;
    for (let value = Math.ceil(10 ** low / step) * step; value <= 10 ** high; value += step) values.push(Number(value.toPrecision(10)));
  }
  const tickvals = values.filter(inside);
  const text = value => value >= 1e4 || value < 1e-3 ? `10<sup>${Math.log10(value)}</sup>` : Number(value.toPrecision(6)).toLocaleString("en");
  const plain = value => Math.abs(Math.log10(value) % 1) > 1e-9 ? Number(value.toPrecision(4)).toString() : text(value);
  return { tickvals, ticktext: tickvals.map(plain) };
}
function tick(place) {
  const changes = {};
  for (const name of ["xaxis", "yaxis"]) {
    const axis = place._fullLayout[name], given = figures[place.dataset.number].layout[name] || {};
    if (axis && axis.type === "log" && !given.tickvals) {
      const { tickvals, ticktext } = logTicks([...axis.range].sort((a, b) => a - b));
      if (tickvals.length) Object.assign(changes, { [`${name}.tickvals`]: tickvals, [`${name}.ticktext`]: ticktext });
    }
  }
  return Object.keys(changes).length ? Plotly.relayout(place, changes) : null;
}

async function draw(place) {
  const figure = figures[place.dataset.number], { data, layout } = shown(figure);
  const caption = place.closest("figure").querySelector("figcaption");
  if (caption && kind(figure) === "accuracy") {
    caption.dataset.title ??= caption.textContent;
    const said = state.y === "accuracy" ? caption.dataset.title : caption.dataset.title.replace(/accuracy/, "error");
    caption.textContent = `${said}, %`;
    place.setAttribute("aria-label", caption.textContent);
    layout.yaxis.title = "";
  }
  const hidden = kind(figure) === "heat" && state.hidden.has(data[0].meta);
  place.closest("figure").hidden = hidden;
  if (hidden) return;
  const camera = { name: "PNG", title: "Save as PNG", icon: Plotly.Icons.camera, click: save };
  const config = { displaylogo: false, responsive: true, modeBarButtons: [[camera, "zoom2d", "pan2d", "resetScale2d"]] };
  const first = !place.classList.contains("drawn");
  await Plotly.react(place, data, layout, config);
  place.classList.add("drawn");
  if (first) place.on("plotly_relayout", event => {
    if (Object.keys(event).some(key => /range/.test(key))) tick(place);
  });
  await tick(place);
}
// Curves of one arm stand out from all others; null: none does.
function bringOut(arm) {
  if (state.hidden.has(arm)) return;
  for (const place of every(".figure.drawn")) {
    const curves = place.data.some(trace => trace.meta === arm) && kind(figures[place.dataset.number]) !== "heat";
    if (arm === null || curves) Plotly.restyle(place, { opacity: place.data.map(trace => arm === null || trace.meta === arm ? 1 : 0.12) });
  }
}
async function save(place) {  // by itself a figure needs its title, a legend and a background
  const title = { text: place.closest("figure").querySelector("figcaption").textContent, x: 0.02 };
  const layout = { ...place.layout, title, showlegend: true, paper_bgcolor: color("--back"), margin: { ...place.layout.margin, t: 45, b: 80 } };
  const url = await Plotly.toImage({ data: place.data, layout }, { format: "png", scale: 2, width: 760, height: 460 });
  download(url, place.dataset.file + ".png");
}
const failed = error => console.error(error);  // of one figure: the others are drawn all the same
const visible = place => place.offsetParent !== null || place.closest("figure").hidden;
async function drawAll(only = () => true) {
  await Promise.all(every(".figure").filter(place => visible(place) && only(figures[place.dataset.number])).map(place => draw(place).catch(failed)));
  for (const scale of every(".scale")) {
    const figure = scale.parentElement.querySelector(".figure"), all = figures[figure.dataset.number].layout.meta.quantities;
    const one = all[state.quantity] || Object.values(all)[0];
    const text = power => Math.abs(power) < 4 ? Number((10 ** power).toPrecision(2)).toString() : (10 ** power).toExponential(1).replace("+", "");
    scale.querySelector(".low").textContent = text(one.zmin);
    scale.querySelector(".high").textContent = text(one.zmax);
  }
}

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}
// A frame that is being written holds back the page's load event: pictures and prints wait until figures are drawn.
function holdLoad() {
  const frame = document.createElement("iframe");
  frame.hidden = true;
  document.body.append(frame);
  frame.contentDocument.open();
  return () => { frame.contentDocument.close(); frame.remove(); };
}
async function main() {
  const packed = document.getElementById("plotly");
  if (!packed) return;
  const release = holdLoad();
  try { await begin(packed); } finally { release(); }
}
async function begin(packed) {
  try {
    const script = document.createElement("script");
    script.textContent = await unpack(packed.textContent);
    document.head.append(script);
    figures = JSON.parse(await unpack(document.getElementById("figures").textContent));
  } catch {
    for (const place of every(".figure")) place.textContent = "This browser is too old to draw figures.";
    return;
  }
  control();
  await drawAll();
  root.dataset.ready = "yes";
}

// -- controls: each choice holds on the whole page ----------------------------------------------------------------
function control() {
  const form = document.getElementById("controls");
  if (form) {
    form.hidden = false;
    form.addEventListener("submit", event => event.preventDefault());
    const label = form.querySelector(".of-accuracy");
    label.hidden = !figures.some(figure => kind(figure) === "accuracy");
  }
  for (const chip of every(".chips button")) chip.addEventListener("click", () => {
    const on = chip.getAttribute("aria-pressed") !== "true", arm = chip.dataset.arm;
    chip.setAttribute("aria-pressed", on);
    on ? state.hidden.delete(arm) : state.hidden.add(arm);
    drawAll();
  });
  for (const chip of every(".chips button")) {
    chip.addEventListener("pointerenter", () => bringOut(chip.dataset.arm));
    chip.addEventListener("focus", () => { if (chip.matches(":focus-visible")) bringOut(chip.dataset.arm); });
    for (const event of ["pointerleave", "blur"]) chip.addEventListener(event, () => bringOut(null));
  }
  for (const input of every("[data-control]")) {
    const name = input.dataset.control;
    state[name] = input.value;
    input.addEventListener("input", () => {
      state[name] = input.value;
      for (const other of every(`[data-control="${name}"]`)) other.value = input.value;
      for (const block of every("[data-size]")) block.hidden = state.size !== "" && block.dataset.size !== state.size;
      drawAll(name === "quantity" || name === "span" ? figure => kind(figure) === "heat" : undefined);
    });
  }
}

// -- the data behind a figure -------------------------------------------------------------------------------------
function csv(figure) {
  const cell = value => value === null || value === undefined ? "" : /[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value;
  const plain = text => new DOMParser().parseFromString(text || "", "text/html").body.textContent;
  const rows = figure.data.some(trace => trace.z) ? [["quantity", "x", "y", "value"]] : [["name", "x", "y", "interval", "text"]];
  const all = (figure.layout.meta || {}).quantities || {};
  const quantity = state.quantity in all ? state.quantity : Object.keys(all)[0] || "loss";
  for (const trace of figure.data) {
    if (trace.z) {  // colours are powers of ten
      const number = value => value === null ? "" : Number((10 ** value).toPrecision(5));
      const { x, z } = quantity in all ? { x: all[quantity].x[state.span], z: all[quantity].z[state.span] } : trace;
      z.forEach((line, i) => line.forEach((value, j) => rows.push([quantity, x[j], plain(String(trace.y[i])), number(value)])));
    } else {
      const more = (list, i) => Array.isArray(list) ? list[i] : "";
      trace.x.forEach((x, i) => rows.push([plain(trace.name), x, trace.y[i], more((trace.error_y || {}).array, i), more(trace.text, i)]));
    }
  }
  return rows.map(row => row.map(cell).join(",")).join("\n") + "\n";
}
function download(url, name) {
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
}
for (const button of every(".csv")) button.addEventListener("click", () => {
  const place = button.parentElement.querySelector(".figure"), figure = figures[place.dataset.number];
  if (!figure) return;
  const url = URL.createObjectURL(new Blob([csv(figure)], { type: "text/csv" }));
  download(url, place.dataset.file + ".csv");
  setTimeout(() => URL.revokeObjectURL(url), 1000);
});
main();

// -- on paper: light, and as wide as half of the page ---------------------------------------------------------------
window.addEventListener("beforeprint", () => {
  applyTheme("light");
  for (const place of every(".essential .figure.drawn")) Plotly.relayout(place, { width: 330, height: 200, "font.size": 10 });
});
window.addEventListener("afterprint", () => {
  for (const place of every(".essential .figure.drawn")) Plotly.relayout(place, { width: null, height: figures[place.dataset.number].layout.height, "font.size": null, autosize: true });
  applyTheme();
});
