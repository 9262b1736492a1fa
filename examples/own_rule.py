"""A rule of one's own, ahead of the predictor: contracts never go below the mid tier."""

from router import Router, load_policy

policy = load_policy("openai").model_dump(mode="json", exclude_none=True)
policy["rules"] = [
    {
        "name": "contracts",
        "when": {"tags": ["legal"], "regex": r"(?i)\b(contract|liability|indemnity)\b"},
        "at_least": "mid",
    }
]

with Router(policy) as router:
    question = "Does this liability clause survive termination of the contract?"
    decision = router.explain([{"role": "user", "content": question}], tags=["legal"])
    print(decision.arm.tier, "by rule", decision.rule)
    print(decision.reason)
    reply = router.completion(messages=[{"role": "user", "content": question}], tags=["legal"])
    print(reply.choices[0].message.content)
