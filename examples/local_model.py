"""A small model on this machine answers first; what it gets wrong goes on to a hosted one.

Any server that speaks OpenAI's protocol will do, such as llama.cpp's, vLLM or Ollama:

    llama-server --model small.gguf --port 8080
    LOCAL_BASE_URL=http://127.0.0.1:8080/v1 python examples/local_model.py
"""

import json
import os

from router import Router, load_policy
from router.money import format_usd

policy = load_policy("openai").model_dump(mode="json", exclude_none=True)
policy["objective"] = {"cost_weight": 40}  # a dollar is worth forty good answers
policy["cascade"] = {"max_steps": 2}
policy["limits"] = {"max_output_tokens": 200}
policy["timeout"] = {"read": 120, "total": 180}
policy["tiers"]["nano"] = [
    {
        "model": "openai/local",  # the name by which the server knows it
        "api_base": os.environ.get("LOCAL_BASE_URL", "http://127.0.0.1:8080/v1"),
        # Paid for anyway: a busy hour costs its electricity, and these are the server's speeds.
        "price": {
            "gpu": {
                "regime": "marginal",
                "hour_usd": "0.10",
                "busy_hour_usd": "0.03",
                "utilisation": 0.5,
                "input_tokens_per_second": 400,
                "output_tokens_per_second": 40,
            }
        },
        "capabilities": {"context_window": 2048, "max_output_tokens": 512},
    }
]


def is_a_list(request, response):
    """Where a list was asked for, whether the answer is one."""
    if "JSON" not in str(request.messages):
        return None  # no opinion
    try:
        return isinstance(json.loads(response.choices[0].message.content), list)
    except ValueError:
        return False


questions = [
    "What is the capital of France?",
    "Name three colours as a JSON array of strings, and write nothing else.",
]
with Router(policy, gates={"list": is_a_list}) as router:
    for question in questions:
        reply = router.completion(messages=[{"role": "user", "content": question}])
        routing = router.decision(reply)
        print(question, "→", reply.choices[0].message.content)
        for step in routing.steps:
            print(f"  {step.arm}: {step.why}")
        print(f"  {format_usd(routing.spent)} for {routing.attempts} calls")
    report = router.report()
    print(f"{format_usd(round(report.per_answer))} an accepted answer")
