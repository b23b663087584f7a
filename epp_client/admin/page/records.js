// --- the last requests, and the recent events ---

const KEPT = 200;
const decisions = { failed: [], others: [], last: 0 };
const events = { kept: [], last: 0 };

function takeDecisions(records) {
  for (const record of records) {
    if (record.number <= decisions.last) continue;
    decisions.last = record.number;
    const kept = record.failed ? decisions.failed : decisions.others;
    record.text = JSON.stringify(record).toLowerCase();
    kept.push(record);
    if (kept.length > KEPT) kept.shift();
  }
}
function takeEvents(found) {
  for (const event of found) {
    if (event.number <= events.last) continue;
    events.last = event.number;
    events.kept.push(event);
    if (events.kept.length > KEPT) events.kept.shift();
  }
}
function forgetRecords() {
  decisions.failed = [];
  decisions.others = [];
  events.kept = [];
  decisions.last = events.last = 0;
}
const reasonsOf = (record) => [record.reason, record.endpoint_failure, record.passthrough].filter(Boolean);

function drawDecisions() {
  const all = [...decisions.failed, ...decisions.others].sort((a, b) => b.number - a.number);
  options(byId("decision-pool"), "any pool", all.map((record) => record.pool));
  options(byId("decision-reason"), "any reason", all.flatMap(reasonsOf));
  const failed = byId("only-failed").checked, pool = byId("decision-pool").value;
  const reason = byId("decision-reason").value, text = byId("decision-query").value.trim().toLowerCase();
  const found = all.filter((record) => (!failed || record.failed) && (!pool || record.pool === pool)
    && (!reason || reasonsOf(record).includes(reason)) && (!text || record.text.includes(text)));
  const shown = found.slice(0, KEPT), rows = [];
  for (const record of shown) {
    rows.push(["row", record]);
    if (unfolded.has(record.number)) rows.push(["fields", record]);
  }
  keyed(byId("decision-rows"), rows, ([kind, record]) => `${kind} ${record.number}`,
    ([kind, record]) => (kind === "row" ? buildDecision(record) : buildFields(record)),
    (node, [kind, record]) => { if (kind === "row") mark(node.button, "aria-expanded", String(unfolded.has(record.number))); });
  const missed = state.head && state.head.missed ? `, ${whole(state.head.missed)} failures were too many to be recorded` : "";
  say(byId("decision-count"), `${shown.length === all.length ? "" : `${shown.length} of `}the last ${all.length}: failures, and a sample of the others${missed}`);
  show(byId("decision-table"), shown.length > 0);
  say(byId("decision-note"), shown.length ? "" : all.length ? "No request matches." : "No request has ended yet.");
}
const unfolded = new Set();
function buildDecision(record) {
  const outcome = make("td", { class: record.failed ? (record.outcome === "failed_open" ? "warn" : "bad") : "", "data-label": "Outcome" }, plain(record.outcome));
  for (const reason of reasonsOf(record)) outcome.append(" ", make("code", { title: REASONS[reason] || "" }, reason));
  const node = make("tr", { class: record.failed ? "failed" : "" });
  node.button = make("button", { type: "button", class: "name", "aria-expanded": "false", "aria-label": `Request that ended at ${zoned(record.at)}`,
    click: () => { if (!unfolded.delete(record.number)) unfolded.add(record.number); changed("decisions"); } }, clock(record.at));
  const text = (label, value, kind = "") => make("td", { class: kind, "data-label": label }, value);
  const other = record.picked && record.picked !== record.said ? make("div", { class: "quiet" }, `own pick ${record.picked}`) : null;
  const said = text("Picker said", record.said || (record.picked ? "" : "–"), "mono");
  if (other) said.append(other);
  node.append(make("th", { scope: "row" }, node.button), text("Pool", record.pool), outcome, said, text("Served by", record.served || "–", "mono"),
    text("Pick", seconds(record.pick_seconds), "number"), text("Exchange", seconds(record.seconds || 0), "number"), text("Request id", record.request_id || "–", "mono id"));
  return node;
}
function buildFields(record) {
  const list = make("dl", {});
  for (const [key, value] of Object.entries(record)) {
    if (["number", "text", "at"].includes(key)) continue;
    const shown = key.endsWith("seconds") ? seconds(value) : key.endsWith("bytes") ? bytes(value) : String(value);
    list.append(make("div", {}, make("dt", {}, plain(key)), make("dd", { class: "mono" }, shown)));
  }
  const why = reasonsOf(record).map((reason) => make("p", {}, `${reason}: ${REASONS[reason] || ""}`));
  return make("tr", { class: "detail" }, make("td", { colspan: "8" }, ...why, list));
}

function drawEvents() {
  options(byId("event-kind"), "any kind", events.kept.map((event) => event.kind));
  const kind = byId("event-kind").value, text = byId("event-query").value.trim().toLowerCase();
  const found = events.kept.filter((event) => (!kind || event.kind === kind) && (!text || `${event.subject} ${event.text}`.toLowerCase().includes(text))).reverse();
  keyed(byId("event-rows"), found, (event) => event.number, buildEvent, () => {});
  say(byId("event-count"), `${found.length === events.kept.length ? "" : `${found.length} of `}the last ${events.kept.length}`);
  say(byId("event-note"), found.length ? "" : events.kept.length ? "No event matches." : "No event yet.");
}
function buildEvent(event) {
  const subject = event.subject ? make("button", { type: "button", class: "name", click: () => reveal(event.subject) }, event.subject) : null;
  return make("li", {}, make("time", { datetime: new Date(event.at * 1000).toISOString() }, clock(event.at)), make("span", { class: "kind" }, event.kind),
    make("span", {}, subject, subject ? " " : "", event.text));
}
for (const id of ["only-failed", "decision-pool", "decision-reason", "decision-query"]) byId(id).addEventListener("input", () => changed("decisions"));
for (const id of ["event-kind", "event-query"]) byId(id).addEventListener("input", () => changed("events"));
