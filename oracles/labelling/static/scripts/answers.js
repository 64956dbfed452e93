// What can be answered, as buttons and keys: which clip, how much better, why.

import { say } from "./texts.js";

const RATINGS = 5;
const DIGITS = ["clip1", "clip2", "clip3", "clip4", "clip5", "tag1", "tag2", "tag3", "tag4", "tag5"]; // by the row of keys

const byId = (id) => document.getElementById(id);

export const narrow = window.matchMedia("(max-width: 700px)");

export class Answers {
  // `give(option, time)` takes an answer; `settle(event)` puts the focus somewhere after a click.
  constructor(stage, keys, give, settle) {
    Object.assign(this, { stage, keys, give, settle, faces: "", strength: false, much: false, first: RATINGS });
  }

  // Take over what the lab offers: how strongly, and reasons to choose from.
  offer({ strength, tags }) {
    this.strength = Boolean(strength);
    byId("tags").hidden = !tags?.length;
    byId("tags").replaceChildren(...(tags ?? []).map((tag) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.tag = tag;
      button.setAttribute("aria-pressed", "false");
      button.append(document.createElement("kbd"), " ", tag);
      button.addEventListener("click", (event) => {
        button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
        this.settle(event);
      });
      return button;
    }));
    this.renderTags();
  }

  // Reasons have the digits that clips leave.
  renderTags() {
    [...byId("tags").children].forEach((button, i) => {
      const face = button.querySelector("kbd");
      const action = DIGITS[this.first + i];
      face.hidden = !action;
      if (action) face.textContent = this.keys().face(action);
    });
  }

  get tags() {
    return [...byId("tags").querySelectorAll("[aria-pressed=true]")].map((button) => button.dataset.tag);
  }

  set tags(chosen) {
    for (const button of byId("tags").children) button.setAttribute("aria-pressed", chosen.includes(button.dataset.tag));
  }

  // The button of the tag that an action of a key is for.
  tag(action) { return byId("tags").children[DIGITS.indexOf(action) - this.first]; }

  // Where the clips of a comparison are.
  sides() { return this.stage.stacked ? ["upper", "lower"] : ["left", "right"]; }

  names(question) {
    if (question.kind === "rating") return [say("this")];
    if (question.clips.length === 2) return this.sides().map((side) => say(side));
    return question.clips.map((_, i) => say("clip", { number: i + 1 }));
  }

  // What can be answered: the actions of keys that give it, the name on the button, and the fields of the answer.
  choices(question) {
    const skip = { id: "skip", actions: ["skip"], name: say("skip"), choice: "skip", side: true };
    if (question.kind === "rating") {
      const rate = (_, i) => ({ id: `${i + 1}`, actions: [DIGITS[i]], name: say(`rating_${i + 1}`), rating: i + 1, choice: null });
      return [...Array.from({ length: RATINGS }, rate), skip];
    }
    const two = question.clips.length === 2;
    const strength = this.strength ? "better" : null;
    const sides = this.sides();
    const best = question.clips.map((_, i) => ({
      id: `${i}`, actions: [...(two ? [["left", "right"][i]] : []), DIGITS[i]], choice: i, strength,
      name: two ? say(`better_${sides[i]}`) : say("best_of", { number: i + 1 }),
    }));
    const equal = { id: "equal", actions: ["equal"], name: say("equal"), choice: "equal", side: true };
    const bad = { id: "bad", actions: ["bad"], name: say(two ? "both_bad" : "all_bad"), choice: "bad", side: true };
    const middle = [equal, bad, skip];
    if (!two) return [...best, ...middle];
    const much = this.strength ? best.map((option, i) => ({
      ...option, id: `much-${i}`, actions: [], name: say(`much_${sides[i]}`), strength: "much", much: true,
    })) : [];
    // In the order of the screen, so that Tab goes from left to right.
    if (narrow.matches) return [...best, ...much, ...middle];
    return [...much.slice(0, 1), best[0], ...middle, best[1], ...much.slice(1)];
  }

  // What to say to an answer whose question has a right one.
  judge(question, option) {
    if (option.choice === question.tutorial) return say("right_answer");
    const { name } = this.choices(question).find(({ choice, much }) => choice === question.tutorial && !much);
    return say(option.choice === "skip" ? "told_answer" : "wrong_answer", { right: name, given: option.name });
  }

  // The answer that an action of a key gives; with Shift the clip is much better.
  find(question, action, shift) {
    const options = this.choices(question);
    const option = options.find((candidate) => candidate.actions.includes(action));
    if (!option || !shift || !this.strength || option.strength !== "better") return option;
    return { ...option, ...options.find((candidate) => candidate.much && candidate.choice === option.choice), strength: "much" };
  }

  // Put the focus on an answer's button, or on the clips where there is none of that name.
  focus(id) { (byId("answers").querySelector(`[data-answer="${id}"]`) ?? byId("stage")).focus({ preventScroll: true }); }

  // Buttons stay where they are from question to question, and so does the focus.
  render(question) {
    const group = byId("answers");
    const options = this.choices(question);
    const key = (option) => (option.much ? `⇧${this.keys().face(option.choice ? "right" : "left")}` : this.keys().face(option.actions[0]));
    this.first = Math.max(RATINGS, question.clips.length);
    this.renderTags();
    const faces = JSON.stringify(options.map((option) => [option.name, key(option)]));
    if (faces === this.faces) return;
    this.faces = faces;
    const focused = group.contains(document.activeElement) ? document.activeElement.dataset.answer : null;
    const kind = question.kind === "rating" ? "ratings" : question.clips.length > 4 ? "choices-many" : `choices-${question.clips.length}`;
    group.className = `answers ${kind} ${this.strength ? "graded" : ""}`;
    group.replaceChildren(...options.map((option) => {
      const button = document.createElement("button");
      const face = document.createElement("kbd");
      face.textContent = key(option);
      button.type = "button";
      button.className = option.side ? "side" : option.much ? "main much" : "main";
      button.dataset.answer = option.id;
      button.setAttribute("aria-keyshortcuts", option.much ? `Shift+${this.keys().shortcut(option.choice ? "right" : "left")}`
        : option.actions.map((action) => this.keys().shortcut(action)).join(" "));
      button.append(face, option.much && !narrow.matches ? ` ${say("much")}` : ` ${option.name}`);
      if (option.much) button.setAttribute("aria-label", option.name);
      button.addEventListener("click", (event) => {
        this.give(option, event.timeStamp);
        this.settle(event);
      });
      return button;
    }));
    if (focused) this.focus(focused);
  }
}
