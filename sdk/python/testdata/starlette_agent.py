"""A Starlette agent. What it answers depends on the path; the middleware is all that knows of outcomes, but for /stated."""

import asyncio
import os
import pathlib

import specproxy
import uvicorn
from specproxy_asgi import RouteEffect, SpecproxyMiddleware
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute


def note(line):
    with pathlib.Path(os.environ["NOTES"]).open("a") as notes:
        notes.write(line + "\n")


async def ok(request):
    return PlainTextResponse(specproxy.execution_id())


async def broken(request):
    raise RuntimeError("no such order")


async def unkind(request):
    return PlainTextResponse("no", status_code=400)


async def stream(request):
    async def parts():
        yield "one "
        await asyncio.sleep(0)
        yield "two"

    return StreamingResponse(parts())


async def stated(request):
    specproxy.failed("over the limit")
    return PlainTextResponse("sorry")


@specproxy.effect("refund.issue", "irreversible", key=lambda order: "r-" + order, compensation="none")
def pay(order):
    note("paid " + order)


@specproxy.effect("ticket.open", "compensable", key=lambda order: "t-" + order, compensation="ticket.close")
async def open_ticket(order):
    note("opened " + order)


async def acts(request):
    pay("1")
    await open_ticket("2")
    with specproxy.effect("note.write", "idempotent"):
        note("noted")
    async with specproxy.effect("mail.read"):
        note("read")
    return PlainTextResponse("done")


async def refunds(request):
    note("routed")
    return PlainTextResponse("done")


async def held(request):
    """Waits until it is cut, and then tries to pay all the same."""
    while (state := specproxy.state()) and not state["cut"]:
        await asyncio.sleep(0.01)
    try:
        pay("late")
    except specproxy.Refused as refusal:
        note(f"refused {refusal}")
    return PlainTextResponse("too late")


async def socket(websocket):
    await websocket.accept()
    await websocket.send_text(specproxy.execution_id())
    await websocket.close()


agent = Starlette(routes=[
    Route("/", ok), Route("/ok", ok), Route("/broken", broken), Route("/unkind", unkind), Route("/stream", stream), Route("/stated", stated),
    Route("/acts", acts), Route("/refunds/7", refunds, methods=["POST"]), Route("/held", held), WebSocketRoute("/socket", socket),
])

if __name__ == "__main__":
    app = SpecproxyMiddleware(agent, effects=[RouteEffect("POST", "/refunds/*", "refund.route", "compensable", compensation="refund.void")])
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning", lifespan="off")
