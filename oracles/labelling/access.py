"""Who may label: tokens, cookies, and the checks that keep other web sites out."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import logging
import re
import secrets
import threading
import time as clock
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prefenvs.errors import PrefenvsError
from prefenvs.store import Store, check_annotator, find_annotator, find_manager

BODY_LIMIT = 64 * 1024
TOO_LONG = f"a body has at most {BODY_LIMIT} bytes"
WRONG_TOKENS, WINDOW = 20, 60.0
"""Different wrong tokens that one address may show within this many seconds; each counts once, however often shown."""
MOST_ADDRESSES = 10_000
_access_log = logging.getLogger("prefenvs.access")
_SECRET = re.compile(r"[A-Za-z0-9_-]{16,128}")

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Denied(Exception):
    """A request that is not served: its status and one line that says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Visitor:
    """Who asks: the annotator's name, the secret of the session, and whether it is whoever manages the labelling."""

    annotator: str
    secret: str
    manager: bool = False

    @property
    def csrf(self) -> str:
        """What a post has to carry in X-CSRF: only a page of this server can have read it."""
        return hmac.new(self.secret.encode(), b"prefenvs csrf", hashlib.sha256).hexdigest()


class Access:
    """Decide who a request comes from.

    With tokens, the cookie holds the annotator's or the manager's. Without, everybody is `open_to`, who labels and
    manages; then the server must be bound
    to a loopback address, and only requests that name such a host are served (else a web site could have its own name
    resolved to 127.0.0.1 and read the page).
    """

    def __init__(self, store: Store, open_to: str | None = None) -> None:
        """`open_to`: the name under which everybody labels; None asks for tokens."""
        self.store = store
        self.open_to = None if open_to is None else check_annotator(open_to)
        # A browser shares its cookies between all ports of a host, so each store has a name of its own.
        self.cookie = f"prefenvs_{store.identity}"
        # By address, the wrong tokens that it has shown, as hashes, and when it first did.
        self._failures: dict[str, dict[bytes, float]] = {}
        self._known: dict[str, tuple[str | None, bool, float]] = {}
        self._turn = threading.Lock()

    def admit(self, token: str, request: HTTPConnection) -> Visitor:
        """Return who a token belongs to; raises Denied with 401, or 429 after too many wrong ones.

        A right token is let in whatever others at its address have shown: they may share a proxy, or one stale tab.
        """
        address = request.client.host if request.client else ""
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        if not self._is_wrong(address, digest):
            name, manager = self._find(token)
            if name is not None:
                return Visitor(name, token, manager)
            self._count_failure(address, digest)
        raise Denied(401, "this token is not valid: ask for a new link")

    def identify(self, request: HTTPConnection) -> Visitor:
        """Return who a request's cookie belongs to; raises Denied where it may not be served."""
        self.check_host(request)
        secret = request.cookies.get(self.cookie, "")
        if self.open_to is not None:
            return Visitor(self.open_to, secret if _SECRET.fullmatch(secret) else secrets.token_urlsafe(32), True)
        if not secret:
            raise Denied(401, "open the link that you were given, which ends in ?token=...")
        return self.admit(secret, request)

    def enter(self, token: str | None, request: HTTPConnection) -> Visitor:
        """Return who opens a page, with the token of a link or with a cookie; raises Denied as the two do."""
        return self.identify(request) if token is None or self.open_to is not None else self.admit(token, request)

    def check_post(self, request: HTTPConnection, visitor: Visitor) -> None:
        """Refuse a post that does not come from this server's own page."""
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
        if site != "same-origin" or (origin is not None and _netloc(origin) != request.headers.get("host")):
            raise Denied(403, "posts are accepted from this server's own page only")
        if not hmac.compare_digest(request.headers.get("x-csrf", "").encode(), visitor.csrf.encode()):
            raise Denied(403, "the header X-CSRF is missing or wrong: load the session again")
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            raise Denied(415, "the body must be application/json")

    def check_host(self, request: HTTPConnection) -> None:
        """Without tokens, refuse a request that names another host than this computer."""
        if self.open_to is not None and not is_loopback(_hostname(request.headers.get("host", ""))):
            raise Denied(403, "without tokens this server answers to localhost only")

    def forget(self) -> None:
        """Look every token up anew: some have been revoked."""
        self._known.clear()

    def _find(self, token: str) -> tuple[str | None, bool]:
        """Look up whose token this is, and whether a manager's; remember it for a few seconds: every clip asks."""
        found, manager, until = self._known.get(token, (None, False, 0.0))
        if clock.monotonic() < until:
            return found, manager
        found, manager = find_annotator(self.store, token), False
        if found is None:
            found = find_manager(self.store, token)
            manager = found is not None
        if found is not None:
            self._known[token] = found, manager, clock.monotonic() + 10.0
        return found, manager

    def _is_wrong(self, address: str, digest: bytes) -> bool:
        """Tell whether this address has shown this wrong token a moment ago, so that it need not be looked up again."""
        with self._turn:
            return clock.monotonic() - self._failures.get(address, {}).get(digest, -WINDOW) < WINDOW

    def _count_failure(self, address: str, digest: bytes) -> None:
        """Note a wrong token; raises Denied with 429 where the address has shown too many others."""
        now = clock.monotonic()
        with self._turn:
            if address not in self._failures and len(self._failures) >= MOST_ADDRESSES:
                self._failures.pop(next(iter(self._failures)))
            shown = self._failures.pop(address, {})
            # The address seen last comes last, so that the one forgotten first is the one not seen for longest.
            shown = self._failures[address] = {key: at for key, at in shown.items() if now - at < WINDOW}
            if len(shown) >= WRONG_TOKENS:
                raise Denied(429, f"too many wrong tokens: wait {WINDOW:.0f} s")
            shown[digest] = now


