// --- the stream of server-sent events, and when what is drawn ---

const PATIENCE = 8000;
const state = { head: null, heardAt: 0, silentSince: 0, paused: false, reveal: "", history: new Map() };
const wanted = { query: "", limit: PAGE, endpoints: "" };
const DRAW = { head: [drawJudgement, drawFacts, drawReasons], pools: [drawPools, revealed], details: [drawDetails], history: [drawHistory], decisions: [drawDecisions], events: [drawEvents] };
const dirty = new Set();
// Milliseconds in which the messages of one look arrive: they are drawn together.
const TOGETHER = 40;
let source = null, pending = 0, frame = 0, gathering = 0;

function changed(...parts) {
  for (const part of parts) dirty.add(part);
  if (!frame) frame = requestAnimationFrame(draw);
}
function news(...parts) {
  for (const part of parts) dirty.add(part);
  if (!gathering) gathering = setTimeout(() => { gathering = 0; changed(); }, TOGETHER);
}
function draw() {
  const began = performance.now();
  frame = 0;
  for (const [part, ways] of Object.entries(DRAW)) {
    if (dirty.delete(part) && (state.head || part === "head")) for (const way of ways) if (state.head || way === drawJudgement) way();
  }
  const took = performance.now() - began;
  drawn.updates += 1;
  drawn.milliseconds += took;
  drawn.worst = Math.max(drawn.worst, took);
}
const TAKE = {
  head(head) {
    // Another process counts from the beginning.
    if (state.head && head.started !== state.head.started) forgetRecords();
    state.head = head;
    heard();
    news("head", "pools");
  },
  pools(data) { takePools(data); news("pools"); },
  detail: takeDetail,
  history(data) { takeHistory(data); news("history"); },
  decisions(records) { takeDecisions(records); news("decisions"); },
  events(found) { takeEvents(found); news("events"); },
};
function takeHistory({ whole: all, series }) {
  for (const [key, fresh] of Object.entries(series)) {
    const before = state.history.get(key);
    if (all || !before) { state.history.set(key, fresh); continue; }
    for (const [name, values] of Object.entries(fresh)) before[name] = [...before[name], ...values].slice(-150);
  }
  for (const key of state.history.keys()) if (!(key in series)) state.history.delete(key);
}
function drawHistory() {
  const all = state.history.get("");
  if (all && all.at.length) allPlots.take(all);
  for (const detail of open.values()) {
    const series = state.history.get(detail.name);
    if (series && series.at.length) detail.plots.take(series);
  }
}

// --- connecting ---

function connect() {
  clearTimeout(pending);
  if (source) source.close();
  if (state.paused) return;
  const query = new URLSearchParams({ q: wanted.query, limit: String(wanted.limit), open: [...open.keys()].join(","), endpoints: wanted.endpoints });
  const mine = source = new EventSource(`/live?${query}`);
  for (const [kind, take] of Object.entries(TAKE)) {
    mine.addEventListener(kind, (event) => { if (mine === source) take(JSON.parse(event.data)); });
  }
  mine.addEventListener("error", () => {
    if (mine !== source) return;
    silent();
    // A refusal ends the source for good; everything else it tries again by itself.
    if (mine.readyState === EventSource.CLOSED) reconnect(3000);
  });
}
function reconnect(delay) {
  clearTimeout(pending);
  pending = setTimeout(connect, delay);
}
function heard() {
  state.heardAt = Date.now();
  state.silentSince = 0;
  say(byId("age"), `as of ${zoned(state.head.at)}`);
}
function silent() {
  if (state.silentSince || state.paused) return;
  state.silentSince = (state.heardAt || Date.now()) / 1000;
  changed("head");
}
setInterval(() => { if (Date.now() - state.heardAt > PATIENCE && state.heardAt) silent(); }, 1000);
byId("pause").addEventListener("click", () => {
  state.paused = !state.paused;
  say(byId("pause"), state.paused ? "Go on" : "Pause");
  mark(byId("pause"), "aria-pressed", String(state.paused));
  document.body.classList.toggle("paused", state.paused);
  state.heardAt = Date.now();
  if (state.paused) source.close(); else connect();
});
say(byId("zone"), `24 hours, ${ZONE}`);
connect();
