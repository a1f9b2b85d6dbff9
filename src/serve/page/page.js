// The page: reads /api/v1/events (or polls /api/v1/feed), shows, and says so when what it shows is old.
// Everything from outside enters the document as text, never as markup. Nothing here acts on anything.
"use strict";

// --- words -----------------------------------------------------------------

// In the order of urgency; the page is sorted by it. `group` is the chip that counts it.
const PHASES = {
  blocked: { word: "Blocked", glyph: "✕", tone: "bad", group: "act" },
  disarmed: { word: "Disarmed", glyph: "✕", tone: "bad", group: "act" },
  unknown_color: { word: "Unknown color", glyph: "?", tone: "bad", group: "act" },
  breaching: { word: "Breaching", glyph: "▲", tone: "bad", group: "breaching" },
  unreadable: { word: "Unreadable", glyph: "?", tone: "warn", group: "act" },
  suppressed: { word: "Suppressed", glyph: "!", tone: "warn", group: "act" },
  blind: { word: "Blind", glyph: "◌", tone: "warn", group: "blind" },
  rolled_back: { word: "Rolled back", glyph: "↩", tone: "moved", group: "moved" },
  paused: { word: "Paused", glyph: "‖", tone: "info", group: "paused" },
  starting: { word: "Starting", glyph: "…", tone: "info", group: "fine" },
  watching: { word: "Watching", glyph: "●", tone: "good", group: "fine" },
  steady: { word: "Steady", glyph: "✓", tone: "good", group: "fine" },
};
const UNKNOWN_PHASE = { word: "?", glyph: "?", tone: "warn", group: "act" };
const RANK = Object.fromEntries(Object.keys(PHASES).map((phase, rank) => [phase, rank]));

const GROUPS = {
  act: ["Act now", "bad"], breaching: ["Going bad", "bad"], blind: ["Blind", "warn"],
  moved: ["Rolled back", "moved"], paused: ["Paused", "info"], fine: ["Fine", "good"],
};

const OUTCOMES = {
  breach: ["over the limit", "bad"], under: ["under the limit", "bad"], pass: ["within the limit", "good"], waiting: ["collecting evidence", "info"],
  inconclusive: ["no usable data", "warn"], nothing: ["no new sample", "info"],
};

// What a share is the share of.
const MEASURES = { error_rate: "bad", availability: "good", latency: "too slow", probe: "failed", saturation: "used" };

// What it means and what to do, for somebody who was just woken up.
function advice(guard) {
  const standby = guard.standby ?? "the other color";
  const active = guard.active ?? "the live color";
  const monitor = guard.mode === "monitor";
  switch (guard.phase) {
    case "breaching":
      return monitor
        ? `${active} is past a limit. flipback only watches this guard: moving traffic is up to you.`
        : `${active} is past a limit. Once a rule's dots are full, traffic goes to ${standby}. Nothing to do yet.`;
    case "rolled_back":
      return `Users are served by ${active}. The bad release stays where it is for you to look at, and flipback never returns to it by itself.`;
    case "blocked":
      return guard.maintenance
        ? `${active} is bad and flipback moves nothing while the maintenance lasts. It moves traffic the moment it ends, if ${active} is still bad. A person's rollback works now.`
        : `${active} is bad and flipback may not move traffic, for the reason above. A person must act.`;
    case "suppressed":
      return `Users are hurt, and switching to ${standby} would not help: look for what both colors share.`;
    case "blind":
      return "flipback cannot see how this guard is doing, and never moves traffic without data. Find out why with the check below.";
    case "paused":
      return `Paused${guard.paused_by ? ` by ${guard.paused_by}` : ""}: flipback watches and moves nothing until it is resumed.`;
    case "disarmed":
      return "Too many automatic flips in 24 hours, so flipback has stopped moving traffic here. A person must act.";
    case "unknown_color":
      return "The selector names none of this guard's colors, so flipback does nothing. Correct the Service or the configuration.";
    case "unreadable":
      return "flipback cannot read what is live, so everything is frozen. Find out why with the check below.";
    case "watching":
      return monitor ? "All well. Watching closely after the last switch; this guard only tells." : "All well. Watching closely after the last switch.";
    case "steady":
      return monitor ? "All well; this guard only tells." : "All well.";
    default:
      return "The first verdict is on its way.";
  }
}

function commands(guard) {
  const name = guard.guard;
  const look = `flipback status ${name}`;
  const check = "flipback check";
  const back = `flipback rollback ${name} --reason "…"`;
  switch (guard.phase) {
    case "paused": return [`flipback resume ${name}`, look];
    case "disarmed": return [`flipback clear ${name} --reason "…"`, back, look];
    case "blind": case "unreadable": case "unknown_color": return [check, look];
    case "rolled_back": return [look, `flipback pause ${name}`];
    default: return [back, `flipback pause ${name}`, look];
  }
}

// --- state -----------------------------------------------------------------