def _netloc(url: str) -> str | None:
    """Host and port of a header that names an address; None where it is malformed."""
    try:
        return urlsplit(url).netloc
    except ValueError:
        return None


def _hostname(netloc: str) -> str:
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address is this computer's own."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_binding(host: str, with_tokens: bool) -> None:
    """Raise PrefenvsError where a server would let in whoever reaches its address."""
    if not with_tokens and not is_loopback(host):
        raise PrefenvsError(
            f"--host {host} can be reached by others, who then need tokens: name them, --annotators NAME NAME"
        )


class Guard:
    """ASGI middleware: security headers on every response, and an end to bodies that are too long."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        received, refused, answered, begun = 0, False, False, clock.monotonic()

        async def guarded_send(message: Message) -> None:
            nonlocal answered
            if refused:
                return
            if message["type"] == "http.response.start":
                answered = True
                _note_request(scope, int(message["status"]), clock.monotonic() - begun)
                taken = {name.lower() for name, _ in message["headers"]}
                new = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *(item for item in new if item[0] not in taken)]
            await send(message)

        async def counted_receive() -> Message:
            nonlocal received, refused
            message = await receive()
            received += len(message.get("body", b""))
            if received > BODY_LIMIT:
                await _reply(guarded_send, 413, TOO_LONG)
                refused = True
                return {"type": "http.disconnect"}
            return message

        declared = dict(scope["headers"]).get(b"content-length", b"0")
        # Python refuses to read numbers of thousands of digits.
        if not declared.isdigit() or len(declared) > 18 or int(declared) > BODY_LIMIT:
            await _reply(guarded_send, 413, TOO_LONG)
            return
        try:
            await self.app(scope, counted_receive, guarded_send)
        except asyncio.CancelledError:
            # The server stops and has waited long enough: the page asks again, and the log needs no traceback.
            if not answered:
                await _reply(guarded_send, 503, "the server is being stopped")


def _note_request(scope: Scope, status: int, seconds: float) -> None:
    """Write a request into the access log, which nobody hears unless asked; never its query, where tokens are."""
    address = (scope.get("client") or ("",))[0]
    about = {"method": scope["method"], "path": scope["path"], "status": status, "address": address}
    _access_log.info(
        "%s %s %d", scope["method"], scope["path"], status, extra={"about": {**about, "ms": round(1000 * seconds, 1)}}
    )


async def _reply(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"error": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
