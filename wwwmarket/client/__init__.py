"""A client with a key of its own: it signs its bids, awards, receipts and settlements, and checks what it is told.

``Client`` waits, ``AsyncClient`` is awaited; ``wwwmarket.client.openai`` makes OpenAI's own client of either, every
request of which is bought that way. Who leaves all that to a gateway needs nothing of this: any OpenAI client with an
API key will do.
"""

from wwwmarket.client.buying import Bought, Proof, Terms
from wwwmarket.client.calls import Refused
from wwwmarket.client.clients import AsyncClient, AsyncPurchase, Client, Purchase

__all__ = ["AsyncClient", "AsyncPurchase", "Bought", "Client", "Proof", "Purchase", "Refused", "Terms"]
