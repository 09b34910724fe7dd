"""A callback for LangGraph: the graph's code need not know of specproxy.

    graph = builder.compile().with_config(callbacks=[SpecproxyCallback(effects={"issue_refund": "irreversible"})])

Before a tool runs, its effect is asked for; if that is refused the tool does not run and the graph ends with specproxy.Refused. When the graph ends,
its outcome is stated: a failure if it raised, else what outcome makes of its result. A graph that pauses for a person has none yet. Needs
specproxy.py beside it, and langgraph.
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Mapping, Optional
from uuid import UUID

import specproxy
from langgraph.callbacks import GraphCallbackHandler

__all__ = ["SpecproxyCallback", "finished"]


def finished(result: Any) -> Optional[tuple[bool, str]]:
    """A graph that ran to its end succeeded."""
    return True, ""


class SpecproxyCallback(GraphCallbackHandler):
    """effects gives the class of each tool; of a tool that is not in it the manifest's inFlight.declared decides, else it is unknown.
    compensations names what would undo a tool's act. outcome turns the graph's result into success and reason, or None."""

    raise_error = True  # else a refusal would be logged and the tool would run

    def __init__(self, effects: Mapping[str, str] = {}, *, compensations: Mapping[str, str] = {},
                 outcome: Callable[[Any], Optional[tuple[bool, str]]] = finished) -> None:
        self._effects, self._compensations, self._outcome = dict(effects), dict(compensations), outcome
        self._paused: set[Optional[UUID]] = set()

    def on_tool_start(self, serialized: Optional[dict[str, Any]], input_str: str, *, run_id: UUID, parent_run_id: Optional[UUID] = None,
                      tool_call_id: Optional[str] = None, **kwargs: Any) -> None:
        name = (serialized or {}).get("name") or kwargs.get("name") or "unknown"
        # The model's id of this call: the same where the graph is resumed and runs the tool again.
        specproxy.effect(name, self._effects.get(name, ""), key=tool_call_id or str(run_id), compensation=self._compensations.get(name, "")).ask()

    def on_interrupt(self, event: Any) -> None:
        self._paused.add(event.run_id)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, parent_run_id: Optional[UUID] = None, **kwargs: Any) -> None:
        paused = run_id in self._paused
        self._paused.discard(run_id)
        if parent_run_id is None and not paused:
            self._state(self._outcome(outputs))

    def on_chain_error(self, error: BaseException, *, run_id: UUID, parent_run_id: Optional[UUID] = None, **kwargs: Any) -> None:
        self._paused.discard(run_id)
        if parent_run_id is None and not isinstance(error, specproxy.Refused):  # who was cut has not failed
            self._state((False, f"{type(error).__name__}: {error}"))

    def _state(self, outcome: Optional[tuple[bool, str]]) -> None:
        if outcome is not None and not specproxy.outcome_stated():
            with contextlib.suppress(specproxy.Error):  # a lost statement costs a count, not an answer
                specproxy.outcome(*outcome)