const $ = (id) => document.getElementById(id);
const state = {
  digest: null, // the newest status
  heard: -Infinity, // when it came (performance.now(), like every time here)
  moved: -Infinity, // when its `at` last changed: the daemon looked
  lost: null, // since when nothing answers
  link: "waiting",
  group: null, // pressed chip
  words: [], // filter
};
const cards = new Map(); // guard name -> card
const details = new Map(); // guard name -> the whole of a guard that came abridged
const choices = new Map(); // guard name -> a person opened (true) or closed (false) it

const POLL_MS = 2000;
const LOST_MS = 3000; // a restart is no alarm
const OPEN_MAX = 3; // with more trouble at once a list says more than open cards

// --- the wire --------------------------------------------------------------

let source = null;
let polls = 0;

function connect() {
  source?.close();
  source = new EventSource("/api/v1/events");
  source.onmessage = (event) => { polls = 0; receive(JSON.parse(event.data), "live"); };
  source.onerror = () => { source?.close(); source = null; poll(); };
}

// Polls until pushing works again: tried at once after the first answer, then at every tenth.
async function poll() {
  try {
    const answer = await fetch("/api/v1/feed", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    receive(await answer.json(), "polling");
    if (polls++ % 10 === 0) connect();
    else setTimeout(poll, POLL_MS);
  } catch {
    polls = 0;
    state.lost ??= performance.now();
    state.link = "lost";
    tick();
    setTimeout(poll, POLL_MS);
  }
}

function receive(digest, link) {
  const now = performance.now();
  if (digest.at !== state.digest?.at) state.moved = now;
  Object.assign(state, { digest, heard: now, lost: null, link });
  render();
}

// An opened guard that came abridged is asked for.
async function complete(card) {
  if (card.asking || !state.digest.brief || !isCalm(card.guard)) return;
  card.asking = true;
  try {
    const path = card.guard.guard.split("/").map(encodeURIComponent).join("/");
    const answer = await fetch(`/api/v1/guards/${path}`, { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (answer.ok) {
      details.set(card.guard.guard, await answer.json());
      fill(card);
    }
  } catch { /* the next status asks again, and the bar below says when nothing answers */ } finally {
    card.asking = false;
  }
}

// --- time ------------------------------------------------------------------

// The daemon's time: its newest stamp plus what has passed here. This device's clock may be wrong.
const daemonNow = () => Date.parse(state.digest.at) + (performance.now() - state.moved);

function span(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${String(seconds % 60).padStart(2, "0")} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${String(minutes % 60).padStart(2, "0")} min` : `${Math.floor(hours / 24)} days`;
}
function ago(at) {
  const seconds = Math.max(0, Math.round((daemonNow() - Date.parse(at)) / 1000));
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} days ago`;
}
const clock = (at) => new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

// --- document --------------------------------------------------------------

// Each writes only what changed: selections, focus and screen readers are left in peace.
function text(node, value) { if (node.textContent !== value) node.textContent = value; }
function data(node, key, value) { const now = String(value); if (node.dataset[key] !== now) node.dataset[key] = now; }
function attribute(node, name, value) { if (node.getAttribute(name) !== value) node.setAttribute(name, value); }
function show(node, shown) { if (node.hidden === shown) node.hidden = !shown; }
const clone = (id) => $(id).content.firstElementChild.cloneNode(true);
function make(tag, content, className) {
  const node = document.createElement(tag);
  if (content !== undefined) node.textContent = content;
  if (className) node.className = className;
  return node;
}
// Makes a parent's children as many as `count`.
function children(parent, count, create) {
  while (parent.children.length > count) parent.lastElementChild.remove();
  while (parent.children.length < count) parent.append(create());
  return [...parent.children];
}

const SWATCHES = { blue: "var(--blue)", green: "var(--green)", canary: "var(--yellow)", stable: "var(--slate)" };
function swatch(node, color) {
  let hue = 0;
  for (const letter of color ?? "") hue = (hue * 31 + letter.codePointAt(0)) % 360;
  const value = color === null || color === undefined ? "transparent" : SWATCHES[color] ?? `hsl(${hue} 60% 55%)`;
  if (node.style.getPropertyValue("--swatch") !== value) node.style.setProperty("--swatch", value);
}

// As many digits as matter; what is not all is never shown as 100 %, what is not nothing never as 0 %.
function percent(share) {
  const value = share * 100;
  const fromEnd = Math.min(Math.abs(value), Math.abs(100 - value));
  const exact = value === 0 || fromEnd < 1e-12;
  for (let digits = value >= 10 && fromEnd >= 10 ? 1 : 2; digits <= 12; digits++) {
    const shown = Number(value.toFixed(digits));
    if (exact || (shown !== 0 && shown !== 100)) return `${shown} %`;
  }
  return `${value.toExponential(2)} %`;
}

// Four digits that matter, large ones whole.
function number(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1e-6 || size >= 1e15) return value.toExponential(3);
  const digits = Math.min(Math.max(3 - Math.floor(Math.log10(size)), 0), 12);
  return Number(value.toFixed(digits)).toLocaleString("en", { maximumFractionDigits: digits });
}

// --- numbers of rules --------------------------------------------------------

const UNITS = { error_rate: "ratio", availability: "ratio", latency: "ratio", probe: "ratio", endpoints: "endpoints" };
// A daemon of before units tells only kinds.
const unitOf = (rule) => rule.unit ?? UNITS[rule.kind] ?? null;

function figure(unit, value) {
  if (value === null || value === undefined) return "–";
  if (unit === "ratio") return percent(value);
  if (unit === "endpoints") return String(value);
  if (unit === "seconds") return Math.abs(value) < 1 ? `${number(value * 1000)} ms` : `${number(value)} s`;
  return unit ? `${number(value)} ${unit}` : number(value);
}

// How much of its limit a value uses: past 1 is a breach, whichever side that lies on. Of a share of good ones it is the bad rest.
function used(rule) {
  const { value, threshold } = rule;
  if (value === null || value === undefined || threshold === null || !Number.isFinite(threshold)) return 0;
  const part = !rule.below ? value / threshold : unitOf(rule) === "ratio" ? (1 - value) / (1 - threshold) : threshold / value;
  return Number.isNaN(part) ? 0 : part < 0 && rule.below ? Infinity : part;
}

// --- guards ----------------------------------------------------------------

const phaseOf = (guard) => PHASES[guard.phase] ?? UNKNOWN_PHASE;
const isCalm = (guard) => phaseOf(guard).group === "fine";

// The rule nearest to a flip.
function worst(guard) {
  return guard.rules.reduce((most, rule) => (rule.streak > 0 && rule.streak / rule.of > (most ? most.streak / most.of : 0) ? rule : most), null);
}

function newCard() {
  const root = clone("t-guard");
  const find = (name) => root.querySelector(`.${name}`);
  const card = { root, body: null, guard: null, wasCalm: true, auto: false, asking: false, rules: new Map() };
  card.head = Object.fromEntries(["glyph", "phase-name", "name", "object", "mode", "swatch", "live-name", "why", "brief-streak"].map((name) => [name, find(name)]));
  root.querySelector("summary").addEventListener("click", () => choices.set(card.guard.guard, !root.open));
  root.addEventListener("toggle", () => {
    if (!root.open) return;
    fill(card);
    complete(card);
  });
  return card;
}

function fillHead(card) {
  const { guard, head } = card;
  const phase = phaseOf(guard);
  data(card.root, "tone", phase.tone);
  text(head.glyph, phase.glyph);
  text(head["phase-name"], phase.word);
  text(head.name, guard.guard);
  text(head.object, guard.object);
  show(head.mode, guard.mode === "monitor");
  swatch(head.swatch, guard.active);
  text(head["live-name"], guard.active ? `${guard.active} live` : "live: unknown");
  text(head.why, guard.why);
  attribute(head.why, "title", guard.why);
  const rule = worst(guard);
  text(head["brief-streak"], rule ? `${rule.streak}/${rule.of}` : "");
}

// A guard as complete as it is known.
function whole(guard) {
  const known = details.get(guard.guard);
  if (!state.digest.brief || guard.rules.length > 0 || !isCalm(guard) || !known) return guard;
  return { ...guard, rules: known.rules, events: known.events, last_incident: known.last_incident };
}

function fill(card) {
  fillHead(card);
  if (!card.root.open) return;
  if (!card.body) {
    card.body = clone("t-body");
    card.root.append(card.body);
  }
  const guard = whole(card.guard);
  const find = (name) => card.body.querySelector(`.${name}`);
  text(find("advice-text"), advice(guard));
  fillLanes(find("lanes"), guard);
  fillRules(card, find("rules"), guard);
  fillIncident(find("incident"), guard.last_incident);
  fillEvents(card.body.querySelector(".events ol"), guard.events, guard === card.guard && state.digest.brief && isCalm(guard) ? "Loading." : "Nothing yet.");
  fillCommands(card.body.querySelector(".commands ul"), commands(guard));
  fillTimers(card);
}

function fillLanes(parent, guard) {
  // Each color keeps its place: a flip is seen as the light moving from one to the other.
  children(parent, guard.colors.length, () => clone("t-lane")).forEach((lane, index) => {
    const color = guard.colors[index];
    const position = color.color === guard.active ? "active" : color.color === guard.standby ? "standby" : "other";
    const find = (name) => lane.querySelector(`.${name}`);
    data(lane, "position", position);
    swatch(lane, color.color);
    text(find("color"), color.color);
    text(find("position"), { active: "serves all users", standby: "standby", other: "" }[position]);
    show(find("known-bad"), color.known_bad);
    data(find("ready"), "none", color.ready === 0);
    const desired = Math.max(color.desired ?? color.ready, color.ready);
    const of = color.desired === null || color.desired === undefined ? "" : ` of ${color.desired}`;
    text(find("ready-text"), color.ready === 0 && position === "standby" ? `0${of} ready: cannot take over` : `${color.ready}${of} ready`);
    children(find("pips"), Math.min(desired, 12), () => make("i")).forEach((pip, n) => data(pip, "up", n < color.ready));
    const images = color.release?.images ?? [];
    text(find("image"), images.map((image) => image.split("/").pop()).join(", ") || (color.release ? `release ${color.release.id}` : "release unknown"));
    attribute(find("image"), "title", color.release ? `${images.join(", ")} (release ${color.release.id})` : "no Deployment is named for this color");
  });
}

function fillRules(card, parent, guard) {
  for (const [name, node] of card.rules) {
    if (!guard.rules.some((rule) => rule.rule === name)) { node.remove(); card.rules.delete(name); }
  }
  for (const rule of guard.rules) {
    let node = card.rules.get(rule.rule);
    if (!node) {
      node = clone("t-rule");
      card.rules.set(rule.rule, node);
      parent.append(node);
    }
    fillRule(node, rule);
  }
}

function fillRule(node, rule) {
  const find = (name) => node.querySelector(`.${name}`);
  const unit = unitOf(rule);
  const counts = unit === "endpoints";
  const outcome = rule.outcome === "breach" && rule.below ? "under" : rule.outcome;
  const [word, tone] = OUTCOMES[outcome] ?? [rule.outcome, "warn"];
  data(node, "tone", tone === "info" && rule.streak > 0 ? "bad" : tone);
  text(find("rule-name"), rule.rule);
  text(find("outcome"), counts ? { breach: "down", pass: "up" }[rule.outcome] ?? word : word);
  text(find("now"), figure(unit, rule.value));
  text(find("limit"), counts ? "ready" : limit(rule, unit));
  text(find("rule-why"), rule.why);

  const streak = find("streak");
  data(streak, "on", rule.streak > 0);
  attribute(streak, "aria-label", `${rule.streak} of ${rule.of} breaches in a row`);
  const dots = rule.of <= 8 ? rule.of : 0;
  children(streak, dots + 1, () => make("i"));
  if (streak.lastElementChild.tagName !== "SPAN") streak.lastElementChild.replaceWith(make("span"));
  [...streak.children].slice(0, dots).forEach((dot, n) => data(dot, "on", n < rule.streak));
  text(streak.lastElementChild, `${rule.streak}/${rule.of}`);

  const most = Math.max(1, rule.value ?? 0, ...rule.history);
  const filled = counts ? (rule.value ?? 0) / most : used(rule) / 2;
  data(find("bar"), "count", counts || !Number.isFinite(rule.threshold));
  const width = `${(Math.min(1, Math.max(0, filled)) * 100).toFixed(1)}%`;
  if (find("fill").style.width !== width) find("fill").style.width = width;
  spark(node.querySelector(".spark"), rule, counts);
}

// `bad · breach over 5 % · 12 of 1,000`
function limit(rule, unit) {
  const known = Number.isFinite(rule.threshold);
  return [
    unit === "ratio" ? MEASURES[rule.kind] : null,
    known ? `breach ${rule.below ? "under" : "over"} ${figure(unit, rule.threshold)}` : "limit not known yet",
    unit === "ratio" && rule.total > 0 ? `${Number(rule.bad ?? 0).toLocaleString("en")} bad of ${rule.total.toLocaleString("en")}` : null,
  ].filter(Boolean).join(" · ");
}

// The line of the newest readings, with the limit dashed. New readings enter at the right. What breaches below its limit is shown
// around it: near 100 % the way down to nothing is of no interest.
function spark(svg, rule, counts) {
  const values = rule.history.slice(-60);
  const limited = !counts && Number.isFinite(rule.threshold);
  const all = limited ? [rule.threshold, ...values] : values.length > 0 ? values : [0];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const room = (high - low || Math.abs(high) || 1) * 0.25;
  const zoomed = limited && rule.below;
  const bottom = zoomed ? low - room : Math.min(0, low);
  const top = zoomed ? high + room : Math.max(counts ? 1 : limited ? rule.threshold * 1.25 : 0, high, bottom) || 1;
  const y = (value) => (31 - ((value - bottom) / (top - bottom || 1)) * 30).toFixed(1);
  const step = 120 / Math.max(values.length - 1, 19);
  const x = (index) => (120 - (values.length - 1 - index) * step).toFixed(1);
  const line = values.map((value, index) => `${index === 0 ? "M" : "L"}${x(index)} ${y(value)}`).join("");
  attribute(svg.querySelector(".spark-line"), "d", line);
  attribute(svg.querySelector(".spark-area"), "d", values.length > 1 ? `${line}L120 32L${x(0)} 32Z` : "");
  const mark = svg.querySelector(".spark-limit");
  mark.style.visibility = limited ? "visible" : "hidden";
  if (!limited) return;
  attribute(mark, "y1", y(rule.threshold));
  attribute(mark, "y2", y(rule.threshold));
}

const RESULTS = {
  rolled_back: (i) => `Rolled back ${i.from} → ${i.to}`, withheld: (i) => `Would have rolled back ${i.from} → ${i.to} (monitor only)`,
  failed: (i) => `Rollback ${i.from} → ${i.to} FAILED`, blocked: (i) => `Rollback ${i.from} → ${i.to} refused`,
  suppressed: (i) => `No rollback from ${i.from}: not the release's fault`, dry_run: (i) => `Dry run ${i.from} → ${i.to}`, decided: (i) => `Rolling back ${i.from} → ${i.to}`,
};
function fillIncident(section, incident) {
  show(section, Boolean(incident));
  if (!incident) return;
  const find = (name) => section.querySelector(`.${name}`);
  text(find("incident-what"), (RESULTS[incident.result] ?? ((i) => `${i.result}: ${i.from} → ${i.to}`))(incident));
  data(find("incident-when"), "at", incident.at);
  text(find("incident-when"), `${clock(incident.at)}, ${ago(incident.at)}`);
  attribute(find("incident-when"), "title", incident.at);
  text(find("incident-why"), incident.why);
  const took = incident.took_ms;
  text(find("incident-took"), took === null || took === undefined ? "–" : `${took < 100 ? took.toFixed(1) : Math.round(took)} ms from decision to accepted patch`);
  text(find("incident-trigger"), incident.trigger);
  const evidence = find("incident-evidence");
  const where = `${incident.evidence ?? ""} ${incident.report ?? ""}`;
  if (evidence.dataset.path !== where) {
    evidence.dataset.path = where;
    evidence.replaceChildren(incident.evidence ? make("code", incident.evidence) : "being captured");
    if (incident.report && /^(\/|https?:\/\/)/.test(incident.report)) {
      const link = make("a", "Open the report");
      link.href = incident.report;
      link.target = "_blank";
      link.rel = "noopener";
      evidence.append(" ", link);
    }
  }
}

function fillEvents(list, events, nothing) {
  if (events.length === 0) return list.replaceChildren(make("li", nothing));
  children(list, events.length, () => {
    const line = make("li");
    line.append(make("time"), make("span"));
    return line;
  }).forEach((line, index) => {
    if (line.children.length !== 2) line.replaceChildren(make("time"), make("span"));
    const { at, what } = events[index];
    text(line.firstElementChild, clock(at));
    attribute(line.firstElementChild, "title", at);
    attribute(line.firstElementChild, "datetime", at);
    text(line.lastElementChild, what);
  });
}

function fillCommands(list, lines) {
  if (list.dataset.lines === lines.join("\n")) return;
  list.dataset.lines = lines.join("\n");
  list.replaceChildren(...lines.map((line) => {
    const item = make("li");
    const code = make("code", line);
    const copy = make("button", "Copy", "copy");
    copy.type = "button";
    copy.setAttribute("aria-label", `Copy ${line}`);
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(line);
        copy.textContent = "Copied";
      } catch { // without TLS a browser may refuse: then it is selected for Ctrl-C
        getSelection().selectAllChildren(code);
        copy.textContent = "Selected";
      }
      setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    });
    item.append(code, copy);
    return item;
  }));
}

