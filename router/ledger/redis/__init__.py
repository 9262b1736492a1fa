"""The ledger in Redis or Valkey, shared by many machines; its log is a store of its own."""
