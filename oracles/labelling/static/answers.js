// What can be answered, as buttons and keys: which clip, how much better, why.

const RATINGS = ["very bad", "bad", "so-so", "good", "very good"];

const byId = (id) => document.getElementById(id);

export const narrow = window.matchMedia("(max-width: 700px)");

export class Answers {
  // `give(option, time)` takes an answer; `settle(event)` puts the focus somewhere after a click.
  constructor(stage, keys, give, settle) {
    Object.assign(this, { stage, keys, give, settle, faces: "", strength: false, much: false });
  }

  // Take over what the lab offers: how strongly, and reasons to choose from.
  offer({ strength, tags }) {
    this.strength = Boolean(strength);
    byId("tags").hidden = !tags?.length;
    byId("tags").replaceChildren(...(tags ?? []).map((tag, i) => {
      const button = document.createElement("button");
      const face = document.createElement("kbd");
      button.type = "button";
      button.dataset.tag = tag;
      button.setAttribute("aria-pressed", "false");
      if (i < 5) {
        face.dataset.key = `tag${i + 1}`;
        face.textContent = this.keys().face(face.dataset.key);
        button.append(face, " ");
      }
      button.append(tag);
      button.addEventListener("click", (event) => {
        button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
        this.settle(event);
      });
      return button;
    }));
  }

  get tags() {
    return [...byId("tags").querySelectorAll("[aria-pressed=true]")].map((button) => button.dataset.tag);
  }

  set tags(chosen) {
    for (const button of byId("tags").children) button.setAttribute("aria-pressed", chosen.includes(button.dataset.tag));
  }

  // The button of the tag that an action of a key is for.
  tag(action) {
    return /^tag/.test(action ?? "") ? byId("tags").children[Number(action.slice(3)) - 1] : undefined;
  }

  names(question) {
    if (question.kind === "rating") return ["This"];
    if (question.clips.length === 2) return this.stage.stacked ? ["Upper", "Lower"] : ["Left", "Right"];
    return question.clips.map((_, i) => `Clip ${i + 1}`);
  }

  // What can be answered: the actions of keys that give it, the name on the button, and the fields of the answer.
  choices(question) {
    const skip = { id: "skip", actions: ["skip"], name: "Cannot tell", choice: "skip", side: true };
    if (question.kind === "rating") {
      const rate = (name, i) => ({ id: `${i + 1}`, actions: [`clip${i + 1}`], name, rating: i + 1, choice: null });
      return [...RATINGS.map(rate), skip];
    }
    const names = this.names(question);
    const two = names.length === 2;
    const strength = this.strength ? "better" : null;
    const best = names.map((name, i) => ({
      id: `${i}`, actions: [...(two ? [["left", "right"][i]] : []), `clip${i + 1}`], name: `${name} is ${two ? "better" : "best"}`,
      choice: i, strength,
    }));
    const equal = { id: "equal", actions: ["equal"], name: "Equally good", choice: "equal", side: true };
    const bad = { id: "bad", actions: ["bad"], name: two ? "Both bad" : "All bad", choice: "bad", side: true };
    const middle = [equal, bad, skip];
    if (!two) return [...best, ...middle];
    const much = this.strength ? best.map((option, i) => ({
      ...option, id: `much-${i}`, actions: [], name: `${names[i]} much better`, strength: "much", much: true,
    })) : [];
    // In the order of the screen, so that Tab goes from left to right.
    if (narrow.matches) return [...best, ...much, ...middle];
    return [...much.slice(0, 1), best[0], ...middle, best[1], ...much.slice(1)];
  }

  // What to say to an answer whose question has a right one.
  judge(question, option) {
    if (option.choice === question.tutorial) return "Right.";
    const name = this.names(question)[question.tutorial];
    return `The last one: ${name.toLowerCase()} is better${option.choice === "skip" ? "" : `, not “${option.name}”`}.`;
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
    const faces = JSON.stringify(options.map((option) => [option.name, key(option)]));
    if (faces === this.faces) return;
    this.faces = faces;
    const focused = group.contains(document.activeElement) ? document.activeElement.dataset.answer : null;
    const kind = question.kind === "rating" ? "ratings" : `choices-${question.clips.length}`;
    group.className = `answers ${kind} ${this.strength ? "graded" : ""}`;
    group.replaceChildren(...options.map((option) => {
      const button = document.createElement("button");
      const face = document.createElement("kbd");
      face.textContent = key(option);
      button.type = "button";
      button.className = option.side ? "side" : option.much ? "main much" : "main";
      button.dataset.answer = option.id;
      button.setAttribute("aria-keyshortcuts", option.much ? `Shift+${this.keys().face(option.choice ? "right" : "left")}`
        : option.actions.map((action) => this.keys().face(action)).join(" "));
      button.append(face, option.much && !narrow.matches ? " Much" : ` ${option.name}`);
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
