"""Who may ask. A web page anywhere can send requests to 127.0.0.1, so being on this machine is not enough.

Refused: other names for this machine (a DNS name that a stranger turns to 127.0.0.1), requests that another site's page
sends, and, beyond this machine, everyone without the token.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohttp import web

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    # Nothing that the page does leaves this server: no telemetry, no fonts, no sign-in.
    "Content-Security-Policy": (
        "default-src 'self' blob: data:; script-src 'self' 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval' blob:; "
        "style-src 'self' 'unsafe-inline'; frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
    ),
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def is_loopback(host: str) -> bool:
    """Whether an address, or the name localhost, means this machine alone."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Guard:
    """`listen` is the address that the server is bound to. `token` None: everyone on this machine may ask."""

    listen: str
    token: str | None = None

    def refusal(self, request: web.Request) -> str | None:
        """Why a request is refused, the token aside, or None."""
        host = request.headers.get("Host", "")
        if is_loopback(self.listen) and not is_loopback(_name(host)):
            return f"this editor answers as localhost alone, not as {host!r}"
        origin = request.headers.get("Origin")
        if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            return f"this editor answers its own page alone, not {origin!r}"
        site = request.headers.get("Sec-Fetch-Site", "none")
        following_a_link = request.method == "GET" and request.headers.get("Sec-Fetch-Mode") == "navigate"
        if site not in ("same-origin", "none") and not (following_a_link and request.path == "/"):
            return "this editor answers its own page alone"
        return None

    def is_authorized(self, request: web.Request) -> bool:
        """Whether the request carries the token, or the cookie that the page got for it."""
        if self.token is None:
            return True
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _same(given, self.token):
            return True
        return _same(request.cookies.get(_cookie(request), ""), self._cookie_value())

    def middleware(self) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
        """The check before every request."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            if reason := self.refusal(request):
                raise web.HTTPForbidden(text=reason)
            if not self.is_authorized(request):
                given = request.query.get("token", "") if request.path == "/" else ""
                if not _same(given, self.token or ""):
                    raise web.HTTPUnauthorized(text="open the address with ?token=... that unclip edit printed")
                entered = web.HTTPSeeOther("/")  # so that the token does not stay in the address bar
                entered.set_cookie(_cookie(request), self._cookie_value(), httponly=True, samesite="Lax")
                raise entered
            return await handler(request)

        return check

    def _cookie_value(self) -> str:
        """What the cookie holds: not the token itself."""
        return hmac.new((self.token or "").encode(), b"unclip edit", hashlib.sha256).hexdigest()


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Sent with every answer."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    if request.path.endswith(".js") and response.status == 200:
        # A system's own table may say text/plain, which the browser would not run.
        response.headers["Content-Type"] = "text/javascript; charset=utf-8"


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _cookie(request: web.Request) -> str:
    """Cookies know no ports, so the name does: two editors on one machine."""
    try:
        port = urlsplit(f"//{request.headers.get('Host', '')}").port or 80
    except ValueError:
        port = 80
    return f"unclip_{port}"


def _same(given: str, wanted: str) -> bool:
    # A header's bytes that are no UTF-8 arrive as halves of characters, which plain encoding refuses.
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), wanted.encode())
