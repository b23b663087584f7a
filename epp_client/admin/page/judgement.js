// --- the judgement: is anything wrong, since when, and what to do ---

const FEW = 5;
const WORDS = { ok: "OK", degraded: "Degraded", failing: "Failing" };
let allFindings = false, announced = "";

function drawJudgement() {
  const head = state.head, silent = state.silentSince;
  const judged = head ? head.judgement : null;
  const level = silent ? "silent" : judged ? judged.level : "unknown";
  say(byId("pill"), silent ? "No answer" : judged ? WORDS[level] : "asking …");
  dress(byId("judgement"), level);
  byId("main").classList.toggle("stale", Boolean(silent));
  const findings = judged ? judged.findings : [];
  say(byId("headline"), headline(head, silent));
  say(byId("lasting"), silent || !findings.length ? "" : lasting(findings[0], head.at));
  keyed(byId("findings"), allFindings ? findings : findings.slice(0, FEW), (one) => `${one.subject} ${one.kind}`, buildFinding, drawFinding);
  show(byId("all-findings"), findings.length > FEW);
  say(byId("all-findings"), allFindings ? `Show the first ${FEW}` : `Show all ${findings.length}`);
  if (judged) drawProblems(head.problems, judged.hidden);
  announce(level, findings, judged);
  document.title = silent || (judged && level !== "ok") ? `${silent ? "No answer" : WORDS[level]} · epp-client` : "epp-client";
}
function headline(head, silent) {
  if (silent) return `No answer since ${zoned(silent)}${state.heardAt ? ". The values are old." : ". Is the sidecar running, and is this its port?"}`;
  if (head === null) return "";
  const noPools = !head.synced ? "The pools are not known yet. That is not the same as having none: requests get 503 until they are." : "";
  const text = head.judgement.headline;
  return noPools || text.charAt(0).toUpperCase() + text.slice(1);
}
const lasting = (finding, now) => `since ${moment(finding.since, now)} (${duration(now - finding.since)})`;

function buildFinding(finding) {
  const node = make("li", {});
  node.text = make("span", {});
  node.since = make("small", {});
  node.action = make("span", {});
  node.link = make("a", { target: "_blank", rel: "noopener" }, "Runbook");
  const subject = finding.subject
    ? make("button", { type: "button", class: "name", click: () => reveal(finding.subject) }, finding.subject) : make("b", {}, "sidecar");
  node.append(make("p", {}, subject, " ", node.text, " ", node.since), make("p", { class: "action" }, node.action, " ", node.link));
  return node;
}
function drawFinding(node, finding) {
  dress(node, finding.level);
  say(node.text, finding.text);
  say(node.since, lasting(finding, state.head.at));
  if (shownText.get(node.action) !== finding.action) {
    shownText.set(node.action, finding.action);
    node.action.replaceChildren(...prose(finding.action));
  }
  mark(node.link, "href", finding.runbook.replace("docs/runbook.md", "/runbook"));
}
function drawProblems({ errors, warnings, first }, hidden) {
  const node = byId("problems"), rest = errors + warnings - first.length;
  show(node, first.length > 0);
  say(node.querySelector("summary"), `${some(errors, "error")} and ${some(warnings, "warning")} in manifests or objects`);
  const lines = first.map((problem) => `${problem.severity}: ${problem.text}`);
  if (rest > 0) lines.push(`and ${whole(rest)} more, in /pools`);
  if (hidden > 0) lines.push(`${some(hidden, "finding")} left out above`);
  keyed(node.querySelector("ul"), lines, (line) => line, (line) => make("li", { class: "mono" }, line), () => {});
}
// Only a change of the judgement is read aloud, not each new number in it.
function announce(level, findings, judged) {
  const worst = findings[0] ? `${findings[0].subject} ${findings[0].kind}` : "";
  const now = `${level} ${worst}`;
  if (now === announced || level === "unknown") return;
  announced = now;
  const words = level === "silent" ? "The sidecar does not answer." : `${WORDS[level]}: ${judged.headline}`;
  say(byId("said"), words);
}
byId("all-findings").addEventListener("click", () => { allFindings = !allFindings; changed("head"); });

// --- what belongs to no pool ---

const allPlots = plotGroup("all pools");
byId("plots").replaceWith(allPlots.node);
allPlots.node.id = "plots";

function drawFacts() {
  const head = state.head, all = head.totals, requests = sum(all.outcomes);
  const parts = [
    [head.workers ? some(head.workers, "relay worker") : "no worker processes", ""],
    [some(head.restarts, "restart"), head.restarts ? "warn" : ""],
    [`${some(head.envoys, "Envoy")} connected`, head.envoys ? "" : "warn"],
    [`${some(head.nacks, "configuration")} rejected`, head.nacks ? "warn" : ""],
    [`${bytes(head.retainedBytes)} of bodies kept`, ""],
    [`${some(requests, "request")} in all`, ""],
    [requests ? `${percent((all.outcomes.steered || 0) / requests)} steered by pickers` : "", ""],
  ].filter(([text]) => text);
  for (const [name, note] of Object.entries(head.notes)) parts.push([`${name}: ${note}`, "warn"]);
  keyed(byId("facts"), parts, (part) => parts.indexOf(part), () => make("span", {}), (node, [text, kind]) => { say(node, text); dress(node, kind); });
  say(byId("version"), `${head.version}${head.compiled ? "" : ", not compiled"} · up ${duration(head.uptime)}`);
}
function drawReasons() {
  const head = state.head, rows = [];
  const add = (counts, minute, what, level) => {
    for (const [reason, count] of Object.entries(counts || {})) rows.push({ reason, count, now: (minute || {})[reason] || 0, what, level });
  };
  add(head.totals.refused, head.minute.refused, "refused", "bad");
  add(head.totals.failedOpen, head.minute.failedOpen, "served without the picker", "warn");
  add(head.totals.endpointFailures, head.minute.endpointFailures, "steered, and not served", "bad");
  rows.sort((a, b) => b.now - a.now || b.count - a.count);
  keyed(byId("reason-rows"), rows, (row) => `${row.reason} ${row.what}`, (row) => {
    const node = make("tr", {}, make("th", { scope: "row" }, make("code", {}, row.reason)), make("td", {}, REASONS[row.reason] || ""), make("td", {}, row.what));
    node.now = node.appendChild(cell("Last minute", "number"));
    node.all = node.appendChild(cell("In all", "number"));
    return node;
  }, (node, row) => {
    say(node.now, whole(row.now));
    dress(node.now, `number ${row.now ? row.level : "quiet"}`);
    say(node.all, whole(row.count));
  });
  show(byId("reason-table"), rows.length > 0);
  say(byId("reason-note"), rows.length ? "" : "No request was refused, served without its picker, or failed at its endpoint.");
}
