"""The options of one request, what each costs and may achieve, and the decision among them."""
