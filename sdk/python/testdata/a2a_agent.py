"""An a2a-sdk agent that does not know of specproxy: a message's text says how its task ends."""

import os

import uvicorn
from a2a.server.agent_execution import AgentExecutor
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, Message, Part, Role, Task, TaskState, TaskStatus
from specproxy_asgi import SpecproxyMiddleware, a2a_outcome
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route


class Executor(AgentExecutor):
    async def execute(self, context, event_queue):
        wanted = context.get_user_input()
        if wanted == "talk":
            await event_queue.enqueue_event(Message(message_id="answer", role=Role.ROLE_AGENT, parts=[Part(text="hello")], context_id=context.context_id))
            return
        await event_queue.enqueue_event(Task(id=context.task_id, context_id=context.context_id, status=TaskStatus(state=TaskState.TASK_STATE_SUBMITTED)))
        task = TaskUpdater(event_queue, context.task_id, context.context_id)
        await task.start_work()
        if wanted == "complete":
            await task.complete()
        elif wanted == "ask":
            await task.requires_input()
        else:
            await task.failed()

    async def cancel(self, context, event_queue):
        raise NotImplementedError


async def ok(request):
    return PlainTextResponse("ok", status_code=404)


if __name__ == "__main__":
    card = AgentCard(name="agent", description="", version="1", capabilities=AgentCapabilities(streaming=True), default_input_modes=["text"],
                     default_output_modes=["text"], supported_interfaces=[AgentInterface(url="http://localhost/", protocol_binding="JSONRPC", protocol_version="1.0")])
    handler = DefaultRequestHandler(Executor(), InMemoryTaskStore(), card)
    agent = Starlette(routes=[Route("/", ok), *create_jsonrpc_routes(handler, "/rpc"), *create_rest_routes(handler)])
    uvicorn.run(SpecproxyMiddleware(agent, outcome=a2a_outcome), host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning", lifespan="off")
