"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 200;
const MARKS = {done: "●", failed: "✗", running: "▶", queued: "○", stopped: "◐", missing: "·"};
const byId = id => document.getElementById(id);
const escapes = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"};
const safe = value => String(value ?? "").replace(/[&<>"']/g, c => escapes[c]);
const number = (value, digits = 1) =>
  value == null ? "–" : value.toLocaleString("en", {minimumFractionDigits: digits, maximumFractionDigits: digits});
const runId = run => `${run.cell}.seed${run.seed}`;
const runsById = new Map(data.runs.map(run => [runId(run), run]));

// --- a table that is sorted by its heads --------------------------------------------------------

function sortable(table, columns, rows, draw, state) {
  const head = table.tHead;
  const refresh = () => {
    const {by, down} = state;
    const key = columns[by].key;
    const sorted = by < 0 ? rows() : [...rows()].sort((a, b) => {
      const x = key(a), y = key(b);
      if (x == null || y == null) return (x == null) - (y == null);
      const order = typeof x === "number" ? x - y : String(x).localeCompare(String(y), "en", {numeric: true});
      return down ? -order : order;
    });
    [...head.rows[0].cells].forEach((cell, i) => {
      if (i === by) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
    draw(sorted);
  };
  head.innerHTML = `<tr>${columns.map(c => `<th scope="col"><button type="button">${safe(c.name)}</button></th>`).join("")}</tr>`;
  head.querySelectorAll("button").forEach((button, i) => button.addEventListener("click", () => {
    state.down = state.by === i ? !state.down : Boolean(columns[i].down);
    state.by = i;
    refresh();
  }));
  return refresh;
}

function choices(select, values) {
  for (const value of values) select.add(new Option(value, value));
}

// --- results ------------------------------------------------------------------------------------

const ends = data.cells.flatMap(c => [c.low ?? c.value, c.high ?? c.value]).filter(v => v != null);
const [least, most] = [Math.min(0, ...ends), Math.max(1, ...ends)];
const place = value => (100 * (value - least) / (most - least)).toFixed(1);
const bar = c => c.value == null ? "" :
  `<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">` +
  (c.low == null ? "" : `<line x1="${place(c.low)}" x2="${place(c.high)}" y1="4" y2="4"/>`) +
  `<circle cx="${place(c.value)}" cy="4" r="2.2"/></svg>`;

const best = {};
for (const c of data.cells) {
  if (c.reference || c.value == null) continue;
  if (!best[c.dataset] || c.value > best[c.dataset].value) best[c.dataset] = c;
}

const resultColumns = [
  {name: "Dataset", key: c => c.dataset},
  {name: "Method", key: c => c.label},
  {name: "Score [CI]", key: c => c.value, down: true},
  {name: "", key: c => c.value, down: true},
  {name: "n", key: c => c.n, down: true},
  {name: "Seconds", key: c => c.wall_seconds},
  {name: "Outer steps", key: c => c.outer_steps},
  {name: "Environment steps", key: c => c.environment_steps},
  {name: "Used", key: c => c.used},
];

function shownCells() {
  const words = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  const dataset = byId("dataset").value, used = byId("used").value;
  return data.cells.filter(c =>
    words.every(w => `${c.dataset} ${c.label}`.toLowerCase().includes(w)) &&
    (!dataset || c.dataset === dataset) && (!used || c.used === used) &&
    !(byId("no-references").checked && c.reference));
}

function drawResults(cells) {
  byId("results-table").tBodies[0].innerHTML = cells.map(c => {
    const kind = c.reference ? "reference" : best[c.dataset] === c ? "best" : "";
    const interval = c.low == null ? "" : ` <small>[${number(c.low)}, ${number(c.high)}]</small>`;
    const n = c.n < c.n_expected ? `${c.n}/${c.n_expected}` : c.n;
    return `<tr class="${kind}"><td>${safe(c.dataset)}</td>` +
      `<td><a href="#runs/${encodeURIComponent(c.cell_id)}">${safe(c.label)}</a></td>` +
      `<td class="number score">${number(c.value)}${interval}</td><td>${bar(c)}</td>` +
      `<td class="number">${n}</td><td class="number">${number(c.wall_seconds)}</td>` +
      `<td class="number">${number(c.outer_steps, 0)}</td><td class="number">${number(c.environment_steps, 0)}</td>` +
      `<td>${safe(c.used)}</td></tr>`;
  }).join("");
}

const refreshResults = sortable(byId("results-table"), resultColumns, shownCells, drawResults, {by: 0, down: false});
choices(byId("dataset"), [...new Set(data.cells.map(c => c.dataset))].sort());
choices(byId("used"), [...new Set(data.cells.map(c => c.used).filter(Boolean))].sort());
for (const id of ["find", "dataset", "used", "no-references"]) byId(id).addEventListener("input", refreshResults);
byId("counts").textContent = Object.entries(data.counts).map(([state, n]) => `${n} ${state}`).join(", ");
byId("results-note").textContent =
  `Normalized return: 100 is the reference expert, 0 the random policy; mean over n seeds with ` +
  `${100 * (data.cells[0]?.level ?? 0.95)} % bootstrap interval (below ten seeds it covers less). Bold: the highest ` +
  `mean of a dataset among distillation methods; grey: references. Seconds are a run's share of wall time, scoring left out.`;

// --- runs ---------------------------------------------------------------------------------------

let onlyCell = "", shownRuns = PAGE;
const runColumns = [
  {name: "Dataset", key: r => data.specs[r.cell].dataset},
  {name: "Method", key: r => data.labels[r.cell]},
  {name: "Seed", key: r => r.seed},
  {name: "State", key: r => r.state},
  {name: "Score", key: r => r.score, down: true},
  {name: "Seconds", key: r => r.cost?.wall_seconds},
  {name: "Error", key: r => r.error?.type},
];

function filteredRuns() {
  const words = byId("find-run").value.toLowerCase().split(/\s+/).filter(Boolean);
  const state = byId("state").value;
  return data.runs.filter(r => (!onlyCell || r.cell === onlyCell) && (!state || r.state === state) &&
    words.every(w => `${data.specs[r.cell].dataset} ${data.labels[r.cell]} ${r.error?.type ?? ""}`.toLowerCase().includes(w)));
}

function drawRuns(runs) {
  byId("runs-table").tBodies[0].innerHTML = runs.slice(0, shownRuns).map(r =>
    `<tr><td>${safe(data.specs[r.cell].dataset)}</td>` +
    `<td><a href="#run/${encodeURIComponent(runId(r))}">${safe(data.labels[r.cell])}</a></td>` +
    `<td class="number">${r.seed}</td><td class="state-${r.state}">${MARKS[r.state]} ${r.state}</td>` +
    `<td class="number">${number(r.score)}</td><td class="number">${number(r.cost?.wall_seconds)}</td>` +
    `<td>${safe(r.error?.type)}</td></tr>`).join("");
  byId("more").hidden = runs.length <= shownRuns;
  byId("more").textContent = `Show more (${shownRuns} of ${runs.length})`;
}

const refreshRuns = sortable(byId("runs-table"), runColumns, filteredRuns, drawRuns, {by: 1, down: false});
choices(byId("state"), [...new Set(data.runs.map(r => r.state))].sort());
for (const id of ["find-run", "state"]) byId(id).addEventListener("input", () => { shownRuns = PAGE; refreshRuns(); });
byId("more").addEventListener("click", () => { shownRuns += PAGE; refreshRuns(); });

// --- completeness -------------------------------------------------------------------------------

function drawMatrix() {
  const seeds = [...new Set(data.runs.map(r => r.seed))].sort((a, b) => a - b);
  const rows = new Map();
  for (const r of data.runs) rows.set(r.cell, (rows.get(r.cell) ?? new Map()).set(r.seed, r));
  byId("matrix").tHead.innerHTML = `<tr><th scope="col">Cell</th>${seeds.map(s => `<th scope="col">${s}</th>`).join("")}</tr>`;
  byId("matrix").tBodies[0].innerHTML = [...rows].map(([cell, found]) =>
    `<tr><td>${safe(data.specs[cell].dataset)} ${safe(data.labels[cell])}</td>` + seeds.map(s => {
      const r = found.get(s);
      return r ? `<td><a class="state-${r.state}" href="#run/${encodeURIComponent(runId(r))}" ` +
        `aria-label="seed ${s}: ${r.state}">${MARKS[r.state]}</a></td>` : "<td></td>";
    }).join("") + "</tr>").join("");
  byId("legend").innerHTML = Object.entries(MARKS).map(([s, m]) => `<span class="state-${s}">${m} ${s}</span>`).join("&ensp;");
}

// --- one run ------------------------------------------------------------------------------------

function curve(points) {
  if (!points?.length) return "";
  const [w, h, pad] = [360, 200, 30];
  const xs = points.map(p => p[0]), ys = points.map(p => p[1]);
  const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(0, ...ys), Math.max(1, ...ys)];
  const x = v => pad + (w - 2 * pad) * (x1 > x0 ? (v - x0) / (x1 - x0) : .5);
  const y = v => h - pad - (h - 2 * pad) * (v - y0) / (y1 - y0);
  return `<figure><svg viewBox="0 0 ${w} ${h}" role="img" aria-label="normalized return against outer step">` +
    `<g font-size="10" fill="currentColor"><text x="4" y="${y(y1) + 4}">${number(y1)}</text>` +
    `<text x="4" y="${y(y0) + 4}">${number(y0)}</text><text x="${pad}" y="${h - 8}">${x0}</text>` +
    `<text x="${w - pad}" y="${h - 8}" text-anchor="end">${x1}</text></g>` +
    `<polyline fill="none" stroke="var(--link)" stroke-width="2" points="${points.map(p => `${x(p[0])},${y(p[1])}`).join(" ")}"/>` +
    points.map(p => `<circle cx="${x(p[0])}" cy="${y(p[1])}" r="4" fill="var(--link)"><title>step ${p[0]}: ${p[1]}</title></circle>`).join("") +
    `</svg><figcaption>Normalized return against outer step</figcaption></figure>`;
}

function picture(found) {
  if (!found) return "";
  return `<figure><svg viewBox="-20 -20 1040 1040" role="img" aria-label="the synthetic pairs">` +
    found.points.map(([x, y, c]) => `<circle cx="${x}" cy="${999 - y}" r="12" fill="hsl(${250 - c * .25} 70% 50%)" fill-opacity=".75"/>`).join("") +
    `</svg><figcaption>The pairs on the two directions in which their observations differ most ` +
    `(${number(100 * found.explained, 0)} % of the spread); colour: the action's first component</figcaption></figure>`;
}

function list(values, prefix = "") {
  return Object.entries(values).map(([key, value]) =>
    value !== null && typeof value === "object" && !Array.isArray(value) ? list(value, `${prefix}${key}.`) :
    `<dt>${safe(prefix + key)}</dt><dd>${safe(Array.isArray(value) ? value.join(", ") : value ?? "–")}</dd>`).join("");
}

function drawRun(id) {
  const run = runsById.get(id), view = byId("view-run");
  if (!run) { view.innerHTML = `<h2>No run ${safe(id)}</h2>`; return; }
  view.innerHTML = `<h2>${safe(data.labels[run.cell])} on ${safe(data.specs[run.cell].dataset)}, seed ${run.seed}</h2>` +
    `<p><span class="state-${run.state}">${MARKS[run.state]} ${run.state}</span>` +
    (run.score == null ? "" : `, normalized return <strong>${number(run.score, 2)}</strong>`) + `</p>` +
    (run.error ? `<h3>${safe(run.error.type)}</h3><pre>${safe(run.error.message)}</pre>` +
      (run.error.traceback ? `<details><summary>Traceback</summary><pre>${safe(run.error.traceback)}</pre></details>` : "") : "") +
    `<div class="pictures">${curve(run.curve)}${picture(data.pictures[id])}</div>` +
    `<h3>Reproduce</h3><pre>obdbench verify ${safe(id)}</pre>` +
    `<h3>Spec</h3><dl>${list(data.specs[run.cell])}<dt>seed</dt><dd>${run.seed}</dd></dl>` +
    (run.cost ? `<h3>Cost</h3><dl>${list(run.cost)}</dl>` : "") +
    (run.provenance == null ? "" : `<h3>Provenance</h3><dl>${list(data.provenance[run.provenance])}` +
      `<dt>finished</dt><dd>${safe(run.finished)}</dd><dt>synthetic set sha256</dt><dd>${safe(run.sha256)}</dd></dl>`);
}

// --- published ----------------------------------------------------------------------------------

const publishedColumns = [
  {name: "Source", key: p => p.source}, {name: "Table", key: p => p.table}, {name: "Row", key: p => p.row},
  {name: "Dataset", key: p => p.dataset}, {name: "Published", key: p => p.published, down: true},
  {name: "Here [CI]", key: p => p.value, down: true}, {name: "n", key: p => p.n}, {name: "On", key: p => p.on},
  {name: "Difference", key: p => p.difference, down: true}, {name: "Verdict", key: p => p.verdict},
];
const refreshPublished = sortable(byId("published-table"), publishedColumns, () => data.published, rows => {
  byId("published-table").tBodies[0].innerHTML = rows.map(p =>
    `<tr><td>${safe(p.source)}</td><td>${safe(p.table)}</td><td>${safe(p.row)}</td><td>${safe(p.dataset)}</td>` +
    `<td class="number">${number(p.published)}</td><td class="number">${number(p.value)} <small>[${number(p.low)}, ${number(p.high)}]</small></td>` +
    `<td class="number">${p.n}</td><td>${safe(p.on)}</td><td class="number">${number(p.difference)}</td>` +
    `<td>${safe(p.verdict)} <small>${safe(p.reasons.join("; "))}</small></td></tr>`).join("");
}, {by: 1, down: false});
byId("rule").textContent = data.rule;

// --- downloads and views ------------------------------------------------------------------------

for (const button of document.querySelectorAll("[data-download]")) button.addEventListener("click", () => {
  const kind = button.dataset.download;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([byId(kind).textContent], {type: "text/plain"}));
  link.download = `${data.name}.${kind}`;
  link.click();
  URL.revokeObjectURL(link.href);
});

// Parsed with the page, laid out when they are looked at.
const drawFigures = () => byId("figures").replaceChildren(byId("drawings").content);

const VIEWS = ["results", "runs", "completeness", "figures", "published", "downloads", "run"];
const drawn = new Set();

function route() {
  const [name, ...rest] = location.hash.slice(1).split("/");
  const view = VIEWS.includes(name) ? name : "results";
  const argument = decodeURIComponent(rest.join("/"));
  for (const other of VIEWS) byId(`view-${other}`).hidden = other !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view === "run" ? "runs" : view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (view === "run") drawRun(argument);
  if (view === "runs") { onlyCell = argument; shownRuns = PAGE; refreshRuns(); }
  if (!drawn.has(view)) ({
    results: refreshResults, completeness: drawMatrix, published: refreshPublished, figures: drawFigures,
  })[view]?.();
  drawn.add(view);
  scrollTo(0, 0);
}
addEventListener("hashchange", route);
route();
