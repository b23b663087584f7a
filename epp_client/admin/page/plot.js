// --- plots: fifteen minutes of some series, with axes, and a read-out by pointer and keyboard ---

const SPAN = 900, LEFT = 46, RIGHT = 8, TOP = 6, BOTTOM = 18, HEIGHT = 128;
const PLOTS = [
  { id: "requests", title: "Requests", unit: "/s", stacked: true, text: rate, series: [
    ["steered", "steered"], ["other", "other"], ["failed_open", "failed open"], ["refused", "refused"]] },
  { id: "pick", title: "Pick latency", unit: "", text: seconds, series: [["pick_p50", "p50"], ["pick_p99", "p99"]] },
  { id: "exchange", title: "Exchange latency", unit: "", text: seconds, series: [["exchange_p50", "p50"], ["exchange_p99", "p99"]] },
  { id: "flight", title: "In flight", unit: "", counts: true, text: (number) => whole(number || 0), series: [["in_flight", "requests"]] },
];
let summaries = 0;
const SVG = "http://www.w3.org/2000/svg";
function svg(tag, props, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(props)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}
// The end of an axis: a round number at or above `number`, whose half is round too.
function nice(number, counts) {
  if (counts && number <= 2) return 2;
  const power = 10 ** Math.floor(Math.log10(number));
  const steps = counts && power === 1 ? [2, 4, 6, 8, 10] : [1, 2, 3, 4, 6, 8, 10];
  return steps.find((step) => step * power >= number * 0.9999) * power;
}

