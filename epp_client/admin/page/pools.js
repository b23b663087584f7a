// --- the pools, those in trouble first ---

const PAGE = 100, MOST = 500, MAX_OPEN = 5, MINUTE = 60;
const poolRows = new Map();
let poolOrder = [];

function takePools({ rows, order }) {
  for (const row of rows) poolRows.set(`${row.namespace}/${row.name}`, row);
  if (order) {
    poolOrder = order;
    const there = new Set(order);
    for (const name of poolRows.keys()) if (!there.has(name)) poolRows.delete(name);
  }
}
function drawPools() {
  const nodes = [];
  for (const name of poolOrder) {
    nodes.push(["row", name]);
    if (open.has(name)) nodes.push(["detail", name]);
  }
  keyed(byId("pool-rows"), nodes, ([kind, name]) => `${kind} ${name}`,
    ([kind, name]) => (kind === "row" ? buildPool(name) : open.get(name).node),
    (node, [kind, name]) => { if (kind === "row") drawPool(node, name, poolRows.get(name)); });
  const pools = state.head ? state.head.pools : { total: 0, matching: 0 };
  say(byId("pool-count"), `${pools.matching === pools.total ? "" : `${whole(pools.matching)} of `}${whole(pools.total)} · numbers of the last minute`);
  show(byId("pool-table"), poolOrder.length > 0);
  show(byId("more"), poolOrder.length < pools.matching && wanted.limit < MOST);
  const left = pools.matching - poolOrder.length;
  const none = !state.head || !state.head.synced ? "Not known yet." : pools.total ? "No pool has that in its name." : "There is no InferencePool here.";
  say(byId("pool-note"), poolOrder.length ? (left > 0 && wanted.limit >= MOST ? `${some(left, "more pool")}: narrow the search.` : "") : none);
}
function buildPool(name) {
  const node = make("tr", {});
  node.button = make("button", { class: "name", type: "button", "data-pool": name, "aria-expanded": "false", click: () => toggle(name) }, name);
  node.level = make("span", { class: "level" });
  node.problems = make("small", { class: "warn" });
  node.append(make("th", { scope: "row" }, node.level, node.button, " ", node.problems));
  node.endpoints = node.appendChild(cell("Ready endpoints"));
  node.picker = node.appendChild(cell("Picker"));
  for (const [key, label] of [["requests", "Requests/s"], ["opened", "Failed open"], ["refused", "Refused"], ["flying", "In flight"], ["pick", "Pick p99"], ["exchange", "Exchange p99"]]) {
    node[key] = node.appendChild(cell(label, "number"));
  }
  return node;
}
function drawPool(node, name, pool) {
  mark(node.button, "aria-expanded", String(open.has(name)));
  // A row that the server did not send again is as it was.
  if (node.pool === pool) return;
  node.pool = pool;
  dress(node, pool.level);
  say(node.level, pool.level === "ok" ? "" : WORDS[pool.level]);
  dress(node.level, `level ${pool.level}`);
  say(node.problems, pool.problems ? some(pool.problems, "problem") : "");
  const { minute } = pool;
  say(node.endpoints, `${whole(pool.ready)}${pool.draining ? `, ${whole(pool.draining)} draining` : ""}${pool.behind ? ", Envoy is behind" : ""}`);
  dress(node.endpoints, pool.ready ? (pool.draining || pool.behind ? "warn" : "") : "bad");
  drawPicker(node.picker, pool);
  say(node.requests, rate(minute.requests / MINUTE));
  counted(node.opened, minute.failedOpen, "warn");
  counted(node.refused, minute.refused, "bad");
  say(node.flying, whole(pool.inFlight));
  say(node.pick, seconds(minute.pickP99));
  say(node.exchange, seconds(minute.exchangeP99));
}
function counted(node, counts, kind) {
  const count = sum(counts);
  say(node, whole(count));
  dress(node, `number ${count ? kind : ""}`);
}
function drawPicker(node, pool) {
  const { picker } = pool;
  if (picker === null) { say(node, "none"); dress(node, "quiet"); return; }
  if (!picker.addresses) { say(node, picker.problem || "no address"); dress(node, "bad"); return; }
  const states = Object.entries(picker.health).map(([kind, count]) => `${whole(count)} ${plain(kind)}`).join(", ");
  const unwell = Object.keys(picker.health).some((kind) => !["serving", "unknown", "untried"].includes(kind));
  say(node, states);
  dress(node, pool.trouble === 1 ? "bad" : unwell ? "warn" : "");
}

// --- the pools that are open ---

const open = new Map();
function toggle(name) {
  if (open.has(name)) open.delete(name);
  else {
    open.set(name, buildDetail(name));
    if (open.size > MAX_OPEN) open.delete(open.keys().next().value);
  }
  changed("pools");
  reconnect(0);
}
// Opens a pool that a finding or an event names, wherever it is in the table.
function reveal(name) {
  if (!poolOrder.includes(name)) {
    byId("pool-query").value = name;
    wanted.query = name;
  }
  if (!open.has(name)) toggle(name);
  else reconnect(0);
  state.reveal = name;
  changed("pools");
}
function revealed() {
  const rows = keptRows.get(byId("pool-rows"));
  const row = state.reveal && rows ? rows.get(`row ${state.reveal}`) : null;
  if (!row) return;
  state.reveal = "";
  row.scrollIntoView({ block: "start" });
  row.button.focus({ preventScroll: true });
}
byId("more").addEventListener("click", () => { wanted.limit = Math.min(wanted.limit + PAGE, MOST); reconnect(0); });
byId("pool-query").addEventListener("input", () => { wanted.query = byId("pool-query").value.trim(); wanted.limit = PAGE; reconnect(200); });
