"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 200, SIBLINGS = 20;
const MARKS = {done: "●", failed: "✗", running: "▶", queued: "○", stopped: "◐", missing: "·"};
const byId = id => document.getElementById(id);
const escapes = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"};
const safe = value => String(value ?? "").replace(/[&<>"']/g, c => escapes[c]);
// A name may break where its words do.
const breakable = name => safe(name).replace(/[_/]/g, "$&<wbr>");
const number = (value, digits = 1) =>
  value == null ? "–" : value.toLocaleString("en", {minimumFractionDigits: digits, maximumFractionDigits: digits});
const interval = c => c.low == null ? "" : ` <small>[${number(c.low)}, ${number(c.high)}]</small>`;
const counted = (rows, all, what) => `${number(rows.length, 0)} of ${number(all.length, 0)} ${what}`;
const runId = run => `${run.cell}.seed${run.seed}`;
const runHash = id => `#run/${encodeURIComponent(id)}`;
const cellHash = cell => `#runs/${encodeURIComponent(cell)}`;
const runsById = new Map(data.runs.map(run => [runId(run), run]));

// --- a table that is sorted by its heads --------------------------------------------------------

const collator = new Intl.Collator("en", {numeric: true});
const order = (x, y) => typeof x === "number" ? x - y : collator.compare(x, y);

function sortedBy({key}, down, rows) {
  const known = rows.filter(row => key(row) != null), unknown = rows.filter(row => key(row) == null);
  known.sort((a, b) => down ? order(key(b), key(a)) : order(key(a), key(b)));
  return [...known, ...unknown];
}

// A column without a key is not sorted by.
const heads = columns => columns.map((c, i) => `<th scope="col"${c.number ? ' class="number"' : ""}>` +
  (c.key ? `<button type="button" data-column="${i}">${safe(c.name)}</button>` : safe(c.name)) + "</th>").join("");

function sortable(table, columns, rows, draw, state) {
  const refresh = () => {
    [...table.tHead.rows[0].cells].forEach((cell, i) => {
      if (i === state.by) cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
    draw(sortedBy(columns[state.by], state.down, rows()));
  };
  table.tHead.innerHTML = `<tr>${heads(columns)}</tr>`;
  for (const button of table.tHead.querySelectorAll("button")) button.addEventListener("click", () => {
    const by = Number(button.dataset.column);
    state.down = state.by === by ? !state.down : Boolean(columns[by].down);
    state.by = by;
    refresh();
  });
  return refresh;
}

const across = (table, cell, text) => `<tr><${cell} colspan="${table.tHead.rows[0].cells.length}">${text}</${cell}></tr>`;

function fill(table, rows, empty = "Nothing matches.") {
  table.tBodies[0].innerHTML = rows.join("") || across(table, "td", empty);
}

function choices(select, values) {
  for (const value of values) select.add(new Option(value, value));
}

// --- a table that is wider than its place -------------------------------------------------------

// What scrolls sideways fades where it goes on, says so, and is reached by the keyboard.
function hintAtMore(box) {
  const hint = document.createElement("p");
  Object.assign(hint, {className: "hint", hidden: true, textContent: "Scroll sideways for more \u2192"});
  hint.setAttribute("aria-hidden", "true");
  box.before(hint);
  const look = () => {
    const beyond = box.scrollWidth - box.clientWidth;
    hint.hidden = beyond < 2;
    box.classList.toggle("more-left", box.scrollLeft > 1);
    box.classList.toggle("more-right", beyond - box.scrollLeft > 1);
    if (beyond > 1 || box.scrollHeight > box.clientHeight) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  };
  box.addEventListener("scroll", look, {passive: true});
  const observer = new ResizeObserver(look);
  for (const element of [box, box.firstElementChild]) observer.observe(element);
}

// --- results ------------------------------------------------------------------------------------

const everywhere = [...data.overall, ...data.cells];
const ends = data.cells.flatMap(c => [c.low ?? c.value, c.high ?? c.value]).filter(v => v != null);
const [least, most] = [Math.min(0, ...ends), Math.max(100, ...ends)];
const place = value => (100 * (value - least) / (most - least)).toFixed(1);
const stroke = (kind, from, to, top = 4, bottom = 4) =>
  `<line class="${kind}" x1="${place(from)}" x2="${place(to)}" y1="${top}" y2="${bottom}"/>`;
const bar = c => c.value == null ? "" :
  `<svg class="bar" viewBox="-4 0 108 8" preserveAspectRatio="none" aria-hidden="true">` +
  [0, 100].map(limit => stroke("limit", limit, limit, 0, 8)).join("") +
  (c.low == null ? "" : stroke("interval", c.low, c.high)) + stroke("mean", c.value, c.value) + `</svg>`;
const RANKS = {tie: "†", undecided: "?"};

const resultColumns = [
  {name: "Method", key: c => c.label},
  {name: "Dataset", key: c => c.dataset},
  {name: "Score [CI]", key: c => c.value, down: true, number: true},
  {name: "Interval"},
  {name: "n", key: c => c.n, down: true, number: true},
  {name: "Seconds", key: c => c.wall_seconds, number: true},
  {name: "Outer steps", key: c => c.outer_steps, number: true},
  {name: "Environment steps", key: c => c.environment_steps, number: true},
  {name: "Used", key: c => c.used},
];

// The mean over datasets, one dataset, or every dataset.
const chosen = () => byId("dataset").value ? everywhere.filter(c => c.dataset === byId("dataset").value) : data.cells;

function shownCells() {
  const words = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean), used = byId("used").value;
  return chosen().filter(c =>
    words.every(w => `${c.dataset} ${c.label}`.toLowerCase().includes(w)) &&
    (!used || c.used === used) && !(byId("no-references").checked && c.apart));
}

function resultRow(c) {
  const n = c.n < c.n_expected ? `${c.n}/${c.n_expected}` : c.n;
  return `<tr class="${c.reference ? "reference" : c.rank}">` +
    `<th scope="row"><a href="${cellHash(c.cell_id || c.label)}">${breakable(c.label)}</a></th>` +
    `<td>${safe(c.dataset)}</td>` +
    `<td class="number score">${number(c.value)}${interval(c)}<span class="rank">${RANKS[c.rank] ?? ""}</span></td>` +
    `<td>${bar(c)}</td>` +
    `<td class="number">${n}</td><td class="number">${number(c.wall_seconds)}</td>` +
    `<td class="number">${number(c.outer_steps, 0)}</td><td class="number">${number(c.environment_steps, 0)}</td>` +
    `<td>${safe(c.used)}</td></tr>`;
}

function drawResults(cells) {
  const table = byId("results-table"), apart = cells.filter(c => c.apart);
  byId("results-count").textContent = counted(cells, chosen(), byId("dataset").value ? "methods" : "cells");
  table.classList.toggle("one-dataset", Boolean(byId("dataset").value));
  fill(table, cells.filter(c => !c.apart).map(resultRow), apart.length ? "Only references match." : undefined);
  table.tBodies[1].innerHTML = apart.length ? across(table, "th", "For comparison") + apart.map(resultRow).join("") : "";
}

const refreshResults = sortable(byId("results-table"), resultColumns, shownCells, drawResults, {by: 2, down: true});
choices(byId("dataset"), new Set(everywhere.map(c => c.dataset)));
if (byId("dataset").options.length !== 1) byId("dataset").add(new Option("every dataset", ""), data.overall.length ? null : 0);
byId("dataset").selectedIndex = 0;
byId("dataset").parentElement.hidden = byId("dataset").options.length === 1;
choices(byId("used"), [...new Set(data.cells.map(c => c.used).filter(Boolean))].sort());
for (const id of ["find", "dataset", "used", "no-references"]) byId(id).addEventListener("input", refreshResults);
byId("counts").innerHTML = `${number(data.runs.length, 0)} runs: ` + Object.entries(data.counts).map(([state, n]) =>
  `<a class="state-${state}" href="#runs" data-state="${state}">${MARKS[state]} ${number(n, 0)} ${state}</a>`).join(", ");
for (const link of byId("counts").querySelectorAll("a")) link.addEventListener("click", () => {
  byId("find-run").value = "";
  byId("state").value = link.dataset.state;
});
byId("results-note").textContent =
  `Normalized return: 100 is the reference expert, 0 the random policy; mean over n seeds (runs, where the mean is over datasets) with ` +
  `${100 * (data.cells[0]?.level ?? 0.95)} % interval (Student's t below 30 seeds). Bold: the highest ` +
  `mean of a dataset among distillation methods; †: not apart from it (the interval of the difference holds 0, corrected for the table's comparisons); ` +
  (data.cells.some(c => c.rank === "undecided") ? "?: one of the two has a single seed and no interval to tell by; " : "") +
  `grey: references, which distil nothing. Bars go from 0 to 100. Seconds are a run's share of wall time without scoring.`;

// --- runs ---------------------------------------------------------------------------------------

let onlyCell = "", shownRuns = PAGE;
const runColumns = [
  {name: "Method", key: r => data.labels[r.cell]},
  {name: "Dataset", key: r => data.specs[r.cell].dataset},
  {name: "Seed", key: r => r.seed, number: true},
  {name: "State", key: r => r.state},
  {name: "Score", key: r => r.score, down: true, number: true},
  {name: "Seconds", key: r => r.cost?.wall_seconds, number: true},
  {name: "Error", key: r => r.error?.type},
];

function filteredRuns() {
  const words = byId("find-run").value.toLowerCase().split(/\s+/).filter(Boolean);
  const state = byId("state").value;
  return data.runs.filter(r => (!onlyCell || r.cell === onlyCell || data.labels[r.cell] === onlyCell) && (!state || r.state === state) &&
    words.every(w => `${data.specs[r.cell].dataset} ${data.labels[r.cell]} ${r.error?.type ?? ""}`.toLowerCase().includes(w)));
}

function drawRuns(runs) {
  byId("runs-count").textContent = counted(runs, data.runs, "runs");
  fill(byId("runs-table"), runs.slice(0, shownRuns).map(r =>
    `<tr><th scope="row"><a href="${runHash(runId(r))}">${breakable(data.labels[r.cell])}</a></th>` +
    `<td>${safe(data.specs[r.cell].dataset)}</td>` +
    `<td class="number">${r.seed}</td><td class="state-${r.state}">${MARKS[r.state]} ${r.state}</td>` +
    `<td class="number">${number(r.score)}</td><td class="number">${number(r.cost?.wall_seconds)}</td>` +
    `<td>${safe(r.error?.type)}</td></tr>`));
  byId("more").hidden = runs.length <= shownRuns;
  byId("more").textContent = `Show more (${shownRuns} of ${runs.length})`;
}

const refreshRuns = sortable(byId("runs-table"), runColumns, filteredRuns, drawRuns, {by: 0, down: false});
choices(byId("state"), [...new Set(data.runs.map(r => r.state))].sort());
for (const id of ["find-run", "state"]) byId(id).addEventListener("input", () => { shownRuns = PAGE; refreshRuns(); });
byId("more").addEventListener("click", () => { shownRuns += PAGE; refreshRuns(); });

function runsHeading(cell) {
  if (!cell) return "Runs";
  if (Object.values(data.labels).includes(cell)) return `Runs of ${cell}`;
  return Object.hasOwn(data.specs, cell) ? `Runs of ${data.labels[cell]} on ${data.specs[cell].dataset}` : `No cell ${cell}`;
}

function drawRunsOf(cell) {
  if (cell !== onlyCell) shownRuns = PAGE;
  if (cell && cell !== onlyCell) for (const id of ["find-run", "state"]) byId(id).value = "";
  onlyCell = cell;
  byId("runs-heading").textContent = runsHeading(cell);
  byId("all-runs").hidden = !cell;
  refreshRuns();
}

// --- completeness -------------------------------------------------------------------------------

function drawMatrix() {
  const seeds = [...new Set(data.runs.map(r => r.seed))].sort((a, b) => a - b);
  const rows = new Map();
  for (const r of data.runs) rows.set(r.cell, (rows.get(r.cell) ?? new Map()).set(r.seed, r));
  byId("matrix").tHead.innerHTML = `<tr><th scope="col">Cell</th>${seeds.map(s => `<th scope="col">${s}</th>`).join("")}</tr>`;
  byId("matrix").tBodies[0].innerHTML = [...rows].map(([cell, found]) =>
    `<tr><th scope="row">${breakable(data.specs[cell].dataset)} ${breakable(data.labels[cell])}</th>` + seeds.map(s => {
      const r = found.get(s);
      return r ? `<td><a class="state-${r.state}" href="${runHash(runId(r))}" ` +
        `aria-label="seed ${s}: ${r.state}">${MARKS[r.state]}</a></td>` : "<td></td>";
    }).join("") + "</tr>").join("");
  byId("legend").innerHTML = Object.entries(MARKS).map(([s, m]) => `<span class="state-${s}">${m} ${s}</span>`).join("&ensp;");
}

// --- one run ------------------------------------------------------------------------------------

// Round numbers that divide a range into about `count` steps.
function ticks(from, to, count) {
  const rough = (to - from) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find(m => m * power >= rough);
  const found = [];
  for (let k = Math.ceil(from / step); k * step <= to * (1 + 1e-9); k += 1) found.push(Number((k * step).toPrecision(12)));
  return found;
}

function curve(points) {
  if (!points?.length) return "";
  const [w, h, left, bottom] = [560, 300, 46, 40];
  const xs = points.map(p => p[0]), ys = points.map(p => p[1]);
  const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(0, ...ys), Math.max(1, ...ys)];
  const x = v => left + (w - left - 24) * (x1 > x0 ? (v - x0) / (x1 - x0) : .5);
  const y = v => h - bottom - (h - bottom - 14) * (v - y0) / (y1 - y0);
  const across = v => `<line class="grid" x1="${left}" x2="${w - 12}" y1="${y(v)}" y2="${y(v)}"/>` +
    `<text x="${left - 7}" y="${y(v) + 4}" text-anchor="end">${v.toLocaleString("en")}</text>`;
  const below = v => `<text x="${x(v)}" y="${h - bottom + 17}" text-anchor="middle">${v.toLocaleString("en")}</text>`;
  return `<figure><svg class="curve" viewBox="0 0 ${w} ${h}" role="img" aria-label="normalized return against outer step">` +
    ticks(y0, y1, 5).map(across).join("") + ticks(x0, x1, 5).map(below).join("") +
    `<text x="${(left + w) / 2}" y="${h - 4}" text-anchor="middle">outer step</text>` +
    `<polyline points="${points.map(p => `${x(p[0])},${y(p[1])}`).join(" ")}"/>` +
    points.map(p => `<circle cx="${x(p[0])}" cy="${y(p[1])}" r="4"><title>step ${p[0]}: ${p[1]}</title></circle>`).join("") +
    `</svg><figcaption>Normalized return against outer step: ` +
    `${points.map(p => `${number(p[0], 0)}: ${number(p[1])}`).join(", ")}</figcaption></figure>`;
}

const pictured = new Map(Object.keys(data.pictures).map(id => [runsById.get(id).cell, id]));

function elsewhere(id) {
  return id ? `<p class="note">Of this cell the synthetic pairs of ` +
    `<a href="${runHash(id)}">seed ${runsById.get(id).seed}</a> are drawn.</p>` : "";
}

function picture(run) {
  const found = data.pictures[runId(run)];
  if (!found) return elsewhere(pictured.get(run.cell));
  return `<figure class="pairs"><svg viewBox="-20 -20 1040 1040" role="img" aria-label="the synthetic pairs">` +
    found.points.map(([x, y, c]) => `<circle cx="${x}" cy="${999 - y}" r="12" style="--share: ${(c / 9.99).toFixed(1)}%"/>`).join("") +
    `</svg><figcaption>The pairs on the two directions in which their observations differ most ` +
    `(${number(100 * found.explained, 0)} % of the spread); colour: the action's first component, <span class="low">low</span> to <span class="high">high</span></figcaption></figure>`;
}

function list(values, prefix = "") {
  return Object.entries(values).map(([key, value]) =>
    value !== null && typeof value === "object" && !Array.isArray(value) ? list(value, `${prefix}${key}.`) :
    `<dt>${safe(prefix + key)}</dt><dd>${safe(Array.isArray(value) ? value.join(", ") : value ?? "–")}</dd>`).join("");
}

function amount(key, value) {
  if (value == null) return "–";
  if (key.endsWith("_seconds")) return `${number(value)} s`;
  return key.endsWith("_bytes") ? `${number(value / 2 ** 20)} MiB` : number(value, 0);
}

function failure(error) {
  if (!error) return "";
  return `<h3>${safe(error.type)}</h3><pre>${safe(error.message)}</pre>` +
    (error.traceback ? `<details><summary>Traceback</summary><pre>${safe(error.traceback)}</pre></details>` : "");
}

function reproduction(run) {
  if (run.state !== "done") return "";
  const id = safe(runId(run));
  return `<h3>Reproduce</h3><pre>obdbench verify ${id}${run.sha256 ? `\nobdbench export ${id} --format npz` : ""}</pre>` +
    `<p class="note">Add <code>--store FOLDER</code> where the record is in a store other than the default. ` +
    `The record is <code>${safe(run.cell)}/seed${run.seed}/record.json</code> there.</p>`;
}

// Every seed of the cell with its score, or with its state where it has none.
function siblings(run) {
  const seeds = data.runs.filter(r => r.cell === run.cell).map(r => {
    const text = `seed ${r.seed}: ${r.score == null ? `${MARKS[r.state]} ${r.state}` : number(r.score)}`;
    return r === run ? `<strong>${text}</strong>` : `<a href="${runHash(runId(r))}">${text}</a>`;
  });
  return `<p class="siblings"><a href="${cellHash(run.cell)}">All seeds of this cell</a>: ` +
    `${seeds.slice(0, SIBLINGS).join(", ")}${seeds.length > SIBLINGS ? ", ..." : ""}</p>`;
}

function cost(run) {
  if (!run.cost) return "";
  return `<h3>Cost</h3><dl>` +
    list(Object.fromEntries(Object.entries(run.cost).map(([key, value]) => [key, amount(key, value)]))) + `</dl>`;
}

function noted(run) {
  if (!Object.keys(run.noted ?? {}).length) return "";
  const shown = Object.entries(run.noted).map(([key, value]) =>
    [key.replaceAll("_", " "), typeof value === "number" ? Number(value.toPrecision(4)) : value ?? "not finite"]);
  return `<h3>Noted by the method</h3><dl>` + list(Object.fromEntries(shown)) + `</dl>`;
}

function provenance(run) {
  if (run.provenance == null) return "";
  return `<h3>Provenance</h3><dl>${list(data.provenance[run.provenance])}` +
    `<dt>finished</dt><dd>${safe(run.finished)}</dd><dt>synthetic set sha256</dt><dd>${safe(run.sha256)}</dd></dl>`;
}

function drawRun(id) {
  const run = runsById.get(id), view = byId("view-run");
  if (!run) { view.innerHTML = `<h2>No run ${safe(id)}</h2>`; return; }
  view.innerHTML = `<h2>${safe(data.labels[run.cell])} on ${safe(data.specs[run.cell].dataset)}, seed ${run.seed}</h2>` +
    `<p><span class="state-${run.state}">${MARKS[run.state]} ${run.state}</span>` +
    (run.score == null ? "" : `, normalized return <strong>${number(run.score, 2)}</strong>`) +
    `</p>` + siblings(run) + failure(run.error) + `<div class="pictures">${curve(run.curve)}${picture(run)}</div>` +
    reproduction(run) + `<div class="columns"><div><h3>Spec</h3><dl>${list(data.specs[run.cell])}` +
    `<dt>seed</dt><dd>${run.seed}</dd></dl></div><div>${cost(run)}${noted(run)}</div><div>${provenance(run)}</div></div>`;
}

// --- published ----------------------------------------------------------------------------------

const LONG = 60;
const publishedColumns = [
  {name: "Row", key: p => p.row}, {name: "Dataset", key: p => p.dataset},
  {name: "Published", key: p => p.published, down: true, number: true},
  {name: "Here [CI]", key: p => p.value, down: true, number: true}, {name: "n", key: p => p.n, number: true},
  {name: "On", key: p => p.on}, {name: "Difference", key: p => p.difference, down: true, number: true},
  {name: "Verdict", key: p => p.verdict}, {name: "Table", key: p => `${p.source}, ${p.table}`},
];

function because(reasons) {
  const text = `<small>${safe(reasons.join("; "))}</small>`;
  return reasons.join("; ").length <= LONG ? text : `<details><summary>why</summary>${text}</details>`;
}

function drawPublished(rows) {
  fill(byId("published-table"), rows.map(p =>
    `<tr><th scope="row">${breakable(p.row)}</th><td>${breakable(p.dataset)}</td>` +
    `<td class="number">${number(p.published)}</td><td class="number">${number(p.value)}${interval(p)}</td>` +
    `<td class="number">${p.n}</td><td>${breakable(p.on)}</td><td class="number">${number(p.difference)}</td>` +
    `<td>${safe(p.verdict)} ${because(p.reasons)}</td><td>${safe(p.source)}, ${safe(p.table)}</td></tr>`),
  "No published number is of these methods and datasets.");
}

function tally(verdicts) {
  const found = new Map();
  for (const verdict of verdicts) found.set(verdict, (found.get(verdict) ?? 0) + 1);
  return [...found].map(([verdict, n]) => `${n} ${verdict}`).join(", ");
}

const refreshPublished = sortable(byId("published-table"), publishedColumns, () => data.published, drawPublished, {by: 8, down: false});
byId("verdicts").textContent = `${data.published.length} published numbers have runs here: ${tally(data.published.map(p => p.verdict)) || "none"}. With the authors' own files scored again: ${data.judged}`;
byId("rule").textContent = data.rule;

// --- downloads and views ------------------------------------------------------------------------

const downloads = {
  csv: () => byId("csv").textContent,
  bib: () => byId("bib").textContent,
  json: () => JSON.stringify({...data, pictures: undefined}, null, 1),
};
for (const button of document.querySelectorAll("[data-download]")) button.addEventListener("click", () => {
  const kind = button.dataset.download;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([downloads[kind]()], {type: "text/plain"}));
  link.download = `${data.name}.${kind}`;
  link.click();
  URL.revokeObjectURL(link.href);
});

// Parsed with the page, laid out when the view is opened.
const drawFigures = () => byId("figure-list").append(byId("drawings").content);
const landing = [...byId("headline-figure").children];

const VIEWS = ["results", "runs", "completeness", "figures", "published", "downloads", "run"];
const ONCE = {results: refreshResults, completeness: drawMatrix, published: refreshPublished, figures: drawFigures};
const drawn = new Set(), places = new Map();
let shownHash = location.hash;

function decoded(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

function asked() {
  const [name, ...rest] = location.hash.slice(1).split("/");
  return VIEWS.includes(name) ? [name, decoded(rest.join("/"))] : ["results", ""];
}

function draw(view, argument) {
  if (view === "run") drawRun(argument);
  if (view === "runs") drawRunsOf(argument);
  if (!drawn.has(view)) ONCE[view]?.();
  drawn.add(view);
  if (view === "figures") byId("figure-list").prepend(...landing);
  if (view === "results") byId("headline-figure").append(...landing);
  for (const box of byId(`view-${view}`).querySelectorAll(".scroll:not([data-watched])")) {
    box.dataset.watched = "";
    hintAtMore(box);
  }
}

function show(view) {
  for (const other of VIEWS) byId(`view-${other}`).hidden = other !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view === "run" ? "runs" : view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

const scrollers = () => [document.scrollingElement, ...document.querySelectorAll("section:not([hidden]) .scroll")];
const keepPlace = () => places.set(shownHash, scrollers().map(e => [e.scrollLeft, e.scrollTop]));

// An entry of the history that has been shown before is one that the reader went back to.
function findPlace() {
  const kept = history.state?.shown ? places.get(location.hash) : null;
  scrollers().forEach((element, i) => element.scrollTo(...(kept?.[i] ?? [0, 0])));
}

function focusOn(heading) {
  heading.tabIndex = -1;
  heading.focus({preventScroll: true});
}

function present(view, argument) {
  draw(view, argument);
  show(view);
  const heading = byId(`view-${view}`).querySelector("h2");
  document.title = `${heading.textContent} - ${data.name} - OBD-Bench`;
  shownHash = location.hash;
  return heading;
}

function route() {
  keepPlace();
  focusOn(present(...asked()));
  findPlace();
  history.replaceState({shown: true}, "");
}

for (const form of document.forms) form.addEventListener("submit", event => event.preventDefault());
document.querySelector(".skip").addEventListener("click", event => {
  event.preventDefault();
  byId("main").focus();
});
history.scrollRestoration = "manual";
history.replaceState({shown: true}, "");
addEventListener("hashchange", route);
present(...asked()); // a page that has just been opened is read from its top
