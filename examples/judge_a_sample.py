"""Check every answer by a rule of one's own, and have a sample judged against the frontier's."""

from router import Router
from router.judging import judge
from router.money import format_usd, parse_usd

POLICY = {
    "version": 1,
    "objective": {"cost_weight": 5},
    "tiers": {
        "nano": [{"model": "openai/gpt-5.4-nano", "effort": "none"}],
        "frontier": [{"model": "openai/gpt-5.4", "effort": "low"}],
    },
    "rules": [{"name": "short", "when": {"max_input_tokens": 100}, "tier": "nano"}],
    "log": {"content": True},  # only what was kept can be judged
    "judge": {"tier": "frontier"},
}


def is_brief(request, response):
    return len(response.choices[0].message.content or "") < 200


with Router(POLICY, checks={"brief": is_brief}) as router:
    for question in ("Name a prime above 100.", "What is the capital of Peru?"):
        router.completion(messages=[{"role": "user", "content": question}], max_tokens=100)
    router.checks.wait()
    print(f"brief: {router.report().total.quality:.0%}")

# Later, and offline: `router judge STORE --policy P --rate 0.02` does the same.
report = judge(router.store, router.policy, rate=1.0, ceiling=parse_usd("0.50"))
good = report.count("win") + report.count("tie")
spent = format_usd(sum(report.spent.values()))
print(f"{good} of {report.judged} at least as good as the frontier's, for {spent}")