// What counts down, once a second.
function fillTimers(card) {
  const guard = card.guard;
  const now = daemonNow();
  const left = (at) => (at ? Date.parse(at) - now : 0);
  const parts = [];
  if (guard.switched_at) parts.push(["Live for", ago(guard.switched_at).replace(" ago", "")]);
  if (left(guard.watch_until) > 0) parts.push(["Close watch ends in", span(left(guard.watch_until))]);
  if (left(guard.cooldown_until) > 0) parts.push(["Cooldown, no automatic flip for", span(left(guard.cooldown_until))]);
  if (guard.paused_by) parts.push(["Paused by", guard.paused_by]);
  if (left(guard.paused_until) > 0) parts.push(["Pause ends in", span(left(guard.paused_until))]);
  if (guard.maintenance) parts.push([`Maintenance (${guard.maintenance.name}), no automatic flip for`, span(left(guard.maintenance.until))]);
  const rules = whole(guard).rules.filter((rule) => rule.sample_at);
  if (rules.length > 0) parts.push(["Newest sample", ago(rules.map((rule) => rule.sample_at).reduce((a, b) => (Date.parse(a) > Date.parse(b) ? a : b)))]);
  const parent = card.body.querySelector(".timers");
  children(parent, parts.length, () => { const node = make("span"); node.append(make("span"), " ", make("b")); return node; })
    .forEach((node, index) => { text(node.firstElementChild, parts[index][0]); text(node.lastElementChild, parts[index][1]); });
  const when = card.body.querySelector(".incident-when");
  if (when.dataset.at) text(when, `${clock(when.dataset.at)}, ${ago(when.dataset.at)}`);
}

