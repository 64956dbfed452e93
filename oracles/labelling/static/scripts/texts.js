// What the page says, in the language that it came in.

const texts = JSON.parse(document.getElementById("texts").textContent);
const language = document.documentElement.lang;
const plural = new Intl.PluralRules(language);
const whole = new Intl.NumberFormat(language, { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat(language, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const hundredths = new Intl.NumberFormat(language, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const share = new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 0 });

export const number = (value) => whole.format(value);
export const decimal = (value) => tenths.format(value);
export const fine = (value) => (typeof value === "number" ? hundredths.format(value) : "–");
export const percent = (value) => (typeof value === "number" ? share.format(value) : "–");

// The text of this name; values stand for {name}, and `count` chooses between singular and plural.
export function say(name, values = {}) {
  const found = texts[name];
  const text = typeof found === "object" ? found[plural.select(values.count)] ?? found.other : found ?? name;
  return text.replace(/\{(\w+)\}/g, (_, key) => (typeof values[key] === "number" ? number(values[key]) : values[key]));
}

export function knows(name) { return name in texts; }
