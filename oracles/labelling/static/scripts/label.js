// The labelling page: shows questions, takes answers by key or button, and never makes anybody wait.

import { Player } from "./clips/player.js";
import { Stage } from "./clips/stage.js";
import { HEIGHT } from "./clips/strip.js";
import { Answers, narrow } from "./answers.js";
import { Api } from "./api.js";
import { BreakReminder, showFigures } from "./figures.js";
import { Kept } from "./kept.js";
import { Keys } from "./keys.js";
import { Moment } from "./moment.js";
import { Outbox, describe, makeUuid } from "./outbox.js";
import { say } from "./texts.js";

const AHEAD = 5; // questions loaded and decoded beyond the one on show
const MOST_HELD = 40; // as many as the server accepts
const HISTORY = 50; // answers that can be undone
const LOOK = 0.3; // seconds that a question is on the screen before an answer counts; the server asks for as many
const SPEEDS = [0.25, 0.5, 1, 2];

const byId = (id) => document.getElementById(id);
const text = (id, content) => { if (byId(id).textContent !== content) byId(id).textContent = content; };

const memory = {
  get(key, otherwise) {
    try { return JSON.parse(localStorage.getItem(key)) ?? otherwise; } catch { return otherwise; }
  },
  set(key, value) {
    try { localStorage.setItem(key, JSON.stringify(value)); } catch { /* storage is off or full: the page works without */ }
  },
};

const page = {
  api: new Api(heard), outbox: null, prefix: "", queue: [], current: null, answered: new Set(), history: [],
  trouble: null, failing: new Map(), moved: false, waiting: true, filling: false, starting: false, lease: 300, filled: 0,
  timers: {}, status: null, problem: "", focused: null, tapped: 0, paused: false,
  speed: SPEEDS.includes(memory.get("prefenvs/speed", 1)) ? memory.get("prefenvs/speed", 1) : 1,
};
const moment = new Moment();
const rest = new BreakReminder();
const kept = new Kept(() => page.outbox, () => page.prefix);
const stage = new Stage(byId("stage"), () => { if (page.current) renderQuestion(); });
const answers = new Answers(stage, () => keys, give, settle);
const keys = new Keys(() => { if (page.current) renderQuestion(); });

// ------------------------------------------------------------------ questions

function prepare(question) {
  const item = { question, player: new Player(question, answers.names(question), describeFailure()) };
  byId("stage").append(item.player.root);
  return item;
}

function describeFailure() {
  return say("does_not_load", { replay: say("replay"), again: keys.face("replay"), skip: say("skip"), on: keys.face("skip") });
}

function knows(id) {
  return page.answered.has(id) || page.current?.question.id === id || page.queue.some((item) => item.question.id === id);
}

// Ask for more questions, and renew the leases of those at hand.
async function fill() {
  if (page.filling || !page.outbox) return;
  page.filling = true;
  clearTimeout(page.timers.fill);
  let again = (page.lease / 3) * 1000;
  let unsent = [];
  try {
    forgetStale();
    const held = [...(page.current ? [page.current] : []), ...page.queue].map((item) => item.question.id);
    unsent = page.outbox.answers.filter((answer) => !answer.undo).map((answer) => answer.question);
    const asked = Math.max(0, AHEAD + (page.current ? 0 : 1) - page.queue.length);
    const holding = [...new Set([...held, ...unsent])].slice(0, MOST_HELD);
    const { questions, waiting, closed, problem, paused } = await page.api.next(asked, holding, stage.pixels);
    if (paused) giveBack();
    page.paused = Boolean(paused);
    page.problem = problem ?? ""; // why some questions cannot be shown
    page.filled = performance.now();
    // While this page still has questions, the server cannot tell whether they were the last.
    page.waiting = waiting || holding.length > 0;
    for (const question of questions) {
      page.lease = question.lease_seconds;
      if (!knows(question.id)) page.queue.push(prepare(question));
    }
    drop(closed ?? []);
    if (page.queue.length < AHEAD) again = Math.min(again, page.waiting ? 1500 : 3000);
  } catch {
    again = 2000;
  }
  page.filling = false;
  // The server was told of answers on their way that it has by now.
  if (unsent.length > 0 && !page.current && page.outbox.count === 0) again = 0;
  if (!isSignedOut()) page.timers.fill = setTimeout(fill, again);
  // With nothing to show, the next look comes in its time.
  if (!page.current && page.queue.length > 0) advance();
  else render();
}