// --- the whole page --------------------------------------------------------

function matches(guard) {
  if (state.group && phaseOf(guard).group !== state.group) return false;
  if (state.words.length === 0) return true;
  const hay = [guard.guard, guard.object, guard.mode, guard.phase, phaseOf(guard).word, guard.active ?? "", ...guard.colors.flatMap((color) => [color.color, ...(color.release?.images ?? [])])].join(" ").toLowerCase();
  return state.words.every((word) => hay.includes(word));
}

function render() {
  const { digest } = state;
  if (!digest) return;
  const guards = [...digest.guards].sort((a, b) => (RANK[a.phase] ?? 0) - (RANK[b.phase] ?? 0) || (a.guard < b.guard ? -1 : 1));
  renderHeadline(guards);
  renderChats(digest.chats ?? []);
  renderNotices(digest);
  renderReplica(digest.replica);
  renderChips(guards);
  const parent = $("guards");
  const focused = document.activeElement;
  const present = new Set();
  const few = guards.length <= OPEN_MAX;
  let room = OPEN_MAX - [...cards.values()].filter((card) => card.root.open).length;
  let shown = 0;
  let place = parent.firstElementChild;
  for (const guard of guards) {
    present.add(guard.guard);
    const card = cards.get(guard.guard) ?? newCard();
    cards.set(guard.guard, card);
    const calm = isCalm(guard);
    if (card.wasCalm && !calm) { // trouble opens what was closed in quiet times
      choices.delete(guard.guard);
      card.auto = room-- > 0;
    }
    card.wasCalm = calm;
    card.guard = guard;
    const open = choices.get(guard.guard) ?? (few || (!calm && card.auto));
    if (card.root.open !== open) card.root.open = open;
    const visible = matches(guard);
    show(card.root, visible);
    shown += visible ? 1 : 0;
    fill(card);
    if (open) complete(card);
    if (place === card.root) place = place.nextElementSibling;
    else parent.insertBefore(card.root, place);
  }
  for (const [name, card] of cards) {
    if (!present.has(name)) { card.root.remove(); cards.delete(name); details.delete(name); choices.delete(name); }
  }
  if (focused?.isConnected && document.activeElement !== focused) focused.focus({ preventScroll: true });
  show($("nothing"), shown === 0);
  text($("nothing"), digest.at === digest.started_at ? "" : guards.length === 0 ? "No guard is configured. config/flipback.toml shows how." : "No guard matches. Clear the filter to see all.");
  text($("version"), digest.version);
  show($("pending"), digest.notifications_pending > 0);
  text($("pending"), `${digest.notifications_pending} unsent message${digest.notifications_pending === 1 ? "" : "s"}`);
  tick();
}

