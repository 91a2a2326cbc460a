// Asks the server for what has changed and draws it; every text is set as text.

import { figure, make } from "./charts.js";

const PAUSE = 1000; // milliseconds between two questions, longer while nothing goes on or nobody looks
const drawn = new Map(); // the JSON that each part of the page shows
const open = new Set(); // the keys of the opened details
let tag = null, status = null, ahead = 0, failures = 0;

const part = (id) => document.getElementById(id);

async function ask() {
  try {
    const answer = await fetch("data", { cache: "no-store", headers: tag ? { "If-None-Match": tag } : {} });
    const at = Date.parse(answer.headers.get("Date") ?? "");
    if (Number.isFinite(at)) ahead = Math.abs(at - Date.now()) > 2000 ? at - Date.now() : 0;
    if (answer.status === 200) {
      show(await answer.json());
      tag = answer.headers.get("ETag");
    } else if (answer.status !== 304) {
      throw new Error(`the server said ${answer.status}`);
    }
    failures = 0;
    note(`Up to date at ${clock(Date.now())}; new figures appear by themselves.`, false);
  } catch {
    failures += 1;
    if (failures > 1) note("The page's server does not answer: has fedloom watch ended? What is shown is no longer new.", true);
  }
  const slow = failures > 1 || document.hidden || (status && ["ended", "failed", "stopped", "killed"].includes(status.state));
  setTimeout(ask, slow ? 3 * PAUSE : PAUSE);
}

function note(text, gone) {
  const place = part("link");
  if (place.textContent !== text) place.textContent = text;
  place.classList.toggle("gone", gone);
}

const EMPTY = { description: "", facts: [], charts: [], more: [], tables: [], samples: [], settings: "", report: false };

function show(found) {
  const page = { ...EMPTY, ...found };
  status = page.status;
  document.title = `${page.title}: ${status.state}`;
  part("title").textContent = page.title;
  part("description").textContent = page.description;
  const seams = status.seams, newest = newestRound([...page.charts, ...page.more]);
  const drawAll = (charts) => grid(charts.map((chart) => figure(chart, seams, newest)));
  redraw("status", [status, page.report], () => statusBox(status, page.report));
  redraw("facts", page.facts, () => [make("dl", { class: "facts" }, ...page.facts.map(([name, value]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, value))))]);
  const [runs, tables] = [true, false].map((first) => page.tables.filter((t) => (t.key === "runs") === first));
  redraw("runs", runs, () => runs.flatMap(tableBox));
  redraw("charts", [page.charts, seams, newest], () => [heading("Figures"), drawAll(page.charts)]);
  redraw("tables", tables, () => tables.flatMap(tableBox));
  redraw("samples", page.samples, () => [heading("Samples so far"), grid(page.samples.map(card))]);
  redraw("more", [page.more, seams, newest], () => [later("more", `More figures (${page.more.length})`, () => drawAll(page.more))]);
  redraw("settings", page.settings, () => [later("settings", "All settings", () => make("pre", { tabindex: 0 }, page.settings))]);
  tickTime();
}

function newestRound(charts) {
  const rounds = charts.flatMap((chart) => chart.lines.flatMap((line) => line.points.slice(-1).map((p) => p[0])));
  return rounds.reduce((a, b) => Math.max(a, b), 0);
}

// Draws a part anew if its values have changed; what is open stays open, and the focus stays.
function redraw(id, values, draw) {
  const text = JSON.stringify(values ?? null), place = part(id);
  if (drawn.get(id) === text) return;
  drawn.set(id, text);
  const empty = !values || values.length === 0 || (Array.isArray(values[0]) && values[0].length === 0);
  const focused = place.contains(document.activeElement) ? keyOf(document.activeElement) : null;
  const scrolled = new Map([...place.querySelectorAll(".scroll")].map((box) => [box.dataset.key, [box.scrollLeft, box.scrollTop]]));
  place.replaceChildren(...(empty ? [] : draw()));
  for (const box of place.querySelectorAll("details[data-key]")) {
    if (open.has(box.dataset.key)) box.open = true;
    box.addEventListener("toggle", () => (box.open ? open.add(box.dataset.key) : open.delete(box.dataset.key)));
  }
  for (const box of place.querySelectorAll(".scroll")) {
    const [left, top] = scrolled.get(box.dataset.key) ?? [0, 0];
    box.scrollLeft = left;
    box.scrollTop = top;
  }
  if (focused !== null) [...place.querySelectorAll("a, summary, [tabindex]")].find((e) => keyOf(e) === focused)?.focus();
}

const keyOf = (element) => element.dataset.key ?? element.closest("[data-key]")?.dataset.key ?? element.textContent;
const heading = (text) => make("h2", {}, text);
const grid = (children) => make("div", { class: "grid" }, ...children);

