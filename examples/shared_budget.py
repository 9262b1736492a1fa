"""One budget for many workers: threads here, but processes on the same file do just as well."""

from concurrent.futures import ThreadPoolExecutor

from router import Router, load_policy
from router.errors import BudgetExceeded
from router.money import format_usd

policy = load_policy("openai").model_dump(mode="json", exclude_none=True)
policy["budgets"] = [{"name": "afternoon", "limit": "0.02", "on_exceed": "block"}]
router = Router(policy)


def answer(question: str) -> str:
    try:
        reply = router.completion(messages=[{"role": "user", "content": question}], max_tokens=200)
    except BudgetExceeded as refusal:
        return f"refused: {refusal}"
    return str(reply.choices[0].message.content)


questions = [f"Name one use of the number {number}." for number in range(40)]
with ThreadPoolExecutor(8) as pool:
    for question, said in zip(questions, pool.map(answer, questions), strict=True):
        print(question, "→", said)

for state in router.budgets():
    assert state.budget.limit is not None
    print(f"{state.budget.name}: {format_usd(state.settled)} of {format_usd(state.budget.limit)}")
router.close()
