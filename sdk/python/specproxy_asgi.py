"""ASGI middleware for FastAPI, Starlette and a2a-sdk applications: the agent's code need not know of specproxy.

    app.add_middleware(SpecproxyMiddleware)                     # FastAPI, Starlette
    app = SpecproxyMiddleware(app, outcome=a2a_outcome)         # an A2A server
    app = SpecproxyMiddleware(app, effects=[RouteEffect("POST", "/refunds*", "refund.issue", "irreversible")])

It makes the request's execution the current one (see specproxy.py), asks the sidecar before a request reaches a route that is known to act, and
states the outcome before the response ends, unless the application has stated one itself. Needs specproxy.py beside it, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import Any, Awaitable, Callable, Iterable, Optional

import specproxy

__all__ = ["Exchange", "Outcome", "RouteEffect", "SpecproxyMiddleware", "a2a_outcome", "http_outcome"]

# How much of a response an outcome function is shown: its end, where a stream says how it went.
KEPT_BYTES = 64 << 10


@dataclass
class Exchange:
    """What an outcome function sees of a request and its response."""

    method: str
    path: str
    status: int = 0
    content_type: str = ""
    # The last KEPT_BYTES of the response's body.
    body: bytes = b""
    # What the application raised.
    error: Optional[BaseException] = None


@dataclass(frozen=True)
class Outcome:
    success: bool
    reason: str = ""


def http_outcome(x: Exchange) -> Optional[Outcome]:
    """An exception or a status of 500 and more is a failure, a status below 400 a success. What a 4xx means is the application's to say."""
    if x.error is not None:
        return Outcome(False, f"{type(x.error).__name__}: {x.error}")
    if x.status >= 500:
        return Outcome(False, f"status {x.status}")
    if x.status < 400:
        return Outcome(True)
    return None


_A2A_SUCCESS = {"completed", "TASK_STATE_COMPLETED"}
_A2A_FAILURE = {"failed", "rejected", "canceled", "TASK_STATE_FAILED", "TASK_STATE_REJECTED", "TASK_STATE_CANCELED"}


def a2a_outcome(x: Exchange) -> Optional[Outcome]:
    """The last task state that an A2A response names decides; a message without a task is a success, a JSON-RPC error a failure (it comes with
    status 200). A task that goes on (working, input-required) has no outcome yet."""
    if x.error is not None or x.status >= 500:
        return http_outcome(x)
    if x.status >= 400:
        return Outcome(False, f"status {x.status}")
    result: Optional[Outcome] = None
    for document in _documents(x):
        result = _a2a_document(document) or result
    return result


def _a2a_document(document: Any) -> Optional[Outcome]:
    if not isinstance(document, dict):
        return None
    if isinstance(document.get("error"), dict):
        return Outcome(False, str(document["error"].get("message", "error")))
    result = document.get("result", document)
    if not isinstance(result, dict):
        return None
    for holder in (result, result.get("task"), result.get("statusUpdate"), result.get("status_update")):
        status = holder.get("status") if isinstance(holder, dict) else None
        if isinstance(status, dict) and isinstance(status.get("state"), str):
            if status["state"] in _A2A_SUCCESS:
                return Outcome(True)
            if status["state"] in _A2A_FAILURE:
                return Outcome(False, "task " + status["state"].removeprefix("TASK_STATE_").lower())
            return None
    if "message" in result or result.get("kind") == "message":
        return Outcome(True)
    return None


def _documents(x: Exchange) -> Iterable[Any]:
    """The JSON documents of a response: one, or one for each server-sent event."""
    if x.content_type.startswith("text/event-stream"):
        texts = [line[len(b"data:"):] for line in x.body.splitlines() if line.startswith(b"data:")]
    else:
        texts = [x.body]
    for text in texts:
        with contextlib.suppress(ValueError):  # the first event may be cut off
            yield json.loads(text)


@dataclass(frozen=True)
class RouteEffect:
    """A route that acts on the world. A trailing * of path matches any rest. The key is the request's Idempotency-Key."""

    method: str
    path: str
    tool: str
    effect_class: str = ""
    compensation: str = ""

    def matches(self, method: str, path: str) -> bool:
        if self.method != method:
            return False
        return path.startswith(self.path[:-1]) if self.path.endswith("*") else path == self.path


