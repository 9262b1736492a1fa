"""The endpoints of one policy: what each arm's can take just now."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from router.capacity.endpoint import Clock, Endpoint, Ticket
from router.capacity.health import Poller
from router.decide.obstacles import Obstacle
from router.policy.endpoints import EndpointKey, endpoint_key

if TYPE_CHECKING:
    from router.policy import Policy

_NOTHING: dict[int, Obstacle] = {}
_MARGIN = 60.0  # seconds by which a probe is waited for beyond the longest call


class Capacity:
    """What one router in one process knows of its deployments. Other processes' calls count only as
    far as providers mention them: with k processes, a policy's limits are the k-th part of the real
    ones. Deployments of the same model, address, key and service tier are one endpoint.

    Parameters: `policy`; `clock`, seconds that never go back, by default monotonic time, which a
    correction of the wall clock cannot move; `known`, endpoints that another router of the process
    counts already.
    """

    def __init__(
        self,
        policy: Policy,
        clock: Clock = time.monotonic,
        known: Mapping[EndpointKey, Endpoint] | None = None,
    ):
        found: dict[EndpointKey, Endpoint] = {}
        known = known or {}
        longest = policy.timeout.total + policy.streams.drain_seconds + _MARGIN
        self.arms: list[Endpoint] = []
        self._pollers: dict[Endpoint, Poller] = {}
        for arm in policy.arms():
            deployment = policy.deployment(arm)
            key = endpoint_key(deployment)
            if key in known:
                found[key] = known[key]
            elif key not in found:
                found[key] = Endpoint(clock, deployment.limits, policy.breaker, longest)
                if deployment.health is not None:
                    poller = Poller(found[key], deployment.health, deployment.api_base)
                    self._pollers[found[key]] = poller
            self.arms.append(found[key])
        self.endpoints = tuple(found.values())
        self._found = found

    def under(self, policy: Policy) -> Capacity:
        """The capacity of a router that calls the same deployments under another policy: what
        either sends counts for both, under the limits and the breaker of this one."""
        return Capacity(policy, known=self._found)

    def obstacles(self, input_tokens: int, output_tokens: Sequence[float]) -> dict[int, Obstacle]:
        """What is in the way of each arm, by its index; empty where nothing is.

        Parameters: `input_tokens` of the prompt, `output_tokens` expected of each arm.
        """
        # Every decision asks, and mostly there is nothing: no lock, no clock.
        for endpoint in self.endpoints:
            if not endpoint.quiet:
                break
        else:
            return _NOTHING
        # Where no call may go, none would begin the asking: in a fork, say, while a server is ill.
        for endpoint, poller in self._pollers.items():
            if endpoint.unwell:
                poller.start()
        return {
            index: obstacle
            for index, endpoint in enumerate(self.arms)
            if not endpoint.quiet
            and (obstacle := endpoint.obstacle(needed(input_tokens, output_tokens[index])))
        }

    def enter(self, arm: int, input_tokens: int, output_tokens: float) -> Ticket | Obstacle:
        """Count in a call of an arm, by its index, or say what is in its way by now. The first call
        begins the asking of servers that are to be asked for their health."""
        for poller in self._pollers.values():
            poller.start()
        return self.arms[arm].enter(needed(input_tokens, output_tokens))

    def close(self) -> None:
        """Ask no server for its health any more, until there is a call again; what they said is
        forgotten, as nobody would know when it is over."""
        for endpoint, poller in self._pollers.items():
            poller.stop()
            endpoint.report(None)


def needed(input_tokens: int, output_tokens: float) -> int:
    """Tokens that a call is counted with until its bill is known."""
    return input_tokens + round(output_tokens)