// A group of plots of the same series shows the same moment in all of them.
function plotGroup(name) {
  const group = { data: null, cursor: null, plots: [], node: make("div", { class: "plots" }) };
  group.plots = PLOTS.map((kind) => plot(kind, name, group));
  group.node.append(...group.plots.map((one) => one.node));
  group.take = (data) => {
    group.data = data;
    for (const one of group.plots) drawPlot(one);
  };
  group.point = (index, byKey) => {
    if (group.data === null || index === group.cursor) return;
    group.cursor = index;
    for (const one of group.plots) readOut(one, byKey);
  };
  return group;
}
function plot(kind, name, group) {
  const one = { kind, name, group, width: 0, paths: [], values: [] };
  one.frame = svg("svg", { height: HEIGHT, "aria-hidden": "true" });
  one.axes = one.frame.appendChild(svg("g", { class: "axes" }));
  for (const [key] of kind.series) one.paths.push(one.frame.appendChild(svg("path", { class: `${kind.stacked ? "area" : "line"} ${key}` })));
  one.cross = one.frame.appendChild(svg("line", { class: "cross", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" }));
  one.summary = make("p", { class: "unseen", id: `summary-${++summaries}` });
  one.at = make("span", { class: "quiet" });
  one.chart = make("div", { class: "chart", role: "slider", tabindex: "0", "aria-label": `${kind.title} of ${name}, last 15 minutes`,
    "aria-describedby": one.summary.id, "aria-valuemin": "0", "aria-valuemax": "0", "aria-valuenow": "0", "aria-valuetext": "no data yet" }, one.frame);
  const legend = kind.series.map(([key, word]) => {
    const value = make("b", {}, "–");
    one.values.push(value);
    return make("span", { class: `key ${key}` }, make("i", {}), `${word} `, value);
  });
  one.node = make("figure", { class: `plot ${kind.id}` }, make("figcaption", {}, make("strong", {}, kind.title), one.at),
    make("div", { class: "legend" }, ...legend), one.chart, one.summary);
  listen(one);
  return one;
}
function listen(one) {
  const { chart, group } = one;
  const last = () => (group.data ? group.data.at.length - 1 : -1);
  chart.addEventListener("pointermove", (event) => {
    if (last() < 0) return;
    const x = event.clientX - chart.getBoundingClientRect().left;
    const at = startOf(group.data) + (SPAN * (x - LEFT)) / Math.max(1, one.width - LEFT - RIGHT);
    let best = last();
    while (best > 0 && Math.abs(group.data.at[best - 1] - at) <= Math.abs(group.data.at[best] - at)) best -= 1;
    group.point(best, false);
  });
  chart.addEventListener("pointerleave", () => group.point(null, false));
  chart.addEventListener("blur", () => group.point(null, false));
  chart.addEventListener("keydown", (event) => {
    const now = group.cursor === null ? last() : group.cursor;
    const to = { ArrowLeft: now - 1, ArrowDown: now - 1, ArrowRight: now + 1, ArrowUp: now + 1, PageDown: now - 10, PageUp: now + 10, Home: 0, End: last() }[event.key];
    if (event.key === "Escape") return group.point(null, true);
    if (to === undefined || last() < 0) return;
    event.preventDefault();
    group.point(Math.min(last(), Math.max(0, to)), true);
  });
  widths.set(chart, one);
  widthOf.observe(chart);
}
const widths = new WeakMap();
const widthOf = new ResizeObserver((entries) => {
  for (const entry of entries) {
    const one = widths.get(entry.target);
    one.width = Math.round(entry.contentRect.width);
    drawPlot(one);
  }
});

const startOf = (data) => data.at[data.at.length - 1] - SPAN;
function layers(one) {
  const columns = one.kind.series.map(([key]) => one.group.data[key]);
  if (!one.kind.stacked) return columns;
  const base = new Array(columns[0].length).fill(0);
  return columns.map((column) => column.map((value, at) => (base[at] += value || 0)));
}
function drawPlot(one) {
  const { group, width } = one, data = group.data;
  if (data === null || !data.at.length || width < LEFT + RIGHT + 20) return;
  const tops = layers(one);
  const most = Math.max(0, ...tops.flat().filter((value) => value !== null));
  const top = most > 0 ? nice(most, one.kind.counts) : 1;
  const start = startOf(data);
  const x = (at) => +Math.max(LEFT, LEFT + ((width - LEFT - RIGHT) * (at - start)) / SPAN).toFixed(1);
  const y = (value) => +(HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * value) / top).toFixed(1);
  one.x = x;
  mark(one.frame, "width", String(width));
  drawAxes(one, top, most > 0, x, y, start);
  tops.forEach((column, at) => {
    const floor = at && one.kind.stacked ? tops[at - 1] : null;
    mark(one.paths[at], "d", one.kind.stacked ? area(data.at, column, floor, x, y) : line(data.at, column, x, y));
  });
  one.chart.setAttribute("aria-valuemax", String(data.at.length - 1));
  say(one.summary, summary(one));
  readOut(one, false);
}
function line(times, values, x, y) {
  let path = "", drawing = false;
  values.forEach((value, at) => {
    if (value === null) { drawing = false; return; }
    // A lone point is a short stroke.
    path += `${drawing ? "L" : "M"}${x(times[at])} ${y(value)}${drawing ? "" : "h.1"}`;
    drawing = true;
  });
  return path;
}
function area(times, values, floor, x, y) {
  if (floor ? values.every((value, at) => value === floor[at]) : values.every((value) => value === 0)) return "";
  const over = values.map((value, at) => `${x(times[at])} ${y(value)}`);
  const under = values.map((_, at) => `${x(times[at])} ${y(floor ? floor[at] : 0)}`).reverse();
  return `M${over.join("L")}L${under.join("L")}Z`;
}
function drawAxes(one, top, any, x, y, start) {
  const { width, kind } = one, parts = [];
  for (const value of any ? [0, top / 2, top] : [0]) {
    parts.push(svg("line", { x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }));
    parts.push(svg("text", { x: LEFT - 5, y: y(value) + 4, "text-anchor": "end" }, `${kind.text(value)}${value ? kind.unit : ""}`));
  }
  for (let at = Math.ceil(start / 300) * 300; at < start + SPAN; at += 300) {
    if (x(at) < LEFT + 14 || x(at) > width - RIGHT - 14) continue;
    parts.push(svg("line", { x1: x(at), x2: x(at), y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM + 4 }));
    parts.push(svg("text", { x: x(at), y: HEIGHT - 3, "text-anchor": "middle" }, minutes(at)));
  }
  one.axes.replaceChildren(...parts);
}
function readOut(one, byKey) {
  const { group, kind } = one, data = group.data;
  const index = group.cursor === null ? data.at.length - 1 : Math.min(group.cursor, data.at.length - 1);
  const values = kind.series.map(([key]) => { const text = kind.text(data[key][index]); return text === "–" ? text : text + kind.unit; });
  values.forEach((text, at) => say(one.values[at], text));
  say(one.at, group.cursor === null ? "" : zoned(data.at[index]));
  mark(one.cross, "visibility", group.cursor === null ? "hidden" : "visible");
  if (group.cursor !== null && one.x) {
    const at = String(one.x(data.at[index]));
    mark(one.cross, "x1", at);
    mark(one.cross, "x2", at);
  }
  // A screen reader reads these aloud when they change: only keys change them.
  if (byKey || one.chart.getAttribute("aria-valuetext") === "no data yet") {
    one.chart.setAttribute("aria-valuenow", String(index));
    one.chart.setAttribute("aria-valuetext", `${zoned(data.at[index])}: ${kind.series.map(([, word], at) => `${word} ${values[at]}`).join(", ")}`);
  }
}
// The plot in words.
function summary(one) {
  const { kind, group } = one, data = group.data;
  const parts = kind.series.map(([key, word]) => {
    const known = data[key].map((value, at) => [value, data.at[at]]).filter(([value]) => value !== null);
    if (!known.length) return `${word}: none`;
    const [most, when] = known.reduce((best, point) => (point[0] > best[0] ? point : best));
    if (most === 0) return `${word}: 0 all the time`;
    return `${word}: now ${kind.text(data[key][data.at.length - 1])}${kind.unit}, at most ${kind.text(most)}${kind.unit} at ${clock(when)}`;
  });
  return `From ${clock(data.at[0])} to ${zoned(data.at[data.at.length - 1])}. ${parts.join(". ")}.`;
}
