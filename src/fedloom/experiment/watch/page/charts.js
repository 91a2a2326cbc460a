// Line charts as SVG, drawn from a chart's JSON: {title, unit, lines: [{name, points: [[round, value, words], ...]}]}.

const SVG = "http://www.w3.org/2000/svg";
const SERIES = 8;
const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [360, 220, 46, 12, 14, 32];
// The least span of the vertical axis, so that a quarter of a point does not look like a collapse.
const LEAST = { percent: 0.1, count: 4 };

// An element with attributes and children; texts become text nodes, never markup.
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// A figure: title, chart up to the newest round of the page, legend with the last values, and the values as a table to open.
export function figure(chart, seams, newest) {
  // a row keeps its colour where others have no points
  const lines = chart.lines.map((line, i) => ({ ...line, i })).filter((line) => line.points.length);
  const last = (line) => line.points[line.points.length - 1];
  const value = (line) => last(line)[2] + (last(line)[0] < newest ? ` (round ${last(line)[0]})` : "");
  const words = lines.map((line) => `${line.name} ${value(line)}`.trim()).join("; ");
  const legend = lines.map((line) =>
    make("li", {}, swatch(line.i), ...(line.name ? [line.name] : []), make("b", {}, value(line))));
  return make("figure", {},
    make("figcaption", {}, chart.title),
    svg(chart, lines, seams, newest, `${chart.title} by round; last: ${words}`),
    make("ul", { class: "legend" }, ...legend),
    values(chart, lines));
}

function svg(chart, lines, seams, newest, label) {
  const points = lines.flatMap((line) => line.points);
  const [first, final] = span([...points.map((p) => p[0]), newest], 1);
  const [low, high] = range(chart.unit, points.map((p) => p[1]));
  const ticks = steps(low, high, 5);
  const bottom = Math.min(low, ticks[0]), top = Math.max(high, ticks[ticks.length - 1]);
  const x = (round) => LEFT + (WIDTH - LEFT - RIGHT) * (round - first) / (final - first);
  const y = (value) => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - bottom) / (top - bottom);
  const right = WIDTH - RIGHT, base = HEIGHT - BOTTOM;
  const rounds = steps(first, final, 6).filter(Number.isInteger);
  return draw("svg", { class: "chart", role: "img", "aria-label": label, viewBox: `0 0 ${WIDTH} ${HEIGHT}` },
    ...ticks.flatMap((value) => [
      draw("line", { class: "rule", x1: LEFT, x2: right, y1: y(value), y2: y(value) }),
      draw("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, tick(value, chart.unit, ticks)),
    ]),
    ...rounds.map((round) => draw("text", { x: x(round), y: base + 16, "text-anchor": "middle" }, String(round))),
    draw("text", { x: (LEFT + right) / 2, y: HEIGHT - 3, "text-anchor": "middle" }, "round"),
    draw("line", { class: "axis", x1: LEFT, x2: right, y1: base, y2: base }),
    ...seams.filter((after) => after >= first - 1 && after < final).flatMap((after) => {
      const at = Math.max(LEFT, x(Math.max(after, first) + 0.5));
      return [draw("line", { class: "seam", x1: at, x2: at, y1: TOP, y2: base }),
        draw("text", { class: "seam", x: at, y: TOP - 4, "text-anchor": at > WIDTH / 2 ? "end" : "start" }, "resumed")];
    }),
    ...lines.map((line) => curve(line, x, y)));
}

// Points where something was measured; joined where there are more than two.
function curve(line, x, y) {
  const i = line.i;
  const places = line.points.map((p) => [x(p[0]), y(p[1])]);
  const path = places.map(([a, b]) => `${a.toFixed(1)},${b.toFixed(1)}`).join(" ");
  const crowded = places.length > 60;
  return draw("g", { class: `c${i % SERIES}` },
    places.length > 2 ? draw("polyline", { class: "curve", points: path }) : null,
    ...(crowded ? places.slice(-1) : places).map(([a, b], k) => {
      const point = crowded ? line.points[line.points.length - 1] : line.points[k];
      return mark(i, a, b, `${line.name} round ${point[0]}: ${point[2]}`.trim());
    }));
}

