"""A LangGraph agent that does not know of specproxy: a scripted model calls a tool. /sync and /async run the same graph."""

import os
import pathlib

import specproxy
import uvicorn
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import interrupt
from specproxy_asgi import SpecproxyMiddleware
from specproxy_langgraph import SpecproxyCallback
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse
from starlette.routing import Route


def note(line):
    with pathlib.Path(os.environ["NOTES"]).open("a") as notes:
        notes.write(line + "\n")


@tool
def issue_refund(order: str) -> str:
    """Pay the money back."""
    note("refunded " + order)
    return "paid"


@tool
def look_up(order: str) -> str:
    """Find an order."""
    note("looked up " + order)
    return "found"


@tool
def break_down(order: str) -> str:
    """Fail."""
    raise RuntimeError("the ledger is down")


def model(state):
    if state["messages"][-1].type == "tool":
        return {"messages": [AIMessage("done")]}
    name, order = state["messages"][0].content.split()
    if name == "ask_person":
        interrupt("may I?")
    if name == "wait":  # until the execution is cut; then act all the same
        while (where := specproxy.state()) and not where["cut"]:
            pass
        name = "issue_refund"
    return {"messages": [AIMessage("", tool_calls=[{"name": name, "args": {"order": order}, "id": "call-" + order}])]}


def route(state):
    return "tools" if state["messages"][-1].tool_calls else END


builder = StateGraph(MessagesState)
builder.add_node("model", model)
builder.add_node("tools", ToolNode([issue_refund, look_up, break_down], handle_tool_errors=False))
builder.add_edge(START, "model")
builder.add_conditional_edges("model", route)
builder.add_edge("tools", "model")
agent = builder.compile(checkpointer=InMemorySaver())


async def run(request):
    question = {"messages": [("user", f"{request.query_params['call']} {request.query_params['order']}")]}
    config = {"configurable": {"thread_id": specproxy.execution_id()}}
    try:
        if request.url.path == "/sync":
            result = await run_in_threadpool(graph.invoke, question, config)
        else:
            result = await graph.ainvoke(question, config)
    except specproxy.Refused as refusal:
        note(f"refused {refusal}")
        return PlainTextResponse("stopped", status_code=409)
    return PlainTextResponse(str(result["messages"][-1].content))


async def ok(request):
    return PlainTextResponse("ok", status_code=404)


if __name__ == "__main__":
    graph = agent.with_config(callbacks=[SpecproxyCallback(effects={"issue_refund": "irreversible"}, compensations={"issue_refund": "call the customer"})])
    # The graph states its outcomes itself; what else there is has none.
    app = SpecproxyMiddleware(Starlette(routes=[Route("/", ok), Route("/sync", run), Route("/async", run)]), outcome=lambda x: None)
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning", lifespan="off")
