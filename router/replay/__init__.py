"""Recorded outcomes → what a policy would have cost and how good it would have been.

Nothing heavy loads with this package: pyarrow, scikit-learn and matplotlib load when first needed.
"""
