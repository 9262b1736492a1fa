"""Stream an answer. It is charged once, when it ends or is left."""

from router import Router

with Router("openai") as router:
    stream = router.completion(
        messages=[{"role": "user", "content": "Tell the story of the wheel in five sentences."}],
        stream=True,
    )
    print(f"[{stream.routing.decision.arm.model}]")
    for chunk in stream:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()