// After a long sleep, what waits unseen may have been answered by somebody else: give it back.
function forgetStale() {
  if (page.filled === 0 || performance.now() - page.filled < page.lease * 1000) return;
  for (const item of page.queue.splice(0)) item.player.close();
}

// The lab has paused the labelling: what is at hand comes again afterwards.
function giveBack() {
  for (const item of [page.current, ...page.queue.splice(0)]) item?.player.close();
  page.current = null;
}

// Answered elsewhere, in another window or by somebody else: nobody need look at these any more.
function drop(closed) {
  // An answer that was undone here may stand on the server a moment longer.
  const over = (item) => closed.includes(item.question.id) && !item.again;
  for (const item of page.queue.filter(over)) item.player.close();
  page.queue = page.queue.filter((item) => !over(item));
  if (page.current && over(page.current)) {
    byId("announce").textContent = say("answered_elsewhere");
    advance();
  }
}

function advance(since = performance.now()) {
  if (page.current) page.current.player.close();
  page.current = null;
  const usable = page.queue.filter((item) => !item.player.failed);
  // Practice comes before what counts, even where its clips are made later.
  const practice = usable.filter((item) => typeof item.question.tutorial === "number");
  const among = practice.length ? practice : usable.length ? usable : page.queue;
  const next = among.find((item) => item.player.ready) ?? among[0];
  page.queue = page.queue.filter((item) => item !== next);
  if (next) show(next, since);
  else render();
  if (page.queue.length < AHEAD) fill();
}

function show(item, since) {
  page.current = item;
  const turn = (item.turn ?? 0) + 1;
  Object.assign(item, { turn, seconds: 0, since: document.hidden ? null : performance.now(), seen: null, open: false });
  item.player.painted().then(() => {
    if (performance.getEntriesByName("swap").length > 200) performance.clearMeasures("swap");
    performance.measure("swap", { start: since, end: performance.now() });
    if (item.turn !== turn) return;
    item.seen = watched(item);
    open(item, turn);
  });
  const shapes = item.question.clips.map((clip) => clip.width / clip.height);
  stage.hold(shapes, item.player.long ? HEIGHT + 8 : 0);
  item.player.show(page.speed, (share) => { byId("timeline").value = Math.round(1000 * share); });
  byId("reason").value = "";
  answers.tags = [];
  moment.restore(item.player, null);
  renderQuestion();
  render();
}

// Take answers once the first frames have been looked at for a moment; a second press of a key comes before that.
function open(item, turn) {
  if (page.current !== item || item.turn !== turn) return;
  const left = LOOK - (watched(item) - item.seen);
  if (left > 0) {
    setTimeout(open, 1000 * left + 1, item, turn);
    return;
  }
  item.open = true;
  item.player.root.classList.add("seen");
}

// ------------------------------------------------------------------ answers

function watched(item) { return item.seconds + (item.since === null ? 0 : (performance.now() - item.since) / 1000); }

function give(option, since) {
  const item = page.current;
  // A clip that begins anew has no frame for a moment, but was seen. What was not seen can only be passed over, and that
  // not by pressing twice.
  if (!item || !(option.choice === "skip" ? watched(item) >= LOOK : item.open && !item.player.failed)) return;
  const answer = {
    uuid: makeUuid(), question: item.question.id, choice: option.choice, rating: option.rating ?? null, undo: null,
    strength: option.strength ?? null, tags: answers.tags,
    moment: Number.isInteger(option.choice) ? moment.range : null,
    reason: byId("reason").value.trim(), seconds: Number(watched(item).toFixed(3)), replays: item.player.replays,
    time: Date.now() / 1000,
  };
  page.answered.add(item.question.id);
  const entry = { uuid: answer.uuid, name: option.name, question: item.question, reason: answer.reason, tags: answer.tags, moment: moment.range };
  remember([...page.history, entry].slice(-HISTORY));
  rest.answered();
  page.outbox.add(answer, describe(item.question, option.name));
  byId("announce").textContent = say("next", { answer: option.name });
  flash(option, item.player.clips);
  byId("feedback").hidden = typeof item.question.tutorial !== "number";
  if (!byId("feedback").hidden) text("feedback", answers.judge(item.question, option));
  advance(since);
}

