// The manager's page: who labels, how far and how well, and what can be done about it.

import { Api } from "./api.js";
import { fine, number, percent, say } from "./texts.js";

const EVERY = 5000; // milliseconds between two looks

let asked = 0; // looks so far
let drawn = 0; // the last of them that is on the screen, or that something done here has outdated
let acting = 0; // what a press asked for and the server has not done yet
const rows = new Map(); // by person: what their row says, as `text`, and the row

const byId = (id) => document.getElementById(id);
const api = new Api((error) => {
  byId("banner").hidden = !error;
  byId("banner-text").textContent = error ? `${error.message}.` : "";
});

function cell(row, content) {
  const made = document.createElement("td");
  made.append(...[content].flat());
  row.append(made);
}

function button(what, name, action) {
  const made = document.createElement("button");
  Object.assign(made, { type: "button", textContent: say(`act_${what}`) });
  made.dataset.act = `${what} ${name}`;
  made.setAttribute("aria-label", say("act_of", { action: made.textContent, name }));
  made.addEventListener("click", action);
  return made;
}

async function act(body, words) {
  acting += 1;
  try {
    const done = await api.manage(body);
    byId("said").textContent = words(done);
  } catch (error) {
    byId("said").textContent = error.message;
  }
  acting -= 1;
  drawn = asked;
  await look();
}

function describeGold(gold) {
  return gold ? say("share_between", { share: percent(gold.right), count: gold.asked, low: percent(gold.low), high: percent(gold.high) }) : "–";
}

// Shares of ten answers each, the latest on the right.
function drawTens(shares) {
  if (!shares.length) return "–";
  const made = document.createElement("span");
  made.className = "tens";
  made.setAttribute("role", "img");
  made.title = say("tens", { shares: shares.map(percent).join(", ") });
  made.setAttribute("aria-label", made.title);
  made.append(...shares.map((share) => {
    const bar = document.createElement("i");
    bar.style.height = `${100 * share}%`;
    return bar;
  }));
  return made;
}

function renew(name) { act({ renew: name }, ({ link }) => say("new_link", { name, link: `${location.origin}${link}` })); }

function person(about) {
  const row = document.createElement("tr");
  const { name } = about;
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  row.append(head);
  cell(row, say(about.on ? "yes" : "no"));
  cell(row, number(about.labels));
  cell(row, about.labels_per_hour ? number(about.labels_per_hour) : "–");
  cell(row, number(about.leases));
  cell(row, describeGold(about.gold));
  cell(row, about.repeats ? say("share_of", { share: percent(about.consistency), count: about.repeats }) : "–");
  cell(row, drawTens(about.tens));
  cell(row, percent(about.too_fast));
  cell(row, percent(about.left_share));
  cell(row, about.signs.map((sign) => say(`sign_${sign}`)).join("; "));
  const answers = [];
  if (about.answers) {
    answers.push(button("discard", name, () => {
      if (!confirm(say("sure", { count: about.answers, name }))) return;
      act({ discard: name }, ({ discarded }) => say("discarded", { count: discarded, name }));
    }));
  }
  if (about.discarded) {
    answers.push(button("restore", name, () => act({ restore: name }, ({ restored }) => say("restored", { count: restored, name }))));
  }
  cell(row, answers);
  const links = [button("renew", name, () => renew(name))];
  if (about.tokens) links.push(button("revoke", name, () => act({ revoke: name }, () => say("revoked", { name }))));
  cell(row, links);
  return row;
}

function describeProgress({ asked, open, kind, kinds }) {
  const said = Object.entries(kinds).map(([name, count]) => say(`said_${name}`, { count })).join(", ");
  const progress = say("progress", { done: asked - open, count: asked, kind: say(`kind_${kind}`) });
  return said ? `${progress} ${say("progress_kinds", { kinds: said })}` : progress;
}

function render(about) {
  byId("about").textContent = about.store;
  renderPause(about.controls.paused);
  if (document.activeElement !== byId("overlap")) byId("overlap").value = Math.round(100 * about.controls.overlap);
  byId("progress").textContent = describeProgress(about);
  const { alpha, shared, percent: same } = about.agreement;
  byId("agreement").textContent = shared ? say("agreement", { alpha: fine(alpha), count: shared, share: percent(same) }) : say("no_agreement");
  renderPeople(about.people);
}

// Rows that say the same stay as they are, and all do while one of their buttons is held down: it must not go away.
function renderPeople(people) {
  if (byId("people").querySelector("button:active")) return;
  const focused = document.activeElement?.dataset?.act;
  const wanted = people.map((about) => {
    const text = JSON.stringify(about);
    if (rows.get(about.name)?.text !== text) rows.set(about.name, { text, row: person(about) });
    return rows.get(about.name).row;
  });
  const there = [...byId("people").children];
  if (wanted.length !== there.length) byId("people").replaceChildren(...wanted);
  else wanted.forEach((row, i) => { if (row !== there[i]) there[i].replaceWith(row); });
  if (focused) [...document.querySelectorAll("[data-act]")].find((node) => node.dataset.act === focused)?.focus();
}

// What was asked before a press, or before what is on the screen, is out of date.
async function look() {
  const turn = ++asked;
  try {
    const about = await api.overview();
    if (acting > 0 || turn <= drawn) return;
    drawn = turn;
    render(about);
  } catch { /* the banner says so */ }
}

function renderPause(paused) {
  byId("pause").textContent = say(paused ? "resume" : "pause");
  byId("pause").setAttribute("aria-pressed", paused);
}

byId("pause").addEventListener("click", () => {
  const pause = byId("pause").getAttribute("aria-pressed") !== "true";
  renderPause(pause); // at once: a second press is the opposite
  act({ pause }, () => say(pause ? "paused" : "resumed"));
});
byId("overlap").addEventListener("change", () => {
  const share = Math.min(100, Math.max(0, Number(byId("overlap").value) || 0)) / 100;
  act({ overlap: share }, () => say("overlap_set", { share: percent(share) }));
});

byId("admit").addEventListener("click", () => {
  const name = byId("newcomer").value.trim();
  byId("newcomer").value = "";
  if (name) renew(name);
});
byId("newcomer").addEventListener("keydown", (event) => { if (event.key === "Enter") byId("admit").click(); });

async function start() {
  try { await api.open(); } catch { setTimeout(start, 2000); return; }
  await look();
  setInterval(() => { if (!document.hidden) look(); }, EVERY);
}
start();