// --- replicas --------------------------------------------------------------

const shardsNamed = (shards) => `shard${shards.length === 1 ? "" : "s"} ${listed(shards.map((one) => String(one.shard)))}`;

// Who acts, where several daemons share the guards. A follower shows all there is to see and does nothing: that must not be missed.
function renderReplica(replica) {
  show($("replica"), Boolean(replica));
  if (!replica) return show($("lead"), false);
  const ours = replica.shards.filter((one) => one.ours);
  const others = replica.shards.filter((one) => !one.ours && one.leader);
  const orphans = replica.shards.filter((one) => !one.ours && !one.leader);
  const all = replica.shards.length === 1;
  const role = ours.length === 0 ? "follows" : all ? "leads" : `leads ${shardsNamed(ours)} of ${replica.shards.length}`;
  text($("replica"), `${replica.name} ${role}; alive: ${replica.alive.join(", ")}`);
  const leaders = [...new Set(others.map((one) => one.leader))].map((leader) => {
    const theirs = others.filter((one) => one.leader === leader);
    return all ? `${leader} leads and acts` : `${leader} acts for ${shardsNamed(theirs)}`;
  });
  const what = orphans.length > 0 ? (all ? "No replica leads: nothing is flipped" : `Nobody leads ${shardsNamed(orphans)}: their guards are not flipped`)
    : ours.length === 0 ? `${replica.name} only follows` : "";
  show($("lead"), what !== "" || Boolean(replica.trouble));
  data($("lead"), "tone", orphans.length > 0 || replica.trouble ? "bad" : "info");
  text($("lead-what"), what || "Replicas cannot be kept in step");
  text($("lead-so"), [leaders.length > 0 ? `${leaders.join("; ")}. Commands go there.` : "", replica.trouble ? sentence(replica.trouble) : ""].filter(Boolean).join(" "));
}

