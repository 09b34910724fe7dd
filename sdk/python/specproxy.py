"""Talk to the specproxy sidecar beside this agent: say how an execution went, and ask before acting on the world.

One file, standard library only; copy it or put it on PYTHONPATH. The sidecar gives the agent its address in SPECPROXY_URL and names the
execution in each request's header x-execution-id. A middleware (specproxy_asgi.py, specproxy_langgraph.py) remembers that id; without one:

    with specproxy.execution(request.headers["x-execution-id"]):
        with specproxy.effect("refund.issue", "irreversible", key=order_id):   # raises Refused: do not act
            issue_refund(order_id)
        specproxy.succeeded()

If SPECPROXY_URL is not set there is no sidecar: every act is allowed and nothing is reported, so the same agent runs on a bare machine. If it is
set and no clear answer comes, the act is not allowed.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import http.client
import inspect
import json
import os
import socket
import urllib.parse
from typing import Any, Callable, Iterator, Optional, Union

__all__ = [
    "EXECUTION_HEADER", "Error", "NoExecution", "Refused", "Unavailable",
    "effect", "execution", "execution_id", "failed", "outcome", "outcome_stated", "state", "succeeded",
]

EXECUTION_HEADER = "x-execution-id"

# A grant waits for the sidecar's disk, never for a network.
TIMEOUT_SECONDS = 10.0


class Error(Exception):
    """What can keep an act from being allowed."""


class Refused(Error):
    """A cancel or a hand-over of this execution was decided: stop, do not act. Its text says why."""


class Unavailable(Error):
    """No clear answer came from the sidecar. Whether the act may happen is not known, so it may not."""


class NoExecution(Error):
    """No execution is current here: enter execution(), use a middleware, or pass execution_id."""


class _Current:
    """The execution that this context belongs to."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.stated = False


_current: contextvars.ContextVar[Optional[_Current]] = contextvars.ContextVar("specproxy_execution", default=None)


@contextlib.contextmanager
def execution(id: str) -> Iterator[str]:
    """Make an execution the current one, for this thread or task and those it starts with its context."""
    token = _current.set(_Current(id))
    try:
        yield id
    finally:
        _current.reset(token)


def execution_id() -> str:
    """The current execution's id; "" outside of one."""
    current = _current.get()
    return current.id if current else ""


def outcome_stated() -> bool:
    """Whether the current execution's outcome has been stated from here."""
    current = _current.get()
    return bool(current and current.stated)


def outcome(success: bool, reason: str = "", *, execution_id: str = "") -> None:
    """State the business outcome. It may be known long before the response ends; the last statement counts. reason is for people.

    An execution that is gone (its client left, it was cut) has no outcome any more: that is no error. Raises NoExecution, Unavailable."""
    if not _url():
        return
    id = execution_id or _require()
    status, answer = _call("POST", "/v1/outcome", {"executionId": id, "outcome": "success" if success else "failure", "reason": reason})
    if status not in (204, 404):
        raise Unavailable(_why(status, answer))
    current = _current.get()
    if current and current.id == id:
        current.stated = True


def succeeded(reason: str = "") -> None:
    """State that the current execution did what it was asked to."""
    outcome(True, reason)


def failed(reason: str) -> None:
    """State that the current execution did not, whatever the status of its response."""
    outcome(False, reason)


def state(execution_id: str = "") -> Optional[dict[str, Any]]:
    """Where the execution stands: state, effects, disposition, cut, why, deadline. None if it is gone, or if there is no sidecar."""
    if not _url():
        return None
    status, answer = _call("GET", "/v1/executions/" + urllib.parse.quote(execution_id or _require(), safe=""), None)
    if status == 404:
        return None
    if status != 200:
        raise Unavailable(_why(status, answer))
    return answer


Text = Union[str, Callable[..., str]]


class effect:
    """One act on the world: asked for before it happens (under a guarded contract), reported otherwise.

    tool          the name that the manifest's inFlight.declared may have
    effect_class  none, readonly, idempotent, compensable, irreversible or unknown; "" for what the manifest declares
    key           what tells a repeat of the act from a new one: the idempotency key that the outside world is given
    compensation  what would undo it

    As a context manager, with or without async, its body runs only if the act is granted. As a decorator of a function, plain or async, key and
    compensation may be functions of the call's arguments. Raises Refused, Unavailable, NoExecution."""

    def __init__(self, tool: str, effect_class: str = "", *, key: Text = "", compensation: Text = "", execution_id: str = "") -> None:
        self.tool, self.effect_class, self.key, self.compensation, self.execution_id = tool, effect_class, key, compensation, execution_id

    def ask(self, *args: Any, **kwargs: Any) -> None:
        """Return if the act may happen. args are given to key and compensation where those are functions."""
        if not _url():
            return
        body = {"executionId": self.execution_id or _require(), "tool": self.tool}
        for name, value in (("class", self.effect_class), ("key", self.key), ("compensation", self.compensation)):
            if callable(value):
                value = value(*args, **kwargs)
            if value:
                body[name] = str(value)
        status, answer = _call("POST", "/v1/effects", body)
        if status == 200 and answer.get("granted") is True:
            return
        if status in (404, 409):
            raise Refused(_why(status, answer))
        raise Unavailable(_why(status, answer))

    def __enter__(self) -> "effect":
        self.ask()
        return self

    def __exit__(self, *_: Any) -> None:
        return None

    async def __aenter__(self) -> "effect":
        await asyncio.to_thread(self.ask)
        return self

    async def __aexit__(self, *_: Any) -> None:
        return None

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(function):
            @functools.wraps(function)
            async def asking(*args: Any, **kwargs: Any) -> Any:
                await asyncio.to_thread(self.ask, *args, **kwargs)
                return await function(*args, **kwargs)
        else:
            @functools.wraps(function)
            def asking(*args: Any, **kwargs: Any) -> Any:
                self.ask(*args, **kwargs)
                return function(*args, **kwargs)
        return asking


def _url() -> str:
    return os.environ.get("SPECPROXY_URL", "")


def _require() -> str:
    id = execution_id()
    if not id:
        raise NoExecution("no execution is current: enter specproxy.execution(id), use a middleware, or pass execution_id")
    return id


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _connection(url: str) -> http.client.HTTPConnection:
    if url.startswith("unix:"):
        return _UnixConnection(url[len("unix:"):])
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise Unavailable(f"SPECPROXY_URL {url!r}: neither http://host:port nor unix:/path")
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_SECONDS)


def _call(method: str, path: str, body: Optional[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
    """One request on a connection of its own. A request that may have arrived is never sent again: it might be granted twice."""
    connection = _connection(_url())
    try:
        headers = {"content-type": "application/json"} if body is not None else {}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        text = response.read()
        answer = json.loads(text) if text else {}
        if not isinstance(answer, dict):
            raise ValueError("not an object")
        return response.status, answer
    except (OSError, http.client.HTTPException, ValueError) as problem:
        raise Unavailable(f"the sidecar at {_url()} gave no answer: {problem}") from problem
    finally:
        connection.close()


def _why(status: int, answer: dict[str, Any]) -> str:
    return str(answer.get("why") or answer.get("error") or f"the sidecar answered with status {status}")