// Show which side was taken, on the screen and on its button.
function flash(option, clips) {
  const chosen = ["equal", "bad"].includes(option.choice) ? clips : clips.filter((_, i) => i === option.choice);
  stage.flash(chosen.map(({ picture }) => picture));
  const button = byId("answers").querySelector(`[data-answer="${option.id}"]`);
  button?.classList.add("given");
  setTimeout(() => button?.classList.remove("given"), 350);
}

function undo(event) {
  // A finger that taps twice by mistake takes back one answer.
  if (event?.detail > 0 && event.timeStamp - page.tapped < 1000 * LOOK) return;
  if (event?.detail > 0) page.tapped = event.timeStamp;
  const entry = page.history.at(-1);
  if (!entry) return;
  remember(page.history.slice(0, -1));
  page.outbox.add({
    uuid: makeUuid(), question: entry.question.id, choice: null, rating: null, undo: entry.uuid, reason: "", strength: null, tags: [],
    moment: null, seconds: 0, replays: 0, time: Date.now() / 1000,
  }, describe(entry.question, say("undo_of", { answer: entry.name })));
  page.answered.delete(entry.question.id);
  if (page.current) {
    page.current.player.hide();
    page.queue.unshift(page.current);
    page.current = null;
  }
  show(Object.assign(prepare(entry.question), { again: true }), performance.now());
  byId("reason").value = entry.reason ?? "";
  answers.tags = entry.tags ?? [];
  moment.restore(page.current.player, entry.moment);
  byId("announce").textContent = say("undone", { answer: entry.name });
}

// Once the server has every answer, it can tell whether they were the last, and how many there are.
function onOutbox() {
  if (page.outbox.count === 0 && !page.current) { fill(); refreshStatus(); }
  render();
}

// The server rejected an answer: there is nothing to undo, and the question may come again.
function onRefused(answer) {
  page.answered.delete(answer.question);
  remember(page.history.filter((entry) => entry.uuid !== answer.uuid));
}

function remember(history) {
  page.history = history;
  memory.set(`${page.prefix}history`, history);
}

// ------------------------------------------------------------------ what is on the page

function renderQuestion() {
  const { question } = page.current;
  text("sentence", question.sentence || page.api.session.sentence);
  // A recorded task's id is its sentence, which stands above.
  text("task", question.task.startsWith("recorded:") ? "" : question.task);
  const prompt = say(`ask_${question.kind}`);
  text("prompt", typeof question.tutorial === "number" ? say("practice", { question: prompt }) : prompt);
  page.current.player.rename(answers.names(question), describeFailure());
  answers.render(question);
}

// A mouse or finger leaves the focus on the clips, where no key presses the button again.
function settle(event) {
  if (event.detail > 0) byId("stage").focus({ preventScroll: true });
}

function render() {
  const shown = page.current !== null;
  document.body.classList.toggle("idle", !shown);
  byId("message").hidden = shown;
  if (!shown) {
    const over = !page.waiting && page.filled > 0 && !page.problem;
    const none = over && page.status?.budget === 0;
    const title = isSignedOut() ? "signed_out" : page.problem ? "cannot_show"
      : page.filled === 0 ? "loading" : page.paused ? "paused" : "no_question";
    text("message-title", say(none ? "nothing_asked" : over ? "done" : title));
    text("message-text", none ? say("nothing_asked_text") : over ? say("done_text") : page.problem ? page.problem
      : page.paused ? say("paused_text") : page.filled > 0 ? say("no_question_text") : "");
    if (page.api.session?.sentence || page.problem) text("sentence", page.api.session?.sentence ?? "");
  }
  if (!shown && byId("answers").contains(document.activeElement)) {
    page.focused = document.activeElement.dataset.answer;
    byId("message").focus();
  }
  // Back to where the focus was: on another answer, Enter would give that one.
  if (shown && document.activeElement === byId("message")) answers.focus(page.focused);
  byId("undo").setAttribute("aria-disabled", page.history.length === 0);
  byId("speed").lastElementChild.textContent = `${page.speed}×`;
  byId("pause").lastElementChild.textContent = say(shown && !page.current.player.playing ? "play" : "pause");
  const last = page.history.at(-1);
  const unsent = page.outbox?.count ?? 0;
  text("last", unsent > 1 || (unsent && page.trouble) ? say("not_sent", { count: unsent }) : last ? say("last", { answer: last.name }) : "");
  if (page.status) showFigures(page.status, unsent);
  renderBanner(unsent);
  kept.render();
}