// --- chats -----------------------------------------------------------------

// A chat takes a moment: what has waited for less is on its way.
const WAITING_MS = 15000;
const messages = (count) => `${count} message${count === 1 ? "" : "s"}`;

// How a chat fares: [tone, what]. What was given up stays said, however well it does now.
function fares(chat) {
  const waits = chat.waiting_since ? daemonNow() - Date.parse(chat.waiting_since) : 0;
  const parts = [];
  if (chat.given_up > 0) parts.push(`${messages(chat.given_up)} given up`);
  if (chat.waiting > 0) parts.push(`${messages(chat.waiting)} waiting${chat.waiting_since ? ` for ${span(waits)}` : ""}`);
  const stuck = chat.waiting > 0 && (chat.trouble || waits >= WAITING_MS);
  const tone = chat.given_up > 0 && chat.trouble ? "bad" : chat.given_up > 0 || stuck || chat.trouble ? "warn" : "good";
  return [tone, parts.join(", ")];
}

function renderChats(chats) {
  const all = chats.map((chat) => ({ chat, fare: fares(chat) }));
  const trouble = all.filter(({ fare: [tone] }) => tone !== "good").sort((a, b) => (a.fare[0] < b.fare[0] ? -1 : a.fare[0] > b.fare[0] ? 1 : 0));
  show($("chats"), trouble.length > 0);
  data($("chats"), "tone", trouble[0]?.fare[0] ?? "warn");
  const lost = chats.reduce((sum, chat) => sum + chat.given_up, 0);
  const mute = chats.filter((chat) => chat.trouble).map((chat) => chat.name);
  const who = mute.length > 1 && mute.length === chats.length ? "No chat is being told" : `${listed(mute)} ${mute.length === 1 ? "is" : "are"} not being told`;
  text($("chats-headline"), [
    mute.length > 0 ? who : null,
    lost > 0 ? `${messages(lost)} given up for good` : null,
    mute.length === 0 && lost === 0 ? "Messages are late" : null,
  ].filter(Boolean).join("; "));
  children($("chats-list"), trouble.length, () => clone("t-chat")).forEach((line, index) => {
    const { chat, fare: [tone, what] } = trouble[index];
    const find = (name) => line.querySelector(`.${name}`);
    data(line, "tone", tone);
    text(find("glyph"), tone === "bad" ? "✕" : "!");
    text(find("chat-name"), chat.name);
    text(find("chat-kind"), chat.kind === chat.name ? "" : chat.kind);
    text(find("chat-count"), what);
    const since = chat.delivered_at ? `Last told ${ago(chat.delivered_at)}.` : "Told nothing yet since flipback started.";
    const now = chat.trouble ? sentence(chat.trouble) : chat.waiting > 0 ? "" : "It takes messages again.";
    const kept = chat.given_up > 0 ? "What was given up is kept in the data folder, in outbox/dead." : "";
    text(find("chat-why"), [now, since, kept].filter(Boolean).join(" "));
  });
  const well = all.filter(({ fare: [tone] }) => tone === "good").map(({ chat }) => (chat.delivered_at ? `${chat.name} (${ago(chat.delivered_at)})` : chat.name));
  show($("told"), chats.length > 0 && well.length > 0);
  text($("told"), `Chats that work: ${well.join(" · ")}`);
}
// What is about all guards: [tone, headline, text].
function renderNotices(digest) {
  const { fleet = {}, config = {} } = digest;
  const notices = [];
  if (fleet.held?.length > 0) {
    notices.push(["bad", "Many guards are failing at once: suspect a shared cause",
      `${fleet.flipped.length} ${fleet.flipped.length === 1 ? "guard was" : "guards were"} rolled back within ${span(fleet.window_seconds * 1000)}, where at most ${fleet.limit} may. Held: ${listed(fleet.held)}. Look at what they share; \u201cflipback override\u201d lets them flip.`]);
  }
  if (fleet.lifted_until && Date.parse(fleet.lifted_until) > daemonNow()) {
    notices.push(["warn", `Any number of guards may flip for ${span(Date.parse(fleet.lifted_until) - daemonNow())}`, `By ${fleet.lifted_by ?? "somebody"}.`]);
  }
  if (config.refused) {
    notices.push(["bad", `The configuration that was changed ${ago(config.refused.at)} is not in force: the one before it is`, config.refused.why]);
  }
  show($("notices"), notices.length > 0);
  children($("notices"), notices.length, () => { const notice = make("section", undefined, "chats"); notice.append(make("h2"), make("p", undefined, "notice-text")); return notice; })
    .forEach((notice, index) => {
      const [tone, headline, what] = notices[index];
      data(notice, "tone", tone);
      text(notice.firstElementChild, headline);
      text(notice.lastElementChild, what);
    });
}

