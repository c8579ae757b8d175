"""The typed client of the edge's REST interface, for asyncio too. Needs httpx and ``shared.wire`` alone.

``clients`` has the two classes. ``galleries``, ``subjects``, ``embeddings`` and ``matching`` have the operations.
``connection`` decides when a call is sent again, and ``answers`` reads what comes back.
"""

from shared.client.clients import AsyncClient, Client
from shared.client.pictures import Picture

__all__ = ["AsyncClient", "Client", "Picture"]