function isSignedOut() { return [401, 403].includes(page.trouble?.status); }

function renderBanner(unsent) {
  const malformed = [400, 413, 415, 422].includes(page.outbox?.error?.status);
  const trouble = page.trouble ?? (unsent && !malformed ? page.outbox.error : null);
  let words = "";
  if (page.moved) {
    words = say("moved", { count: unsent });
  } else if (isSignedOut()) {
    words = say("signed_out_text");
    if (unsent) words += ` ${say("sent_then", { count: unsent })}`;
  } else if (trouble) {
    words = trouble.status === 0 ? say("offline") : say("server_trouble", { message: trouble.message });
    words += ` ${unsent ? say("kept_here", { count: unsent }) : say("trying")}`;
  } else if (page.problem && page.current) {
    words = say("some_cannot_show", { problem: page.problem });
  } else if (page.outbox && !page.outbox.durable && unsent) {
    words = say("not_durable", { count: unsent });
  }
  byId("banner").hidden = words === "";
  text("banner-text", words);
}

function heard(error, path) {
  // Requests that are wrong in themselves say nothing about the connection; the outbox deals with them.
  if (error && [400, 404, 413, 415, 422].includes(error.status)) return;
  if (error?.status === 409) { leave(); return; }
  // A database that is full still reads: what goes well elsewhere does not end the trouble of a request that fails.
  if (error) page.failing.set(path, error);
  else for (const [where, { status }] of page.failing) if (where === path || !(status >= 500)) page.failing.delete(where);
  const back = page.trouble && page.failing.size === 0;
  page.trouble = [...page.failing.values()].at(-1) ?? null;
  render();
  if (back) {
    page.outbox?.retry();
    if (page.outbox) { fill(); refreshStatus(); } // both have stopped if this page was signed out
    for (const item of [page.current, ...page.queue]) item?.player.reloadFailed();
  }
}

// Another store is served here now: its questions are shown from the start, and the answers to the old one's are kept.
function leave() {
  if (page.moved) return;
  if (!page.outbox?.count || page.outbox.durable) {
    location.reload();
    return;
  }
  page.moved = true;
  giveBack();
  render();
}

async function refreshStatus() {
  clearTimeout(page.timers.status);
  if (!document.hidden) {
    try { page.status = await page.api.status(); } catch { /* `heard` has told */ }
    render();
  }
  if (!isSignedOut()) page.timers.status = setTimeout(refreshStatus, page.trouble ? 2000 : 5000);
}

// ------------------------------------------------------------------ keys and buttons

function changeSpeed(direction) {
  const at = SPEEDS.indexOf(page.speed) + direction;
  page.speed = SPEEDS[(at + SPEEDS.length) % SPEEDS.length];
  memory.set("prefenvs/speed", page.speed);
  if (page.current) page.current.player.speed = page.speed;
}

const actions = {
  undo,
  replay: () => page.current?.player.replay(),
  pause: () => { const player = page.current?.player; if (player) player.playing ? player.pause() : player.play(); },
  back: () => page.current?.player.step(-1),
  forward: () => page.current?.player.step(1),
  speed: (event) => changeSpeed(event?.shiftKey ? 1 : -1),
  moment: () => { if (page.current && page.current.question.kind !== "rating") moment.press(page.current.player); },
  reason: () => { unfold(true); byId("reason").focus(); },
  panel: () => unfold(byId("panel").hidden),
  help: () => byId("help").showModal(),
};

// Tab goes through the buttons as they lie on the screen: on a narrow one, answers have a line of their own.
function arrange() {
  const focused = document.activeElement;
  byId("answers").parentElement.insertBefore(byId("answers"), narrow.matches ? byId("undo") : byId("more"));
  // What is moved loses the focus.
  if (byId("answers").contains(focused)) focused.focus({ preventScroll: true });
  if (page.current) renderQuestion();
}

