"""Prices: dated entries, the bound that is reserved before a call, the cost after it."""

from router.prices.book import Dated, PriceBook, load_book
from router.prices.price import Price, cost, quote
from router.prices.schema import PriceEntry, to_price

__all__ = ["Dated", "Price", "PriceBook", "PriceEntry", "cost", "load_book", "quote", "to_price"]
