"""Ask many questions at once on an event loop."""

import asyncio

from router import Router

QUESTIONS = [
    "What is 17 + 25?",
    "Translate 'good morning' into Portuguese.",
    "Prove that there are infinitely many primes congruent to 3 modulo 4.",
]


async def main() -> None:
    with Router("openai") as router:
        asked = [
            router.acompletion(messages=[{"role": "user", "content": question}])
            for question in QUESTIONS
        ]
        for question, reply in zip(QUESTIONS, await asyncio.gather(*asked), strict=True):
            routing = router.decision(reply)
            print(f"{routing.decision.arm.tier:9} {question}")


asyncio.run(main())
