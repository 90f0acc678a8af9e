"""What still fails after every address has answered for what it expects: an answer in words, never a traceback."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from ...unclip_core.disk import DiskFull, is_full

_LOG = logging.getLogger(__name__)
_MAX_WORDS = 300
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def answer_failures(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Around all others. What a request's own words lead to (values, names, nesting) is a 400, a full disk a 507; the
    rest is a mistake of ours: a 500 with its kind, and the traceback in the terminal."""
    try:
        return await handler(request)
    except (web.HTTPException, ConnectionError):  # the second: the client has left
        raise
    except OSError as error:
        if isinstance(error, DiskFull) or is_full(error):
            _LOG.error("%s %s: %s", request.method, request.rel_url.path.encode("ascii", "replace").decode(), error)
            return web.Response(status=507, text=_words(error))
        reason = error.strerror or type(error).__name__
        return web.Response(status=400, text=f"this cannot be done with the file: {reason}")
    except (ValueError, RecursionError, OverflowError) as error:
        return web.Response(status=400, text=f"this request cannot be used: {_words(error)}")
    except Exception as error:
        _LOG.exception("%s %r failed", request.method, request.path[:_MAX_WORDS])
        text = f"the editor failed at this request ({type(error).__name__}); its log has more"
        return web.Response(status=500, text=text)


class ParserLog(logging.Filter):
    """For aiohttp's log: what is no HTTP was answered by 400, and a client that leaves in the middle is no failure.
    Without it whoever reaches the port fills the terminal with tracebacks."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown."""
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        return not isinstance(error, HttpProcessingError | web.RequestPayloadError | ConnectionError)


def parser_log() -> logging.Logger:
    """The logger to give to aiohttp."""
    log = logging.getLogger(f"{__name__}.http")
    if not log.filters:
        log.addFilter(ParserLog())
    return log


def _words(error: Exception) -> str:
    """The error's message in one line of what can be sent."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words.encode("utf-8", "backslashreplace").decode()[:_MAX_WORDS]
