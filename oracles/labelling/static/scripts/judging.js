// The page of a judging: the ranking as it stands, with intervals, and how far the judges agree.

import { Api } from "./api.js";
import { decimal, fine, number, percent, say } from "./texts.js";

const EVERY = 3000; // milliseconds between two looks

const byId = (id) => document.getElementById(id);
const players = new Map(); // by agent: a clip goes on playing while the ranking changes

const api = new Api((error) => {
  byId("banner").hidden = !error;
  byId("banner-text").textContent = error ? `${error.message}.` : "";
});

function row(head, ...contents) {
  const made = document.createElement("tr");
  const first = document.createElement("th");
  first.scope = "row";
  first.append(head);
  made.append(first, ...contents.map((content) => {
    const cell = document.createElement("td");
    cell.append(content);
    return cell;
  }));
  return made;
}

// A win rate and its interval from 0 to 1.
function drawRange(rate, [low, high]) {
  const [made, range, mark] = ["div", "i", "b"].map((tag) => document.createElement(tag));
  made.className = "range";
  made.title = `${percent(low)} – ${percent(high)}`;
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", made.title);
  Object.assign(range.style, { left: `${100 * low}%`, width: `${100 * (high - low)}%` });
  mark.style.left = `${100 * rate}%`;
  made.append(range, mark);
  return made;
}

function clipOf(name, url) {
  if (!url) return "–";
  if (!players.has(name)) {
    const video = document.createElement("video");
    Object.assign(video, { muted: true, playsInline: true, loop: true, controls: true, preload: "metadata", src: url });
    video.setAttribute("aria-label", say("clip_of", { name }));
    players.set(name, video);
  }
  return players.get(name);
}

function describeStop({ stop, agents }) {
  if (typeof stop !== "number") return "";
  const [leader] = [...agents].sort((a, b) => b.probability_best - a.probability_best);
  if (leader.probability_best < stop) return say("goes_on", { share: percent(stop) });
  return say("stopped", { name: leader.name, share: percent(leader.probability_best) });
}

function render({ ranking, clips, judges, agreement }) {
  byId("answered").textContent = ranking ? say("answered", { answers: ranking.answers, count: ranking.matches, waiting: ranking.waiting })
    : say("empty");
  byId("task").textContent = ranking?.task ?? "";
  byId("sure").textContent = ranking ? describeStop(ranking) : "";
  byId("agents").replaceChildren(...(ranking?.agents ?? []).map((agent) => row(
    number(agent.place), agent.name, percent(agent.win_rate), drawRange(agent.win_rate, agent.win_rate_interval),
    percent(agent.probability_best), decimal(agent.wins - agent.ties / 2), number(agent.ties), number(agent.answers),
    typeof agent.true_return === "number" ? decimal(agent.true_return) : "–", clipOf(agent.name, clips[agent.name]),
  )));
  byId("judges").replaceChildren(...judges.map((judge) => row(
    judge.name, number(judge.labels), percent(judge.ties), percent(judge.left_share), fine(judge.median_seconds),
  )));
  const { alpha, shared, percent: same } = agreement;
  byId("agreement").textContent = shared ? say("agreement", { alpha: fine(alpha), count: shared, share: percent(same) })
    : say("no_agreement");
}

let shown = "";

async function look() {
  try {
    const found = await api.judging();
    const text = JSON.stringify(found);
    if (text !== shown) render(found);
    shown = text;
  } catch { /* the banner says so */ }
  setTimeout(look, EVERY);
}
look();
