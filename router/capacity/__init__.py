"""How much each deployment can take just now: limits, providers' words, breakers, health.

All of it is what this process knows: another process's calls are seen only in what providers say.
"""

from router.capacity.capacity import Capacity
from router.capacity.endpoint import Endpoint, Ticket, Uncounted

__all__ = ["Capacity", "Endpoint", "Ticket", "Uncounted"]