// The marker of a series: the shape differs as well as the colour, and from the fifth on it is hollow.
function mark(i, x, y, words) {
  const kind = i % 4, r = 3.4, s = 1.35 * r;
  const corners = [[], [[-r, -r], [r, -r], [r, r], [-r, r]], [[0, -s], [s, 0.8 * s], [-s, 0.8 * s]], [[0, -s], [s, 0], [0, s], [-s, 0]]][kind];
  const attributes = { class: i % SERIES < 4 ? "mark" : "mark hollow" };
  const title = words ? draw("title", {}, words) : null;
  if (kind === 0) return draw("circle", { ...attributes, cx: x, cy: y, r }, title);
  return draw("polygon", { ...attributes, points: corners.map(([a, b]) => `${x + a},${y + b}`).join(" ") }, title);
}

function swatch(i) {
  return draw("svg", { viewBox: "0 0 28 14", "aria-hidden": "true", class: `c${i % SERIES}` },
    draw("line", { class: "curve", x1: 1, x2: 27, y1: 7, y2: 7, "stroke-width": 1.8 }), mark(i, 14, 7, ""));
}

// The values as a table, made when it is opened.
function values(chart, lines) {
  const box = make("details", { "data-key": `values ${chart.title}` }, make("summary", {}, "Values"));
  box.addEventListener("toggle", () => {
    if (!box.open || box.children.length > 1) return;
    const rounds = [...new Set(lines.flatMap((line) => line.points.map((p) => p[0])))].sort((a, b) => a - b);
    const found = lines.map((line) => new Map(line.points.map((p) => [p[0], p[2]])));
    const head = make("tr", {}, make("th", { scope: "col" }, "round"),
      ...lines.map((line) => make("th", { scope: "col", class: "figure" }, line.name || chart.title)));
    const rows = rounds.map((round) => make("tr", {}, make("th", { scope: "row" }, String(round)),
      ...found.map((by) => make("td", { class: "figure" }, by.get(round) ?? "—"))));
    box.append(make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `${chart.title}, values` },
      make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows))));
  });
  return box;
}

// The range of some numbers, widened around its middle to at least `width`.
function span(numbers, width) {
  let low = Infinity, high = -Infinity;
  for (const number of numbers) { low = Math.min(low, number); high = Math.max(high, number); }
  if (low > high) return [0, 1];
  if (width === 1 && Number.isInteger(low) && high - low < 1) return [low, low + 1]; // rounds
  const missing = Math.max(0, width - (high - low)) / 2;
  return [low - missing, high + missing];
}

// The span of some values; that of shares is moved rather than reach beyond 0 or 100 %.
function range(unit, values) {
  const [low, high] = span(values, LEAST[unit] ?? (0.05 * Math.max(...values.map(Math.abs)) || 1));
  const shares = unit === "percent" && Math.min(...values) >= 0 && Math.max(...values) <= 1;
  const moved = shares ? Math.min(0, 1 - high) + Math.max(0, -low) : 0;
  return [low + moved, high + moved];
}

// About `count` round numbers that cover a range.
function steps(low, high, count) {
  const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((s) => s >= rough) ?? rough;
  const from = Math.ceil(low / step - 1e-9), to = Math.floor(high / step + 1e-9);
  const found = [];
  for (let n = from; n <= to; n++) found.push(Number((n * step).toPrecision(12)));
  return found.length ? found : [low];
}

function tick(value, unit, ticks) {
  const step = ticks.length > 1 ? ticks[1] - ticks[0] : Math.abs(value) || 1;
  if (unit === "percent") return `${(100 * value).toFixed(step < 0.01 ? 1 : 0)} %`;
  if (Math.abs(value) >= 1e5 || (value !== 0 && step < 1e-4)) return value.toExponential(1);
  return value.toFixed(Math.min(4, Math.max(0, -Math.floor(Math.log10(step)))));
}
