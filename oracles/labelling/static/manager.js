// The manager's page: who labels, how far and how well, and what can be done about it.

import { Api } from "./api.js";

const EVERY = 5000; // milliseconds between two looks

let shown = "";

const byId = (id) => document.getElementById(id);
const percent = (share) => (typeof share === "number" ? `${Math.round(100 * share)} %` : "–");
const api = new Api((error) => {
  byId("banner").hidden = !error;
  byId("banner-text").textContent = error ? `${error.message}.` : "";
});

function cell(row, content) {
  const made = document.createElement("td");
  made.append(...[content].flat());
  row.append(made);
}

function button(text, name, action) {
  const made = document.createElement("button");
  Object.assign(made, { type: "button", textContent: text });
  made.dataset.act = `${text} ${name}`;
  made.setAttribute("aria-label", `${text}: ${name}`);
  made.addEventListener("click", action);
  return made;
}

async function act(body, words) {
  try {
    const done = await api.manage(body);
    byId("said").textContent = words(done);
  } catch (error) {
    byId("said").textContent = error.message;
  }
  await look();
}

function describeGold(gold) {
  return gold ? `${percent(gold.right)} of ${gold.asked} (${percent(gold.low)} to ${percent(gold.high)})` : "–";
}

function person(about) {
  const row = document.createElement("tr");
  const { name } = about;
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  row.append(head);
  cell(row, about.on ? "yes" : "no");
  cell(row, about.labels.toLocaleString("en"));
  cell(row, about.labels_per_hour ? Math.round(about.labels_per_hour).toLocaleString("en") : "–");
  cell(row, `${about.leases}`);
  cell(row, describeGold(about.gold));
  cell(row, about.repeats ? `${percent(about.consistency)} of ${about.repeats}` : "–");
  cell(row, percent(about.too_fast));
  cell(row, percent(about.left_share));
  cell(row, about.flags.join("; "));
  const answers = [];
  if (about.labels) {
    answers.push(button("Discard", name, () => {
      const words = `Discard all ${about.labels} answers of ${name}? They stay in the log and can be restored.`;
      if (confirm(words)) act({ discard: name }, ({ discarded }) => `${discarded} answers of ${name} are discarded.`);
    }));
  }
  if (about.discarded) {
    answers.push(button("Restore", name, () => act({ restore: name }, ({ restored }) => `${restored} answers of ${name} count again.`)));
  }
  cell(row, answers);
  const links = [button("New link", name, () => act({ renew: name }, ({ link }) => `${name} labels at ${location.origin}${link}`))];
  if (about.tokens) links.push(button("Revoke", name, () => act({ revoke: name }, () => `${name}'s links have ended.`)));
  cell(row, links);
  return row;
}

function render(about) {
  byId("about").textContent = about.store;
  byId("pause").textContent = about.controls.paused ? "Resume" : "Pause";
  byId("pause").setAttribute("aria-pressed", about.controls.paused);
  if (document.activeElement !== byId("overlap")) byId("overlap").value = Math.round(100 * about.controls.overlap);
  const kinds = Object.entries(about.kinds).map(([kind, count]) => `${count.toLocaleString("en")} ${kind}`);
  byId("progress").textContent = `${(about.asked - about.open).toLocaleString("en")} of ${about.asked.toLocaleString("en")} questions`
    + ` (${about.kind}) are answered${kinds.length ? `: ${kinds.join(", ")}` : ""}.`;
  const { alpha, shared, percent: same } = about.agreement;
  byId("agreement").textContent = shared ? `Krippendorff's alpha ${typeof alpha === "number" ? alpha.toFixed(2) : "–"} over ${shared} questions`
    + ` that several people answered; ${percent(same)} of their answers are the same.` : "No question has been answered by several people.";
  // Rows that say the same stay as they are: a button that is being pressed must not go away.
  const people = JSON.stringify(about.people);
  if (people === shown) return;
  shown = people;
  const focused = document.activeElement?.dataset?.act;
  byId("people").replaceChildren(...about.people.map(person));
  if (focused) [...document.querySelectorAll("[data-act]")].find((node) => node.dataset.act === focused)?.focus();
}

async function look() {
  try { render(await api.overview()); } catch { /* the banner says so */ }
}

byId("pause").addEventListener("click", () => {
  const pause = byId("pause").getAttribute("aria-pressed") !== "true";
  act({ pause }, () => (pause ? "Paused: nobody is given a question." : "Labelling goes on."));
});
byId("overlap").addEventListener("change", () => {
  const share = Math.min(100, Math.max(0, Number(byId("overlap").value) || 0)) / 100;
  act({ overlap: share }, () => `${percent(share)} of the questions go to several people.`);
});

async function start() {
  try { await api.open(); } catch { setTimeout(start, 2000); return; }
  await look();
  setInterval(() => { if (!document.hidden) look(); }, EVERY);
}
start();
