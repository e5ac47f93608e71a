"""What a connection tells its application that ASGI has no message for.

The application leaves an event in its request's state, under the name of what it wants to hear of.
"""

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

CLIENT_LEFT = "client_left"  # also while nothing is read of its request
STOPPING = "stopping"  # this process ends when all its requests have


def tell(cycle: RequestResponseCycle | None, news: str) -> None:
    """Set the event that the application of this request has left for these news, if it has."""
    if cycle is not None and (event := cycle.scope.get("state", {}).get(news)):
        event.set()
        cycle.message_event.set()  # whoever waits for more of the body looks up