const listed = (names) => (names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`);
const sentence = (line) => `${line.charAt(0).toUpperCase()}${line.slice(1)}${/[.!?]$/.test(line) ? "" : "."}`;

function renderHeadline(guards) {
  const first = guards[0];
  const counts = Object.fromEntries(Object.keys(GROUPS).map((group) => [group, guards.filter((guard) => phaseOf(guard).group === group).length]));
  const trouble = guards.length - counts.fine;
  const firstLook = state.digest.at === state.digest.started_at;
  let headline = guards.length === 0 ? "Nothing is guarded" : guards.length === 1 ? `${first.guard} is fine` : `All ${guards.length} guards are fine`;
  if (firstLook || (guards.length > 0 && guards.every((guard) => guard.phase === "starting"))) headline = "Starting: the first verdicts are on their way";
  let subline = firstLook ? "The first look at the guards is not done yet." : guards.length === 0 ? "No guard is configured." : first.why;
  if (trouble === 0 && guards.length > 1) {
    const watching = guards.filter((guard) => guard.phase === "watching").length;
    subline = watching > 0 ? `${watching} under close watch after a switch.` : "Every live color is within its limits.";
  }
  if (first && trouble > 0) {
    const rule = worst(first);
    const streak = rule ? ` ${rule.streak}/${rule.of}` : "";
    headline = {
      breaching: `${first.guard} is going bad${streak}`, rolled_back: `${first.guard} was rolled back to ${first.active ?? "the good color"}`,
      blind: `${first.guard}: no usable data`, paused: `${first.guard} is paused`,
    }[first.phase] ?? `${first.guard} needs you: ${phaseOf(first).word.toLowerCase()}`;
    if (trouble > 1) headline += `, and ${trouble - 1} more`;
    subline = first.why;
  }
  text($("headline"), headline);
  text($("subline"), subline);
  const tone = first ? phaseOf(first).tone : "info";
  data($("verdict"), "tone", tone);
  state.title = `${trouble > 0 ? `${phaseOf(first).glyph} ` : ""}${headline} · flipback`;
  attribute($("icon"), "href", tone === "bad" ? "/icon-bad.svg" : "/icon.svg");
}

function renderChips(guards) {
  const parent = $("chips");
  const chips = children(parent, Object.keys(GROUPS).length, () => {
    const chip = make("button", undefined, "chip");
    chip.type = "button";
    chip.append(make("span"), make("b"));
    return chip;
  });
  Object.entries(GROUPS).forEach(([group, [word, tone]], index) => {
    const chip = chips[index];
    const count = guards.filter((guard) => phaseOf(guard).group === group).length;
    data(chip, "tone", tone);
    data(chip, "empty", count === 0);
    attribute(chip, "aria-pressed", String(state.group === group));
    text(chip.firstElementChild, word);
    text(chip.lastElementChild, String(count));
    chip.onclick = () => { state.group = state.group === group ? null : group; render(); };
  });
}

// Once a second: what counts, and whether what is shown is still true.
function tick() {
  const now = performance.now();
  const { digest } = state;
  const silence = digest ? Math.max(3 * digest.poll_seconds * 1000, 30000) : Infinity;
  const lost = state.lost !== null && now - Math.max(state.lost, 0) >= LOST_MS;
  const stuck = digest !== null && state.lost === null && now - state.moved > silence;
  if (lost) {
    text($("stale-what"), digest ? `flipback stopped answering ${span(now - state.heard)} ago.` : "flipback does not answer.");
    text($("stale-so"), digest
      ? `What you see is from ${clock(digest.at)} and may no longer be true. Unless another instance runs, nothing is being rolled back: see whether the daemon still runs.`
      : "See whether the daemon runs, and whether this address is its own.");
  } else if (stuck) {
    text($("stale-what"), `flipback has not looked at the guards for ${span(now - state.moved)}.`);
    text($("stale-so"), `It answers, but what you see is from ${clock(digest.at)}. Its log says why; restarting it is safe.`);
  }
  show($("stale"), lost || stuck);
  data(document.body, "stale", lost || stuck);
  document.title = lost || stuck ? "✕ STALE · flipback" : state.title ?? "flipback";
  const words = { waiting: "connecting", lost: "no answer, retrying", live: "live", polling: "live (polling)" };
  data($("link"), "link", stuck ? "lost" : state.link);
  text($("link-text"), stuck ? "not looking" : words[state.link]);
  if (!digest) return;
  text($("foot"), `Looks every ${digest.poll_seconds} s · running for ${span(daemonNow() - Date.parse(digest.started_at))} · last look ${clock(digest.at)}`);
  for (const card of cards.values()) if (card.root.open && card.body) fillTimers(card);
  renderChats(digest.chats ?? []);
  // A device that slept may hold a dead connection that never says so.
  if (source && now - state.heard > silence) { source.close(); source = null; poll(); }
}

$("filter").addEventListener("input", (event) => { state.words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean); render(); });
document.addEventListener("keydown", (event) => {
  const typing = event.target instanceof HTMLInputElement;
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) { event.preventDefault(); $("filter").focus(); }
  if (event.key === "Escape" && typing) { event.target.value = ""; event.target.dispatchEvent(new Event("input")); event.target.blur(); }
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) tick(); });
setInterval(tick, 1000);
renderChips([]);
connect();
