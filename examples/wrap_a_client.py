"""Wrap an existing OpenAI call: two lines more, and `model="auto"`."""

from openai import OpenAI

from router import wrap

client = wrap(OpenAI(), "openai")

reply = client.chat.completions.create(
    model="auto",
    messages=[{"role": "user", "content": "Which planet has the most moons?"}],
)
print(reply.choices[0].message.content)