Scope = dict
Send = Callable[[dict], Awaitable[None]]
Receive = Callable[[], Awaitable[dict]]


class SpecproxyMiddleware:
    """outcome says how an exchange went, None where that cannot be told; effects are the routes that act."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], *, outcome: Callable[[Exchange], Optional[Outcome]] = http_outcome,
                 effects: Iterable[RouteEffect] = ()) -> None:
        self.app, self.outcome, self.effects = app, outcome, tuple(effects)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        id = _header(scope, specproxy.EXECUTION_HEADER) if scope["type"] in ("http", "websocket") else ""
        if not id:
            await self.app(scope, receive, send)
            return
        with specproxy.execution(id):
            if scope["type"] == "websocket":  # how one went is the application's to say
                await self.app(scope, receive, send)
                return
            x = Exchange(scope["method"], scope["path"])
            try:
                for e in self.effects:
                    if e.matches(x.method, x.path):
                        key = _header(scope, "idempotency-key")
                        await asyncio.to_thread(specproxy.effect(e.tool, e.effect_class, key=key, compensation=e.compensation).ask)
            except specproxy.Error as refusal:
                await _refuse(send, refusal)
                return
            await _Watched(self, x, send).run(scope, receive)


@dataclass
class _Watched:
    """One exchange whose response is watched. The last part of its body goes out once the outcome is stated: with it the response ends, and the
    sidecar's execution too. A response of status 500 and more waits for the application to end: its error is often raised after it was answered."""

    middleware: SpecproxyMiddleware
    x: Exchange
    send: Send
    kept: bytearray = field(default_factory=bytearray)
    held: list[dict] = field(default_factory=list)

    async def run(self, scope: Scope, receive: Receive) -> None:
        try:
            await self.middleware.app(scope, receive, self.forward)
        except asyncio.CancelledError:  # the client left, or the execution was cut: that is no failure of the agent
            raise
        except BaseException as error:
            self.x.error = error
            await self.state()
            if self.held:
                # The server is going to close the connection without a word; the next request must not be sent into it.
                self.held[0] = {**self.held[0], "headers": [*self.held[0].get("headers", ()), (b"connection", b"close")]}
            await self.release()
            raise
        if self.held:
            await self.state()
            await self.release()

    async def release(self) -> None:
        held, self.held = self.held, []
        for message in held:
            await self.send(message)

    async def forward(self, message: dict) -> None:
        if message["type"] == "http.response.start":
            self.x.status = message["status"]
            self.x.content_type = next((v.decode("latin-1") for k, v in message.get("headers", ()) if k.lower() == b"content-type"), "")
        elif message["type"] == "http.response.body":
            self.kept += message.get("body", b"")
            del self.kept[:-KEPT_BYTES]
        if self.x.status >= 500 and len(self.kept) < KEPT_BYTES:
            self.held.append(message)
            return
        if self.held:  # too much to hold back
            await self.release()
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            await self.state()
        await self.send(message)

    async def state(self) -> None:
        if specproxy.outcome_stated():
            return
        self.x.body = bytes(self.kept)
        outcome = self.middleware.outcome(self.x)
        if outcome is not None:
            with contextlib.suppress(specproxy.Error):  # a lost statement costs a count, not an answer
                await asyncio.to_thread(specproxy.outcome, outcome.success, outcome.reason)


def _header(scope: Scope, name: str) -> str:
    return next((v.decode("latin-1") for k, v in scope["headers"] if k.lower() == name.encode()), "")


async def _refuse(send: Send, refusal: specproxy.Error) -> None:
    """The sidecar puts its own answer in the place of this one where it has decided."""
    status = 409 if isinstance(refusal, specproxy.Refused) else 503
    body = json.dumps({"title": "The act was not granted", "status": status, "detail": str(refusal)}).encode()
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/problem+json")]})
    await send({"type": "http.response.body", "body": body})
