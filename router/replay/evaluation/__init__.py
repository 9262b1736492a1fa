"""What a router would have cost on recorded outcomes, and how good it would have been."""
