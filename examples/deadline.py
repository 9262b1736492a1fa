"""Questions that can wait: queued now, sent at the flex price by a worker, here or in a process of
its own (`router queue run router.db --policy …`)."""

import time

from router import Router, load_policy
from router.money import format_usd

policy = load_policy("openai").model_dump(mode="json", exclude_none=True)
policy["deferred"] = {"flex": True}
questions = [f"Name one use of the number {number}." for number in range(3)]

with Router(policy) as router:
    tickets = [
        router.submit([{"role": "user", "content": question}], deadline=time.time() + 3600)
        for question in questions
    ]
    router.work_queue(forever=True)
    for question, ticket in zip(questions, tickets, strict=True):
        print(question, "→", router.collect(ticket).choices[0].message.content)
    print(f"{format_usd(router.report().total.spent)} at the flex price")
