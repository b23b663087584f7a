// --- one open pool: what it is, its history, its picker, its endpoints ---

const COLUMNS = [
  ["endpoint", "Endpoint", (one) => one.endpoint],
  ["pod", "Pod", (one) => one.pod],
  ["state", "State", (one) => (one.state === "ready" ? 1 : 0)],
  ["since", "Age", (one) => one.since],
  ["share", "Share of picks", (one) => -(one.share || 0)],
  ["picked", "Picked", (one) => -one.minute.picked],
  ["served", "Served", (one) => -one.minute.served],
  ["failed", "Failed", (one) => -(one.minute.failed + one.minute.unreachable)],
  ["total", "Failed in all", (one) => -(one.total.failed + one.total.unreachable)],
];
const NUMBERS = new Set(["since", "share", "picked", "served", "failed", "total"]);

function buildDetail(name) {
  const detail = { name, data: null, sort: "failed", said: make("p", { class: "quiet" }, "asking …"), about: make("p", { class: "facts" }),
    problems: make("ul", { class: "warn" }), advice: make("ul", {}), plots: plotGroup(name), count: make("small", {}), settings: make("pre", {}) };
  detail.pickers = table(["Picker address", "State", "Last health check took", "Last error"], `Picker of ${name}`);
  detail.endpoints = endpointTable(detail);
  const find = make("input", { type: "search", placeholder: "part of an address or Pod", "aria-label": `Show only endpoints of ${name} with this in their address or Pod`, autocomplete: "off", spellcheck: "false" });
  find.value = wanted.endpoints;
  find.addEventListener("input", () => { wanted.endpoints = find.value.trim(); reconnect(200); });
  detail.body = make("div", { class: "hidden" }, detail.about, detail.problems, detail.advice, detail.plots.node, detail.pickers.node,
    make("div", { class: "bar" }, make("h3", {}, "Endpoints, last minute"), detail.count, find),
    make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Endpoints of ${name}` }, detail.endpoints.node),
    make("details", {}, make("summary", {}, "Settings"), detail.settings));
  detail.node = make("tr", { class: "detail" }, make("td", { colspan: "9" }, detail.said, detail.body));
  return detail;
}
function table(heads, caption) {
  const rows = make("tbody", {});
  const node = make("table", {}, make("caption", { class: "unseen" }, caption), make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))), rows);
  return { node, rows };
}
function endpointTable(detail) {
  const made = table([], `Endpoints of ${detail.name}`);
  const heads = COLUMNS.map(([key, label]) => make("th", { scope: "col", class: NUMBERS.has(key) ? "number" : "", "data-sort": key },
    make("button", { type: "button", class: "sort", click: () => { detail.sort = key; drawDetail(detail); } }, label)));
  made.node.querySelector("tr").replaceChildren(...heads);
  return { ...made, heads };
}
function takeDetail(data) {
  const detail = open.get(data.pool);
  if (detail) { detail.data = data; news("details"); }
}
function drawDetails() {
  for (const detail of open.values()) drawDetail(detail);
}
function drawDetail(detail) {
  const { data } = detail;
  if (data === null) return;
  say(detail.said, data.gone ? "This pool does not exist." : "");
  show(detail.said, Boolean(data.gone));
  show(detail.body, !data.gone);
  if (data.gone) return;
  drawAbout(detail, data.about);
  keyed(detail.advice, data.advice, (text) => text, (text) => make("li", {}, text), () => {});
  keyed(detail.pickers.rows, data.pickers, (one) => one.address, buildPickerRow, drawPickerRow);
  show(detail.pickers.node, data.pickers.length > 0);
  const shown = data.endpoints.length, matching = data.endpointsMatching;
  say(detail.count, `${shown < matching ? `${whole(shown)} of ` : ""}${whole(matching)}${matching < data.endpointCount ? ` that match, of ${whole(data.endpointCount)}` : ""}`);
  drawEndpoints(detail, data.endpoints);
}
function drawAbout(detail, about) {
  const labels = Object.entries(about.selector).map(([label, value]) => `${label}=${value}`);
  const selector = about.endpointSelector || labels.join(",");
  const parts = [selector ? `Pods with ${selector}` : "listed endpoints", `${about.targetPorts.length > 1 ? "ports" : "port"} ${about.targetPorts.join(", ")}`, about.appProtocol,
    `${about.failureMode} if the picker fails`];
  keyed(detail.about, parts, (part) => part, (part) => make("span", {}, part), () => {});
  keyed(detail.problems, about.problems, (problem) => problem, (problem) => make("li", { class: "mono" }, problem), () => {});
  say(detail.settings, JSON.stringify(about.settings, null, 2));
}
function buildPickerRow(one) {
  const node = make("tr", {}, make("th", { scope: "row", class: "mono" }, one.address));
  node.state = node.appendChild(cell("State"));
  node.took = node.appendChild(cell("Last health check took"));
  node.error = node.appendChild(cell("Last error"));
  return node;
}
function drawPickerRow(node, one) {
  say(node.state, plain(one.state));
  dress(node.state, ["serving", "unknown", "untried"].includes(one.state) ? "good" : "bad");
  say(node.took, seconds(one.checkSeconds));
  say(node.error, one.error ? `${one.error} (${one.errorAt ? moment(one.errorAt, state.head.at) : "?"})` : "none");
}
function drawEndpoints(detail, endpoints) {
  const by = COLUMNS.find(([key]) => key === detail.sort)[2];
  const trouble = (one) => one.minute.failed + one.minute.unreachable;
  // Those in trouble come first; ties keep one order, so that rows do not jump about at every update.
  const rank = detail.sort === "failed" ? (one) => [-trouble(one), one.state === "ready" ? 1 : 0] : (one) => [by(one)];
  const ranked = endpoints.map((one) => [rank(one), one]);
  ranked.sort(([a, one], [b, other]) => compare(a[0], b[0]) || compare(a[1] || 0, b[1] || 0) || compare(one.endpoint, other.endpoint));
  for (const head of detail.endpoints.heads) {
    if (head.dataset.sort === detail.sort) mark(head, "aria-sort", NUMBERS.has(detail.sort) && detail.sort !== "since" ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  keyed(detail.endpoints.rows, ranked.map(([, one]) => one), (one) => one.endpoint, buildEndpoint, drawEndpoint);
}
const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
function buildEndpoint(one) {
  const node = make("tr", {}, make("th", { scope: "row", class: "mono" }, one.endpoint));
  for (const [key, label] of COLUMNS.slice(1)) node[key] = node.appendChild(cell(label, NUMBERS.has(key) ? "number" : ""));
  node.bar = make("i", { class: "share" });
  node.shareText = make("span", {});
  node.share.append(node.bar, node.shareText);
  return node;
}
function drawEndpoint(node, one) {
  say(node.pod, one.pod);
  say(node.state, one.state);
  dress(node.state, one.state === "ready" ? "good" : "warn");
  say(node.since, one.since ? duration(state.head.at - one.since) : "–");
  say(node.shareText, percent(one.share));
  const wide = `${Math.round(100 * (one.share || 0))}%`;
  if (node.wide !== wide) { node.wide = wide; node.bar.style.width = wide; }
  say(node.picked, whole(one.minute.picked));
  say(node.served, whole(one.minute.served));
  const failed = one.minute.failed + one.minute.unreachable, total = one.total.failed + one.total.unreachable;
  say(node.failed, failed ? `${whole(failed)}${one.minute.unreachable ? ` (${whole(one.minute.unreachable)} unreachable)` : ""}` : "0");
  dress(node.failed, failed ? "number bad" : "number");
  say(node.total, whole(total));
  dress(node.total, total ? "number warn" : "number");
}