// Show the note and the tools, or fold them away for larger clips; remembered.
function unfold(open) {
  if (!open && byId("panel").contains(document.activeElement)) byId("more").focus();
  byId("panel").hidden = !open;
  byId("more").setAttribute("aria-expanded", open);
  memory.set("prefenvs/panel", open);
}

function onKey(event) {
  if (keys.take(event)) return;
  const typing = event.target.closest?.("input[type=text], textarea");
  if (typing) {
    if (["Enter", "Escape"].includes(event.key) && !event.isComposing) { byId("stage").focus(); event.preventDefault(); }
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) {
    if (byId("help").open && keys.find(event) === "help") { event.preventDefault(); byId("help").close(); }
    return;
  }
  const repeated = keys.isRepeated(event);
  if ([" ", "Enter"].includes(event.key) && event.target.closest?.("button, a")) {
    if (repeated) event.preventDefault(); // a key held down presses what has the focus once
    return;
  }
  const action = keys.find(event);
  const option = page.current && answers.find(page.current.question, action, keys.withShift(event));
  const tagged = page.current && answers.tag(action);
  if (!option && !actions[action] && !tagged) return;
  event.preventDefault();
  // A key held down is one answer, not thirty; stepping through frames may repeat.
  if (repeated && !["back", "forward"].includes(action)) return;
  if (option) give(option, event.timeStamp);
  else if (tagged) tagged.click();
  else actions[action](event);
  render();
}

function listen() {
  document.addEventListener("keydown", onKey);
  for (const button of document.querySelectorAll("[data-do]")) {
    button.addEventListener("click", (event) => {
      actions[button.dataset.do](event);
      settle(event);
      render();
    });
  }
  byId("help-close").addEventListener("click", () => byId("help").close());
  byId("timeline").addEventListener("input", (event) => {
    const player = page.current?.player;
    if (player) { player.pause(); player.seek((event.target.value / 1000) * player.longest); }
    render();
  });
  byId("timeline").addEventListener("change", () => byId("stage").focus());
  document.addEventListener("visibilitychange", () => {
    const item = page.current;
    if (item && document.hidden) Object.assign(item, { seconds: watched(item), since: null });
    else if (item) item.since = performance.now();
    if (!document.hidden) lookAgain();
  });
  window.addEventListener("focus", () => { if (page.trouble) lookAgain(); });
  window.addEventListener("online", () => { page.outbox?.retry(); fill(); });
  window.addEventListener("beforeunload", (event) => {
    if (page.outbox && !page.outbox.durable && page.outbox.count) event.preventDefault();
  });
}

// Somebody looks at the page: a signed-out one asks again now, since the new link may have been opened elsewhere.
function lookAgain() {
  if (!page.outbox) { start(); return; }
  page.outbox.retry();
  fill();
  refreshStatus();
}

async function start() {
  if (page.starting || page.outbox) return;
  page.starting = true;
  clearTimeout(page.timers.start);
  try {
    const session = await page.api.open();
    answers.offer(session);
    byId("manage").hidden = !session.manager;
    page.prefix = `prefenvs/${session.store ?? ""}/${session.annotator}/`;
    page.history = memory.get(`${page.prefix}history`, []);
    page.outbox = new Outbox(page.prefix, (answers) => page.api.post(answers), onOutbox, onRefused);
    kept.readOthers();
    for (const answer of page.outbox.answers) {
      if (answer.undo) page.answered.delete(answer.question);
      else page.answered.add(answer.question);
    }
    page.outbox.retry();
    await fill();
    refreshStatus();
  } catch {
    if (!page.outbox) {
      kept.readOthers(); // nobody is signed in, so all that lies here is another's
      render();
    }
    // Asking again signs nobody in; whoever comes back to this tab may have opened a new link in another one.
    if (!isSignedOut()) page.timers.start = setTimeout(start, 2000);
  }
  page.starting = false;
}

listen();
unfold(memory.get("prefenvs/panel", false));
narrow.addEventListener("change", arrange);
arrange();
render();
start();
