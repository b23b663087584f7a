// --- nodes: made once, changed only where something is different; text never becomes markup ---

const byId = (id) => document.getElementById(id);
const drawn = { updates: 0, milliseconds: 0, worst: 0 };

function make(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props || {})) {
    if (key === "class") node.className = value;
    else if (key === "click") node.addEventListener("click", value);
    else node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
// What a node shows is kept beside it: reading it back would cost more than writing it.
const shownText = new WeakMap();
const shownClass = new WeakMap();
function say(node, text) {
  if (shownText.get(node) === text) return;
  shownText.set(node, text);
  node.textContent = text;
}
function dress(node, kind) {
  if (shownClass.get(node) === kind) return;
  shownClass.set(node, kind);
  node.className = kind;
}
function mark(node, key, value) {
  if (node.getAttribute(key) !== value) node.setAttribute(key, value);
}
function show(node, wanted) {
  if (node.classList.contains("hidden") === wanted) node.classList.toggle("hidden", !wanted);
}
const keptRows = new WeakMap();
// The children of `parent` become those of `items`, in their order. A row that stays keeps its node and its focus.
function keyed(parent, items, keyOf, build, update) {
  const before = keptRows.get(parent) || new Map();
  const after = new Map();
  for (const item of items) {
    const key = keyOf(item);
    const node = before.get(key) || build(item);
    update(node, item);
    after.set(key, node);
  }
  const focused = document.activeElement;
  for (const [key, node] of before) if (after.get(key) !== node) node.remove();
  let next = parent.firstChild;
  for (const node of after.values()) {
    if (node === next) next = next.nextSibling;
    else parent.insertBefore(node, next);
  }
  keptRows.set(parent, after);
  if (focused !== document.activeElement && focused && focused.isConnected) focused.focus({ preventScroll: true });
}
// A cell, with its column's name for narrow screens.
function cell(label, kind) {
  const node = make("td", { class: kind || "", "data-label": label });
  return node;
}
// Text with `code` in backticks.
function prose(text) {
  return text.split("`").map((part, at) => (at % 2 ? make("code", {}, part) : part));
}
function options(select, first, values) {
  const chosen = select.value;
  const wanted = ["", ...new Set(chosen ? [...values, chosen].sort() : [...values].sort())];
  keyed(select, wanted, (value) => value, (value) => make("option", { value }, value ? plain(value) : first), () => {});
  if (select.value !== chosen) select.value = chosen;
}
