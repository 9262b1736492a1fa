"""Say how good the answers were: reports then speak of quality too."""

from router import Router

SUMS = {"What is 17 + 25? Answer with the number.": "42", "What is 9 * 9? Number only.": "81"}

with Router("openai") as router:
    for question, expected in SUMS.items():
        reply = router.completion(messages=[{"role": "user", "content": question}], tags=["sums"])
        said = reply.choices[0].message.content or ""
        router.feedback(reply, 1.0 if expected in said else 0.0)

    report = router.report()
    print(f"answers judged good: {report.by_tag['sums'].quality:.0%}")
