"use strict";
// -- theme: the reader's choice, else the system's -----------------------------------------------------------
const root = document.documentElement;
const dark = window.matchMedia("(prefers-color-scheme: dark)");
let chosen = null;
try { chosen = localStorage.getItem("tvlars-theme"); } catch { /* a page from a file may have no storage */ }
function applyTheme() {
  root.dataset.theme = chosen || (dark.matches ? "dark" : "light");
  const text = getComputedStyle(root).getPropertyValue("--soft").trim();
  for (const place of document.querySelectorAll(".figure.drawn")) Plotly.relayout(place, { "font.color": text });
}
document.getElementById("theme").addEventListener("click", () => {
  chosen = root.dataset.theme === "dark" ? "light" : "dark";
  try { localStorage.setItem("tvlars-theme", chosen); } catch { /* it holds until the page is left */ }
  applyTheme();
});
dark.addEventListener("change", applyTheme);
applyTheme();

// -- tables sort ----------------------------------------------------------------------------------------------
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("th").forEach((head, column) => head.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") === "descending";
    const body = table.tBodies[0];
    const key = row => row.cells[column].dataset.key;
    const compare = (a, b) => (isFinite(key(a)) && isFinite(key(b)) && key(a) !== "" && key(b) !== "")
      ? Number(key(a)) - Number(key(b)) : key(a).localeCompare(key(b));
    const rows = [...body.rows].sort((a, b) => up ? compare(a, b) : compare(b, a));
    body.append(...rows);
    table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
  }));
}

// -- figures: plotly.js is unpacked first -----------------------------------------------------------------------
async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}
function draw(place, figure) {
  figure.layout.font.color = getComputedStyle(root).getPropertyValue("--soft").trim();
  const buttons = [["toImage", "zoom2d", "pan2d", "resetScale2d"]];
  return Plotly.newPlot(place, figure.data, figure.layout, { displaylogo: false, responsive: true, modeBarButtons: buttons })
    .then(() => place.classList.add("drawn"));
}
async function main() {
  const packed = document.getElementById("plotly");
  if (!packed) return;
  const places = [...document.querySelectorAll(".figure")];
  let figures;
  try {
    const script = document.createElement("script");
    script.textContent = await unpack(packed.textContent);
    document.head.append(script);
    figures = JSON.parse(await unpack(document.getElementById("figures").textContent));
  } catch {
    for (const place of places) place.textContent = "This browser is too old to draw figures.";
    return;
  }
  const failed = error => console.error(error);  // of one figure: the others are drawn all the same
  await Promise.all(places.map(async place => draw(place, figures[place.dataset.number]).catch(failed)));
  root.dataset.ready = "yes";
}

// -- the data behind a figure -------------------------------------------------------------------------------------
function csv(place) {
  const cell = value => value === null || value === undefined ? "" : /[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value;
  const plain = text => new DOMParser().parseFromString(text || "", "text/html").body.textContent;
  const menu = (place.layout.updatemenus || [])[0];
  const quantity = menu ? plain(menu.buttons[menu.active || 0].label) : "loss";
  const rows = place.data.some(trace => trace.z) ? [["quantity", "panel", "x", "y", "value"]] : [["name", "x", "y", "interval", "text"]];
  for (const trace of place.data) {
    if (trace.z) {  // colours are powers of ten
      const number = value => value === null ? "" : Number((10 ** value).toPrecision(5));
      trace.z.forEach((line, i) => line.forEach((value, j) =>
        rows.push([quantity, trace.name || "", trace.x[j], plain(String(trace.y[i])), number(value)])));
    } else {
      const more = (list, i) => Array.isArray(list) ? list[i] : "";
      trace.x.forEach((x, i) => rows.push([plain(trace.name), x, trace.y[i], more((trace.error_y || {}).array, i), more(trace.text, i)]));
    }
  }
  return rows.map(row => row.map(cell).join(",")).join("\n") + "\n";
}
for (const button of document.querySelectorAll(".csv")) button.addEventListener("click", () => {
  const place = button.parentElement.querySelector(".figure");
  if (!place.data) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv(place)], { type: "text/csv" }));
  link.download = place.dataset.file + ".csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
main();
// -- on paper: light, and with everything open --------------------------------------------------------------------
let closed = [];
window.addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  closed.forEach(part => { part.open = true; });
});
window.addEventListener("afterprint", () => closed.forEach(part => { part.open = false; }));
