"""Gates: an answer in, P(good) out. Structural checks, agreement with an earlier answer, a learned
verifier, or a caller's own function. Nothing here calls a provider."""
