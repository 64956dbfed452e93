// Talking to the server: JSON both ways, one error class, and the two kinds of trouble a person should hear about.

import { knows, say } from "./texts.js";

export class ApiError extends Error {
  // status: the HTTP status, 0 where the server was not reached.
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function describe(status, body) {
  return knows(`status_${status}`) ? say(`status_${status}`) : body?.error ?? say("bad_status", { status });
}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", signal: AbortSignal.timeout(20_000), ...options });
  } catch {
    throw new ApiError(0, say("no_answer"));
  }
  let body = null;
  try { body = await response.json(); } catch { /* a proxy's page, or nothing */ }
  if (!response.ok) throw new ApiError(response.status, describe(response.status, body));
  if (body === null) throw new ApiError(502, say("not_understood"));
  return body;
}

export class Api {
  // `heard(error, path)` is called after each request, with null where it went well.
  constructor(heard) {
    this.heard = heard;
    this.session = null;
  }

  async call(path, options = {}) {
    const [where] = path.split("?");
    try {
      // Another store may have come to this address since; it must neither get these answers nor hand out questions.
      const mark = this.session ? { "X-Store": this.session.store } : {};
      const body = await request(path, { ...options, headers: { ...options.headers, ...mark } });
      this.heard(null, where);
      return body;
    } catch (error) {
      this.heard(error, where);
      throw error;
    }
  }

  async open() {
    this.session = await this.call("/api/session");
    return this.session;
  }

  // `pixels`: of the screen that a clip takes, so that it is rendered as large as it is shown.
  next(count, holding, pixels) {
    return this.call(`/api/next?count=${count}&pixels=${pixels}&holding=${holding.map(encodeURIComponent).join(",")}`);
  }

  status() { return this.call("/api/status"); }

  // What only a manager sees and does.
  overview() { return this.call("/api/manager"); }

  judging() { return this.call("/api/judging"); }

  manage(action) { return this.send("/api/manager", action); }

  send(path, body) {
    return this.call(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRF": this.session.csrf },
      body: JSON.stringify(body),
    });
  }

  async post(answers) {
    const send = () => this.send("/api/answers", { answers });
    try {
      return await send();
    } catch (error) {
      if (error.status !== 403) throw error;
    }
    // The server was started afresh and wants a new mark; the session tells it. Whose session it is must not change.
    const before = this.session.annotator;
    const fresh = await this.call("/api/session");
    if (fresh.annotator !== before) throw new ApiError(401, say("signed_in_as", { name: fresh.annotator }));
    this.session = fresh;
    return send();
  }
}