function statusBox(s, report) {
  part("status").className = s.state;
  const notes = s.notes.map((text) => make("li", {}, text));
  const history = s.history.map(([at, words]) => make("li", {}, make("time", {}, day(1000 * at)), ` ${words}`));
  return [
    make("p", { "aria-live": "polite" }, s.headline),
    s.rounds && s.state !== "ended" ? make("progress", { max: s.rounds, value: s.done, "aria-label": "Finished" }) : null,
    s.doing ? make("p", { class: "soft" }, `Now: ${s.doing}`) : null,
    make("p", { class: "soft", id: "time" }),
    notes.length ? make("ul", { class: "notes" }, ...notes) : null,
    history.length ? make("ul", { class: "history" }, ...history) : null,
    report ? make("p", { class: "soft" }, "The report is written: report.html in this folder.") : null,
  ].filter((child) => child !== null);
}

// Time worked, time of a round, and what the rounds that are left will take if they go on so.
function tickTime() {
  const place = part("time");
  if (!place || !status) return;
  const now = (Date.now() + ahead) / 1000, running = status.state === "running";
  const worked = status.worked + (status.since ? Math.max(0, now - status.since) : 0);
  const words = worked >= 0.05 ? [`${duration(worked)} of work`] : [];
  if (status.each) words.push(`${duration(status.each)} a round`);
  if (running && status.each && status.last) {
    const left = status.rounds - status.done, own = now - status.last;
    if (left > 0 && own > 2 * status.each + 2) words.push("this round takes longer than the ones before");
    else if (left > 0) words.push(`about ${duration(Math.max(status.each * left - own, 1))} left for the rounds; the end's evaluation comes on top`);
  } else if (running && status.since) {
    words.push("no estimate before two rounds have ended");
  }
  const text = words.join("; ");
  if (place.textContent !== text) place.textContent = text;
}

const FIGURE = /^[~<+−-]?\d[\d.,]*( \S{1,5})?$|^—$/;

function tableBox(table) {
  const figures = table.header.map((_, i) => {
    const texts = table.lines.map((line) => textOf(line[i]));
    return i > 0 && texts.every((text) => FIGURE.test(text)) && texts.some((text) => text !== "—");
  });
  const head = table.header.map((text, i) => make("th", { scope: "col", class: figures[i] ? "figure" : null }, text));
  const rows = table.lines.map((line) => make("tr", {}, ...line.map((field, i) => {
    if (i === 0) return make("th", { scope: "row" }, textOf(field));
    const kinds = [figures[i] && "figure", field.long && "long", field.state].filter(Boolean).join(" ");
    const inner = field.href ? make("a", { href: field.href }, textOf(field)) : textOf(field);
    return make("td", { class: kinds || null }, inner);
  })));
  const box = make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": table.caption, "data-key": `table ${table.key}` },
    make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)));
  return [heading(table.caption), box];
}

const textOf = (field) => (typeof field === "object" && field !== null ? field.text : String(field));

function card(sample) {
  const media = sample.media.map((medium) => medium.sound
    ? make("audio", { controls: true, preload: "metadata", src: medium.href, "aria-label": `${medium.modality} of the sample` })
    : make("img", { src: medium.href, alt: `${medium.modality} of the sample`, loading: "lazy" }));
  const entries = [
    ["question", sample.question], ["spoken", sample.spoken], ["reference", sample.reference],
  ].filter(([, text]) => text).flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]);
  const answers = sample.answers.flatMap((answer) => [
    make("dt", {}, `answer ${answer.moment} training`),
    make("dd", {}, answer.text || "(empty)", verdict(answer.right)),
  ]);
  return make("article", { class: "card" }, make("h3", {}, `${sample.kind}, ${sample.client}`), ...media, make("dl", {}, ...entries, ...answers));
}

function verdict(right) {
  if (right === null) return null;
  return make("span", { class: right ? "right" : "wrong" }, right ? " ✓ right" : " ✗ wrong");
}

// Details whose content is made when they are opened.
function later(key, title, content) {
  const box = make("details", { "data-key": key }, make("summary", {}, title));
  box.addEventListener("toggle", () => { if (box.open && box.children.length === 1) box.append(content()); });
  return box;
}

function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

function clock(at) { return new Date(at).toLocaleTimeString(); }

function day(at) {
  const when = new Date(at);
  if (Number.isNaN(when.getTime())) return "—";
  return when.toDateString() === new Date().toDateString() ? when.toLocaleTimeString() : when.toLocaleString();
}

part("up").hidden = !/\/run\/\d+\/$/.test(location.pathname);
setInterval(tickTime, 1000);
document.addEventListener("visibilitychange", () => { if (!document.hidden) tickTime(); });
ask();
