// --- numbers and times, as text ---

const whole = (number) => Math.round(number).toLocaleString("en");
const some = (count, word, words = `${word}s`) => `${whole(count)} ${count === 1 ? word : words}`;
const sum = (counts) => Object.values(counts).reduce((total, count) => total + count, 0);
const plain = (word) => String(word).replaceAll("_", " ");

function rate(number) {
  if (number === null || number === undefined) return "–";
  if (number === 0) return "0";
  if (number < 0.1) return "< 0.1";
  return number < 10 ? String(+number.toFixed(1)) : whole(number);
}
function seconds(number) {
  if (number === null || number === undefined) return "–";
  if (number === 0) return "0";
  if (number < 0.0001) return "< 0.1 ms";
  const [value, unit] = number < 1 ? [number * 1000, "ms"] : [number, "s"];
  return `${value < 10 ? +value.toFixed(1) : whole(value)} ${unit}`;
}
function duration(length) {
  const units = [[86400, "d"], [3600, "h"], [60, "min"]];
  for (const [size, name] of units) if (length >= size) return `${Math.floor(length / size)} ${name}`;
  return `${Math.max(0, Math.floor(length))} s`;
}
function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let at = 0;
  while (count >= 1024 && at < 3) { count /= 1024; at += 1; }
  return `${at && count < 10 ? count.toFixed(1) : Math.round(count)} ${units[at]}`;
}
function percent(share) {
  if (share === null || share === undefined) return "–";
  return share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
}

// 24 hours in every locale. `at` is a Unix time in seconds.
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const DAY = new Intl.DateTimeFormat("en-CA", { year: "numeric", month: "2-digit", day: "2-digit" });
const ZONE = new Intl.DateTimeFormat("en-GB", { timeZoneName: "short" }).formatToParts(new Date())
  .find((part) => part.type === "timeZoneName").value;
const clock = (at) => CLOCK.format(new Date(at * 1000));
const minutes = (at) => clock(at).slice(0, 5);
const zoned = (at) => `${clock(at)} ${ZONE}`;
function moment(at, now) {
  return now - at < 43200 ? zoned(at) : `${DAY.format(new Date(at * 1000))} ${zoned(at)}`;
}
